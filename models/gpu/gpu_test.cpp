#include "models/gpu/gpu.hpp"

#include <string>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

/// Round numbers: 500 GB/s for GEMMs, 800 for attention, 250 for norms, 1000 for the rest; 20 to
/// 60 TFLOP/s for GEMMs, 50 for attention.
GpuConfig round_config() {
  GpuConfig config;
  config.memory_capacity = 10_GiB;
  config.reserved_memory = 1_GiB;
  config.memory_bandwidth = Rate{1'000'000'000'000};
  config.tensor_peak = FlopRate{100'000'000'000'000};
  config.gemm_peak_fractions = {{64, 0.2}, {1024, 0.6}};
  config.attention_peak_fraction = 0.5;
  config.gemm_memory_fraction = 0.5;
  config.attention_memory_fraction = 0.8;
  config.norm_memory_fraction = 0.25;
  config.elementwise_memory_fraction = 1.0;
  config.kernel_launch = 3us;
  config.copy_engines = 2;
  return config;
}

OperatorWork work_of(OperatorKind kind, Flops flops, Bytes bytes, std::int64_t rows = 0,
                     int kernels = 1) {
  return {.name = "test",
          .kind = kind,
          .flops = flops,
          .bytes = bytes,
          .size = {.m = rows, .n = 0, .k = 0},
          .kernels = kernels};
}

OperatorWork fp16_gemm(std::int64_t m, std::int64_t n, std::int64_t k) {
  return {.name = "gemm",
          .kind = OperatorKind::gemm,
          .flops = Flops{2 * m * n * k},
          .bytes = Bytes{2 * (n * k + m * k + m * n)},
          .size = {.m = m, .n = n, .k = k},
          .kernels = 1};
}

GpuConfig read_gpu(const nlohmann::json& config) {
  GpuConfig gpu;
  read_fields(config, [&](FieldVisitor& v) { gpu.fields(v); });
  return gpu;
}

nlohmann::json shipped_json(const std::string& name) {
  return load_config(shipped_configs() / "platforms" / "gpus" / (name + ".json"));
}

double microseconds(SimDuration time) { return to_seconds(time) * 1e6; }

}  // namespace

