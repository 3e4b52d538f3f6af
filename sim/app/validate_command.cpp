// nearkv validate: suites of reference figures against the models.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/validation/report.hpp"
#include "sim/app/validation/run_set.hpp"
#include "sim/app/validation/suite.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

using nlohmann::json;

constexpr int kExitGateFails = 1;  // the validation ran, and a row fails that must not

struct Options {
  std::string suite;
  std::string points;
  std::string cache = default_cache().string();
  bool no_cache = false;
  bool as_json = false;
  int jobs = available_cores();
};

std::vector<Suite> load_suites(const Options& options) {
  std::vector<Suite> suites;
  const bool is_file = options.suite.ends_with(".json");
  for (const std::string& name :
       options.suite.empty() ? known_suites() : std::vector<std::string>{options.suite}) {
    suites.push_back(load_suite(is_file ? std::filesystem::path(name) : suite_file(name),
                                {.table = options.points}));
  }
  return suites;
}

/// The points of all suites, and where those of each one begin.
struct PointsOfSuites {
  std::vector<PreparedPoint> points;
  std::vector<std::map<PointName, std::size_t>> positions;
};

PointsOfSuites points_of_suites(const std::vector<Suite>& suites) {
  PointsOfSuites all;
  for (const Suite& suite : suites) {
    std::map<PointName, std::size_t>& positions = all.positions.emplace_back();
    for (const PointName& name : points_of(suite.rows)) {
      positions[name] = all.points.size();
      all.points.push_back(prepare(suite, name));
    }
  }
  return all;
}

SuiteReport report_on(Suite suite, const std::map<PointName, std::size_t>& positions,
                      const std::vector<RecordView>& records) {
  SuiteReport report{.suite = std::move(suite), .results = {}};
  for (const Row& row : report.suite.rows) {
    report.results.push_back(evaluate(
        report.suite, row, [&](const PointName& name) { return &records.at(positions.at(name)); }));
  }
  return report;
}

int validate(const Options& options) {
  std::vector<Suite> suites = load_suites(options);
  const PointsOfSuites all = points_of_suites(suites);
  const RunSet set = run_set(all.points, {options.jobs, "validate", Progress::style_for(stderr),
                                          options.no_cache ? "" : options.cache});
  if (const int status = report_problems(set.outcomes); status != kExitOk) {
    return status;
  }
  std::vector<RecordView> records;
  for (const PointOutcome& outcome : set.outcomes) {
    records.emplace_back(json::parse(outcome.record_text));
  }
  std::vector<SuiteReport> reports;
  for (std::size_t i = 0; i < suites.size(); ++i) {
    reports.push_back(report_on(std::move(suites[i]), all.positions[i], records));
  }
  fmt::print("{}", options.as_json ? json_text(report_as_json(reports)) : report_text(reports));
  const bool all_explained =
      std::all_of(reports.begin(), reports.end(), [](const SuiteReport& report) {
        for (std::size_t i = 0; i < report.results.size(); ++i) {
          if (!report.results[i].passes && report.suite.rows[i].why.empty()) {
            return false;
          }
        }
        return true;
      });
  return all_explained ? kExitOk : kExitGateFails;
}

}  // namespace

void add_validate_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<Options>();
  command.add_option("--suite", options->suite, "One suite, by its name or file; else all");
  command.add_option("--points", options->points,
                     "Another file of rows, in the form of the suite's own");
  command.add_option("--cache", options->cache, "Folder for records that later calls take")
      ->capture_default_str();
  command.add_flag("--no-cache", options->no_cache, "Run all points, and keep no record");
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  command.add_flag("--json", options->as_json, "Print the rows as JSON");
  command.callback([options, &exit_status] { exit_status = validate(*options); });
}

}  // namespace nearkv
