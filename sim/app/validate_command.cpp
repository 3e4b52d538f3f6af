// nearkv validate: suites of reference figures against the models.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/plot_script.hpp"
#include "sim/app/point.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/validation/gate.hpp"
#include "sim/app/validation/report.hpp"
#include "sim/app/validation/run_set.hpp"
#include "sim/app/validation/suite.hpp"
#include "sim/app/validation/suite_runs.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

constexpr int kExitGateFails = 1;  // the validation ran, and a row fails that must not

struct Options {
  std::string suite;
  std::string points;
  std::string report;
  std::string cache = default_cache().string();
  bool accept = false;
  bool no_cache = false;
  bool as_json = false;
  int jobs = available_cores();
  RunLimitOptions limits;
};

bool is_file(const Options& options) { return options.suite.ends_with(".json"); }

/// Whether the rows are those that passing.json is about.
bool is_shipped(const Options& options) { return options.points.empty() && !is_file(options); }

std::vector<Suite> load_suites(const Options& options) {
  std::vector<Suite> suites;
  for (const std::string& name :
       options.suite.empty() ? known_suites() : std::vector<std::string>{options.suite}) {
    suites.push_back(load_suite(is_file(options) ? path_of_config(name) : suite_file(name),
                                {.table = options.points}));
  }
  return suites;
}

/// Where the report goes; empty for none.
fs::path report_file(const Options& options) {
  if (!options.report.empty() || !options.suite.empty()) {
    return options.report;
  }
  return shipped_configs().parent_path() / "validation" / "REPORT.md";
}

/// Writes the report and draws its picture beside it; returns the names to tell the user.
std::vector<std::string> write_report(const fs::path& file,
                                      const std::vector<SuiteReport>& reports) {
  const std::string picture = file.stem().string() + ".png";
  const SignalsPutOff whole_files;
  write_file_atomically(file, report_markdown(reports, picture));
  const fs::path rows =
      fs::temp_directory_path() / fmt::format("nearkv_validation_{}.json", getpid());
  write_file_atomically(rows, json_text(report_as_json(reports)));
  const PlotResult drawn = draw_figure({"validation", rows, file.parent_path() / file.stem()});
  std::error_code ignored;
  fs::remove(rows, ignored);
  for (const std::string& problem : {drawn.warning, drawn.problem}) {
    if (!problem.empty()) {
      fmt::print(stderr, "warning: {}\n", problem);
    }
  }
  std::vector<std::string> written{file.string()};
  if (!drawn.files.empty()) {
    written.push_back((file.parent_path() / picture).string());
  }
  return written;
}

/// Compares with what passed before, or makes that what passes now.
int gate(const Options& options, const std::vector<SuiteReport>& reports) {
  Passing passing;
  if (is_shipped(options)) {
    passing = read_passing(passing_file());
  }
  if (options.accept) {
    passing = accept(reports, std::move(passing));
    write_file_atomically(passing_file(), json_text(passing_as_json(passing)));
  }
  const std::vector<std::string> problems = gate_problems(reports, passing);
  for (const std::string& problem : problems) {
    fmt::print(stderr, "{}\n", problem);
  }
  return problems.empty() ? kExitOk : kExitGateFails;
}

int validate(const Options& options) {
  if (options.accept && !is_shipped(options)) {
    throw ConfigError("--accept: is for the shipped suites with their own rows");
  }
  if (!options.points.empty() && options.suite.empty()) {
    throw ConfigError("--points: needs --suite, which says how the file is read");
  }
  const RunLimits limits = limits_of(options.limits);
  std::vector<Suite> suites = load_suites(options);
  const fs::path report = report_file(options);
  if (!report.empty()) {
    check_output_folder(report.has_parent_path() ? report.parent_path() : ".", "--report");
  }
  const fs::path cache = options.no_cache ? "" : options.cache;
  if (!cache.empty()) {
    check_output_folder(cache, "--cache");
  }
  const auto [status, reports] = run_suites(
      std::move(suites), {options.jobs, "validate", Progress::style_for(stderr), cache, limits});
  if (status != kExitOk) {
    return status;
  }
  fmt::print("{}", options.as_json ? json_text(report_as_json(reports)) : report_text(reports));
  if (!report.empty()) {
    const std::vector<std::string> written = write_report(report, reports);
    if (!options.as_json) {
      fmt::print("\nwrote {}\n", fmt::join(written, "\n      "));
    }
  }
  std::fflush(stdout);
  return gate(options, reports);
}

}  // namespace

void add_validate_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<Options>();
  command.add_option("--suite", options->suite, "One suite, by its name or file; else all");
  command.add_option("--points", options->points,
                     "Another file of rows, in the form of the suite's own");
  command.add_option("--report", options->report,
                     "Write the report to this file (default: validation/REPORT.md, when all "
                     "suites are asked for)");
  command.add_flag("--accept", options->accept,
                   "Let validation/passing.json say what passes now; the tests fail when one of "
                   "these rows fails later");
  command.add_option("--cache", options->cache, "Folder for records that later calls take")
      ->capture_default_str();
  command.add_flag("--no-cache", options->no_cache, "Run all points, and keep no record");
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  add_limit_options(command, options->limits);
  command.add_flag("--json", options->as_json, "Print the rows as JSON");
  command.callback([options, &exit_status] { exit_status = validate(*options); });
}

}  // namespace nearkv
