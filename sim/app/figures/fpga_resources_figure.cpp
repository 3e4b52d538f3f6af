#include "sim/app/figures/fpga_resources_figure.hpp"

#include <array>
#include <cmath>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "sim/app/figures/design_points.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

enum class FpgaResource { lut, ff, bram, dsp };
constexpr std::array<std::string_view, 4> kResources{"lut", "ff", "bram", "dsp"};

enum class EngineSize { drive, gemv_rate, flash_channels };

struct UnitCost {
  FpgaResource resource = FpgaResource::lut;
  double amount = 0;

  void fields(FieldVisitor& v) {
    v.one_of("resource", resource, {kResources.begin(), kResources.end()}, "what it takes");
    v.constant("amount", amount, "how much of it, in the engine that the size is `at`",
               at_least(0));
  }
};

struct UnitOfEngine {
  std::string name;
  EngineSize scales_with = EngineSize::drive;
  double at = 0;
  std::vector<UnitCost> costs;

  void fields(FieldVisitor& v) {
    v.parameter("name", name, "what it is called");
    v.one_of("scales_with", scales_with, {"drive", "gemv_rate", "flash_channels"},
             "the size of an engine with which the cost grows");
    v.constant("at", at, "that size in the engine that the costs are of: FLOP/s or a count",
               at_least(1));
    v.list_of("costs", costs, "what it takes; resources that were not published are left out",
              at_least(1));
  }

  /// Nothing where it was not published.
  [[nodiscard]] std::optional<double> cost(FpgaResource resource, double size) const {
    for (const UnitCost& cost : costs) {
      if (cost.resource == resource) {
        return cost.amount * size / at;
      }
    }
    return std::nullopt;
  }
};

struct PublishedShare {
  FpgaResource resource = FpgaResource::lut;
  double share = 0;

  void fields(FieldVisitor& v) {
    v.one_of("resource", resource, {kResources.begin(), kResources.end()}, "of what");
    v.constant("share", share, "the share of the device in all", {0, 1});
  }
};

struct FpgaDevice {
  std::string name;
  std::array<double, kResources.size()> amounts{};

  void fields(FieldVisitor& v) {
    v.parameter("name", name, "of the FPGA");
    for (std::size_t i = 0; i < kResources.size(); ++i) {
      v.constant(kResources[i], amounts[i], "what it has", at_least(1));
    }
  }
};

struct FpgaResourcesConfig {
  FigureHeading heading;
  FpgaDevice device;
  std::vector<UnitOfEngine> units;
  std::vector<PublishedShare> published;
  std::vector<FigureSeries> designs;

  void fields(FieldVisitor& v) {
    heading.fields(v);
    v.group("device", device, "the FPGA");
    v.list_of("units", units, "parts of the engine with what they take", at_least(1));
    v.list_of("published", published, "what the paper says in all, for its engine");
    v.list_of("designs", designs, "design points; the first has the paper's engine", at_least(1));
  }
};

double size_of(EngineSize which, const CsdConfig& csd) {
  switch (which) {
    case EngineSize::drive:
      return 1;
    case EngineSize::gemv_rate:
      return static_cast<double>(csd.engine.gemv_rate.per_second()) * csd.engine.attention_kernels *
             csd.engine.gemv_units_per_kernel;
    case EngineSize::flash_channels:
      return csd.flash.channels;
  }
  check(false, "no such size of an engine");
  return 0;
}

/// A line of the table: a unit, or all of them.
struct ResourceLine {
  std::string design;
  std::string unit;
  std::array<std::optional<double>, kResources.size()> amounts{};
};
constexpr std::string_view kAll = "all";

class FpgaResourcesFigure final : public TableFigure {
 public:
  FpgaResourcesFigure(ReadFigure<FpgaResourcesConfig> read, const Suite& paper)
      : TableFigure(read.config.heading, paper, "", {}), config_(std::move(read.config)) {
    for (const NamedPoint& design : named_points(config_.designs, read.document.at("designs"))) {
      DesignPoint point = design_point_of(design.config);
      if (point.csd.empty()) {
        throw ConfigError(fmt::format("{}: /designs/{}/point/csd: is empty; the engine is a CSD's",
                                      heading().file.string(), csds_.size()));
      }
      csds_.push_back(point.csd.front());
    }
  }

