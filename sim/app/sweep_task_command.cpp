// nearkv sweep-task FOLDER TASK: what the jobs of nearkv sweep --backend slurm run.
#include <cstddef>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "sim/app/commands.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/sweep/sweep_task.hpp"

namespace nearkv {

namespace {

struct SweepTaskOptions {
  std::string folder;
  std::size_t task = 0;
  int jobs = 1;
  RunLimitOptions limits;
};

}  // namespace

void add_sweep_task_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<SweepTaskOptions>();
  command.add_option("FOLDER", options->folder, "Folder with the list of tasks")->required();
  command.add_option("TASK", options->task, "Number of the task, from 0")->required();
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  add_limit_options(command, options->limits);
  command.callback([options, &exit_status] {
    exit_status = run_sweep_task(options->folder, options->task, options->jobs, options->limits);
  });
}

}  // namespace nearkv
