// ZeRO-Inference's offloading: attention on the CPU, weights in host memory or on the SSDs.
#include <cmath>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include "models/systems/test_points.hpp"

using namespace nearkv;

namespace {

// Of OPT-13B and two sequences.
constexpr double kLayers = 3;
constexpr double kSteps = 8;
constexpr double kSequences = 2;
constexpr double kHidden = 5120;
constexpr double kLayer = 12 * kHidden * kHidden * 2;  // bytes of its matrices

/// A GPU and a link that take no time; the host's rates are the only ones that show.
const Overrides kOnlyHost{"gpu/0/memory_bandwidth=1000000TB/s",
                          "gpu/0/tensor_peak=1000PFLOP/s",
                          "gpu/0/kernel_launch=0ns",
                          "pcie/generations/3/lane_rate=1000TB/s",
                          "pcie/ports/0/link/latency=0ns",
                          "pcie/ports/1/link/latency=0ns",
                          "host/swap/minor_fault=0ns",
                          "host/dram_rate=100GB/s",
                          "host/cpu_attention/memory_fraction=0.5",
                          "host/pageable_h2d=8GB/s",
                          "host/pageable_d2h=16GB/s"};

double decode_time(const Overrides& overrides) {
  return run_alone(small_point("deepspeed", kOnlyHost + overrides)).at("decode_time");
}

}  // namespace

TEST_CASE("deepspeed: attention on the CPU reads K and V as FP32 at the host's rate") {
  // A layer: K and V of 97 to 104 tokens in FP32 at 50 GB/s; q and the new K and V to the host, as
  // FP32 at 16 GB/s, and the output back, as FP16 at 8 GB/s.
  const double contexts = (97 + 104) / 2.0 * kSteps;
  const double attention = kLayers * kSequences * contexts * 2 * kHidden * 4 / 50e9;
  const double copies = kLayers * kSteps * kSequences * kHidden * (3 * 4 / 16e9 + 2 / 8e9);
  const RunResult run = run_alone(small_point(
      "deepspeed", kOnlyHost + Overrides{"system/attention=cpu", "system/kv_footprint=2"}));
  CHECK(run.at("decode/phase/cpu_attention") == doctest::Approx(attention).epsilon(1e-6));
  CHECK(run.at("decode/phase/kv_copy") == doctest::Approx(copies).epsilon(1e-3));
  CHECK(run.at("decode_time") == doctest::Approx(attention + copies).epsilon(1e-3));
}

TEST_CASE("deepspeed: prompts are stored as FP32 for attention on the CPU") {
  const double prompts = kLayers * kSequences * 96 * 2 * kHidden;
  for (const auto& [place, bytes] : {std::pair{"gpu", 2.0}, std::pair{"cpu", 4.0}}) {
    const RunResult run = run_alone(
        small_point("deepspeed", kOnlyHost + Overrides{std::string("system/attention=") + place}));
    CHECK(run.at("prefill_time") == doctest::Approx(prompts * bytes / 16e9).epsilon(2e-3));
  }
}

TEST_CASE("deepspeed: weights in host memory pass the link once a layer and step") {
  const double more = decode_time({"system/weights=host"}) - decode_time({});
  // Norms and biases come on top of the matrices.
  CHECK(more == doctest::Approx(kSteps * kLayers * kLayer / 8e9).epsilon(1e-3));
}

TEST_CASE("deepspeed: weights on the SSDs are read once a step, one layer ahead") {
  const Overrides nvme{"system/weights=nvme", "ssd/0/flash/mega_transfers=100"};
  const RunResult run = run_alone(small_point("deepspeed", kOnlyHost + nvme));
  const double read = run.at("decode_traffic/ssd/read");
  CHECK(read == doctest::Approx(kSteps * kLayers * kLayer).epsilon(1e-3));
  // 8 channels, 16384 B of 18336 B each at 100 MB/s; commands begin and end within pages.
  const double rate = 8 * 16384 / (18336 / 100e6 + 300e-9);
  CHECK(run.at("decode_time") == doctest::Approx(read / rate).epsilon(0.03));
  // Where computing takes longer than reading, only the first layer of a step is waited for.
  const Overrides slow_gpu{"gpu/0/kernel_launch=1s"};
  const double computing =
      run_alone(small_point("deepspeed", kOnlyHost + slow_gpu)).at("decode_time");
  const double both =
      run_alone(small_point("deepspeed", kOnlyHost + nvme + slow_gpu)).at("decode_time");
  CHECK(both - computing == doctest::Approx(read / rate / kLayers).epsilon(0.02));
}

TEST_CASE("deepspeed: offloaded weights leave VRAM to the embeddings and two layers") {
  const Overrides small_gpu{"gpu/0/memory_capacity=2700MiB"};
  CHECK(run_alone(small_point("deepspeed", small_gpu)).status == RunStatus::infeasible);
  for (const std::string home : {"host", "nvme"}) {
    const RunResult run =
        run_alone(small_point("deepspeed", small_gpu + Overrides{"system/weights=" + home}));
    CHECK(run.status == RunStatus::ok);
    CHECK((run.at("high_water/host DRAM") > kLayers * kLayer) == (home == "host"));
  }
}

TEST_CASE("deepspeed: sampled steps with weights on the SSDs lie within their bound") {
  const Overrides nvme{"system/weights=nvme", "model/layers=12", "workload/output_tokens=40"};
  const RunResult every = run_alone(small_point("deepspeed", nvme));
  const RunResult sampled =
      run_alone(small_point("deepspeed", nvme + Overrides{"simulation/fidelity=sampled"}));
  const double error = std::abs(sampled.at("decode_time") - every.at("decode_time"));
  CHECK(error <= sampled.at("decode_time_bound") + 0.01 * every.at("decode_time"));
}
