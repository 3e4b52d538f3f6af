#include "sim/app/cli.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

constexpr const char* kFooter = R"(
Reproduce the paper's central figure:  nearkv figure fig14
Simulate one design point:             nearkv run configs/design_points/NAME.json
Ask what a design point consists of:   nearkv describe csd/flash
)";

/// CLI11 would call an unknown command an unexpected argument.
void check_command_is_known(int argument_count, const char* const* arguments) {
  if (argument_count < 2 || arguments[1][0] == '-') {
    return;
  }
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    names.emplace_back(command.name);
    if (command.name == arguments[1]) {
      return;
    }
  }
  const std::string nearest = nearest_name(arguments[1], names);
  throw ConfigError(
      fmt::format("{}: unknown command; {}there are: {}", arguments[1],
                  nearest.empty() ? "" : fmt::format("did you mean \"{}\"? ", nearest),
                  fmt::join(names, ", ")));
}

/// An unknown option with the nearest that there is.
std::string unknown_option(const CLI::App& command, const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      names.push_back("--" + name);
    }
  }
  const std::string nearest = nearest_name(word.substr(0, word.find('=')), names);
  return fmt::format("{}: {}{}", word,
                     word.starts_with('-') ? "unknown option" : "one argument too many",
                     nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest));
}

/// One line: CLI11's messages may have several and do not say where to look.
ConfigError usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string name = app.get_name();
  for (const CLI::App* called : app.get_subcommands()) {
    command = called;
    name += " " + called->get_name();
  }
  std::string message = error.what();
  if (const std::vector<std::string> rest = app.remaining(true); !rest.empty()) {
    message = unknown_option(*command, rest.front());
  }
  std::replace(message.begin(), message.end(), '\n', ' ');
  return ConfigError(fmt::format("{}: {}; see {} --help", name, message, name));
}

/// Configs may name what lies with them and what is shipped, and with this option more.
void add_allow_outside(CLI::App& command) {
  const std::string doc =
      "Let configs name files outside of their folder and the working folder; with =FOLDER those "
      "below it";
  command.add_flag(std::string(kAllowOutside), doc)->each([](const std::string& folder) {
    if (folder == "true") {  // what CLI11 says of a flag without a value
      allowed_paths() = AllowedPaths::everything();
    } else {
      allowed_paths().allow(folder);
    }
  });
}

int parse_and_run(int argument_count, const char* const* arguments) {
  allowed_paths() = AllowedPaths();
  check_command_is_known(argument_count, arguments);
  CLI::App app{"NearKV: a calibrated simulator of LLM inference whose KV cache lives in storage"};
  app.name("nearkv");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("nearkv {}", build_info::kVersion));
  int exit_status = kExitOk;
  for (const Command& command : commands()) {
    CLI::App* added = app.add_subcommand(std::string(command.name), std::string(command.doc));
    command.add(*added, exit_status);
    if (command.takes_configs) {
      add_allow_outside(*added);
    }
  }
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::Success& asked) {
    app.exit(asked);  // --help and --version
  } catch (const CLI::ParseError& error) {
    if (argument_count < 2) {
      fmt::print(stderr, "{}", app.help());
      return kExitUserError;
    }
    throw usage_error(app, error);
  }
  if (std::fflush(stdout) != 0) {
    throw ConfigError("stdout: cannot be written; is the disk full?");
  }
  return exit_status;
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> all{
      {"run", "Simulate design points and write their records", add_run_command},
      {"sweep", "Run the points of a sweep file into one table, resumable", add_sweep_command},
      {"sweep-task", "Run a task of a sweep on a cluster; its job does it", add_sweep_task_command},
      {"merge", "Put the shards of a sweep together", add_merge_command},
      {"pareto", "List the points of a sweep that no other beats in all objectives",
       add_pareto_command},
      {"top", "List the best points of a sweep", add_top_command},
      {"sensitivity", "Say which constants and parameters a result depends on",
       add_sensitivity_command},
      {"explain", "Say where a decode step's time goes, and what would make it shorter",
       add_explain_command},
      {"record", "Run attention kernels on captured or synthetic KV; write a KV page trace",
       add_record_command},
      {"replay", "Run a block trace, a workload or a KV page trace against a drive",
       add_replay_command},
      {"requests", "Show what is in a request trace or a workload; write it as a trace",
       add_requests_command},
      {"figure", "Reproduce a figure of the paper: points, table, claims, picture",
       add_figure_command, /*takes_configs=*/false},
      {"calibrate", "Measure this machine and write configs with its constants",
       add_calibrate_command},
      {"describe", "Explain the fields of a design point, the systems, models or metrics",
       add_describe_command, /*takes_configs=*/false},
      {"model", "Read a Hugging Face config.json and print it as a model of this program",
       add_model_command},
      {"schema", "Print the JSON schema of a design point", add_schema_command,
       /*takes_configs=*/false},
      {"validate", "Compare the models with reference figures", add_validate_command},
      {"report", "Write one page with all figures, claims, constants and the validation",
       add_report_command, /*takes_configs=*/false},
      {"fit", "Fit constants to rows of validation suites", add_fit_command},
      {"version", "Print the version and what it was built with", add_version_command,
       /*takes_configs=*/false},
  };
  return all;
}

int run_command_line(int argument_count, const char* const* arguments) {
  try {
    return parse_and_run(argument_count, arguments);
  } catch (const ConfigError& error) {
    fmt::print(stderr, "{}\n", error.what());
    return kExitUserError;
  } catch (const std::filesystem::filesystem_error& error) {
    fmt::print(stderr, "{}: {}; is it writable, and no folder where a file should be?\n",
               error.path1().string(), error.code().message());
    return kExitUserError;
  } catch (const Interrupted& interrupted) {
    fmt::print(stderr, "nearkv: {}\n", interrupted.what());
    return kExitSignalBase + interrupted.signal;
  } catch (const CheckFailure& failure) {
    fmt::print(stderr, "nearkv: {}\n", failure.what());
    return kExitInternalError;
  } catch (const std::exception& error) {
    fmt::print(stderr, "nearkv: internal error: {}\n", error.what());
    return kExitInternalError;
  }
}

}  // namespace nearkv
