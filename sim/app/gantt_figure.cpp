#include "sim/app/gantt_figure.hpp"

#include <cstdio>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/llm/huggingface_config.hpp"
#include "models/systems/design_point.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/figures/figure_folder.hpp"
#include "sim/app/plot_script.hpp"
#include "sim/app/point.hpp"
#include "sim/app/timeline.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct GanttSeries {
  std::string name;

  void fields(FieldVisitor& v) {
    v.parameter("name", name, "system of the panel, and its file");
    v.require(is_file_name(name), "name", fmt::format("\"{}\" cannot name a file", name));
    v.object({"point", "the design point that is recorded"}, [](FieldVisitor& inner) {
      DesignPoint point;
      point.fields(inner);
    });
  }
};

struct GanttConfig {
  std::string title;
  std::string source;
  int layer = 0;
  std::vector<GanttSeries> series;
  std::vector<PreparedPoint> points;

  void fields(FieldVisitor& v) {
    constexpr int kMost = 1 << 16;  // not a constant: a limit of the input
    v.parameter("title", title, "what the figure shows, in one line");
    v.parameter("source", source, "where the paper shows it");
    v.parameter("layer", layer, "which layer, counted from 0", {0, kMost});
    v.list_of("series", series, "a panel each", at_least(1));
  }
};

GanttConfig load_gantt() {
  const fs::path file = gantt_file();
  GanttConfig config;
  const json document = load_config(file, translate_huggingface);
  try {
    read_fields(document, [&config](FieldVisitor& v) { config.fields(v); });
    for (std::size_t i = 0; i < config.series.size(); ++i) {
      PreparedPoint point{.origin = fmt::format("{}: /series/{}", file.string(), i),
                          .name = {},
                          .config = document.at("series")[i].at("point")};
      point.name = check_point(point.config);
      config.points.push_back(std::move(point));
    }
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(file.string(), error.what()));
  }
  return config;
}

/// Relative to the results folder.
std::string timeline_file(const GanttSeries& series) {
  return fmt::format("{}/{}.timeline.json", kGanttFigure, series.name);
}

}  // namespace

fs::path gantt_file() {
  return shipped_configs() / "timelines" / fmt::format("{}.json", kGanttFigure);
}

bool has_gantt_figure(const fs::path& folder) {
  const std::string stem = (folder / kGanttFigure).string();
  return fs::exists(stem + ".csv") && fs::exists(stem + ".png");
}

GanttSummary gantt_summary() {
  const GanttConfig config = load_gantt();
  return {config.title, config.source};
}

int run_gantt_figure(const fs::path& folder, bool quiet, const RunLimits& limits) {
  const GanttConfig config = load_gantt();
  check_output_folder(folder);
  FigureFolder figures(folder);
  const std::string name_of_figure(kGanttFigure);
  const std::vector<std::string> pictures{name_of_figure + ".pdf", name_of_figure + ".png"};
  std::vector<std::string> files = pictures;
  files.push_back(name_of_figure + ".csv");
  for (const GanttSeries& series : config.series) {
    files.push_back(timeline_file(series));
  }
  figures.check_are_ours(files);
  figures.begin(name_of_figure, files, pictures);
  std::FILE* const told = quiet ? stderr : stdout;
  fmt::print(told, "{}: {}\n\n", kGanttFigure, config.title);
  std::string list = "system,layer,timeline\n";
  std::vector<std::string> written;
  for (std::size_t i = 0; i < config.series.size(); ++i) {
    const std::string name = config.series[i].name;
    const std::string file = timeline_file(config.series[i]);
    const TimelineOutcome timeline = write_timeline({folder / file, ""}, config.points[i], limits);
    fmt::print(timeline.is_stopped ? stderr : told, "{}: {}\n", name, timeline.told);
    if (timeline.is_stopped) {
      return kExitPointsFailed;
    }
    list += fmt::format("{},{},{}\n", name, config.layer, file);
    written.push_back((folder / file).string());
  }
  const fs::path stem = folder / kGanttFigure;
  write_file_atomically(stem.string() + ".csv", list);
  written.push_back(stem.string() + ".csv");
  const PlotResult drawn = draw_figure({name_of_figure, stem.string() + ".csv", stem});
  for (const fs::path& picture : drawn.files) {
    written.push_back(picture.string());
  }
  if (!drawn.warning.empty()) {
    fmt::print(stderr, "warning: {}\n", drawn.warning);
  }
  fmt::print(told, "\nwrote {}\n", fmt::join(written, "\n      "));
  if (!drawn.problem.empty()) {
    fmt::print(stderr, "{}\n", drawn.problem);
    return kExitInternalError;
  }
  return kExitOk;
}

}  // namespace nearkv
