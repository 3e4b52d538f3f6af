// Two words for two failures: ConfigError is the user's input, CheckFailure is our bug.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv {

/// The user's input is wrong. what() is one line a problem; each line starts with the JSON path
/// or the file that is at fault and says what would have been right. Exit status 2. Text of the
/// user's goes into a line by in_quotes() or printable(), which keep it on that line.
class ConfigError : public std::runtime_error {
 public:
  explicit ConfigError(const std::string& line) : std::runtime_error(line) {}
  explicit ConfigError(const std::vector<std::string>& lines);
};

/// A failed check(): the simulator contradicts itself. Exit status 70 (EX_SOFTWARE).
class CheckFailure : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void check_failed(std::string_view what, const std::source_location& where);

/// An invariant of the simulator. Compiled in always: a wrong result is worse than a slow one.
constexpr void check(bool condition, std::string_view what,
                     const std::source_location& where = std::source_location::current()) {
  if (!condition) [[unlikely]] {
    check_failed(what, where);
  }
}

/// Text of the user's for a message: control characters as \n or \x1b, cut after 80 bytes.
[[nodiscard]] std::string printable(std::string_view text);
/// The same in double quotes.
[[nodiscard]] std::string in_quotes(std::string_view text);

}  // namespace nearkv
