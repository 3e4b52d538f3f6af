// --max-wall and --max-memory: what a run may take of the machine that simulates. A run that takes
// more is ended. Whether it is depends on that machine, so it is no result: its record has the
// status "stopped", and no cache keeps it.
#pragma once

#include <string>
#include <vector>

#include "sim/app/process_pool.hpp"

namespace CLI {  // NOLINT(readability-identifier-naming): CLI11's
class App;
}

namespace nearkv {

/// The values of the options; empty: no limit.
struct RunLimitOptions {
  std::string wall;
  std::string memory;
};

void add_limit_options(CLI::App& command, RunLimitOptions& options);

/// The options as another command of this program is given them.
[[nodiscard]] std::vector<std::string> as_arguments(const RunLimitOptions& options);

struct RunLimits {
  ChildLimits child;
  std::string wall;    // who set them, for messages: "10min (--max-wall)"
  std::string memory;  // "4GiB of memory (--max-memory)"
};

/// Throws ConfigError that names the option.
[[nodiscard]] RunLimits limits_of(const RunLimitOptions& options);

/// Whether a limit ended the run.
[[nodiscard]] bool is_stopped(ChildEnd end);

/// "stopped: ran longer than 10min (--max-wall)".
[[nodiscard]] std::string stopped_detail(ChildEnd end, const RunLimits& limits);

}  // namespace nearkv
