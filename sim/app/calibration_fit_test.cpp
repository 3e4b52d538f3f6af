#include "sim/app/calibration_fit.hpp"

#include <algorithm>
#include <string>

#include <doctest/doctest.h>

#include "models/gpu/gpu.hpp"
#include "models/host/host_config.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;
using nlohmann::json;

namespace {

constexpr double kBandwidth = 2e12;
constexpr double kPeak = 400e12;
const DevicePeaks kPeaks{.memory_bandwidth = Rate{2'000'000'000'000},
                         .tensor_peak = FlopRate{400'000'000'000'000}};

/// Known constants of a made-up device.
constexpr double kFixed = 4e-6;
constexpr double kGemmMemory = 0.75;
constexpr double kAttentionMemory = 0.9;
constexpr double kNormMemory = 0.6;
constexpr double kCopy = 0.8;
constexpr double kAttentionPeak = 0.3;
constexpr double kGraph = 1e-6;
constexpr double kEager = 3e-6;

double gemm_peak(std::int64_t rows) { return rows < 1000 ? 0.5 : 0.7; }

TimeSpread exactly(double seconds) { return {seconds, seconds, seconds, 10}; }

json with_work(json parameters, double bytes, double flops) {
  parameters["bytes"] = static_cast<std::int64_t>(bytes);
  if (flops > 0) {
    parameters["flops"] = static_cast<std::int64_t>(flops);
  }
  return parameters;
}

void add_gemms(Measurements& all) {
  for (const std::int64_t hidden : {2048, 4096, 5120}) {
    for (const std::int64_t rows : {1, 16, 64, 512, 4096}) {
      const auto m = static_cast<double>(rows);
      const auto h = static_cast<double>(hidden);
      const double flops = 2 * m * h * 4 * h;
      const double bytes = 2 * (4 * h * h + m * h + m * 4 * h);
      const double time =
          std::max(flops / (kPeak * gemm_peak(rows)), bytes / (kBandwidth * kGemmMemory));
      all.add(
          "gemm",
          with_work(
              {{"rows", rows}, {"columns", 4 * hidden}, {"depth", hidden}, {"library", "cuBLAS"}},
              bytes, flops),
          exactly(kFixed + time));
    }
  }
}

Measurements synthetic_gpu() {
  Measurements all;
  all.environment = {{"device", "Test GPU"}, {"date", "2026-01-31"}};
  add_gemms(all);
  for (const double bytes : {1e7, 1e9, 4e9}) {
    // Small caches are slow on purpose: they must not count.
    const double fraction = bytes < 1e8 ? 0.1 : kAttentionMemory;
    all.add("decode_attention", with_work({{"kernel", "dense"}}, bytes, 0),
            exactly(kFixed + bytes / (kBandwidth * fraction)));
    all.add("decode_attention", with_work({{"kernel", "sparf"}}, bytes, 0), exactly(1.0));
    all.add("layer_norm", with_work({{"rows", 8}}, bytes, 0),
            exactly(kFixed / 2 + bytes / (kBandwidth * kNormMemory)));
  }
  for (const char* part : {"scores", "softmax", "values", "all"}) {
    all.add("prefill_attention", with_work({{"part", part}, {"kernel", "unfused"}}, 1e9, 1e12),
            exactly(part[0] == 'a' ? 1.0 : kFixed + 1e12 / (kPeak * kAttentionPeak)));
  }
  all.add("memory_copy", with_work({{"by", "kernel"}}, 8e9, 0),
          exactly(8e9 / (kBandwidth * kCopy)));
  all.add("memory_copy", with_work({{"by", "cudaMemcpyAsync"}}, 9e9, 0), exactly(0.1));
  all.add("memory_copy", with_work({{"threads", 4}}, 8e9, 0), exactly(0.1));  // the host's
  all.add("kernel_launch", {{"launch", "graph"}, {"kernels", 100}}, exactly(kGraph));
  all.add("kernel_launch", {{"launch", "eager"}, {"kernels", 100}}, exactly(kEager));
  all.add("kernel_launch", {{"launch", "single"}, {"kernels", 1}}, exactly(9e-6));
  const json gibibyte{{"memory", "pinned"}, {"bytes", 1 << 30}};
  const auto copy = [&](const char* direction, double seconds) {
    json parameters = gibibyte;
    parameters["direction"] = direction;
    all.add("host_copy", parameters, exactly(seconds));
  };
  copy("h2d", 0.020);
  copy("both", 0.022);
  all.add_stated("memory_capacity", "B", 8589934592.0);
  all.add_stated("memory_held", "B", 524288000.0);
  return all;
}

double value_of(const json& constants, const char* name) {
  return constants.at(name).at("value").get<double>();
}

}  // namespace

