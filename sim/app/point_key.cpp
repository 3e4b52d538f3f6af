#include "sim/app/point_key.hpp"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>

#include "sim/core/allowed_paths.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// Empty where it cannot be read.
std::string content_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// Whether text ends like a file's name. Most of a config's texts are citations, and asking the
/// file system for each would take longer than all the rest.
bool may_be_file(std::string_view text) {
  constexpr std::size_t kLongestEnding = 16;
  const std::size_t dot = text.rfind('.');
  if (dot == std::string_view::npos || dot + 1 == text.size() ||
      text.size() - dot - 1 > kLongestEnding) {
    return false;
  }
  return std::all_of(text.begin() + static_cast<std::ptrdiff_t>(dot) + 1, text.end(),
                     [](unsigned char letter) { return std::isalnum(letter) != 0; });
}

void add_bytes(std::string& bytes, char kind, const void* data, std::size_t size) {
  bytes += kind;
  bytes.append(static_cast<const char*>(data), size);
}

void add_text(std::string& bytes, const std::string& text) {
  const std::uint64_t size = text.size();
  add_bytes(bytes, 's', &size, sizeof size);
  bytes += text;
}

/// Adds what the value is, so that no two values give the same bytes, and the files that it names.
/// Writing JSON would take several times as long.
void add_value(std::string& bytes, const json& value) {
  if (value.is_object()) {
    const std::uint64_t size = value.size();
    add_bytes(bytes, 'o', &size, sizeof size);
    for (const auto& [key, member] : value.items()) {
      add_text(bytes, key);
      add_value(bytes, member);
    }
  } else if (value.is_array()) {
    const std::uint64_t size = value.size();
    add_bytes(bytes, 'a', &size, sizeof size);
    for (const json& element : value) {
      add_value(bytes, element);
    }
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    add_text(bytes, text);
    std::error_code ignored;
    if (may_be_file(text) && fs::is_regular_file(text, ignored) && allowed_paths().allows(text)) {
      add_text(bytes, content_of(text));
    }
  } else if (value.is_number_float()) {
    const auto number = value.get<double>();
    add_bytes(bytes, 'f', &number, sizeof number);
  } else {
    bytes += value.dump();
    bytes += ';';
  }
}

}  // namespace

std::string config_key(const json& config) { return key_of_bytes(key_bytes(config)); }

std::string key_bytes(const json& value) {
  std::string bytes;
  add_value(bytes, value);
  return bytes;
}

std::string key_of_bytes(const std::string& bytes) { return content_hash(bytes); }

std::string program_hash() {
  static const std::string hash = content_hash(content_of("/proc/self/exe"));
  return hash;
}

fs::path default_cache() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return fs::path(cache) / "nearkv";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return fs::path(home) / ".cache" / "nearkv";
  }
  return {};
}

}  // namespace nearkv
