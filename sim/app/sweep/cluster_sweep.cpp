#include "sim/app/sweep/cluster_sweep.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/app/cluster/slurm.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/sweep/task_list.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kJobsNote = "slurm";
// The tasks of points without a result may have been lost with their nodes; three arrays one after
// another that bring nothing say that something else is wrong.
constexpr int kMostFruitlessJobs = 3;
// A network file system may show a file some seconds after it was written.
constexpr int kLastLooks = 3;

double seconds_between_looks(double waited) { return std::clamp(waited / 20, 0.5, 10.0); }

std::string last_line_of(const fs::path& file) {
  std::ifstream stream(file);
  std::string last;
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty()) {
      last = line;
    }
  }
  return last;
}

/// Where the running program is, or was: it may have been built again since it started, and then
/// the tasks refuse.
std::string program_file() {
  constexpr std::string_view kGone = " (deleted)";
  std::string file = fs::read_symlink("/proc/self/exe").string();
  if (file.ends_with(kGone)) {
    file.resize(file.size() - kGone.size());
  }
  return file;
}

}  // namespace

std::string text_of(const TaskScript& script) {
  std::string options;
  for (const std::string& option : script.options) {
    options += " " + shell_word(option);
  }
  return fmt::format(
      "#!/bin/sh\n"
      "# Written by nearkv sweep --backend slurm: one task of the array.\n"
      "export NEARKV_HOME={}\n"
      "exec {} sweep-task {} \"$SLURM_ARRAY_TASK_ID\" --jobs {}{}\n",
      shell_word(script.home), shell_word(script.program), shell_word(script.folder), script.cores,
      options);
}

ClusterSweep::ClusterSweep(const SweepPlan& plan, SweepFolder& folder, ClusterOptions options)
    : plan_(plan), folder_(folder), options_(std::move(options)) {
  for (const json& job : json::parse(folder_.journal().note(kJobsNote).value_or("[]"))) {
    jobs_.push_back({job.at(0), folder_.path() / job.at(1).get<std::string>()});
  }
}

std::size_t ClusterSweep::collect() {
  for (const Job& job : jobs_) {
    for (const fs::path& file : task_result_files(job.folder)) {
      std::error_code ignored;
      const std::string now =
          fmt::format("{} {}", fs::last_write_time(file, ignored).time_since_epoch().count(),
                      fs::file_size(file, ignored));
      std::string& before = taken_[file.string()];
      if (before == now) {
        continue;
      }
      before = now;
      try {
        take(file);
      } catch (const ConfigError& problem) {
        fmt::print(stderr, "{}; its points run again\n", problem.what());
      }
    }
  }
  return folder_.journal().points().size();
}

void ClusterSweep::forget(const std::vector<std::size_t>& points) {
  for (const std::size_t point : points) {
    folder_.journal().remove_point(point);
  }
  folder_.journal().commit();
  // The files of tasks have these results too, and the journal has all others of theirs.
  for (const Job& job : jobs_) {
    for (const fs::path& file : task_result_files(job.folder)) {
      fs::remove(file);
    }
  }
}

void ClusterSweep::take(const fs::path& file) {
  const ResultStore part = ResultStore::to_read(file);
  take_results(plan_, folder_.journal(), part, file.string());
  if (options_.cache.empty()) {
    return;
  }
  ResultStore cache(cache_file(options_.cache));
  part.for_each([&](std::size_t, const std::string& key, const PointResult& result) {
    if (result.is_repeatable()) {
      cache.add(key, result);
    }
  });
  cache.commit();
}

ClusterState ClusterSweep::state() const {
  ClusterState state;
  if (jobs_.empty()) {
    return state;
  }
  const Slurm slurm;
  for (const Job& job : jobs_) {
    const std::optional<std::vector<SlurmTask>> tasks = slurm.tasks_of(job.number);
    if (!tasks) {
      state.is_known = false;
      continue;
    }
    if (tasks->empty()) {
      continue;
    }
    const TaskList list = read_task_list(job.folder);
    for (const SlurmTask& task : *tasks) {
      const bool waits = task.reason != "None" && !task.reason.empty();
      ++state.tasks[waits ? fmt::format("{} ({})", task.state, task.reason) : task.state];
      const std::vector<std::size_t> points = list.points_of(task.task);
      state.points.insert(state.points.end(), points.begin(), points.end());
    }
  }
  std::sort(state.points.begin(), state.points.end());
  return state;
}

