// Sweeps for tests, written to files of their own.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "sim/app/sweep/sweep_plan.hpp"

namespace nearkv::test_sweep {

class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("nearkv_sweep_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// A plan over the emulated CSD with these axes; `more` are other keys of the file.
inline SweepPlan plan_of(const std::vector<nlohmann::json>& axes,
                         const nlohmann::json& more = nlohmann::json::object()) {
  const TemporaryFolder folder;
  nlohmann::json document{
      {"title", "a test"},
      {"point", {{"extends", "nearkv:design_points/insti_dense_opt13b_a6000.json"}}},
      {"axes", axes}};
  document.update(more);
  const std::filesystem::path file = folder.path() / "test.json";
  std::ofstream(file) << document;
  return SweepPlan(load_sweep(file));
}

}  // namespace nearkv::test_sweep
