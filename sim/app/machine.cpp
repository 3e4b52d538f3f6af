#include "sim/app/machine.hpp"

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iterator>

#include <unistd.h>

#include "sim/app/process_pool.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

std::string text_of(const char* file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::string_view trimmed(std::string_view text, std::string_view left_out) {
  const std::size_t first = text.find_first_not_of(left_out);
  return first == std::string_view::npos
             ? std::string_view()
             : text.substr(first, text.find_last_not_of(left_out) - first + 1);
}

json text_or_null(const std::string& text) { return text.empty() ? json() : json(text); }

}  // namespace

std::string value_of_line(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const std::size_t separator = line.find_first_of(":=");
    if (separator != std::string_view::npos && trimmed(line.substr(0, separator), " \t") == key) {
      return std::string(trimmed(line.substr(separator + 1), " \t\""));
    }
  }
  return "";
}

json machine_as_json() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  return {{"processor", text_or_null(value_of_line(text_of("/proc/cpuinfo"), "model name"))},
          {"cores", available_cores()},
          {"memory_bytes", pages > 0 && page_bytes > 0 ? json(pages * page_bytes) : json()},
          {"system", text_or_null(value_of_line(text_of("/etc/os-release"), "PRETTY_NAME"))}};
}

}  // namespace nearkv
