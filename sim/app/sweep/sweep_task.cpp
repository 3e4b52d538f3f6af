#include "sim/app/sweep/sweep_task.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/exit_status.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/sweep/sweep_run.hpp"
#include "sim/app/sweep/task_list.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

// What a lost node costs at most.
constexpr std::chrono::seconds kPublishEvery{10};
// A full disk stays full: Slurm itself would run such a task for ever.
constexpr int kMostRestarts = 10;

/// What earlier attempts at the task found.
void take_earlier_results(const SweepPlan& plan, const fs::path& folder, std::size_t task,
                          ResultStore& journal) {
  for (const fs::path& file : task_result_files(folder, task)) {
    try {
      take_results(plan, journal, ResultStore::to_read(file), file.string());
    } catch (const ConfigError& problem) {
      fmt::print(stderr, "{}\n", problem.what());  // its points run again
    }
  }
}

int restarts() {
  const char* text = std::getenv("SLURM_RESTART_COUNT");
  int count = 0;
  if (text != nullptr) {
    std::from_chars(text, text + std::strlen(text), count);
  }
  return count;
}

int status_after(const std::string& problem) {
  const bool is_last = restarts() >= kMostRestarts;
  fmt::print(stderr, "{}; {}\n", problem,
             is_last ? fmt::format("given up after {} restarts", kMostRestarts)
                     : "what was found is kept, another attempt goes on");
  return is_last ? kExitUserError : kExitTryAgain;
}

}  // namespace

int run_sweep_task(const fs::path& folder, std::size_t task, int jobs,
                   const RunLimitOptions& limits) {
  const TaskList list = read_task_list(folder);
  if (task >= list.tasks) {
    throw ConfigError(
        fmt::format("{}: has tasks 0 to {}, not {}", folder.string(), list.tasks - 1, task));
  }
  if (list.program != program_hash()) {
    throw ConfigError(
        fmt::format("{}: was written by another build of nearkv ({}) than the one that runs the "
                    "task; submit the sweep again",
                    folder.string(), list.version));
  }
  const SweepPlan plan(load_sweep(list.sweep_file));
  ResultStore journal;
  begin_journal(journal, plan);
  take_earlier_results(plan, folder, task, journal);
  const std::vector<std::size_t> own = list.points_of(task);
  const std::vector<std::size_t> found = journal.points();
  std::vector<std::size_t> points;
  std::set_difference(own.begin(), own.end(), found.begin(), found.end(),
                      std::back_inserter(points));
  fmt::print("task {}: {} of {} points to run\n", task, points.size(), own.size());
  std::fflush(stdout);

  const fs::path file = own_task_result_file(folder, task);
  auto published = std::chrono::steady_clock::now();
  const auto publish_now_and_then = [&] {
    const auto now = std::chrono::steady_clock::now();
    if (now - published >= kPublishEvery) {
      journal.write_copy(file);
      published = now;
    }
  };
  try {
    std::string problem;
    try {
      run_points(plan, std::move(points), journal,
                 {.jobs = jobs, .committed = publish_now_and_then, .limits = limits});
    } catch (const Interrupted& signal) {
      problem = signal.what();
    }
    journal.write_copy(file);
    return problem.empty() ? kExitOk : status_after(problem);
  } catch (const ConfigError& problem) {
    return status_after(problem.what());
  }
}

}  // namespace nearkv
