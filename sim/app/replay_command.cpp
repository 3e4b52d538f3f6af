// nearkv replay INPUT --device DRIVE.json: a block trace, an fio log, a workload or a KV page trace
// against a drive.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/replay_device.hpp"
#include "sim/app/replay_output.hpp"
#include "sim/app/replay_run.hpp"
#include "sim/core/check.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace {

namespace fs = std::filesystem;

struct Options {
  ReplayOptions replay;
  std::string format = "auto";
  std::string out;
  bool as_json = false;
};

constexpr int kMostDepth = 1 << 20;
constexpr std::int64_t kMostRequests = std::int64_t{1} << 40;

ReplayFormat format_called(const std::string& name) {
  const std::vector<std::string> names{"auto", "mqsim", "fio", "kv", "workload"};
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw ConfigError(fmt::format("--format: {} is none; must be one of {}", in_quotes(name),
                                  fmt::join(names, ", ")));
  }
  return static_cast<ReplayFormat>(found - names.begin());
}

void check_options(const Options& options) {
  if (options.replay.device.empty()) {
    throw ConfigError(fmt::format("--device: is missing; name the JSON file of a drive, such as {}",
                                  fmt::join(shipped_drives(), ", ")));
  }
  if (options.replay.depth.has_value() && options.replay.time_scale.has_value()) {
    throw ConfigError("--time-scale: a closed loop has no times; leave one of the two out");
  }
  if (!options.out.empty()) {
    check_output_folder(options.out);
  }
}

int replay(Options& options) {
  check_options(options);
  options.replay.format = format_called(options.format);
  const ReplayResult result = run_replay(options.replay);
  const std::string json = json_text(replay_json(result));
  if (!options.out.empty()) {
    const SignalsPutOff whole_files;
    write_file_atomically(fs::path(options.out) / "replay.json", json);
    write_file_atomically(fs::path(options.out) / "histogram.csv", replay_csv(result));
  }
  if (options.as_json) {
    fmt::print("{}", json);
  } else {
    fmt::print("{}", replay_summary(result));
    if (!options.out.empty()) {
      fmt::print("\nwrote {0}/replay.json\n      {0}/histogram.csv\n", options.out);
    }
  }
  return kExitOk;
}

}  // namespace

void add_replay_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<Options>();
  ReplayOptions& replay_options = options->replay;
  command
      .add_option(
          "INPUT", replay_options.input,
          "A block trace (MQSim's format), an fio log, a KV page trace or a workload's JSON")
      ->required();
  command.add_option("--device", replay_options.device, "JSON of the drive, an SSD or a CSD");
  command
      .add_option("--set", replay_options.overrides,
                  "Set a value of the drive, or below workload/ of the workload: --set "
                  "flash/channels=16 (repeatable)")
      ->allow_extra_args(false);
  command.add_flag("--json", options->as_json, "Print the record with the histograms");
  command.add_option("--out", options->out, "Folder for replay.json and histogram.csv");
  command.add_option("--format", options->format, "Of INPUT: auto, mqsim, fio, kv or workload")
      ->capture_default_str();
  command.add_option("--trace-device", replay_options.trace_device,
                     "Only the requests of this device (block trace) or file (fio log)");
  command
      .add_option("--time-scale", replay_options.time_scale,
                  "Multiply the times of arrivals: 0.5 is twice as fast")
      ->check(CLI::Range(1e-6, 1e6));
  command
      .add_option("--closed-loop", replay_options.depth,
                  "Ignore times: keep so many requests outstanding")
      ->check(CLI::Range(1, kMostDepth));
  command
      .add_option("--max-requests", replay_options.max_requests,
                  "Stop after so many requests (KV page trace: attend commands)")
      ->check(CLI::Range(std::int64_t{1}, kMostRequests));
  command
      .add_option("--precondition", replay_options.fill,
                  "Fill this share of the drive (0 to 1) before the first request")
      ->check(CLI::Range(0.0, 1.0));
  command.callback([options, &exit_status] {
    options->replay.input = path_of_config(options->replay.input).string();
    exit_status = replay(*options);
  });
}

}  // namespace nearkv
