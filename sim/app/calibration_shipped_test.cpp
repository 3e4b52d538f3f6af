// The calibrations in configs/calibration: they follow from their measurements, fit into design
// points, and agree with measurements of the same device by another program.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/gpu/gpu.hpp"
#include "sim/app/calibration_config.hpp"
#include "sim/app/point.hpp"
#include "sim/core/config.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

fs::path calibrations() { return shipped_configs() / "calibration"; }

std::vector<fs::path> measurement_files() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(calibrations() / "measurements")) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

Measurements measurements_of(const fs::path& file) {
  return parse_measurements(load_json(file), file.string());
}

std::string text_of(const fs::path& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

/// The H200's measurements by PyTorch.
json reference() { return load_json(source_folder() + "/validation/h200_micro/rows.json"); }

Measurements h200() {
  return measurements_of(calibrations() / "measurements" / "nvidia_h200.json");
}

/// How far a figure is off, as a share. (doctest's Approx would add 1 to small figures.)
double error_of(double value, double expected) { return std::abs(value / expected - 1); }

double seconds_of(const Measurements& all, const std::string& what,
                  const Measurements::Filter& filter) {
  const auto rows = all.select(what, filter);
  REQUIRE(rows.size() == 1);
  return rows.front()->spread.median;
}

}  // namespace

TEST_CASE("calibration: the shipped configs are those that their measurements give") {
  const std::vector<fs::path> files = measurement_files();
  REQUIRE(files.size() >= 2);
  for (const fs::path& file : files) {
    const Measurements measurements = measurements_of(file);
    const fs::path out = calibrations() / file.filename();
    const bool is_gpu = measurements.environment.at("kind") == "cuda";
    const GpuBase base =
        is_gpu ? gpu_base(measurements.environment.at("device"), {}, out) : GpuBase{};
    const CalibrationFiles derived = calibration_files(measurements, base, out);
    CHECK(derived.texts.size() == (is_gpu ? 2 : 1));
    for (const auto& [name, text] : derived.texts) {
      CAPTURE(name.string());
      CHECK(text_of(name) == text);
    }
  }
}

TEST_CASE("calibration: a design point takes the H200 and its host") {
  json point = load_config(shipped_configs() / "design_points" / "deepspeed_opt13b_a6000.json");
  point["gpu"] = json::array({load_config(calibrations() / "nvidia_h200.json")});
  point["host"] = load_config(calibrations() / "nvidia_h200_host.json");
  CHECK(check_point(point) == "deepspeed_opt13b_a6000");
  // Only datasheet values and what nobody measured are left from the extended config.
  std::vector<std::string> measured;
  for (const MeasuredConstant& constant :
       measured_constants(load_json(calibrations() / "nvidia_h200.json"))) {
    measured.push_back(constant.path);
  }
  for (const char* name :
       {"/memory_capacity", "/reserved_memory", "/attention_peak_fraction", "/gemm_memory_fraction",
        "/attention_memory_fraction", "/norm_memory_fraction", "/elementwise_memory_fraction",
        "/kernel_launch", "/copy_engines", "/gemm_peak_fractions/0/fraction"}) {
    CHECK_MESSAGE(std::count(measured.begin(), measured.end(), name) == 1, std::string(name));
  }
}

TEST_CASE("calibration: the H200's model gives back the times that its constants come from") {
  GpuConfig config;
  read_fields(load_config(calibrations() / "nvidia_h200.json"),
              [&config](FieldVisitor& v) { config.fields(v); });
  const Measurements all = h200();
  const auto empty_kernel = [&all](const char* launch) {
    return seconds_of(all, "kernel_launch",
                      [launch](const CalibrationRow& row) { return row.is("launch", launch); });
  };
  // The rows were timed in graphs; the model launches eagerly.
  const double launch = empty_kernel("eager") - empty_kernel("graph");
  const Gpu gpu(config);
  std::vector<double> ratios;
  const auto compare = [&](const CalibrationRow& row, OperatorKind kind, std::int64_t flops) {
    const OperatorWork work{.name = "row",
                            .kind = kind,
                            .flops = Flops{flops},
                            .bytes = Bytes{row.number("bytes")},
                            .size = {.m = row.has("rows") ? row.number("rows") : 0, .n = 0, .k = 0},
                            .kernels = 1};
    ratios.push_back((to_seconds(gpu.time_of(work)) - launch) / row.spread.median);
    CAPTURE(row.parameters.dump());
    CHECK(ratios.back() > 0.5);
    CHECK(ratios.back() < 2);
  };
  const auto expect = [&ratios](double tolerance, double tolerance_of_most) {
    const TimeSpread spread = spread_of(ratios);
    CHECK(error_of(spread.median, 1) < tolerance);
    CHECK(spread.p10 > 1 - tolerance_of_most);
    CHECK(spread.p90 < 1 + tolerance_of_most);
    ratios.clear();
  };
  for (const CalibrationRow* row : all.select("gemm")) {
    compare(*row, OperatorKind::gemm, row->number("flops"));
  }
  expect(0.05, 0.3);
  for (const CalibrationRow* row : all.select("decode_attention", [](const CalibrationRow& row) {
         return row.is("kernel", "dense") && row.number("bytes") > 100'000'000;
       })) {
    compare(*row, OperatorKind::attention, 0);
  }
  expect(0.05, 0.2);
}

TEST_CASE("calibration: the H200's memory and link agree with PyTorch's measurements") {
  const json by_torch = reference();
  const Measurements all = h200();
  const auto rows = all.select("memory_read", [](const auto& row) { return !row.has("threads"); });
  REQUIRE(rows.size() == 1);
  const double read = static_cast<double>(rows[0]->number("bytes")) / rows[0]->spread.median;
  // Another kernel read for PyTorch: a sum over FP16 or FP32 values.
  CHECK(error_of(read / 1e9, by_torch.at("hbm_read_GBps").get<double>()) < 0.1);
  const json& largest = by_torch.at("pcie").back();
  REQUIRE(largest.at("bytes") == 1 << 30);
  const double pinned = seconds_of(all, "host_copy", [](const CalibrationRow& row) {
    return row.is("direction", "h2d") && row.is("memory", "pinned") &&
           row.number("bytes") == 1 << 30;
  });
  CHECK(error_of(pinned, largest.at("h2d_pinned_s").get<double>()) < 0.05);
}

TEST_CASE("calibration: the H200's GEMM times agree with PyTorch's measurements") {
  const json by_torch = reference();
  // PyTorch's calls were timed one at a time: about 24 us of each are not the kernel's.
  constexpr double kCallSeconds = 24e-6;
  constexpr double kLeastSeconds = 100e-6;
  const Measurements all = h200();
  std::vector<double> ratios;
  for (const json& gemm : by_torch.at("gemm_fp16")) {
    const double reference_seconds = gemm.at("s").get<double>() - kCallSeconds;
    if (reference_seconds < kLeastSeconds) {
      continue;
    }
    CAPTURE(gemm.dump());
    const double ours = seconds_of(all, "gemm", [&gemm](const CalibrationRow& row) {
      return row.number("rows") == gemm.at("m") && row.number("columns") == gemm.at("n") &&
             row.number("depth") == gemm.at("k");
    });
    ratios.push_back(ours / reference_seconds);
    CHECK(error_of(ratios.back(), 1) < 0.3);
  }
  REQUIRE(ratios.size() > 10);
  CHECK(error_of(spread_of(ratios).median, 1) < 0.1);
}