TEST_CASE("calibration fit: the median line passes exact points and ignores a stray one") {
  std::vector<LinePoint> points;
  for (const double x : {1.0, 2.0, 5.0, 5.0, 9.0, 12.0}) {
    points.push_back({x, 3 + 0.5 * x});
  }
  CHECK(median_line(points).slope == doctest::Approx(0.5));
  CHECK(median_line(points).fixed == doctest::Approx(3));
  points[1].t = 100;
  CHECK(median_line(points).slope == doctest::Approx(0.5));
  CHECK(median_line(points).fixed == doctest::Approx(3));
}

TEST_CASE("calibration fit: rows of a known GPU give its constants back") {
  const json constants = gpu_constants(synthetic_gpu(), kPeaks);
  CHECK(value_of(constants, "gemm_memory_fraction") == doctest::Approx(kGemmMemory).epsilon(1e-4));
  CHECK(value_of(constants, "attention_memory_fraction") ==
        doctest::Approx(kAttentionMemory).epsilon(1e-4));
  CHECK(value_of(constants, "attention_peak_fraction") ==
        doctest::Approx(kAttentionPeak).epsilon(1e-4));
  CHECK(value_of(constants, "norm_memory_fraction") == doctest::Approx(kNormMemory).epsilon(1e-4));
  CHECK(value_of(constants, "elementwise_memory_fraction") == doctest::Approx(kCopy).epsilon(1e-4));
  const json& points = constants.at("gemm_peak_fractions");
  REQUIRE(points.size() == 2);
  for (const json& point : points) {
    CHECK(value_of(point, "fraction") ==
          doctest::Approx(gemm_peak(point.at("rows"))).epsilon(1e-4));
  }
  CHECK(points[0].at("rows") == 512);
  // 4 us - 1 us + 3 us.
  CHECK(constants.at("kernel_launch").at("value") == "6us");
  CHECK(constants.at("copy_engines").at("value") == 2);
  CHECK(constants.at("memory_capacity").at("value") == "8GiB");
  CHECK(constants.at("reserved_memory").at("value") == "500MiB");
}

TEST_CASE("calibration fit: the GPU config is complete, and its model gives the times back") {
  json config = gpu_constants(synthetic_gpu(), kPeaks);
  config["name"] = "Test GPU";
  config["memory_bandwidth"] = {
      {"value", "2TB/s"}, {"source", "datasheet"}, {"citation", "made up"}};
  config["tensor_peak"] = {
      {"value", "400TFLOP/s"}, {"source", "datasheet"}, {"citation", "made up"}};
  for (const char* state : {"idle", "active"}) {
    config["power"][state] = {{"value", "50W"}, {"source", "assumed"}, {"citation", "made up"}};
  }
  config["price_usd"] = {{"value", 1000}, {"source", "assumed"}, {"citation", "made up"}};
  for (const char* kind : {"softmax", "strided"}) {  // of an eager framework's kernels
    config[std::string(kind) + "_memory_fraction"] = {
        {"value", 1}, {"source", "assumed"}, {"citation", "made up"}};
  }
  GpuConfig read;
  const std::vector<ConstantUse> constants =
      read_fields(config, [&read](FieldVisitor& v) { read.fields(v); });
  int measured = 0;
  for (const ConstantUse& use : constants) {
    measured += use.source == "measured" ? 1 : 0;
    CHECK((use.source != "measured" ||
           use.citation.starts_with("nearkv calibrate on Test GPU, 2026-01-31: ")));
  }
  CHECK(measured == 11);
  const Gpu gpu(read);
  const Measurements rows = synthetic_gpu();
  for (const CalibrationRow* row : rows.select("gemm")) {
    CAPTURE(row->parameters.dump());
    const OperatorWork work{.name = "gemm",
                            .kind = OperatorKind::gemm,
                            .flops = Flops{row->number("flops")},
                            .bytes = Bytes{row->number("bytes")},
                            .size = {.m = row->number("rows"), .n = 0, .k = 0},
                            .kernels = 1};
    // Eager launches cost 2 us more than those of the graph that was timed.
    const double ratio = to_seconds(gpu.time_of(work)) / (row->spread.median + kEager - kGraph);
    CHECK(ratio > 0.99);
    CHECK(ratio < 1.01);
  }
}

