// nearkv run POINT.json...: simulates design points, prints a summary, writes records.
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

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/machine.hpp"
#include "sim/app/point.hpp"
#include "sim/app/summary.hpp"
#include "sim/app/timeline.hpp"
#include "sim/app/uncertainty/sample_options.hpp"
#include "sim/app/uncertainty/sampled_runs.hpp"
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
  SampleOptions samples;
  RunLimitOptions limits;
  TimelineOptions timeline;
};

std::vector<PreparedPoint> prepare_all(const RunOptions& options) {
  std::vector<PreparedPoint> points;
  std::map<std::string, std::string> files_by_name;
  std::vector<std::string> problems;
  for (const std::string& file : options.files) {
    try {
      PreparedPoint point = prepare_point(path_of_config(file), options.overrides);
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

/// Writes the files of a point and returns what they are, to tell the user.
std::vector<std::string> write_files(const fs::path& folder, const PreparedPoint& point,
                                     const SampledOutcome& sampled) {
  const SignalsPutOff whole_files;
  std::vector<std::string> written;
  const auto write = [&](const char* what, const char* ending, const std::string& text) {
    const fs::path file = folder / (point.name + ending);
    write_file_atomically(file, text);
    written.push_back(fmt::format("{}: {}", what, file.string()));
  };
  const PointOutcome& outcome = sampled.nominal;
  write("record", ".record.json", outcome.record_text);
  if (!outcome.requests.empty()) {
    write("requests", ".requests.csv", outcome.requests);
  }
  if (!sampled.table.empty()) {
    write("samples", ".samples.csv", sampled.table);
  }
  write_file_atomically(folder / (point.name + ".wall.json"),
                        json_text({{"name", point.name},
                                   {"use", use_as_json(outcome.use)},
                                   {"build", build_as_json()},
                                   {"machine", machine_as_json()}}));
  return written;
}

void print_records(const std::vector<SampledOutcome>& outcomes, bool is_list) {
  std::string text;
  for (const SampledOutcome& sampled : outcomes) {
    const PointOutcome& outcome = sampled.nominal;
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
  const RunLimits limits = limits_of(options.limits);
  const std::vector<PreparedPoint> points = prepare_all(options);
  check_output_folder(options.out);
  const bool is_single = points.size() == 1;
  const bool has_timeline = !options.timeline.file.empty();
  if (has_timeline && !is_single) {
    throw ConfigError(
        fmt::format("--timeline: shows one design point; {} are given", points.size()));
  }
  if (has_timeline) {
    check_timeline(options.timeline, points.front());
  } else if (!options.timeline.steps.empty()) {
    throw ConfigError("--timeline-steps: says what --timeline FILE shows; give that as well");
  }
  Progress::Style style = Progress::style_for(stderr);
  if (is_single && options.samples.count == 0 && style == Progress::Style::lines) {
    style = Progress::Style::silent;
  }
  const std::vector<SampledOutcome> outcomes =
      run_sampled(points, options.samples,
                  {.jobs = options.jobs, .label = "run", .progress = style, .limits = limits});
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!outcomes[i].nominal.has_record()) {
      continue;
    }
    const std::vector<std::string> written = write_files(options.out, points[i], outcomes[i]);
    if (!options.as_json) {
      const RecordView record(json::parse(outcomes[i].nominal.record_text));
      fmt::print("{}{}{}\n{}\n", i > 0 ? "\n\n" : "", summary_of(record),
                 options.with_constants ? "\n" + constants_table(record) : "",
                 fmt::join(written, "\n"));
    }
  }
  if (options.as_json) {
    print_records(outcomes, !is_single);
  }
  int status = kExitOk;
  if (has_timeline && outcomes.front().nominal.has_finished()) {
    const TimelineOutcome timeline = write_timeline(options.timeline, points.front(), limits);
    fmt::print(options.as_json ? stderr : stdout, "{}\n", timeline.told);
    status = timeline.is_stopped ? kExitPointsFailed : kExitOk;
  }
  return std::max(status, report_problems(nominal_outcomes(outcomes)));
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
  add_sample_options(command, options->samples);
  add_limit_options(command, options->limits);
  command.add_option(
      "--timeline", options->timeline.file,
      "Write what every part did in a decode step to this file, for Perfetto "
      "(ui.perfetto.dev) and chrome://tracing; the run and its record stay the same");
  command.add_option(
      "--timeline-steps", options->timeline.steps,
      "A:B: the timeline shows decode steps A to B - 1, counted from 0 (default: one "
      "step, in the middle of a fixed batch), or passes of a system that serves "
      "requests (default: 0:8); or prefill");
  command.add_flag("--json", options->as_json,
                   "Print the record instead of a summary (a list of records for several points)");
  command.add_flag("--constants", options->with_constants,
                   "List the constants that are assumed, fitted or overridden");
  command.callback([options, &exit_status] { exit_status = run(*options); });
}

}  // namespace nearkv
