#include "sim/app/figure_files.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "build_info.hpp"
#include "sim/app/record_view.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

void check_claims(const fs::path& file, const std::string& figure, bool quick) {
  const json claims = load_json(file);
  const bool is_ours = claims.is_object() && claims.contains("program") &&
                       claims.at("program").is_object() && claims.contains("claims") &&
                       claims.at("claims").is_array();
  const bool is_part = is_ours && claims.value("quick", json()) != false;
  if (!is_ours || claims.value("figure", json()) != figure || (is_part && !quick)) {
    throw ConfigError(
        fmt::format("{}: is not what nearkv figure {}{} writes; name another folder "
                    "with --results",
                    file.string(), figure, quick ? " --quick" : ""));
  }
  const json version = claims.at("program").value("version", json());
  if (version != build_info::kVersion) {
    throw ConfigError(fmt::format(
        "{}: is of nearkv {}, and this is {}; name another folder with --results, or make the "
        "figure again with --again",
        file.string(), version.is_string() ? printable(version.get<std::string>()) : "no version",
        build_info::kVersion));
  }
}

bool is_record_of(const PreparedPoint& point, const fs::path& file) {
  try {
    return RecordView(load_json(file)).json().value("config_hash", json()) ==
           content_hash(point.config.dump());
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    const std::string path = file.string();
    throw ConfigError(message.starts_with(path) ? message : prefix_lines(path, message));
  } catch (const json::exception&) {
    throw ConfigError(fmt::format("{}: is no run record", file.string()));
  }
}

}  // namespace

std::string figure_stem(const std::string& name, bool quick) {
  return name + (quick ? "_quick" : "");
}

FigureFiles look_for_files(const fs::path& folder, const std::string& name, bool quick,
                           const std::vector<PreparedPoint>& points) {
  const fs::path stem = folder / figure_stem(name, quick);
  const fs::path claims = stem.string() + ".claims.json";
  const fs::path table = stem.string() + ".csv";
  if (!fs::exists(claims) || !fs::exists(table)) {
    return FigureFiles::missing;
  }
  check_claims(claims, name, quick);
  for (const PreparedPoint& point : points) {
    const fs::path record = stem / (point.name + ".record.json");
    if (!fs::exists(record) || !is_record_of(point, record)) {
      return FigureFiles::outdated;
    }
  }
  return FigureFiles::current;
}

}  // namespace nearkv
