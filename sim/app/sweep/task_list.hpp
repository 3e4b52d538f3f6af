// What a sweep's tasks on a cluster are told and what they answer, as files of a shared folder:
//
//   sweep/NAME.json            the sweep, resolved
//   tasks.json                 which points are to run, in how many tasks, by which program
//   task_3.HOST_PROCESS.sqlite results of one attempt at task 3, written whole again and again
//
// A task that is run twice, or goes on after it was given up, harms nothing: equal points have
// equal results.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/app/sweep/sweep_plan.hpp"

namespace nearkv {

struct TaskList {
  std::filesystem::path sweep_file;
  std::string program;  // hash of the one that wrote the list
  std::string version;
  std::vector<std::size_t> points;
  std::size_t tasks = 1;

  /// Every tasks-th point from the task-th on, so that slow corners of a sweep are shared out.
  [[nodiscard]] std::vector<std::size_t> points_of(std::size_t task) const;
};

/// Writes the list and its sweep for the running program.
void write_task_list(const SweepPlan& plan, const std::vector<std::size_t>& points,
                     std::size_t tasks, const std::filesystem::path& folder);

/// Throws ConfigError that starts with the file.
[[nodiscard]] TaskList read_task_list(const std::filesystem::path& folder);

/// The files with results of a task's attempts, or of all tasks; sorted.
[[nodiscard]] std::vector<std::filesystem::path> task_result_files(
    const std::filesystem::path& folder);
[[nodiscard]] std::vector<std::filesystem::path> task_result_files(
    const std::filesystem::path& folder, std::size_t task);

/// Where this process writes the results of a task.
[[nodiscard]] std::filesystem::path own_task_result_file(const std::filesystem::path& folder,
                                                         std::size_t task);

}  // namespace nearkv
