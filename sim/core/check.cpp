#include "sim/core/check.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace nearkv {

namespace {

std::string join_lines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    text += (text.empty() ? "" : "\n") + line;
  }
  return text;
}

}  // namespace

ConfigError::ConfigError(const std::vector<std::string>& lines)
    : std::runtime_error(join_lines(lines)) {}

std::string printable(std::string_view text) {
  constexpr std::size_t kMostBytes = 80;
  std::size_t shown = std::min(text.size(), kMostBytes);
  const auto continues_character = [&](std::size_t i) {
    return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xc0U) == 0x80U;  // UTF-8
  };
  while (shown > 0 && shown < text.size() && continues_character(shown)) {
    --shown;
  }
  std::string safe;
  for (const char c : text.substr(0, shown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      safe += "\\n";
    } else if (c == '\t') {
      safe += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      safe += fmt::format("\\x{:02x}", byte);
    } else {
      safe += c;
    }
  }
  return shown < text.size() ? safe + "..." : safe;
}

std::string in_quotes(std::string_view text) { return '"' + printable(text) + '"'; }

void check_failed(std::string_view what, const std::source_location& where) {
  throw CheckFailure(
      fmt::format("internal error: {} ({}:{})", what, where.file_name(), where.line()));
}

}  // namespace nearkv
