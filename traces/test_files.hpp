// For tests: files that are there as long as the object.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <unistd.h>

#include "sim/core/check.hpp"

namespace nearkv::traces {

class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view text, const std::string& ending = ".trace") {
    static int number = 0;  // tidy allows mutable-global: one process makes several files
    path_ = std::filesystem::temp_directory_path() /
            ("nearkv_test_" + std::to_string(getpid()) + "_" + std::to_string(number++) + ending);
    std::ofstream stream(path_, std::ios::binary);
    stream << text;
  }
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  [[nodiscard]] std::string path() const { return path_.string(); }
  [[nodiscard]] std::string text() const {
    std::ifstream stream(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }

 private:
  std::filesystem::path path_;
};

/// The ConfigError that `work` throws, without the folder of the temporary file; "" if none.
template <class Work>
std::string refusal_of(const Work& work) {
  try {
    work();
  } catch (const ConfigError& error) {
    std::string text = error.what();
    const std::size_t file = text.find("nearkv_test_");
    const std::size_t rest = text.find(".trace");
    return file == std::string::npos ? text : "FILE" + text.substr(rest + 6);
  }
  return "";
}

}  // namespace nearkv::traces
