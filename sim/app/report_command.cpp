// nearkv report: one page with all figures of a results folder, their claims, the constants behind
// them and the validation. Makes the figures that are missing, collects what the page is about and
// has plots/report.py write it.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "build_info.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/figure_command.hpp"
#include "sim/app/figure_config.hpp"
#include "sim/app/figure_files.hpp"
#include "sim/app/figures/figure.hpp"
#include "sim/app/figures/figure_folder.hpp"
#include "sim/app/gantt_figure.hpp"
#include "sim/app/plot_script.hpp"
#include "sim/app/point.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/validation/report_page.hpp"
#include "sim/app/validation/suite_runs.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct ReportOptions {
  std::vector<std::string> names;  // empty: all figures
  std::string out = "report.html";
  std::string results = "results";
  std::string cache = default_cache().string();
  bool quick = false;
  bool again = false;
  int jobs = available_cores();
};

void check_output_file(const fs::path& file) {
  const fs::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (!fs::exists(folder)) {
    throw ConfigError(
        fmt::format("{}: there is no folder {}; make it, or name another file with "
                    "--out",
                    printable(file.string()), printable(folder.string())));
  }
  if (fs::is_directory(file)) {
    throw ConfigError(
        fmt::format("{}: is a folder; name a file in it with --out", printable(file.string())));
  }
  check_output_folder(folder);
}

using Figures = std::vector<std::unique_ptr<Figure>>;

/// It has no claims and is no Figure; the page has it after the others.
bool has_gantt(const ReportOptions& options) {
  const std::vector<std::string>& names = options.names;
  return names.empty() || std::find(names.begin(), names.end(), kGanttFigure) != names.end();
}

Figures load_figures(const ReportOptions& options) {
  const Suite paper = load_suite(suite_file("paper"));
  Figures figures;
  for (const std::string& name : options.names.empty() ? known_figures() : options.names) {
    if (name != kGanttFigure) {
      const fs::path file = figure_file(name, fmt::format(", {}", kGanttFigure));
      figures.push_back(make_figure(file.stem().string(), paper));
    }
  }
  return figures;
}

/// Runs the figures that are not in the results folder, or not as the configs are now.
int make_missing_figures(const Figures& figures, const ReportOptions& options) {
  std::vector<std::string> missing;
  for (const auto& figure : figures) {
    const std::string& name = figure->heading().name;
    const FigureFiles found = options.again ? FigureFiles::missing
                                            : look_for_files(options.results, name, options.quick,
                                                             figure->points(options.quick));
    if (found == FigureFiles::outdated) {
      fmt::print(stderr, "{}: configs have changed since it was made; it is made again\n", name);
    }
    if (found != FigureFiles::current) {
      missing.push_back(name);
    }
  }
  const int status = missing.empty() ? kExitOk
                                     : run_figures({.names = missing,
                                                    .out = options.results,
                                                    .jobs = options.jobs,
                                                    .quick = options.quick,
                                                    .print = FigurePrint::nothing,
                                                    .samples = {},
                                                    .limits = {}});
  if (status == kExitOk && has_gantt(options) &&
      (options.again || !has_gantt_figure(options.results))) {
    return run_gantt_figure(options.results, true);
  }
  return status;
}

struct Validation {
  int status = kExitOk;
  json suites;  // null where it is left out
};

Validation validate_for_page(const ReportOptions& options) {
  std::vector<Suite> suites;
  for (const std::string& name : known_suites()) {
    suites.push_back(load_suite(suite_file(name)));
  }
  const SuiteRuns runs = run_suites(
      std::move(suites), {options.jobs, "validate", Progress::style_for(stderr), options.cache});
  return {runs.status, report_for_page(runs.reports)};
}

/// What plots/report.py reads.
json page_data(const ReportOptions& options, const Figures& figures, const json& validation) {
  json listed = json::array();
  for (const auto& figure : figures) {
    const FigureHeading& heading = figure->heading();
    listed.push_back({{"name", heading.name},
                      {"stem", figure_stem(heading.name, options.quick)},
                      {"config", heading.file.string()}});
  }
  if (has_gantt(options)) {
    listed.push_back(
        {{"name", kGanttFigure}, {"stem", kGanttFigure}, {"config", gantt_file().string()}});
  }
  return {{"version", build_info::kVersion},
          {"build", build_as_json()},
          {"results", options.results},
          {"quick", options.quick},
          {"all_figures", options.names.empty()},
          {"figures", listed},
          {"entry_script", (shipped_configs().parent_path() / "nearkv").string()},
          {"validation", validation}};
}

int write_page(const ReportOptions& options, const json& data) {
  const SignalsPutOff whole_files;
  const fs::path file = fs::temp_directory_path() / fmt::format("nearkv_report_{}.json", getpid());
  write_file_atomically(file, json_text(data));
  const auto remove = [](const fs::path* temporary) {
    std::error_code ignored;
    fs::remove(*temporary, ignored);
  };
  const std::unique_ptr<const fs::path, decltype(remove)> cleaner(&file, remove);
  const PlotResult written = run_plot_script("report", {file.string(), options.out});
  for (const std::string& problem : {written.warning, written.problem}) {
    if (!problem.empty()) {
      fmt::print(stderr, "{}: not written: {}\n", options.out, problem);
      return kExitInternalError;
    }
  }
  if (!written.said.empty()) {
    fmt::print(stderr, "{}\n", written.said);
  }
  fmt::print("wrote {}\n", options.out);
  return kExitOk;
}

int make_report(const ReportOptions& options) {
  check_output_file(options.out);
  check_output_folder(options.results, "--results");
  const FigureFolder ours(options.results, "--results");  // else there is nothing to read or add
  const Figures figures = load_figures(options);
  if (!options.cache.empty()) {
    check_output_folder(options.cache, "--cache");
  }
  if (const int status = make_missing_figures(figures, options); status != kExitOk) {
    return status;
  }
  Validation validation;
  if (!options.quick) {
    validation = validate_for_page(options);
  }
  return validation.status == kExitOk
             ? write_page(options, page_data(options, figures, validation.suites))
             : validation.status;
}

}  // namespace

void add_report_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<ReportOptions>();
  command.add_option("NAME", options->names, "Figures; without any, all that there are");
  command.add_option("--out", options->out, "The page's file")->capture_default_str();
  command
      .add_option("--results", options->results,
                  "Folder with the figures' files; what is missing there is made")
      ->capture_default_str();
  command.add_flag("--again", options->again, "Make all figures again");
  command.add_flag("--quick", options->quick,
                   "Figures with only some values of their axes, and no validation");
  command.add_option("--cache", options->cache, "Folder for records of the validation")
      ->capture_default_str();
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  command.callback([options, &exit_status] { exit_status = make_report(*options); });
}

}  // namespace nearkv
