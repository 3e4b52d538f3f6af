// nearkv sweep FILE: runs the points of a sweep file into one table.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "sim/app/commands.hpp"
#include "sim/app/csv.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/progress.hpp"
#include "sim/app/sweep/sweep_run.hpp"
#include "sim/app/sweep/sweep_table.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct SweepOptions {
  std::string file;
  std::string out = "results";
  std::string cache = default_cache().string();
  std::string shard;
  int jobs = available_cores();
  bool is_dry = false;
  bool resume = false;
  bool retry_failed = false;
  bool again = false;
  bool as_json = false;
};

SweepShard shard_of(const std::string& text) {
  if (text.empty()) {
    return {};
  }
  const char* const end = text.data() + text.size();
  std::size_t index = 0;
  std::size_t count = 0;
  const auto [slash, no_index] = std::from_chars(text.data(), end, index);
  const bool has_slash = no_index == std::errc{} && slash != end && *slash == '/';
  const auto [rest, no_count] = std::from_chars(has_slash ? slash + 1 : end, end, count);
  if (!has_slash || no_count != std::errc{} || rest != end || index < 1 || index > count) {
    throw ConfigError(
        fmt::format("--shard {}: write I/N with I from 1 to N, as in --shard 2/8", text));
  }
  return {index - 1, count};
}

EarlierResults earlier_of(const SweepOptions& options) {
  if (options.again && (options.resume || options.retry_failed)) {
    throw ConfigError(
        "--again: drops the results that --resume would go on from; give one of them");
  }
  return options.again          ? EarlierResults::drop
         : options.retry_failed ? EarlierResults::retry_failed
         : options.resume       ? EarlierResults::resume
                                : EarlierResults::refuse;
}

std::string text_of(const NamedValue& value, const std::string& unit) {
  const double* number = std::get_if<double>(&value);
  return number != nullptr ? format_metric(*number, unit) : std::get<std::string>(value);
}