ClusterSubmission ClusterSweep::submit(std::vector<std::size_t> points) {
  const Slurm slurm;
  const auto tasks_of = [&](std::size_t points_a_task) {
    return std::max<std::size_t>(1, points.size() / points_a_task);
  };
  const std::size_t tasks = std::min(tasks_of(options_.points_a_task), slurm.most_tasks());
  const std::string name = fmt::format("slurm/{}", jobs_.size() + 1);
  const fs::path folder = fs::absolute(folder_.path() / name);
  fs::remove_all(folder);  // of a submission that failed
  write_task_list(plan_, points, tasks, folder);
  // The task reads the sweep's resolved copy, whose points name the files that the sweep may.
  std::vector<std::string> options = as_arguments(options_.limits);
  const std::vector<std::string> paths = allowed_paths().options();
  options.insert(options.end(), paths.begin(), paths.end());
  write_file_atomically(folder / "task.sh",
                        text_of({.home = shipped_configs().parent_path().string(),
                                 .program = program_file(),
                                 .folder = folder.string(),
                                 .cores = options_.cores,
                                 .options = options}));
  const std::string job = slurm.submit({.name = "nearkv_" + plan_.sweep().name,
                                        .script = folder / "task.sh",
                                        .logs = folder,
                                        .tasks = tasks,
                                        .cores = options_.cores,
                                        .options = options_.sbatch});
  jobs_.push_back({job, folder_.path() / name});
  json written = json::array();
  for (const Job& known : jobs_) {
    written.push_back({known.number, fs::relative(known.folder, folder_.path()).string()});
  }
  folder_.journal().set_note(kJobsNote, written.dump());
  folder_.journal().commit();
  return {job, points.size(), tasks};
}

std::vector<std::size_t> ClusterSweep::missing() const {
  return points_to_run(plan_, folder_.journal(), {}, EarlierResults::resume);
}

std::size_t ClusterSweep::wait(Progress::Style style) {
  const auto started = std::chrono::steady_clock::now();
  const auto waited = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  };
  std::size_t found = collect();
  Progress progress(plan_.sweep().name, plan_.size() - found, style);
  const auto look = [&] {
    const std::size_t before = std::exchange(found, collect());
    for (std::size_t i = before; i < found; ++i) {
      progress.advance();
    }
  };
  bool was_known = true;
  for (int fruitless = 0; fruitless < kMostFruitlessJobs;) {
    const std::size_t found_before = found;
    for (;;) {
      const ClusterState now = state();
      look();
      if (found == plan_.size()) {
        return 0;
      }
      if (was_known != now.is_known) {
        progress.say(now.is_known ? "the cluster answers again"
                                  : "the cluster does not answer; waiting for it");
        was_known = now.is_known;
      }
      if (now.is_known && now.tasks.empty()) {
        break;
      }
      progress.tick();
      pause_for(seconds_between_looks(waited()));
    }
    for (int i = 0; i < kLastLooks && found < plan_.size(); ++i) {
      pause_for(seconds_between_looks(waited()));
      look();
    }
    if (found == plan_.size()) {
      return 0;
    }
    fruitless = found == found_before ? fruitless + 1 : 0;
    if (fruitless < kMostFruitlessJobs) {
      const ClusterSubmission again = submit(missing());
      progress.say(
          fmt::format("{} points are without a result though their tasks ended: "
                      "submitted again as job {}",
                      again.points, again.job));
    }
  }
  return plan_.size() - found;
}

std::vector<std::string> ClusterSweep::last_words() const {
  constexpr std::size_t kMostLines = 3;
  std::vector<std::string> lines;
  if (jobs_.empty()) {
    return lines;
  }
  const fs::path& folder = jobs_.back().folder;
  const TaskList list = read_task_list(folder);
  const std::vector<std::size_t> without = missing();
  for (std::size_t task = 0; task < list.tasks && lines.size() < kMostLines; ++task) {
    const std::vector<std::size_t> points = list.points_of(task);
    const bool is_missing = std::any_of(points.begin(), points.end(), [&](std::size_t point) {
      return std::binary_search(without.begin(), without.end(), point);
    });
    const fs::path log = folder / fmt::format("task_{}.log", task);
    if (is_missing) {
      const std::string last = last_line_of(log);
      lines.push_back(fmt::format("{}: {}", log.string(), last.empty() ? "is empty" : last));
    }
  }
  return lines;
}

}  // namespace nearkv
