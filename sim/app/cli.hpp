// The nearkv program behind main().
#pragma once

namespace nearkv {

/// Parses the command line, runs the command, prints what went wrong, and returns the exit status
/// (exit_status.hpp).
[[nodiscard]] int run_command_line(int argument_count, const char* const* arguments);

}  // namespace nearkv
