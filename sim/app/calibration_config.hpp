// The configs that nearkv calibrate writes: measured constants over a config that is extended.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/calibration_fit.hpp"
#include "sim/app/calibration_rows.hpp"

namespace nearkv {

/// What the user says about peaks; empty where nothing.
struct PeakOptions {
  std::string datasheet;  // a GPU config
  std::string memory_bandwidth;
  std::string tensor_peak;
};

/// What a GPU's config starts from: "extends" of a config with datasheet values, or the device's
/// name alone, and peaks given on the command line.
struct GpuBase {
  nlohmann::json config = nlohmann::json::object();
  DevicePeaks peaks;
};

/// `out` is the file that will hold the config. Throws ConfigError when the peaks are not known:
/// no rate that can be measured says what the device could reach.
[[nodiscard]] GpuBase gpu_base(const std::string& device, const PeakOptions& options,
                               const std::filesystem::path& out);

struct CalibrationFiles {
  nlohmann::json gpu;  // null for a host alone
  nlohmann::json host;
  std::vector<std::pair<std::filesystem::path, std::string>> texts;  // what to write where
};

/// The configs of measurements whose environment has "kind" cpu or cuda, checked as a run would
/// check them. Throws ConfigError.
[[nodiscard]] CalibrationFiles calibration_files(const Measurements& measurements,
                                                 const GpuBase& base,
                                                 const std::filesystem::path& out);

/// Where the measurements behind a config go: FOLDER/measurements/NAME.json.
[[nodiscard]] std::filesystem::path measurements_file(const std::filesystem::path& out);

struct MeasuredConstant {
  std::string path;
  std::string value;
  std::string citation;
};
/// The sourced values of a config that are measured, in order.
[[nodiscard]] std::vector<MeasuredConstant> measured_constants(const nlohmann::json& config);

}  // namespace nearkv
