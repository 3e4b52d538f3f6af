#include "sim/app/sweep/task_list.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "build_info.hpp"
#include "sim/app/point_key.hpp"
#include "sim/core/check.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kListFile = "tasks.json";
constexpr const char* kResultEnding = ".sqlite";

/// Ascending numbers as [first, last] of each run of neighbours.
json as_ranges(const std::vector<std::size_t>& numbers) {
  json ranges = json::array();
  for (std::size_t i = 0; i < numbers.size();) {
    const std::size_t first = i++;
    while (i < numbers.size() && numbers[i] == numbers[i - 1] + 1) {
      ++i;
    }
    ranges.push_back({numbers[first], numbers[i - 1]});
  }
  return ranges;
}

std::vector<std::size_t> from_ranges(const json& ranges) {
  std::vector<std::size_t> numbers;
  for (const json& range : ranges) {
    for (std::size_t i = range.at(0); i <= range.at(1).get<std::size_t>(); ++i) {
      numbers.push_back(i);
    }
  }
  return numbers;
}

std::vector<fs::path> files_that_start(const fs::path& folder, const std::string& start) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(start) && entry.path().extension() == kResultEnding) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<std::size_t> TaskList::points_of(std::size_t task) const {
  std::vector<std::size_t> own;
  for (std::size_t i = task; i < points.size(); i += tasks) {
    own.push_back(points[i]);
  }
  return own;
}

void write_task_list(const SweepPlan& plan, const std::vector<std::size_t>& points,
                     std::size_t tasks, const fs::path& folder) {
  const std::string sweep_file = "sweep/" + plan.sweep().name + ".json";
  write_file_atomically(folder / sweep_file, plan.sweep().document.dump());
  write_file_atomically(folder / kListFile, json{{"sweep", sweep_file},
                                                 {"program", program_hash()},
                                                 {"version", std::string(build_info::kVersion)},
                                                 {"tasks", tasks},
                                                 {"points", as_ranges(points)}}
                                                .dump());
}

TaskList read_task_list(const fs::path& folder) {
  const fs::path file = folder / kListFile;
  std::ifstream stream(file);
  if (!stream) {
    throw ConfigError(fmt::format(
        "{}: cannot be read; nearkv sweep --backend slurm writes the folder that a task needs",
        file.string()));
  }
  try {
    const json list = json::parse(stream);
    return {folder / list.at("sweep").get<std::string>(), list.at("program"), list.at("version"),
            from_ranges(list.at("points")), list.at("tasks")};
  } catch (const json::exception& problem) {
    throw ConfigError(fmt::format("{}: is no list of tasks ({})", file.string(), problem.what()));
  }
}

std::vector<fs::path> task_result_files(const fs::path& folder) {
  return files_that_start(folder, "task_");
}

std::vector<fs::path> task_result_files(const fs::path& folder, std::size_t task) {
  return files_that_start(folder, fmt::format("task_{}.", task));
}

fs::path own_task_result_file(const fs::path& folder, std::size_t task) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return folder / fmt::format("task_{}.{}_{}{}", task, host.data(), getpid(), kResultEnding);
}

}  // namespace nearkv
