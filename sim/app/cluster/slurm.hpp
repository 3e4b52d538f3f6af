// Slurm, by its commands: what a sweep asks of a cluster.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nearkv {

/// A task of an array that has not ended.
struct SlurmTask {
  std::size_t task = 0;
  std::string state;   // as squeue calls it: RUNNING, PENDING, ...
  std::string reason;  // why it waits; "None" where it does not
};

/// An array of equal tasks, which differ in $SLURM_ARRAY_TASK_ID alone.
struct SlurmArray {
  std::string name;
  std::filesystem::path script;
  std::filesystem::path logs;  // folder for what the tasks print
  std::size_t tasks = 1;
  int cores = 1;                     // a task
  std::vector<std::string> options;  // more of sbatch's: "partition=short"
};

class Slurm {
 public:
  /// Throws ConfigError that names the Debian package when its commands are not on the path.
  Slurm();

  /// Returns the job's number. Throws ConfigError with what sbatch said, and Interrupted.
  [[nodiscard]] std::string submit(const SlurmArray& array) const;

  /// The tasks of a job that wait or run; nothing when the cluster does not answer. Throws
  /// Interrupted.
  [[nodiscard]] std::optional<std::vector<SlurmTask>> tasks_of(const std::string& job) const;

  /// How many tasks an array may have (MaxArraySize).
  [[nodiscard]] std::size_t most_tasks() const;

 private:
  std::string sbatch_;
  std::string squeue_;
  std::string scontrol_;
};

/// What squeue printed for tasks ("12_3|RUNNING|None" a line); lines of other jobs are left out.
[[nodiscard]] std::vector<SlurmTask> read_squeue(const std::string& text, const std::string& job);

/// A word that a shell reads as `text`.
[[nodiscard]] std::string shell_word(const std::string& text);

}  // namespace nearkv
