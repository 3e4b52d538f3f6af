// A figure of the paper as data: which design points it runs along which axis.
// configs/figures/NAME.json:
//
//   {
//     "title": "...", "source": "...", "metric": "throughput",
//     "axis": {"path": "/workload/batch", "name": "batch", "unit": "sequences",
//              "values": [4, 8, 16], "quick": [4, 16]},
//     "series": [{"name": "flexgen", "point": {"extends": "nearkv:design_points/flexgen.json"}}]
//   }
//
// A series runs its design point once for each value, set at the axis's path as by --set. "point"
// may change what it extends. How it looks (labels, colours) is the plot script's, and what the
// paper claims about it is in validation/claims.json.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
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

struct FigureConfig {
  std::filesystem::path file;
  std::string name;  // the file's, without its ending
  std::string title;
  std::string source;
  std::string metric;
  FigureAxis axis;
  std::vector<FigureSeries> series;
  std::vector<nlohmann::json> points;  // resolved, one a series

  void fields(FieldVisitor& v);
};

/// The figures that NAME can be, sorted.
[[nodiscard]] std::vector<std::string> known_figures();
[[nodiscard]] std::filesystem::path figure_file(const std::string& name);

/// Reads and checks a figure. Throws ConfigError whose lines start with the file.
[[nodiscard]] FigureConfig load_figure(const std::filesystem::path& file);

/// The axis values of a full or a quick figure.
[[nodiscard]] const AxisValues& axis_values(const FigureConfig& figure, bool quick);

/// The design point of a series at an axis value, by their names. Throws ConfigError.
[[nodiscard]] PreparedPoint figure_point(const FigureConfig& figure, const std::string& series,
                                         const std::string& at);

/// The design points, series by series along the axis. Throws ConfigError.
[[nodiscard]] std::vector<PreparedPoint> figure_points(const FigureConfig& figure, bool quick);

}  // namespace nearkv
