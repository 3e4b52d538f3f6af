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

#include "sim/app/cluster/slurm.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/csv.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/progress.hpp"
#include "sim/app/sweep/cluster_sweep.hpp"
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
  bool has_jobs = false;
  std::string backend = "local";
  bool waits = false;
  bool wants_status = false;
  bool has_chunk = false;
  std::size_t chunk = kFewestPointsATask;
  std::vector<std::string> sbatch;
  RunLimitOptions limits;
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
  run_in_processes(points.size(), {available_cores(), {}, {.most_seconds = kMostSeconds}}, work,
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

struct SweepSummary {
  std::size_t asked = 0;    // points of this run
  std::size_t earlier = 0;  // had a result in the journal
  SweepCounts counts;
};

std::string statuses_text(const std::map<std::string, std::size_t>& statuses) {
  std::vector<std::string> parts;
  for (const auto& [status, count] : statuses) {
    parts.push_back(fmt::format("{} {}", count, status));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

/// A metric that no point has may be a slip of the pen.
void tell_absent_metrics(const SweepTable& table, std::size_t points_that_ran) {
  for (const std::string& name : table.absent) {
    if (points_that_ran > 0) {
      fmt::print(stderr, "metrics: no point has {}; see nearkv describe metrics\n",
                 in_quotes(name));
    }
  }
}

/// Writes the table and says what was done.
int finish(const SweepPlan& plan, const SweepFolder& folder, const SweepSummary& summary,
           const SweepOptions& options) {
  const SweepTable table = write_sweep_table(plan, folder.journal(), folder.path());
  std::map<std::string, std::size_t> statuses = folder.journal().statuses();
  if (options.as_json) {
    fmt::print("{}", json_text({{"sweep", plan.sweep().name},
                                {"points", plan.size()},
                                {"asked", summary.asked},
                                {"earlier", summary.earlier},
                                {"shared", summary.counts.shared},
                                {"ran", summary.counts.ran},
                                {"statuses", statuses},
                                {"table", table.csv.string()},
                                {"units", table.units.string()}}));
  } else {
    fmt::print("{}: {} of {} points: {} ran, {} had a result, {} took that of an equal point\n",
               plan.sweep().name, table.rows, plan.size(), summary.counts.ran, summary.earlier,
               summary.counts.shared);
    fmt::print("  {}\ntable: {}\nunits: {}\n", statuses_text(statuses), table.csv.string(),
               table.units.string());
  }
  tell_absent_metrics(table, statuses["ok"]);
  const std::size_t failed = statuses["failed"] + statuses["stopped"];
  if (failed > 0) {
    fmt::print(stderr,
               "{} points failed or were stopped; column detail says why; --retry-failed runs them "
               "again\n",
               failed);
    return kExitPointsFailed;
  }
  return kExitOk;
}

int run_here(const SweepPlan& plan, SweepFolder& folder, std::vector<std::size_t> points,
             SweepSummary summary, const SweepOptions& options) {
  try {
    summary.counts = run_points(plan, std::move(points), folder.journal(),
                                {.jobs = options.jobs,
                                 .progress = Progress::style_for(stderr),
                                 .cache = options.cache,
                                 .limits = options.limits});
  } catch (const Interrupted&) {
    fmt::print(stderr, "{}: {} of {} points have a result; --resume goes on\n", plan.sweep().name,
               folder.journal().points().size(), plan.size());
    throw;
  }
  return finish(plan, folder, summary, options);
}

std::string tasks_text(const ClusterState& state) {
  std::vector<std::string> parts;
  for (const auto& [name, count] : state.tasks) {
    parts.push_back(fmt::format("{} {}", count, name));
  }
  return !state.is_known ? "the cluster does not answer"
         : parts.empty() ? "none"
                         : fmt::format("{}", fmt::join(parts, ", "));
}

int run_on_cluster(const SweepPlan& plan, SweepFolder& folder, EarlierResults earlier,
                   const SweepOptions& options) {
  ResultStore& journal = folder.journal();
  ClusterSweep cluster(plan, folder,
                       {.points_a_task = options.chunk,
                        .cores = options.has_jobs ? options.jobs : 1,
                        .sbatch = options.sbatch,
                        .cache = options.cache,
                        .limits = options.limits});
  const ClusterState state = cluster.state();
  if (!state.is_known) {
    throw ConfigError(
        "--backend slurm: the cluster does not answer, and tasks of this sweep may still run "
        "there; try again");
  }
  cluster.collect();
  std::vector<std::size_t> points = points_to_run(plan, journal, {}, earlier);
  SweepSummary summary{plan.size(), plan.size() - points.size(), {}};
  if (earlier == EarlierResults::retry_failed) {
    cluster.forget(points);
  }
  std::erase_if(points, [&](std::size_t point) {
    return std::binary_search(state.points.begin(), state.points.end(), point);
  });
  if (!options.cache.empty() && fs::exists(cache_file(options.cache))) {
    const std::size_t before = points.size();
    ResultStore cache(cache_file(options.cache));
    points = take_known_results(plan, points, journal, cache);
    summary.counts.shared = before - points.size();
  }
  const std::size_t found = journal.points().size();
  if (!points.empty()) {
    const ClusterSubmission submitted = cluster.submit(points);
    fmt::print(stderr, "{}: {} points in {} tasks: job {}\n", plan.sweep().name, submitted.points,
               submitted.tasks, submitted.job);
  }
  if (!options.waits && found < plan.size()) {
    fmt::print(
        stderr,
        "nearkv sweep {0} --status says how far it is; --backend slurm --resume --wait waits "
        "for it\n",
        options.file);
    return kExitOk;
  }
  std::size_t left = 0;
  try {
    left = cluster.wait(Progress::style_for(stderr));
  } catch (const Interrupted&) {
    fmt::print(stderr, "{}: {} of {} points have a result; the tasks go on (scancel stops them)\n",
               plan.sweep().name, journal.points().size(), plan.size());
    throw;
  }
  summary.counts.ran = journal.points().size() - found;
  const int status = finish(plan, folder, summary, options);
  if (left == 0) {
    return status;
  }
  fmt::print(stderr,
             "{} points are without a result: their tasks ended again and again; the "
             "last lines of logs:\n",
             left);
  for (const std::string& line : cluster.last_words()) {
    fmt::print(stderr, "  {}\n", line);
  }
  return kExitTryAgain;
}

/// How far a sweep is.
struct SweepStatus {
  std::size_t done = 0;
  std::map<std::string, std::size_t> statuses;
  std::string tasks;  // what a cluster, or another program, does for it
  std::string table;
};

/// Of a sweep whose folder another program writes to.
SweepStatus status_from_outside(const SweepPlan& plan, const fs::path& path,
                                const FolderInUse& why) {
  const ResultStore journal(SweepFolder::journal_in(path));
  check_is_of(plan, journal, path.string());
  return {journal.points().size(), journal.statuses(), why.what(), {}};
}

SweepStatus status_of(const SweepPlan& plan, const fs::path& path, const SweepOptions& options) {
  SweepFolder folder(path);
  open_journal(plan, folder, EarlierResults::resume);
  ClusterSweep cluster(plan, folder, {.cache = options.cache});
  const std::size_t done = cluster.collect();
  SweepStatus status{done, folder.journal().statuses(), {}, {}};
  if (done == plan.size()) {
    status.table = write_sweep_table(plan, folder.journal(), folder.path()).csv.string();
  } else {
    status.tasks = "tasks of a cluster: " + tasks_text(cluster.state());
  }
  return status;
}

int print_status(const SweepPlan& plan, const fs::path& path, const SweepOptions& options) {
  if (!fs::exists(SweepFolder::journal_in(path))) {
    throw ConfigError(
        fmt::format("{}: has no results; nearkv sweep {} makes them", path.string(), options.file));
  }
  SweepStatus status;
  try {
    status = status_of(plan, path, options);
  } catch (const FolderInUse& why) {
    status = status_from_outside(plan, path, why);
  }
  if (options.as_json) {
    fmt::print("{}", json_text({{"sweep", plan.sweep().name},
                                {"points", plan.size()},
                                {"done", status.done},
                                {"statuses", status.statuses},
                                {"tasks", status.tasks}}));
  } else {
    fmt::print("{}: {} of {} points have a result{}{}\n", plan.sweep().name, status.done,
               plan.size(), status.statuses.empty() ? "" : ": ", statuses_text(status.statuses));
    fmt::print("  {}\n",
               status.table.empty() ? status.tasks : fmt::format("table: {}", status.table));
  }
  return status.done == plan.size() ? kExitOk : kExitTryAgain;
}

void check_options_agree(const SweepOptions& options) {
  const bool is_slurm = options.backend == "slurm";
  const auto refuse = [](bool wrong, const char* message) {
    if (wrong) {
      throw ConfigError(message);
    }
  };
  refuse(options.again && (options.resume || options.retry_failed),
         "--again: drops the results that --resume would go on from; give one of them");
  refuse(is_slurm && !options.shard.empty(),
         "--shard: --backend slurm shares the points out itself; give one of them");
  refuse(!is_slurm && options.waits, "--wait: a local run always waits; give --backend slurm");
  refuse(!is_slurm && options.has_chunk,
         "--chunk: is for tasks of a cluster; give --backend slurm");
  refuse(!is_slurm && !options.sbatch.empty(),
         "--sbatch: is for jobs of a cluster; give --backend slurm");
}

int run(const SweepOptions& options) {
  check_options_agree(options);
  static_cast<void>(limits_of(options.limits));  // before anything is written
  const SweepShard shard = shard_of(options.shard);
  const EarlierResults earlier = earlier_of(options);
  const SweepPlan plan(load_sweep(path_of_config(options.file)));
  if (options.is_dry) {
    print_plan(plan, options);
    return kExitOk;
  }
  const std::string part =
      shard.count > 1 ? fmt::format(".shard_{}_of_{}", shard.index + 1, shard.count) : "";
  const fs::path path = fs::path(options.out) / (plan.sweep().name + part);
  if (options.wants_status) {
    return print_status(plan, path, options);
  }
  const bool is_slurm = options.backend == "slurm";
  if (is_slurm) {
    static_cast<void>(Slurm());  // before anything is written
  }
  SweepFolder folder(path);
  open_journal(plan, folder, earlier);
  if (is_slurm) {
    return run_on_cluster(plan, folder, earlier, options);
  }
  std::vector<std::size_t> points = points_to_run(plan, folder.journal(), shard, earlier);
  const std::size_t asked = (plan.size() - shard.index + shard.count - 1) / shard.count;
  const SweepSummary summary{asked, asked - points.size(), {}};
  return run_here(plan, folder, std::move(points), summary, options);
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
  const SweepPlan plan(load_sweep(path_of_config(options.file)));
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
  tell_absent_metrics(table, folder.journal().statuses()["ok"]);
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
  const CLI::Option* jobs = command
                                .add_option("--jobs", options->jobs,
                                            "Points at a time; on a cluster, those of a task (1)")
                                ->check(CLI::Range(1, kMostJobs))
                                ->capture_default_str();
  command.add_flag("--dry-run", options->is_dry,
                   "Print the number of points, the first and the last, and how long they take");
  command.add_flag("--resume", options->resume, "Go on where an earlier run ended");
  command.add_flag("--retry-failed", options->retry_failed,
                   "The same, and run points again that failed or were stopped");
  command.add_flag("--again", options->again, "Drop the results of an earlier run");
  command.add_option("--shard", options->shard,
                     "I/N: run every N-th point from the I-th on, for nearkv merge");
  command.add_option("--cache", options->cache, "Folder of results that sweeps share; empty: none");
  add_limit_options(command, options->limits);
  command.add_flag("--json", options->as_json, "Print the summary as JSON");
  command
      .add_option("--backend", options->backend,
                  "Where points run: local, or slurm: as job arrays of a Slurm cluster")
      ->check(CLI::IsMember({"local", "slurm"}))
      ->capture_default_str();
  command.add_flag("--wait", options->waits,
                   "Wait for the cluster, submit what it loses again, and write the table");
  command.add_flag("--status", options->wants_status,
                   "Say how far the sweep is; the status is 75 until it is done");
  const CLI::Option* chunk =
      command.add_option("--chunk", options->chunk, "Points of a task of the cluster, at least")
          ->check(CLI::Range(kFewestPointsATask, std::size_t{1'000'000}))
          ->capture_default_str();
  command
      .add_option("--sbatch", options->sbatch,
                  "An option for sbatch, as in --sbatch partition=short; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.callback([options, jobs, chunk, &exit_status] {
    options->has_jobs = jobs->count() > 0;
    options->has_chunk = chunk->count() > 0;
    exit_status = run(*options);
  });
}

}  // namespace nearkv
