#include "sim/app/figures/figure.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "sim/app/figures/accuracy_figure.hpp"
#include "sim/app/figures/endurance_figure.hpp"
#include "sim/app/figures/engine_units_figure.hpp"
#include "sim/app/figures/fpga_resources_figure.hpp"
#include "sim/app/figures/grid_figure.hpp"
#include "sim/app/figures/roofline_figure.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

struct FigureKind {
  std::string_view name;
  std::unique_ptr<Figure> (*make)(const fs::path& file, const Suite& paper);
};
constexpr std::array kKinds{
    FigureKind{kGridKinds[0], make_grid_figure},
    FigureKind{kGridKinds[1], make_grid_figure},
    FigureKind{kGridKinds[2], make_grid_figure},
    FigureKind{"accuracy", make_accuracy_figure},
    FigureKind{"roofline", make_roofline_figure},
    FigureKind{"engine_units", make_engine_units_figure},
    FigureKind{"fpga_resources", make_fpga_resources_figure},
    FigureKind{"endurance", make_endurance_figure},
};

const FigureKind& kind_of(const fs::path& file) {
  const nlohmann::json document = load_figure_document(file);
  const std::string name =
      document.is_object() && document.contains("kind") && document.at("kind").is_string()
          ? document.at("kind").get<std::string>()
          : "";
  const auto found = std::find_if(kKinds.begin(), kKinds.end(),
                                  [&name](const FigureKind& kind) { return kind.name == name; });
  if (found == kKinds.end()) {
    std::vector<std::string> names;
    for (const FigureKind& kind : kKinds) {
      names.emplace_back(kind.name);
    }
    const std::string nearest = nearest_name(name, names);
    throw ConfigError(
        fmt::format("{}: /kind: {}{}must be one of {}", file.string(),
                    name.empty() ? "missing; " : fmt::format("is \"{}\"; ", name),
                    nearest.empty() ? "" : fmt::format("did you mean \"{}\"? ", nearest),
                    fmt::join(names, ", ")));
  }
  return *found;
}

}  // namespace

std::unique_ptr<Figure> make_figure(const std::string& name, const Suite& paper) {
  const fs::path file = figure_file(name);
  return kind_of(file).make(file, paper);
}

}  // namespace nearkv