TEST_CASE("gpu: each regime of the roofline, to the picosecond") {
  const Gpu gpu(round_config());
  // Memory: 1 MB at 500 GB/s, 2 us, and a launch of 3 us; 1 MFLOP hides behind it.
  CHECK(gpu.time_of(work_of(OperatorKind::gemm, Flops{1'000'000}, Bytes{1'000'000}, 64)) == 5us);
  // Compute: 1 GFLOP at 20 TFLOP/s (64 rows), 50 us; at 60 TFLOP/s (1024 rows) 16.67 us.
  CHECK(gpu.time_of(work_of(OperatorKind::gemm, Flops{1'000'000'000}, Bytes{1'000'000}, 64)) ==
        53us);
  CHECK(gpu.time_of(work_of(OperatorKind::gemm, Flops{1'000'000'000}, Bytes{1'000'000}, 1024)) ==
        3us + 16'666'667_ps);
  CHECK(gpu.time_of(work_of(OperatorKind::attention, Flops{}, Bytes{8'000'000})) == 13us);
  CHECK(gpu.time_of(work_of(OperatorKind::attention, Flops{1'000'000'000}, Bytes{8'000'000})) ==
        23us);
  CHECK(gpu.time_of(work_of(OperatorKind::norm, Flops{}, Bytes{1'000'000})) == 7us);
  CHECK(gpu.time_of(work_of(OperatorKind::elementwise, Flops{}, Bytes{1'000'000})) == 4us);
  // Launches add up, also for an operator of several kernels.
  CHECK(gpu.time_of(work_of(OperatorKind::elementwise, Flops{}, Bytes{1'000'000}, 0, 4)) == 13us);
  // One byte more rounds up to the next picosecond: 1 B at 1000 GB/s is exactly 1 ps.
  CHECK(gpu.time_of(work_of(OperatorKind::elementwise, Flops{}, Bytes{1'000'001})) == 4us + 1_ps);
}

TEST_CASE("gpu: the edge between the two regimes lies where the formula puts it") {
  const Gpu gpu(round_config());
  // 2 us of memory time is 40 MFLOP at 20 TFLOP/s; one operation more costs 1 ps at most.
  const auto time = [&](std::int64_t flops) {
    return gpu.time_of(work_of(OperatorKind::gemm, Flops{flops}, Bytes{1'000'000}, 64));
  };
  CHECK(time(39'999'999) == 5us);
  CHECK(time(40'000'000) == 5us);
  CHECK(time(40'000'001) == 5us + 1_ps);
}

TEST_CASE("gpu: achieved GEMM fraction is linear in log(rows) and constant outside") {
  const GpuConfig config = round_config();
  CHECK(config.gemm_fraction(1) == 0.2);
  CHECK(config.gemm_fraction(64) == 0.2);
  CHECK(config.gemm_fraction(1024) == 0.6);
  CHECK(config.gemm_fraction(1'000'000) == 0.6);
  CHECK(config.gemm_fraction(256) == doctest::Approx(0.4));  // half way: 64 x 4, 64 x 16
  CHECK(config.gemm_fraction(128) == doctest::Approx(0.3));
  double last = 0;
  for (std::int64_t rows = 1; rows < 2000; ++rows) {
    const double fraction = config.gemm_fraction(rows);
    CHECK(fraction >= last);
    last = fraction;
  }
}

TEST_CASE("gpu: more of any rate or fraction never makes an operator slower") {
  const OperatorWork works[] = {
      fp16_gemm(1, 5120, 5120),
      fp16_gemm(200, 5120, 5120),
      fp16_gemm(5000, 5120, 5120),
      work_of(OperatorKind::attention, Flops{}, Bytes{100'000'000}),
      work_of(OperatorKind::attention, Flops{1'000'000'000}, Bytes{1'000'000}),
      work_of(OperatorKind::norm, Flops{}, Bytes{1'234'567}),
      work_of(OperatorKind::elementwise, Flops{}, Bytes{1'234'567}),
  };
  using Change = void (*)(GpuConfig&);
  const Change improvements[] = {
      [](GpuConfig& c) { c.memory_bandwidth = c.memory_bandwidth * 2; },
      [](GpuConfig& c) { c.tensor_peak = c.tensor_peak * 2; },
      [](GpuConfig& c) { c.gemm_peak_fractions[0].fraction = 0.3; },
      [](GpuConfig& c) { c.gemm_peak_fractions[1].fraction = 0.7; },
      [](GpuConfig& c) { c.attention_peak_fraction = 0.6; },
      [](GpuConfig& c) { c.gemm_memory_fraction = 0.6; },
      [](GpuConfig& c) { c.attention_memory_fraction = 0.9; },
      [](GpuConfig& c) { c.norm_memory_fraction = 0.3; },
      [](GpuConfig& c) { c.kernel_launch = 2us; },
  };
  const Gpu base(round_config());
  for (const Change improve : improvements) {
    GpuConfig config = round_config();
    improve(config);
    const Gpu better(config);
    bool any_faster = false;
    for (const OperatorWork& work : works) {
      CHECK(better.time_of(work) <= base.time_of(work));
      any_faster = any_faster || better.time_of(work) < base.time_of(work);
    }
    CHECK(any_faster);
  }
}

TEST_CASE("gpu: operators queue first come first served; probe takes nothing") {
  Gpu gpu(round_config());
  const OperatorWork copy = work_of(OperatorKind::elementwise, Flops{}, Bytes{1'000'000});  // 4 us
  const OperatorWork both[] = {copy, copy};
  const SimTime start{10us};
  CHECK(gpu.probe(start, both).done == start + 8us);
  CHECK(gpu.counters().kernels == 0);
  CHECK(gpu.issue(start, both).done == start + 8us);
  // One picosecond before the queue is empty, and at its end.
  CHECK(gpu.probe(start + 8us - 1_ps, {&copy, 1}).start == start + 8us);
  CHECK(gpu.probe(start + 8us, {&copy, 1}).start == start + 8us);
  CHECK(gpu.issue(start + 9us, {&copy, 1}).start == start + 9us);
  CHECK(gpu.counters().kernels == 3);
}

TEST_CASE("gpu: report adds up, and reused work counts") {
  Gpu gpu(round_config());
  const OperatorWork works[] = {
      work_of(OperatorKind::gemm, Flops{1'000'000'000}, Bytes{1'000'000}, 64),  // 53 us
      work_of(OperatorKind::norm, Flops{}, Bytes{1'000'000}),                   // 7 us
  };
  gpu.issue(SimTime{}, works);
  gpu.add(gpu.counters());
  gpu.memory().allocate("weights", 2_GiB);
  gpu.memory().release_all("weights");
  Metrics metrics;
  gpu.report(metrics, "gpu/0", 240us);
  CHECK(metrics.at("gpu/0/utilization") == doctest::Approx(0.5));
  CHECK(metrics.at("gpu/0/busy") == doctest::Approx(120e-6));
  CHECK(metrics.at("gpu/0/busy_gemm") == doctest::Approx(106e-6));
  CHECK(metrics.at("gpu/0/busy_norm") == doctest::Approx(14e-6));
  CHECK(metrics.at("gpu/0/busy_attention") == 0);
  CHECK(metrics.at("gpu/0/flops") == 2e9);
  CHECK(metrics.at("gpu/0/memory_traffic") == 4e6);
  CHECK(metrics.at("gpu/0/kernels") == 4);
  CHECK(metrics.at("gpu/0/memory_high_water") == 3.0 * 1024 * 1024 * 1024);
}

TEST_CASE("gpu: VRAM overflows as a result that names itself") {
  Gpu gpu(round_config());
  CHECK(gpu.memory().held() == 1_GiB);
  gpu.memory().allocate("weights", 9_GiB);
  try {
    gpu.memory().allocate("KV cache", 1_B);
    FAIL("10 GiB hold 10 GiB and a byte");
  } catch (const OutOfCapacity& overflow) {
    CHECK(overflow.resource == "VRAM");
    CHECK(overflow.operation == "KV cache");
    CHECK(overflow.available == 0_B);
  }
}

TEST_CASE("gpu: the A6000 gives back the kernel times that its constants come from") {
  const Gpu gpu(read_gpu(shipped_json("a6000")));
  // Weight-bound GEMV: bytes of the weights over the published GB/s.
  struct Gemv {
    std::int64_t n;
    double published_gbps;
  };
  for (const Gemv& gemv : {Gemv{4096, 675}, Gemv{14336, 716}, Gemv{128256, 747}}) {
    const double published = 2.0 * 4096 * static_cast<double>(gemv.n) / gemv.published_gbps / 1e3;
    CHECK(microseconds(gpu.time_of(fp16_gemm(1, gemv.n, 4096))) ==
          doctest::Approx(published).epsilon(0.01));
  }
  // The FFN-shaped GEMM, from published TFLOP/s; other shapes differ by up to a third.
  CHECK(microseconds(gpu.time_of(fp16_gemm(256, 14336, 4096))) ==
        doctest::Approx(2.0 * 256 * 14336 * 4096 / 105e6).epsilon(0.01));
  CHECK(microseconds(gpu.time_of(fp16_gemm(2048, 14336, 4096))) ==
        doctest::Approx(2.0 * 2048 * 14336 * 4096 / 111e6).epsilon(0.01));
  const auto norm_of = [](std::int64_t tokens) {
    return work_of(OperatorKind::norm, Flops{}, Bytes{2 * 2 * tokens * 4096});
  };
  CHECK(microseconds(gpu.time_of(norm_of(2048))) == doctest::Approx(448).epsilon(0.01));
  // Not fitted: 256 tokens took 55 us.
  CHECK(microseconds(gpu.time_of(norm_of(256))) == doctest::Approx(55).epsilon(0.15));
}

TEST_CASE("gpu: the H200 gives back its microbenchmarks") {
  const Gpu gpu(read_gpu(shipped_json("h200")));
  struct Gemm {
    std::int64_t m, n, k;
    double measured_us;
  };
  for (const Gemm& gemm : {Gemm{1, 20480, 5120, 77.6}, Gemm{64, 15360, 5120, 65.7},
                           Gemm{256, 20480, 5120, 102.1}, Gemm{1024, 15360, 5120, 246.0},
                           Gemm{4096, 5120, 20480, 1239.1}, Gemm{16384, 20480, 5120, 5121.6},
                           Gemm{4096, 4096, 4096, 204.1}, Gemm{1, 16384, 4096, 55.6}}) {
    CAPTURE(gemm.m);
    CAPTURE(gemm.n);
    CHECK(microseconds(gpu.time_of(fp16_gemm(gemm.m, gemm.n, gemm.k))) ==
          doctest::Approx(gemm.measured_us).epsilon(0.12));
  }
  // Decode attention, 40 heads of 128: batch 16 x 8192 and 64 x 2048, 2.68 GB of KV each.
  const OperatorWork decode = work_of(OperatorKind::attention, Flops{}, Bytes{2'684'354'560});
  CHECK(microseconds(gpu.time_of(decode)) == doctest::Approx(644.0).epsilon(0.05));
  CHECK(microseconds(gpu.time_of(decode)) == doctest::Approx(613.2).epsilon(0.05));
}

TEST_CASE("gpu: bad configs are reported with their paths") {
  const auto problem_with = [](const char* pointer, const nlohmann::json& value) -> std::string {
    nlohmann::json config = shipped_json("a6000");
    config[nlohmann::json::json_pointer(pointer)] = value;
    try {
      static_cast<void>(read_gpu(config));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(problem_with("/gemm_peak_fractions", nlohmann::json::array()) ==
        "/gemm_peak_fractions: is empty; give one point or more");
  CHECK(problem_with("/gemm_peak_fractions/1/rows", 256) ==
        "/gemm_peak_fractions/1/rows: must be above the rows before it");
  CHECK(problem_with("/reserved_memory",
                     {{"value", "49GiB"}, {"source", "assumed"}, {"citation", "made up"}}) ==
        "/reserved_memory: must fit into memory_capacity (48GiB)");
  CHECK(problem_with("/memory_bandwidth/value", "0GB/s").starts_with("/memory_bandwidth: "));
  CHECK(problem_with("/kernel_launch", "5us").starts_with("/kernel_launch: a constant needs its"));
  CHECK(problem_with("/norm_memory_fraction/value", 1.5).starts_with("/norm_memory_fraction: 1.5"));
}
