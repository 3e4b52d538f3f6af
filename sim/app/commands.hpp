// The commands of nearkv, one file each: every one adds a subcommand with its options and sets
// the exit status when it was called.
#pragma once

#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace nearkv {

void add_run_command(CLI::App& command, int& exit_status);
void add_sweep_command(CLI::App& command, int& exit_status);
void add_sweep_task_command(CLI::App& command, int& exit_status);
void add_merge_command(CLI::App& command, int& exit_status);
void add_pareto_command(CLI::App& command, int& exit_status);
void add_top_command(CLI::App& command, int& exit_status);
void add_sensitivity_command(CLI::App& command, int& exit_status);
void add_explain_command(CLI::App& command, int& exit_status);
void add_record_command(CLI::App& command, int& exit_status);
void add_replay_command(CLI::App& command, int& exit_status);
void add_requests_command(CLI::App& command, int& exit_status);
void add_figure_command(CLI::App& command, int& exit_status);
void add_calibrate_command(CLI::App& command, int& exit_status);
void add_describe_command(CLI::App& command, int& exit_status);
void add_model_command(CLI::App& command, int& exit_status);
void add_schema_command(CLI::App& command, int& exit_status);
void add_fit_command(CLI::App& command, int& exit_status);
void add_validate_command(CLI::App& command, int& exit_status);
void add_report_command(CLI::App& command, int& exit_status);
void add_version_command(CLI::App& command, int& exit_status);

struct Command {
  std::string_view name;
  std::string_view doc;
  void (*add)(CLI::App& command, int& exit_status);
  bool takes_configs = true;  // of the user; figures and reports take shipped ones alone
};

/// All commands, in the order in which they are listed to users.
[[nodiscard]] const std::vector<Command>& commands();

}  // namespace nearkv