std::string describe_point(const SweepPlan& plan, std::size_t point) {
  std::vector<std::string> parts;
  const std::vector<NamedValue> values = plan.values(point);
  for (std::size_t i = 0; i < values.size(); ++i) {
    parts.push_back(
        fmt::format("{} {}", plan.columns()[i].name, text_of(values[i], plan.columns()[i].unit)));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

/// Mean processor seconds of a few points, which are run for it; their number.
std::pair<double, int> time_of_points(const SweepPlan& plan) {
  constexpr double kMostSeconds = 20;
  std::vector<std::size_t> points{0, plan.size() / 2, plan.size() - 1};
  points.erase(std::unique(points.begin(), points.end()), points.end());
  double seconds = 0;
  const auto work = [&](std::size_t i) {
    static_cast<void>(run_sweep_point(plan.config(points[i])));
    return std::string();
  };
  run_in_processes(points.size(), {available_cores(), {}, kMostSeconds}, work,
                   [&](std::size_t, const ChildResult& child) {
                     seconds += std::max(child.use.processor_seconds,
                                         child.end == ChildEnd::timed_out ? kMostSeconds : 0);
                   });
  const auto count = static_cast<int>(points.size());
  return {seconds / count, count};
}

void print_plan(const SweepPlan& plan, const SweepOptions& options) {
  const auto [seconds, tried] = time_of_points(plan);
  const double all = seconds * static_cast<double>(plan.size()) / options.jobs;
  if (options.as_json) {
    const auto point = [&](std::size_t i) {
      json values = json::object();
      for (std::size_t c = 0; c < plan.columns().size(); ++c) {
        const NamedValue value = plan.values(i)[c];
        values[plan.columns()[c].name] =
            value.index() == 1 ? json(std::get<double>(value)) : json(std::get<std::string>(value));
      }
      return values;
    };
    fmt::print("{}", json_text({{"sweep", plan.sweep().name},
                                {"points", plan.size()},
                                {"skipped", plan.skipped()},
                                {"first", point(0)},
                                {"last", point(plan.size() - 1)},
                                {"seconds_a_point", seconds},
                                {"seconds", all}}));
    return;
  }
  fmt::print("{}: {}\n", plan.sweep().name, plan.sweep().title);
  fmt::print("  points   {}{}\n", plan.size(),
             plan.skipped() > 0 ? fmt::format(" ({} left out by conditions)", plan.skipped()) : "");
  fmt::print("  first    {}\n  last     {}\n", describe_point(plan, 0),
             describe_point(plan, plan.size() - 1));
  fmt::print("  time     about {} with {} at a time ({} took {} of processor time{})\n",
             rough_duration(all), options.jobs,
             tried == 1 ? "one point" : fmt::format("{} points", tried),
             format_metric(seconds, "s", 2), tried == 1 ? "" : " each");
}

void print_counts(const SweepPlan& plan, const SweepCounts& counts,
                  const std::map<std::string, std::size_t>& statuses, const SweepTable& table,
                  bool as_json) {
  if (as_json) {
    fmt::print("{}", json_text({{"sweep", plan.sweep().name},
                                {"points", plan.size()},
                                {"asked", counts.asked},
                                {"earlier", counts.earlier},
                                {"shared", counts.shared},
                                {"ran", counts.ran},
                                {"statuses", statuses},
                                {"table", table.csv.string()},
                                {"units", table.units.string()}}));
    return;
  }
  fmt::print("{}: {} of {} points: {} ran, {} had a result, {} took that of an equal point\n",
             plan.sweep().name, table.rows, plan.size(), counts.ran, counts.earlier, counts.shared);
  std::vector<std::string> parts;
  for (const auto& [status, count] : statuses) {
    parts.push_back(fmt::format("{} {}", count, status));
  }
  fmt::print("  {}\ntable: {}\nunits: {}\n", fmt::join(parts, ", "), table.csv.string(),
             table.units.string());
}

int run(const SweepOptions& options) {
  const SweepShard shard = shard_of(options.shard);
  const EarlierResults earlier = earlier_of(options);
  const SweepPlan plan(load_sweep(path_of(options.file)));
  if (options.is_dry) {
    print_plan(plan, options);
    return kExitOk;
  }
  const std::string part =
      shard.count > 1 ? fmt::format(".shard_{}_of_{}", shard.index + 1, shard.count) : "";
  SweepFolder folder(fs::path(options.out) / (plan.sweep().name + part));
  SweepCounts counts;
  try {
    counts = run_sweep(plan, folder,
                       {.jobs = options.jobs,
                        .shard = shard,
                        .earlier = earlier,
                        .progress = Progress::style_for(stderr),
                        .cache = options.cache});
  } catch (const Interrupted&) {
    fmt::print(stderr, "{}: {} of {} points have a result; --resume goes on\n", plan.sweep().name,
               folder.journal().points().size(), plan.size());
    throw;
  }
  const SweepTable table = write_sweep_table(plan, folder.journal(), folder.path());
  const std::map<std::string, std::size_t> statuses = folder.journal().statuses();
  print_counts(plan, counts, statuses, table, options.as_json);
  const auto failed = [&](const char* status) {
    const auto found = statuses.find(status);
    return found == statuses.end() ? 0 : found->second;
  };
  if (failed("failed") + failed("timed_out") > 0) {
    fmt::print(stderr, "{} points failed; column detail says why; --retry-failed runs them again\n",
               failed("failed") + failed("timed_out"));
    return kExitPointsFailed;
  }
  return kExitOk;
}

/// Folders of shards beside that of the sweep, sorted.
std::vector<fs::path> shard_folders(const fs::path& out, const std::string& name) {
  std::vector<fs::path> folders;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(out, ignored)) {
    const std::string folder = entry.path().filename().string();
    if (folder.starts_with(name + ".shard_") && fs::exists(entry.path() / "journal.sqlite")) {
      folders.push_back(entry.path());
    }
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

int merge(const SweepOptions& options) {
  const SweepPlan plan(load_sweep(path_of(options.file)));
  const std::vector<fs::path> shards = shard_folders(options.out, plan.sweep().name);
  if (shards.empty()) {
    throw ConfigError(fmt::format(
        "{}: there is no folder {}.shard_I_of_N with results; make them with nearkv sweep --shard",
        options.out, plan.sweep().name));
  }
  SweepFolder folder(fs::path(options.out) / plan.sweep().name);
  const std::size_t points = merge_sweeps(plan, shards, folder);
  const SweepTable table = write_sweep_table(plan, folder.journal(), folder.path());
  fmt::print("{}: {} of {} points from {} shards\ntable: {}\nunits: {}\n", plan.sweep().name,
             points, plan.size(), shards.size(), table.csv.string(), table.units.string());
  if (points < plan.size()) {
    fmt::print(stderr, "{} points are missing; nearkv sweep {} --resume runs them\n",
               plan.size() - points, options.file);
  }
  return kExitOk;
}

}  // namespace

void add_merge_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<SweepOptions>();
  command.add_option("FILE", options->file, "Sweep file whose shards ran")->required();
  command.add_option("--out", options->out, "Folder that the shards were run with")
      ->capture_default_str();
  command.callback([options, &exit_status] { exit_status = merge(*options); });
}

void add_sweep_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<SweepOptions>();
  command.add_option("FILE", options->file, "Sweep file (configs/sweeps has examples)")->required();
  command.add_option("--out", options->out, "Folder; results go into a folder of the sweep's name")
      ->capture_default_str();
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  command.add_flag("--dry-run", options->is_dry,
                   "Print the number of points, the first and the last, and how long they take");
  command.add_flag("--resume", options->resume, "Go on where an earlier run ended");
  command.add_flag("--retry-failed", options->retry_failed,
                   "The same, and run points again that failed or took too long");
  command.add_flag("--again", options->again, "Drop the results of an earlier run");
  command.add_option("--shard", options->shard,
                     "I/N: run every N-th point from the I-th on, for nearkv merge");
  command.add_option("--cache", options->cache, "Folder of results that sweeps share; empty: none");
  command.add_flag("--json", options->as_json, "Print the summary as JSON");
  command.callback([options, &exit_status] { exit_status = run(*options); });
}

}  // namespace nearkv
