// A figure of the paper as data: which design points it runs along which axis.
// configs/figures/NAME.json:
//
//   {
//     "kind": "grid", "title": "...", "source": "...", "metric": "throughput",
//     "axis": {"path": "/workload/batch", "name": "batch", "unit": "sequences",
//              "values": [4, 8, 16], "quick": [4, 16]},
//     "series": [{"name": "flexgen", "point": {"extends": "nearkv:design_points/flexgen.json"}}]
//   }
//
// A series runs its design point once for each value, set at the axis's path as by --set. "point"
// may change what it extends. The kind says what the figure shows of its records:
//   grid        one metric, series by axis value
//   quantities  several numbers a point:
//               "quantities": [{"label": "decode read, a layer", "of": "layer",
//                               "metric": "decode_traffic/csd/0/flash/read"}]
//   shares      where the decode time of each point went (sim/app/figures/time_shares.hpp)
// How it looks (labels, colours) is the plot script's, and what the paper claims about it is in
// validation/claims.json. Other kinds have no axis: sim/app/figures/figure.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/axis_values.hpp"
#include "sim/app/point.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

struct FigureAxis {
  std::string path;
  std::string name;
  std::string unit;
  AxisValues values;
  AxisValues quick;  // a part of `values`

  void fields(FieldVisitor& v);
};

struct FigureSeries {
  std::string name;

  void fields(FieldVisitor& v);
};

/// What all kinds of figures have.
struct FigureHeading {
  std::filesystem::path file;
  std::string name;  // the file's, without its ending
  std::string title;
  std::string source;

  void fields(FieldVisitor& v);
};

enum class GridKind { grid, quantities, shares };
inline constexpr std::array<std::string_view, 3> kGridKinds{"grid", "quantities", "shares"};

/// A number of a point: a metric; a metric of all layers, for one layer; or the time that a busy
/// share of the decode time is.
enum class QuantityOf { run, layer, decode_time };
struct FigureQuantity {
  std::string label;
  std::string metric;
  QuantityOf of = QuantityOf::run;

  void fields(FieldVisitor& v);
};

struct FigureConfig : FigureHeading {
  GridKind kind = GridKind::grid;
  std::string metric;  // whose intervals are shown; of a grid, what its table shows
  std::vector<FigureQuantity> quantities;
  FigureAxis axis;
  std::vector<FigureSeries> series;
  std::vector<nlohmann::json> points;  // resolved, one a series

  void fields(FieldVisitor& v);
};

/// The figures that NAME can be, sorted.
[[nodiscard]] std::vector<std::string> known_figures();
/// `also` is what a user may say in the place of a name. Throws ConfigError for an unknown figure.
[[nodiscard]] std::filesystem::path figure_file(const std::string& name,
                                                std::string_view also = "");

/// A figure's document, resolved. Throws ConfigError.
[[nodiscard]] nlohmann::json load_figure_document(const std::filesystem::path& file);

/// Title and source of a figure of any kind. Throws ConfigError.
[[nodiscard]] FigureHeading load_heading(const std::filesystem::path& file);

/// Reads and checks a figure that is a grid of points. Throws ConfigError whose lines start with
/// the file.
[[nodiscard]] FigureConfig load_figure(const std::filesystem::path& file);

/// The axis values of a full or a quick figure.
[[nodiscard]] const AxisValues& axis_values(const FigureConfig& figure, bool quick);

/// The design point of a series at an axis value, by their names. Throws ConfigError.
[[nodiscard]] PreparedPoint figure_point(const FigureConfig& figure, const std::string& series,
                                         const std::string& at);

/// The design points, series by series along the axis. Throws ConfigError.
[[nodiscard]] std::vector<PreparedPoint> figure_points(const FigureConfig& figure, bool quick);

}  // namespace nearkv
