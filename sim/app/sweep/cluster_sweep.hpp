// A sweep on a Slurm cluster: submits its points as job arrays and takes the results into the
// sweep's journal, from which the table is made as after a local run.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "sim/app/progress.hpp"
#include "sim/app/sweep/sweep_plan.hpp"
#include "sim/app/sweep/sweep_run.hpp"

namespace nearkv {

/// Starting a task takes Slurm about as long as some points take to run.
inline constexpr std::size_t kFewestPointsATask = 50;

struct ClusterOptions {
  std::size_t points_a_task = kFewestPointsATask;  // more where an array would have too many tasks
  int cores = 1;                                   // of a task: points that run at a time
  std::vector<std::string> sbatch{};               // options for sbatch
  std::filesystem::path cache{};                   // as PointRunOptions::cache
  RunLimitOptions limits{};                        // as PointRunOptions::limits
};

/// What the cluster says of the sweep's tasks.
struct ClusterState {
  std::map<std::string, std::size_t> tasks;  // by state, as in "PENDING (Resources)"
  std::vector<std::size_t> points;           // that these tasks are to run, ascending
  bool is_known = true;                      // else the cluster did not answer
};

struct ClusterSubmission {
  std::string job;
  std::size_t points = 0;
  std::size_t tasks = 0;
};

/// What the script of a task is made of: texts of the user's, which may have any letter in them.
struct TaskScript {
  std::string home;     // $NEARKV_HOME
  std::string program;  // nearkv itself
  std::string folder;   // of the list of tasks
  int cores = 1;
  std::vector<std::string> options{};  // for sweep-task, besides --jobs
};
[[nodiscard]] std::string text_of(const TaskScript& script);

class ClusterSweep {
 public:
  ClusterSweep(const SweepPlan& plan, SweepFolder& folder, ClusterOptions options);

  /// Takes what tasks have written since, and returns how many points have a result.
  std::size_t collect();

  /// Drops the results of points, which collect() has taken, so that they run again.
  void forget(const std::vector<std::size_t>& points);

  /// Throws ConfigError when Slurm's commands are not on the path, and Interrupted.
  [[nodiscard]] ClusterState state() const;

  /// Submits points as one array. Throws ConfigError with what Slurm said, and Interrupted.
  ClusterSubmission submit(std::vector<std::size_t> points);

  /// Waits until all points have a result, and submits those again whose tasks ended without one,
  /// as long as that brings new results. Returns how many points are left without one. Throws
  /// Interrupted; the tasks go on then.
  std::size_t wait(Progress::Style style);

  /// What the tasks of points without a result said last, a few lines.
  [[nodiscard]] std::vector<std::string> last_words() const;

 private:
  struct Job {
    std::string number;
    std::filesystem::path folder;
  };

  /// Takes the results of a file.
  void take(const std::filesystem::path& file);
  [[nodiscard]] std::vector<std::size_t> missing() const;

  const SweepPlan& plan_;
  SweepFolder& folder_;
  ClusterOptions options_;
  std::vector<Job> jobs_;                     // in the order of their submission
  std::map<std::string, std::string> taken_;  // files of results, with their age and size
};

}  // namespace nearkv
