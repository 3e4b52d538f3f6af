#include "sim/app/cluster/slurm.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/app/exit_status.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

// Slurm's own default of MaxArraySize, for a cluster that does not say.
constexpr std::size_t kUsualMostTasks = 1001;

/// Where a program of $PATH is; empty when it is nowhere.
std::string on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path file = fs::path(folder.empty() ? "." : folder) / program;
    if (access(file.c_str(), X_OK) == 0 && !fs::is_directory(file)) {
      return file.string();
    }
  }
  return {};
}

/// Throws ConfigError when it is not on the path.
std::string slurm_command(const std::string& name) {
  std::string file = on_path(name);
  if (file.empty()) {
    throw ConfigError(fmt::format(
        "--backend slurm: {} is not on the path; run on a machine of the cluster (Debian's package "
        "is slurm-client), or spread the sweep by hand with --shard I/N and nearkv merge",
        name));
  }
  return file;
}

bool has_succeeded(const ChildResult& child) {
  return child.end == ChildEnd::finished && child.exit_status == kExitOk;
}

/// As a part of the name of a log, in which "%j" would be the job's number.
std::string without_patterns(const std::string& text) {
  std::string plain;
  for (const char letter : text) {
    plain += letter == '%' ? "%%" : std::string(1, letter);
  }
  return plain;
}

std::string one_line(std::string text) {
  text.erase(text.find_last_not_of(" \n") + 1);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "it said nothing" : text;
}

std::optional<std::size_t> number_in(std::string_view text) {
  std::size_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  return problem == std::errc{} && end == text.data() + text.size() ? std::optional(number)
                                                                    : std::nullopt;
}

}  // namespace

Slurm::Slurm()
    : sbatch_(slurm_command("sbatch")),
      squeue_(slurm_command("squeue")),
      scontrol_(slurm_command("scontrol")) {}

std::string Slurm::submit(const SlurmArray& array) const {
  check(array.tasks > 0, "an array without tasks");
  std::vector<std::string> words{
      sbatch_,
      "--parsable",
      "--requeue",  // a task whose node is lost runs again
      "--open-mode=append",
      fmt::format("--job-name={}", array.name),
      fmt::format("--array=0-{}", array.tasks - 1),
      fmt::format("--cpus-per-task={}", array.cores),
      fmt::format("--output={}/task_%a.log", without_patterns(array.logs.string())),
  };
  for (const std::string& option : array.options) {
    words.push_back(option.starts_with('-') ? option : "--" + option);
  }
  words.push_back(array.script.string());
  const ChildResult child = run_program(words);
  // "12" or "12;cluster", after warnings if there are any.
  std::istringstream lines(child.diagnostics);
  std::string job;
  for (std::string line; std::getline(lines, line);) {
    const std::string first = line.substr(0, line.find(';'));
    if (number_in(first)) {
      job = first;
    }
  }
  if (!has_succeeded(child) || job.empty()) {
    throw ConfigError(fmt::format("sbatch refused the job: {}", one_line(child.diagnostics)));
  }
  return job;
}

std::optional<std::vector<SlurmTask>> Slurm::tasks_of(const std::string& job) const {
  const ChildResult child =
      run_program({squeue_, "--noheader", "--array", "--format=%i|%T|%r", "--jobs=" + job});
  if (has_succeeded(child)) {
    return read_squeue(child.diagnostics, job);
  }
  // Slurm forgets a job some minutes after its end.
  if (child.diagnostics.find("Invalid job id") != std::string::npos) {
    return std::vector<SlurmTask>{};
  }
  return std::nullopt;
}

std::size_t Slurm::most_tasks() const {
  const ChildResult child = run_program({scontrol_, "show", "config"});
  std::istringstream lines(child.diagnostics);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    std::string equals;
    std::string value;
    words >> name >> equals >> value;
    if (name == "MaxArraySize" && number_in(value)) {
      return std::max<std::size_t>(1, number_in(value).value() - 1);  // task numbers stay below it
    }
  }
  return kUsualMostTasks - 1;
}

std::vector<SlurmTask> read_squeue(const std::string& text, const std::string& job) {
  std::vector<SlurmTask> tasks;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find('|');
    const std::size_t second = line.find('|', first + 1);
    const std::size_t underscore = line.find('_');
    if (second == std::string::npos || underscore > first || line.substr(0, underscore) != job) {
      continue;
    }
    if (const auto task = number_in(line.substr(underscore + 1, first - underscore - 1))) {
      tasks.push_back({*task, line.substr(first + 1, second - first - 1), line.substr(second + 1)});
    }
  }
  return tasks;
}

std::string shell_word(const std::string& text) {
  std::string word = "'";
  for (const char letter : text) {
    word += letter == '\'' ? "'\\''" : std::string(1, letter);
  }
  return word + "'";
}

}  // namespace nearkv
