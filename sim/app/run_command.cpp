// nearkv run POINT.json...: simulates design points, prints a summary, writes records.
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/summary.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct RunOptions {
  std::vector<std::string> files;
  std::vector<std::string> overrides;
  std::string out = "results";
  int jobs = available_cores();
  bool as_json = false;
  bool with_constants = false;
};

std::vector<PreparedPoint> prepare_all(const RunOptions& options) {
  std::vector<PreparedPoint> points;
  std::map<std::string, std::string> files_by_name;
  std::vector<std::string> problems;
  for (const std::string& file : options.files) {
    try {
      PreparedPoint point = prepare_point(path_of(file), options.overrides);
      const auto [known, is_new] = files_by_name.emplace(point.name, file);
      if (!is_new) {
        throw ConfigError(
            fmt::format("/name: \"{}\" is the name of {} too; names must differ, "
                        "as they name the records",
                        point.name, known->second));
      }
      points.push_back(std::move(point));
    } catch (const ConfigError& error) {
      const std::string message = error.what();
      // With one file there is no doubt which one a JSON path belongs to.
      const bool names_file = options.files.size() == 1 || message.starts_with(file);
      problems.push_back(names_file ? message : prefix_lines(file, message));
    }
  }
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
  return points;
}

void write_record(const fs::path& folder, const PreparedPoint& point, const PointOutcome& outcome) {
  const SignalsPutOff whole_files;
  write_file_atomically(folder / (point.name + ".record.json"), outcome.record_text);
  if (!outcome.requests.empty()) {
    write_file_atomically(folder / (point.name + ".requests.csv"), outcome.requests);
  }
  write_file_atomically(
      folder / (point.name + ".wall.json"),
      json_text(
          {{"name", point.name}, {"use", use_as_json(outcome.use)}, {"build", build_as_json()}}));
}

void print_records(const std::vector<PointOutcome>& outcomes, bool is_list) {
  std::string text;
  for (const PointOutcome& outcome : outcomes) {
    if (outcome.has_record()) {
      text += (text.empty() ? "" : ",\n") +
              outcome.record_text.substr(0, outcome.record_text.find_last_not_of('\n') + 1);
    }
  }
  if (is_list) {
    fmt::print("[\n{}\n]\n", text);
  } else if (!text.empty()) {
    fmt::print("{}\n", text);
  }
}

int run(const RunOptions& options) {
  const std::vector<PreparedPoint> points = prepare_all(options);
  check_output_folder(options.out);
  const bool is_single = points.size() == 1;
  Progress::Style style = Progress::style_for(stderr);
  if (is_single && style == Progress::Style::lines) {
    style = Progress::Style::silent;
  }
  const std::vector<PointOutcome> outcomes = run_points(points, {options.jobs, "run", style});
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!outcomes[i].has_record()) {
      continue;
    }
    write_record(options.out, points[i], outcomes[i]);
    if (!options.as_json) {
      const RecordView record(json::parse(outcomes[i].record_text));
      fmt::print("{}{}{}", i > 0 ? "\n\n" : "", summary_of(record),
                 options.with_constants ? "\n" + constants_table(record) : "");
      fmt::print("\nrecord: {}\n",
                 (fs::path(options.out) / (points[i].name + ".record.json")).string());
      if (!outcomes[i].requests.empty()) {
        fmt::print("requests: {}\n",
                   (fs::path(options.out) / (points[i].name + ".requests.csv")).string());
      }
    }
  }
  if (options.as_json) {
    print_records(outcomes, !is_single);
  }
  return report_problems(outcomes);
}

}  // namespace

void add_run_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<RunOptions>();
  command.add_option("POINT", options->files, "Design points, JSON files")->required();
  command
      .add_option("--set", options->overrides,
                  "Set a value of every point: --set workload/batch=64 (repeatable)")
      ->allow_extra_args(false);
  command.add_option("--out", options->out, "Folder for the records")->capture_default_str();
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  command.add_flag("--json", options->as_json,
                   "Print the record instead of a summary (a list of records for several points)");
  command.add_flag("--constants", options->with_constants,
                   "List the constants that are assumed, fitted or overridden");
  command.callback([options, &exit_status] { exit_status = run(*options); });
}

}  // namespace nearkv
