// nearkv figure gantt: one decode layer of several systems, drawn from their timelines.
// configs/timelines/gantt.json:
//
//   {"title": "...", "source": "...", "layer": 20,
//    "series": [{"name": "flexgen", "point": {"extends": "nearkv:design_points/flexgen.json"}}]}
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "sim/app/run_limits.hpp"

namespace nearkv {

inline constexpr std::string_view kGanttFigure = "gantt";

/// Its title and source, for lists. Throws ConfigError.
struct GanttSummary {
  std::string title;
  std::string source;
};
[[nodiscard]] GanttSummary gantt_summary();

/// Where its config is.
[[nodiscard]] std::filesystem::path gantt_file();

/// Whether a results folder has its list and its picture.
[[nodiscard]] bool has_gantt_figure(const std::filesystem::path& folder);

/// Records a step in the middle of each system, prints what was recorded (to stderr, if `quiet`)
/// and writes the timelines, a list of them (gantt.csv) and the picture. Returns the exit status;
/// throws ConfigError, Interrupted.
int run_gantt_figure(const std::filesystem::path& folder, bool quiet, const RunLimits& limits = {});

}  // namespace nearkv