TEST_CASE("calibration fit: a stray row changes no constant") {
  Measurements all = synthetic_gpu();
  for (CalibrationRow& row : all.rows) {
    if (row.what == "gemm" && row.number("rows") == 16 && row.number("depth") == 4096) {
      row.spread = exactly(row.spread.median * 20);
    }
  }
  const json constants = gpu_constants(all, kPeaks);
  CHECK(value_of(constants, "gemm_memory_fraction") == doctest::Approx(kGemmMemory).epsilon(1e-3));
  CHECK(constants.at("kernel_launch").at("value") == "6us");
}

TEST_CASE("calibration fit: what has no rows is left out") {
  Measurements none;
  none.environment = {{"device", "Test GPU"}};
  CHECK(gpu_constants(none, kPeaks).empty());
  CHECK(host_constants(none).empty());
  Measurements gemms = none;
  add_gemms(gemms);
  const json constants = gpu_constants(gemms, kPeaks);
  CHECK(constants.size() == 2);
  CHECK(!constants.contains("kernel_launch"));  // the fixed part alone does not say it
}

TEST_CASE("calibration fit: more than the peak is refused, with the option that helps") {
  const auto problem = [](const DevicePeaks& peaks) -> std::string {
    try {
      static_cast<void>(gpu_constants(synthetic_gpu(), peaks));
      return "";
    } catch (const ConfigError& error) {
      return error.what();
    }
  };
  CHECK(
      problem({kPeaks.memory_bandwidth, FlopRate{200'000'000'000'000}}).ends_with("--tensor-peak"));
  const std::string memory = problem({Rate{1'000'000'000'000}, kPeaks.tensor_peak});
  CHECK(
      memory.starts_with("/gemm_memory_fraction: measured 1.5 of the memory_bandwidth 1000 GB/s"));
  CHECK(memory.ends_with("--memory-bandwidth"));
}

namespace {

/// As `extends` merges: a constant replaces the one that was there.
void put_constants(json& config, const json& constants) {
  for (const auto& [name, value] : constants.items()) {
    if (value.is_object() && !value.contains("value") && config.contains(name)) {
      put_constants(config[name], value);
    } else {
      config[name] = value;
    }
  }
}

}  // namespace

TEST_CASE("calibration fit: rows of a known host give its constants back") {
  Measurements all;
  all.environment = {{"device", "Test CPU"}, {"date", "2026-01-31"}};
  all.add_stated("cores", "1", 16);
  all.add_stated("host_memory", "B", 34359738368.0);
  all.add_stated("page_size", "B", 4096);
  all.add("memory_copy", {{"threads", 1}, {"bytes", 2'000'000'000}}, exactly(0.2));
  all.add("memory_copy", {{"threads", 16}, {"bytes", 2'000'000'000}}, exactly(0.02));
  all.add("memory_copy", {{"bytes", 2'000'000'000}, {"by", "kernel"}}, exactly(1e-3));
  for (const char* direction : {"h2d", "d2h"}) {
    const double rate = direction[0] == 'h' ? 8e9 : 16e9;
    for (const std::int64_t bytes : {4096, 1'000'000'000}) {
      all.add("host_copy", {{"direction", direction}, {"memory", "pageable"}, {"bytes", bytes}},
              exactly(static_cast<double>(bytes) / rate + (bytes == 4096 ? 1e-5 : 0)));
      all.add("host_copy", {{"direction", direction}, {"memory", "pinned"}, {"bytes", bytes}},
              exactly(static_cast<double>(bytes) / 50e9));
    }
  }
  all.add("mapped_page", {{"bytes", 4096}}, exactly(0.6e-6));
  all.add("first_touch", {{"bytes", 4096}}, exactly(0.25e-6));
  json config = load_config(shipped_configs() / "platforms" / "hosts" / "xeon_5320_96gb.json");
  put_constants(config, host_constants(all));
  HostConfig host;
  read_fields(config, [&host](FieldVisitor& v) { host.fields(v); });
  CHECK(host.cores == 16);
  CHECK(host.dram == 32_GiB);
  CHECK(host.page_size == 4_KiB);
  CHECK(host.dram_rate == Rate{100'000'000'000});
  CHECK(host.pageable_h2d == Rate{8'000'000'000});
  CHECK(host.pageable_d2h == Rate{16'000'000'000});
  CHECK(host.file_system.hit_per_page == std::chrono::nanoseconds(600));
  CHECK(host.swap.minor_fault == std::chrono::nanoseconds(250));
}
