#include "sim/app/run_limits.hpp"

#include <stdexcept>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

namespace {

/// Reads a quantity above zero.
template <class Quantity>
Quantity read_limit(const char* option, const std::string& text,
                    Quantity (*parse)(std::string_view text)) {
  try {
    const Quantity limit = parse(text);
    if (limit > Quantity{0}) {
      return limit;
    }
  } catch (const std::invalid_argument& problem) {
    throw ConfigError(fmt::format("{}: {}", option, problem.what()));
  }
  throw ConfigError(
      fmt::format("{}: {} leaves nothing to run with; leave the option out for no limit", option,
                  in_quotes(text)));
}

}  // namespace

void add_limit_options(CLI::App& command, RunLimitOptions& options) {
  command.add_option("--max-wall", options.wall,
                     "End each run that takes longer by the clock: 90s, 10min");
  command.add_option("--max-memory", options.memory,
                     "End each run that takes more memory of this machine: 4GiB");
}

std::vector<std::string> as_arguments(const RunLimitOptions& options) {
  std::vector<std::string> arguments;
  if (!options.wall.empty()) {
    arguments.insert(arguments.end(), {"--max-wall", options.wall});
  }
  if (!options.memory.empty()) {
    arguments.insert(arguments.end(), {"--max-memory", options.memory});
  }
  return arguments;
}

RunLimits limits_of(const RunLimitOptions& options) {
  RunLimits limits;
  if (!options.wall.empty()) {
    limits.child.most_seconds = to_seconds(read_limit("--max-wall", options.wall, parse_duration));
    limits.wall = options.wall + " (--max-wall)";
  }
  if (!options.memory.empty()) {
    limits.child.most_bytes = read_limit("--max-memory", options.memory, parse_bytes).count();
    limits.memory = options.memory + " of memory (--max-memory)";
  }
  return limits;
}

bool is_stopped(ChildEnd end) { return end == ChildEnd::timed_out || end == ChildEnd::over_memory; }

std::string stopped_detail(ChildEnd end, const RunLimits& limits) {
  check(is_stopped(end), "asked why a run was stopped that was not");
  return fmt::format("{}: {}", name_of(RunStatus::stopped),
                     end == ChildEnd::timed_out ? "ran longer than " + limits.wall
                     : limits.memory.empty()    ? "took more memory than this machine gives"
                                                : "took more than " + limits.memory);
}

}  // namespace nearkv