 protected:
  [[nodiscard]] FigureTable table(std::span<const RecordView> /*records*/) const override {
    using Cell = FigureTable::Cell;
    FigureTable table({{"design"}, {"unit"}, {"resource"}, {"amount"}, {"share"}, {"paper_share"}});
    for (const ResourceLine& line : lines()) {
      for (std::size_t r = 0; r < kResources.size(); ++r) {
        if (const std::optional<double> amount = line.amounts[r]) {
          const std::optional<double> paper = paper_share(line, r);
          table.row({line.design, line.unit, std::string(kResources[r]), *amount,
                     *amount / config_.device.amounts[r], paper ? Cell(*paper) : Cell()});
        }
      }
    }
    return table;
  }

  [[nodiscard]] std::string text(std::span<const RecordView> /*records*/) const override {
    TextTable table(columns());
    for (const ResourceLine& line : lines()) {
      std::vector<std::string> cells{line.design, line.unit};
      for (const std::optional<double>& amount : line.amounts) {
        cells.push_back(amount ? fmt::format("{:.0f}", *amount) : "-");
      }
      table.row(std::move(cells));
      if (line.unit == kAll) {
        table.row(share_cells(line));
      }
    }
    std::vector<std::string> paper{"paper", fmt::format("of a {}", config_.device.name)};
    ResourceLine first{.design = config_.designs.front().name, .unit = std::string(kAll)};
    for (std::size_t r = 0; r < kResources.size(); ++r) {
      const std::optional<double> share = paper_share(first, r);
      paper.push_back(share ? format_percent(*share) : "-");
    }
    table.row(std::move(paper));
    return table.text();
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    return {fmt::format("{}: costs are the paper's Table II, so its sums repeat the table",
                        config_.designs.front().name),
            "other designs take them in proportion to GeMV rate and flash channels, which is "
            "assumed; no synthesis was run",
            "-: not published; above 100 % a design does not fit"};
  }

 private:
  [[nodiscard]] static std::vector<TextTable::Column> columns() {
    std::vector<TextTable::Column> columns{{"design"}, {"unit"}};
    for (const std::string_view name : kResources) {
      columns.push_back({std::string(name), TextTable::Align::right});
    }
    return columns;
  }

  [[nodiscard]] std::vector<std::string> share_cells(const ResourceLine& line) const {
    std::vector<std::string> cells{"", fmt::format("of a {}", config_.device.name)};
    for (std::size_t r = 0; r < kResources.size(); ++r) {
      cells.push_back(line.amounts[r] ? format_percent(*line.amounts[r] / config_.device.amounts[r])
                                      : "-");
    }
    return cells;
  }

  [[nodiscard]] std::vector<ResourceLine> lines() const {
    std::vector<ResourceLine> lines;
    for (std::size_t d = 0; d < csds_.size(); ++d) {
      const std::string& design = config_.designs[d].name;
      ResourceLine all{.design = design, .unit = std::string(kAll)};
      const auto add = [&](ResourceLine line) {
        for (std::size_t r = 0; r < kResources.size(); ++r) {
          if (line.amounts[r]) {
            all.amounts[r] = all.amounts[r].value_or(0) + *line.amounts[r];
          }
        }
        lines.push_back(std::move(line));
      };
      for (const UnitOfEngine& unit : config_.units) {
        ResourceLine line{.design = design, .unit = unit.name};
        for (std::size_t r = 0; r < kResources.size(); ++r) {
          line.amounts[r] =
              unit.cost(static_cast<FpgaResource>(r), size_of(unit.scales_with, csds_[d]));
        }
        add(std::move(line));
      }
      lines.push_back(std::move(all));
    }
    return lines;
  }

  /// What the paper says of its engine in all.
  [[nodiscard]] std::optional<double> paper_share(const ResourceLine& line, std::size_t r) const {
    if (line.unit != kAll || line.design != config_.designs.front().name) {
      return std::nullopt;
    }
    for (const PublishedShare& published : config_.published) {
      if (static_cast<std::size_t>(published.resource) == r) {
        return published.share;
      }
    }
    return std::nullopt;
  }

  FpgaResourcesConfig config_;
  std::vector<CsdConfig> csds_;  // by design
};

}  // namespace

std::unique_ptr<Figure> make_fpga_resources_figure(const std::filesystem::path& file,
                                                   const Suite& paper) {
  return std::make_unique<FpgaResourcesFigure>(read_figure<FpgaResourcesConfig>(file), paper);
}

}  // namespace nearkv
