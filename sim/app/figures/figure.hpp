// A figure or table of the paper: the design points that it needs, and what it shows of their
// records. There is one class a kind; configs/figures/NAME.json says which ("kind"):
//
//   grid, quantities, shares   design points along an axis (sim/app/figure_config.hpp)
//   accuracy                   measured accuracy of the attention methods (accuracy_figure.hpp)
//   roofline                   operators under the roofs of GPU and CSD (roofline_figure.hpp)
//   engine_units               single operations of the CSD's engine (engine_units_figure.hpp)
//   fpga_resources             what the engine needs of an FPGA (fpga_resources_figure.hpp)
//   endurance                  what the drives can write until worn out (endurance_figure.hpp)
//
// plots/NAME.py draws a figure from the CSV and, where it shows the paper's numbers, from the
// claims' JSON beside it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/figure_config.hpp"
#include "sim/app/record_view.hpp"
#include "sim/app/validation/suite.hpp"

namespace nearkv {

/// What a figure came to.
struct FigureContent {
  std::string tables;   // for terminals, with what their marks mean; ends with a line break
  std::string notes;    // what a reader must know; empty without
  std::string csv;      // the file NAME.csv
  nlohmann::json data;  // for --json: {"points": [...]} or {"rows": [...]}
};

class Figure {
 public:
  Figure(const FigureHeading& heading, std::vector<Row> claims)
      : heading_(heading), claims_(std::move(claims)) {}
  Figure(const Figure&) = delete;
  Figure& operator=(const Figure&) = delete;
  virtual ~Figure() = default;

  [[nodiscard]] const FigureHeading& heading() const { return heading_; }
  /// Those of the paper that the figure's points can tell.
  [[nodiscard]] const std::vector<Row>& claims() const { return claims_; }

  /// What it runs; may be nothing. Throws ConfigError.
  [[nodiscard]] virtual std::vector<PreparedPoint> points(bool quick) const = 0;
  /// The place in points(quick) of a point that a claim names; nothing when it is not among them.
  [[nodiscard]] virtual std::optional<std::size_t> position(const PointName& point,
                                                            bool quick) const = 0;
  /// Whether quick leaves nothing out.
  [[nodiscard]] virtual bool is_whole(bool quick) const = 0;
  /// `records` are those of points(quick), in their order.
  [[nodiscard]] virtual FigureContent content(std::vector<RecordView> records,
                                              bool quick) const = 0;

 private:
  FigureHeading heading_;
  std::vector<Row> claims_;
};

/// Reads and checks the figure of a name. `paper` is the suite with its claims. Throws ConfigError.
[[nodiscard]] std::unique_ptr<Figure> make_figure(const std::string& name, const Suite& paper);

}  // namespace nearkv
