#include "sim/app/point_key.hpp"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <system_error>

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

void add_named_files(const json& config, ContentHasher& hasher) {
  if (config.is_structured()) {
    for (const json& value : config) {
      add_named_files(value, hasher);
    }
  } else if (config.is_string()) {
    std::error_code ignored;
    const fs::path file(config.get_ref<const std::string&>());
    if (file.has_extension() && fs::is_regular_file(file, ignored)) {
      hasher.add(content_of(file));
    }
  }
}

}  // namespace

std::string config_key(const json& config) {
  ContentHasher hasher;
  hasher.add(config.dump());
  add_named_files(config, hasher);
  return hasher.hash();
}

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
