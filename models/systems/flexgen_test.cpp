#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/gpu/gpu.hpp"
#include "models/llm/operators.hpp"
#include "models/systems/flexgen_policy.hpp"
#include "models/systems/flexgen_sparq.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/test_points.hpp"

using namespace nearkv;

namespace {

const Overrides kInfiniteGpu{"gpu/0/memory_bandwidth=1000000TB/s", "gpu/0/tensor_peak=1000PFLOP/s",
                             "gpu/0/kernel_launch=0ns"};
const Overrides kInfiniteMemory{"host/dram_rate=10000TB/s"};
const Overrides kNoLatency{"pcie/ports/0/link/latency=0ns", "pcie/ports/1/link/latency=0ns",
                           "pcie/root_peer_to_peer/latency=0ns"};
const Overrides kInfinitePcie =
    kNoLatency + kInfiniteMemory +
    Overrides{"pcie/generations/3/lane_rate=1000TB/s", "pcie/root_peer_to_peer/rate=1000TB/s"};
const Overrides kFreeDrive{"ssd/0/flash/mega_transfers=100000",
                           "ssd/0/flash/read_command/bus=0ns",
                           "ssd/0/flash/program_command/bus=0ns",
                           "ssd/0/flash/t_read=1ps",
                           "ssd/0/flash/t_program=1ps",
                           "ssd/0/controller/command_cost=0ns",
                           "ssd/0/dram/rate=0B/s",
                           "ssd/0/nvme/doorbell=0ns",
                           "ssd/0/nvme/command_fetch=0ns",
                           "ssd/0/nvme/completion=0ns",
                           "host/file_system/io_submission=0ns"};

/// A program that costs nothing on the host, with layers in one piece and without eager copies.
const Overrides kPlain{"host/framework/kernel_issue=0ns", "host/framework/task=0ns",
                       "host/framework/team_start=0ns",   "host/framework/team_slowdown=1",
                       "host/framework/copy_task=0ns",    "host/framework/file_open=0ns",
                       "host/framework/first_pass=0ns",   "host/framework/team_rate=1000000TB/s",
                       "system/separate_layers=false",    "system/attention_kernel=unfused"};

Overrides policy(const std::vector<std::string>& fields) {
  Overrides all;
  for (const std::string& field : fields) {
    all.push_back("system/policy/" + field);
  }
  return all;
}

/// Payload a second of the port of a device ("gpu/0").
double link_rate(const DesignPoint& point, std::string_view device) {
  const auto port = std::find_if(point.pcie.ports.begin(), point.pcie.ports.end(),
                                 [&](const PciePortConfig& p) { return p.serves(device); });
  REQUIRE(port != point.pcie.ports.end());
  return static_cast<double>(point.pcie.bandwidth_of(port->link).per_second());
}

/// Sum over the decode steps of what step `context` gives.
template <class OfContext>
double over_steps(const DesignPoint& point, OfContext of_context) {
  double sum = 0;
  const Workload& work = point.workload;
  for (int step = 0; step + 1 < work.output_tokens; ++step) {
    sum += of_context(work.prompt_tokens + 1 + step);
  }
  return sum;
}

double size_of(Bytes bytes) { return static_cast<double>(bytes.count()); }

const Overrides kLonger{"workload/batch=8", "workload/prompt_tokens=512"};
constexpr double kRow = 8 * 5120 * 2;  // K, or V, of a token of 8 sequences in a layer

}  // namespace

// -- Closed forms -------------------------------------------------------------------------------

TEST_CASE("flexgen: a cache on the CPU takes the time of the GPU's link") {
  const DesignPoint point =
      small_point("flexgen", kPlain + kInfiniteGpu + kNoLatency + kInfiniteMemory + kLonger +
                                 policy({"cache_cpu=100"}));
  const RunResult run = run_alone(point);
  // What a step stores goes the other way, but for its last layer, behind which nothing is loaded.
  const double bytes =
      over_steps(point, [](int context) { return 3 * 2 * kRow * (context - 1) + 2 * kRow; });
  CHECK(run.at("decode_time") == doctest::Approx(bytes / link_rate(point, "gpu/0")).epsilon(0.001));
  CHECK(run.at("decode_traffic/ssd/read") == 0);
  for (const int batch : {1, 3}) {
    CAPTURE(batch);
    const RunResult few =
        run_alone(small_point("flexgen", policy({"cache_cpu=100"}) +
                                             Overrides{"workload/batch=" + std::to_string(batch)}));
    CHECK(few.at("decode_traffic/pcie/gpu/0/up/bytes") == 8 * 3 * 2 * 5120 * 2 * batch);
  }
}

TEST_CASE("flexgen: copying an unpinned cache costs the host's memory bandwidth first") {
  const DesignPoint point =
      small_point("flexgen", kPlain + kInfiniteGpu + kInfinitePcie + kLonger +
                                 policy({"cache_cpu=100"}) + Overrides{"host/dram_rate=1GB/s"});
  const RunResult run = run_alone(point);
  // K and V one after the other: staged by the driver (read and write), then over the link of host
  // memory (once), K while V is staged.
  const double bytes =
      over_steps(point, [](int context) { return 3 * kRow * (2 + 2 + 1) * (context - 1); });
  CHECK(run.at("decode_time") == doctest::Approx(bytes / 1e9).epsilon(0.01));
}

TEST_CASE("flexgen: weights on the CPU take the time of the GPU's link") {
  const DesignPoint point =
      small_point("flexgen", kPlain + kInfiniteGpu + kNoLatency + kInfiniteMemory +
                                 policy({"weights_gpu=0", "weights_cpu=100", "cache_gpu=100"}));
  const RunResult run = run_alone(point);
  FlexGenPolicy on_cpu;
  on_cpu.weights = {0, 100};
  const WeightPlacement weights = place_weights(point.model, on_cpu, {});
  // Every step loads its layers and the LM head, and the embedding for the step behind it.
  const double step = 3 * size_of(weights.layer_off_gpu()) + size_of(weights.output.off_gpu());
  const double bytes = 8 * step + 7 * size_of(weights.input.off_gpu());
  CHECK(run.at("decode_time") == doctest::Approx(bytes / link_rate(point, "gpu/0")).epsilon(0.001));
  CHECK(run.at("decode_traffic/pcie/gpu/0/down/bytes") == bytes);
  CHECK(run.at("decode/phase/weight_wait") == doctest::Approx(run.at("decode_time")).epsilon(0.01));
}

TEST_CASE("flexgen: weights that are not pinned are the same bytes, a matrix at a time") {
  // The three pieces of a feed-forward network are not equal.
  const Overrides overrides = kPlain + kLonger + Overrides{"system/separate_layers=true"} +
                              policy({"weights_gpu=0", "weights_cpu=100", "cache_gpu=100"});
  const RunResult pinned = run_alone(small_point("flexgen", overrides));
  const RunResult relayed =
      run_alone(small_point("flexgen", overrides + Overrides{"system/pin_weights=false"}));
  CHECK(relayed.at("decode_traffic/pcie/gpu/0/down/bytes") ==
        pinned.at("decode_traffic/pcie/gpu/0/down/bytes"));
  CHECK(relayed.at("decode_time") > pinned.at("decode_time"));
}

TEST_CASE("flexgen: weights on disk take the CPU time of their file streams") {
  // One copy thread reads a tensor after another.
  const DesignPoint point = small_point("flexgen", kPlain + kInfiniteGpu + kInfinitePcie +
                                                       policy({"weights_gpu=0", "cache_gpu=100"}) +
                                                       Overrides{"system/copy_threads=1"});
  const RunResult run = run_alone(point);
  FlexGenPolicy on_disk;
  const WeightPlacement weights = place_weights(point.model, on_disk, {});
  const auto pages = [](const BlockWeights& block) {
    double sum = 0;
    for (const Bytes file : block.files) {
      sum += std::ceil(size_of(file) / 4096);
    }
    return sum;
  };
  const double table = std::ceil(size_of(weights.tied[Home::disk]) / 4096);
  const double step =
      3 * (pages(weights.attention) + pages(weights.ffn)) + pages(weights.output) + table;
  CHECK(run.at("decode_time") ==
        doctest::Approx((8 * step + 7 * pages(weights.input)) * 6.65e-6).epsilon(0.001));
  CHECK(run.at("decode_traffic/ssd/read") == 0);
  // FlexGen has copied them there before.
  CHECK(run.at("prefill_traffic/ssd/read") == 0);
}

TEST_CASE("flexgen: CPU attention takes the time of the host's memory") {
  const DesignPoint point = small_point(
      "flexgen", kPlain + kInfiniteGpu + kNoLatency + kLonger +
                     policy({"cache_cpu=100", "cpu_attention=true"}) +
                     Overrides{"host/dram_rate=1GB/s", "host/cpu_attention/memory_fraction=0.5",
                               "host/pageable_h2d=1000TB/s", "host/pageable_d2h=1000TB/s",
                               "pcie/generations/3/lane_rate=1000TB/s"});
  const RunResult run = run_alone(point);
  // FP32 at half of 1 GB/s; the copy into the workspace reads FP16 and writes FP32 at 1 GB/s.
  const double bytes = over_steps(point, [](int context) {
    return 3 * 2 * kRow * (2 * context / 0.5 + (1 + 2) * (context - 1));
  });
  CHECK(run.at("decode_time") == doctest::Approx(bytes / 1e9).epsilon(0.005));
  // q in FP32, K and V of the new token and what is stored go up; the output comes down.
  CHECK(run.at("decode_traffic/pcie/gpu/0/down/bytes") == 8 * 3 * 2 * kRow);
  CHECK(run.at("decode_traffic/pcie/gpu/0/up/bytes") == 8 * 3 * (2 * kRow + 2 * kRow + 2 * kRow));
}

TEST_CASE("flexgen_gds: the cache takes the time of the SSD's link") {
  const DesignPoint point = small_point(
      "flexgen_gds",
      kPlain + kInfiniteGpu + kNoLatency + kInfiniteMemory + kFreeDrive + kLonger +
          Overrides{"pcie/root_peer_to_peer/rate=1000TB/s", "system/gds/request_cost=0ns"});
  const RunResult run = run_alone(point);
  const double bytes =
      over_steps(point, [](int context) { return 3 * 2 * kRow * (context - 1) + 2 * kRow; });
  CHECK(run.at("decode_time") == doctest::Approx(bytes / link_rate(point, "ssd/0")).epsilon(0.001));
  const double read = over_steps(point, [](int context) { return 3 * 2 * kRow * (context - 1); });
  CHECK(run.at("decode_traffic/ssd/read") == read);
  CHECK(run.at("decode_traffic/pcie/host_memory/bytes") == 0);
  CHECK(run.at("prefill_traffic/ssd/written") == 3 * 2 * kRow * 512);
}

TEST_CASE("flexgen_gds: where peer-to-peer is refused the data pass host memory, not faster") {
  const RunResult direct = run_alone(small_point("flexgen_gds", kLonger));
  const RunResult refused = run_alone(
      small_point("flexgen_gds", kLonger + Overrides{"pcie/peer_to_peer/through_root=false"}));
  const double moved = direct.at("decode_traffic/pcie/gpu/0/down/bytes");
  CHECK(refused.at("decode_traffic/pcie/gpu/0/down/bytes") == moved);
  CHECK(refused.at("decode_traffic/pcie/host_memory/bytes") >= 2 * moved);
  CHECK(refused.at("decode_time") >= direct.at("decode_time"));
}

TEST_CASE("flexgen_gds: unaligned rows read the blocks at their ends before they are written") {
  // One sequence: rows of 10,240 B, 2.5 blocks; even tokens begin on one, odd ones end on one.
  const RunResult run = run_alone(small_point("flexgen_gds", {"workload/batch=1"}));
  const double row = 5120 * 2;
  const double ends = 8 * 3 * 2 * 4096;
  double loaded = 0;
  for (int context = 97; context < 105; ++context) {
    loaded += 3 * 2 * std::ceil(row * (context - 1) / 4096) * 4096;
  }
  CHECK(run.at("decode_traffic/ssd/read") == loaded + ends);
  CHECK(run.at("decode_traffic/ssd/written") == 8 * 3 * 2 * 3 * 4096);
}

TEST_CASE("flexgen: eager prefill transposes new K and V, and scores all tokens of the prompt") {
  const auto moved = [](const char* kernel) {
    return run_alone(small_point("flexgen",
                                 kLonger + policy({"cache_cpu=100"}) +
                                     Overrides{std::string("system/attention_kernel=") + kernel}))
        .at("prefill_traffic/gpu/0/memory");
  };
  const ModelShape model = small_point("flexgen", {}).model;
  const auto bytes_of = [](const std::vector<OperatorWork>& operators) {
    double sum = 0;
    for (const OperatorWork& work : operators) {
      sum += size_of(work.bytes);
    }
    return sum;
  };
  const auto layer = [&](AttentionKernel kernel) {
    return bytes_of(layer_operators(model, SequenceBatch{8, 512, 512}, kernel));
  };
  const double copied = 2 * 2 * kRow * 512;  // K and V are read and written
  CHECK(moved("eager") - moved("unfused") ==
        3 * (layer(AttentionKernel::eager) - layer(AttentionKernel::unfused) + copied) +
            bytes_of(next_token(model, 8 * 512)) - bytes_of(next_token(model, 8)));
}

// -- The block schedule -------------------------------------------------------------------------

TEST_CASE("flexgen: two layers and two GPU batches by hand") {
  // Weights and cache on the CPU; loads share one copy engine, so that those of an iteration take
  // the sum of their times. The driver stores a token before it computes.
  const Overrides blocks = policy({"gpu_batch_size=4", "num_gpu_batches=2", "weights_gpu=0",
                                   "weights_cpu=100", "cache_cpu=100"});
  for (const char* bandwidth : {"768GB/s", "20GB/s", "2GB/s"}) {
    const DesignPoint point =
        small_point("flexgen", kPlain + kNoLatency + kInfiniteMemory + kLonger + blocks +
                                   Overrides{"model/layers=2", "workload/output_tokens=4",
                                             "host/swap/minor_fault=0ns",
                                             std::string("gpu/0/memory_bandwidth=") + bandwidth});
    const RunResult run = run_alone(point);
    const Gpu gpu(point.gpu.front());
    const double rate = link_rate(point, "gpu/0");
    FlexGenPolicy on_cpu;
    on_cpu.weights = {0, 100};
    const WeightPlacement weights = place_weights(point.model, on_cpu, {});
    const double layer = size_of(weights.layer_off_gpu()) / rate;
    const double input = size_of(weights.input.off_gpu()) / rate;
    const double output = size_of(weights.output.off_gpu()) / rate;
    const double embed = 2 * to_seconds(gpu.time_of(embedding(point.model, 4)));
    const double head = 2 * to_seconds(gpu.time_of(next_token(point.model, 4)));
    const double store = kRow / 14.8e9;  // K and V of 4 sequences, into pageable memory
    double expected = 0;
    for (int step = 0; step < 3; ++step) {
      const int context = 513 + step;
      const double work = to_seconds(gpu.time_of(
          layer_operators(point.model, SequenceBatch{4, 1, context}, AttentionKernel::unfused)));
      const double cache = kRow * (context - 1) / rate;
      const double next_cache = step < 2 ? kRow * context / rate : 0;
      expected += step == 0 ? cache : 0;          // its own first load
      expected += std::max(layer, embed);         // loads layer 0
      expected += std::max(work, layer + cache);  // layer 0, batch 0: loads layer 1
      expected += std::max(store + work, cache);  // layer 0, batch 1
      // layer 1, batch 0: loads the LM head; batch 1: loads for the next step
      expected += std::max(store + work, output + cache);
      expected += std::max(store + work, next_cache);
      expected += store + std::max(head, step < 2 ? input : 0);
    }
    CAPTURE(bandwidth);
    CHECK(run.at("decode_time") == doctest::Approx(expected).epsilon(1e-6));
  }
}

TEST_CASE("flexgen: no overlap is the sum of what overlap does at a time") {
  const std::vector<Overrides> policies{
      {},
      policy({"cache_cpu=100"}),
      policy({"cache_cpu=50", "cache_gpu=20", "gpu_batch_size=2"}),
      policy({"cache_cpu=100", "cpu_attention=true"}),
      policy({"weights_gpu=30", "weights_cpu=30", "num_gpu_batches=4", "gpu_batch_size=2"}),
      policy({"activations_gpu=0", "activations_cpu=50", "num_gpu_batches=2", "gpu_batch_size=4"}),
      policy({"compress_weight=true", "compress_cache=true", "weights_gpu=0", "cache_cpu=100"})};
  for (const std::string system : {"flexgen", "flexgen_gds", "flexgen_sparq"}) {
    for (const Overrides& one : policies) {
      const bool is_sparq = system == "flexgen_sparq";
      const auto names = [&](const char* what) {
        return std::any_of(one.begin(), one.end(), [&](const std::string& field) {
          return field.find(what) != std::string::npos;
        });
      };
      if ((is_sparq && names("cache")) || (system != "flexgen" && names("cpu_attention"))) {
        continue;
      }
      const Overrides all =
          kPlain + Overrides{"workload/batch=7", "system/policy/num_gpu_batches=4"} + one;
      const RunResult with = run_alone(small_point(system, all));
      const RunResult without = run_alone(small_point(system, all + policy({"overlap=false"})));
      CAPTURE(system);
      CAPTURE(one.size());
      CAPTURE(one.empty() ? "" : one.front());
      REQUIRE(with.status == RunStatus::ok);
      CHECK(without.at("decode_time") >= with.at("decode_time"));
    }
  }
}

TEST_CASE("flexgen: halving any rate never makes any policy faster") {
  const std::vector<std::pair<std::string, Overrides>> cases{
      {"flexgen", policy({"cache_cpu=100"})},
      {"flexgen", policy({"cache_cpu=100", "cpu_attention=true"})},
      {"flexgen", policy({"weights_gpu=30", "weights_cpu=30", "cache_gpu=30", "cache_cpu=30",
                          "activations_gpu=40", "activations_cpu=30", "gpu_batch_size=3",
                          "num_gpu_batches=3"})},
      {"flexgen", policy({"compress_weight=true", "compress_cache=true", "weights_gpu=0"})},
      {"flexgen_gds", {}},
      {"flexgen_sparq", {}}};
  const Overrides halved{"gpu/0/memory_bandwidth=384GB/s",
                         "gpu/0/tensor_peak=77.4TFLOP/s",
                         "gpu/0/kernel_launch=10us",
                         "pcie/generations/3/lane_rate=984615384B/s",
                         "pcie/ports/0/link/lanes=8",
                         "pcie/ports/1/link/lanes=2",
                         "pcie/root_peer_to_peer/rate=11.35GB/s",
                         "gpu/0/copy_engines=1",
                         "system/copy_threads=2",
                         "ssd/0/flash/mega_transfers=600",
                         "ssd/0/flash/t_read=90us",
                         "ssd/0/controller/cores=2",
                         "host/cores=13",
                         "host/dram_rate=52.5GB/s",
                         "host/cpu_attention/memory_fraction=0.47",
                         "host/pageable_h2d=3.95GB/s",
                         "host/pageable_d2h=7.4GB/s"};
  for (const auto& [system, overrides] : cases) {
    const Overrides all = Overrides{"workload/batch=8"} + overrides;
    const RunResult full = run_alone(small_point(system, all));
    REQUIRE(full.status == RunStatus::ok);
    for (const std::string& one : halved) {
      const RunResult half = run_alone(small_point(system, all + Overrides{one}));
      CAPTURE(system);
      CAPTURE(overrides.empty() ? "" : overrides.front());
      CAPTURE(one);
      // One engine for both directions takes turns in another order, which may save a little.
      const double least = one == "gpu/0/copy_engines=1" ? 1 - 1e-3 : 1;
      CHECK(half.at("decode_time") >= full.at("decode_time") * least);
      CHECK(half.at("prefill_time") >= full.at("prefill_time") * least);
    }
  }
}

// -- Memory -------------------------------------------------------------------------------------

TEST_CASE("flexgen: what is held in VRAM, in host memory and in files, by hand") {
  const DesignPoint point =
      small_point("flexgen", kPlain + Overrides{"workload/batch=8"} +
                                 policy({"weights_gpu=0", "weights_cpu=100", "cache_gpu=25",
                                         "cache_cpu=50", "gpu_batch_size=4", "num_gpu_batches=2"}));
  const RunResult run = run_alone(point);
  FlexGenPolicy on_cpu;
  on_cpu.weights = {0, 100};
  const WeightPlacement weights = place_weights(point.model, on_cpu, {});
  const double hidden = 4 * 96 * 5120 * 2;  // of the prompts of a GPU batch
  const double scores = 4 * 40 * 96 * 96 * 2;
  const double cache_on_gpu = 3 * 2 * 2 * 104 * 5120 * 2;  // layers, sequences, K and V, tokens
  // Two blocks' weights on their way; the workspace, K and V of two GPU batches, and the hidden
  // states of the other one.
  CHECK(run.at("high_water/VRAM") == (600 << 20) + size_of(weights.read_buffers(false)) +
                                         cache_on_gpu + 6 * hidden + 2 * scores + 4 * hidden +
                                         hidden);
  // Relay buffers and weights are pinned; 4 sequences' cache is a region of whole extents a layer
  // and GPU batch, 2 sequences' in files.
  const double extent = 2 << 20;
  const double in_extents = std::ceil(2 * 104 * 2 * 5120 * 2 / extent) * extent;
  const double pinned = 4 * 2147483648.0 + size_of(point.model.weight_bytes());
  CHECK(run.at("high_water/host DRAM") >= pinned + 3 * 2 * in_extents);
  CHECK(run.at("high_water/host DRAM") <= pinned + 3 * 2 * in_extents + 3 * 2 * 2 * 2 * extent);
  CHECK(run.at("decode_traffic/pcie/gpu/0/down/bytes") ==
        doctest::Approx(
            8 * (3 * size_of(weights.layer_off_gpu()) + size_of(weights.output.off_gpu())) +
            7 * size_of(weights.input.off_gpu()) +
            over_steps(point, [](int context) { return 3 * 6 * 2 * 5120 * 2.0 * (context - 1); }))
            .epsilon(1e-12));
}

TEST_CASE("flexgen: weights that fit nowhere are infeasible, and say what to change") {
  struct Case {
    Overrides overrides;
    std::string detail;
  };
  for (const Case& c :
       {Case{policy({"weights_gpu=80"}) + Overrides{"gpu/0/memory_capacity=3GB"},
             "infeasible: VRAM: weights take "},
        Case{policy({"weights_gpu=0", "weights_cpu=100"}) + Overrides{"host/dram=5GiB"},
             "infeasible: out_of_memory: host DRAM: weights needs "},
        Case{policy({"weights_gpu=0"}) + Overrides{"host/swap/size=1GiB", "ssd/0/capacity=1500MB"},
             "infeasible: out_of_memory: SSD: weights "}}) {
    const RunResult run = run_alone(small_point("flexgen", kPlain + c.overrides));
    CHECK(run.status == RunStatus::infeasible);
    CHECK_MESSAGE(run.detail.starts_with(c.detail), run.detail);
    CHECK_MESSAGE(run.detail.find("system/policy/weights_") != std::string::npos, run.detail);
  }
}

TEST_CASE("flexgen: a cache that does not fit overflows the memory that it is in") {
  struct Case {
    Overrides overrides;
    std::string detail;
  };
  for (const Case& c :
       {Case{policy({"cache_gpu=100"}) + Overrides{"gpu/0/memory_capacity=3090MB"},
             "out_of_memory: VRAM: KV cache needs "},
        Case{policy({"cache_cpu=100"}) + Overrides{"host/dram=12310MiB", "host/swap/size=0B"},
             "out_of_memory: host DRAM and swap: "}}) {
    const RunResult run =
        run_alone(small_point("flexgen", Overrides{"workload/prompt_tokens=400"} + c.overrides));
    CHECK(run.status == RunStatus::out_of_memory);
    CHECK_MESSAGE(run.detail.starts_with(c.detail), run.detail);
  }
}

// -- Ragged batches -------------------------------------------------------------------------------

namespace {

struct Driven {
  std::vector<double> prefill;  // seconds, by batch
  std::vector<double> decode;
  double to_gpu = 0;  // bytes
  double to_host = 0;
  Bytes vram_left{};
};

/// SimGrid's clock goes on in a process: runs that stay in it must be short.
const Overrides kFastFiles{"host/file_system/hit_per_page=20ns",
                           "host/file_system/miss_per_page=2ns"};

/// Batches one after another, every step of each.
Driven drive(const DesignPoint& point, const std::vector<Batch>& batches) {
  Machine machine(point);
  ParallelModel model(machine, point);
  RunContext run{point, machine, model};
  auto& system = dynamic_cast<BatchSystem&>(*point.system);
  Driven driven;
  const auto seconds = [&] { return to_seconds(machine.engine().now()); };
  machine.engine().spawn("driver", machine.host_node(), [&] {
    system.place(run);
    for (const Batch& batch : batches) {
      run.batch = &batch;
      system.begin_batch(run);
      const double begin = seconds();
      system.prefill(run);
      driven.prefill.push_back(seconds() - begin);
      for (int step = 0; step < batch.decode_steps(); ++step) {
        system.decode_step(run, step);
      }
      driven.decode.push_back(seconds() - begin - driven.prefill.back());
      system.finish_batch(run);
    }
    driven.vram_left = machine.gpu().memory().held();
    machine.stop_workers();
  });
  machine.engine().run();
  const std::vector<double> values = machine.read_gauges();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::string& name = machine.gauges().all()[i].name;
    driven.to_gpu += name == "pcie/gpu/0/down/bytes" ? values[i] : 0;
    driven.to_host += name == "pcie/gpu/0/up/bytes" ? values[i] : 0;
  }
  return driven;
}

}  // namespace

TEST_CASE("flexgen: a ragged batch moves what its sequences need, and no more") {
  const Batch ragged({{3, 120, 12}, {2, 120, 5}, {4, 40, 9}, {1, 30, 1}});
  double loaded = 0;  // tokens
  double stored = static_cast<double>(ragged.prompt_tokens());
  for (int step = 0; step < ragged.decode_steps(); ++step) {
    loaded += static_cast<double>(ragged.context_tokens(step) - ragged.active_sequences(step));
    stored += static_cast<double>(ragged.active_sequences(step));
  }
  const double token = 3 * 2 * 5120 * 2;  // K and V in 3 layers
  const std::vector<Overrides> policies{
      {},
      policy({"gpu_batch_size=4", "num_gpu_batches=3"}),
      policy({"cache_cpu=100", "gpu_batch_size=4", "num_gpu_batches=3"}),
      policy({"overlap=false", "gpu_batch_size=1", "num_gpu_batches=10"})};
  for (const Overrides& one : policies) {
    CAPTURE(one.size());
    const Driven driven = drive(small_point("flexgen", kFastFiles + one), {ragged});
    CHECK(driven.to_gpu == token * loaded);
    CHECK(driven.to_host == token * stored);
  }
  // Files in whole blocks, from the last block of a row on.
  const Driven gds = drive(small_point("flexgen_gds", kFastFiles), {ragged});
  CHECK(gds.to_gpu == doctest::Approx(token * loaded).epsilon(1e-4));
  const Driven sparq = drive(small_point("flexgen_sparq", kFastFiles), {ragged});
  CHECK(sparq.to_gpu == doctest::Approx(token * loaded / 8).epsilon(0.02));
  CHECK(sparq.to_host == token * stored * 3 / 2);
}

TEST_CASE("flexgen: requests of equal lengths give what a fixed batch gives, to the picosecond") {
  const std::string requests =
      R"(workload={"kind":"lengths","requests":6,"prompt":{"kind":"fixed","tokens":96},)"
      R"("output":{"kind":"fixed","tokens":9},"longest":{"prompt_tokens":2048,)"
      R"("output_tokens":2048,"beyond":"refuse"},"arrivals":{"kind":"at_start"},)"
      R"("batching":{"order":"arrival","sequences":6,"padded":false,"wait":"0s"},"limits":[]})";
  const std::vector<std::pair<std::string, Overrides>> cases{
      {"flexgen", policy({"gpu_batch_size=2", "num_gpu_batches=3", "cache_cpu=30"})},
      {"flexgen", policy({"gpu_batch_size=2", "num_gpu_batches=2"})},
      {"flexgen_gds", {}},
      {"flexgen_sparq", {}}};
  for (const auto& [system, overrides] : cases) {
    const RunResult fixed =
        run_alone(small_point(system, Overrides{"workload/batch=6"} + overrides));
    const RunResult equal = run_alone(small_point(system, overrides + Overrides{requests}));
    CAPTURE(system);
    CHECK(equal.at("decode_time") == fixed.at("decode_time"));
    CHECK(equal.at("prefill_time") == fixed.at("prefill_time"));
    CHECK(equal.digest == fixed.digest);
  }
}

TEST_CASE("flexgen: a ragged batch takes at least as long as its shortest, at most its longest") {
  for (const std::string system : {"flexgen", "flexgen_gds", "flexgen_sparq"}) {
    const DesignPoint point = small_point(system, kFastFiles + Overrides{"model/layers=4"});
    const auto decode = [&](const Batch& batch) { return drive(point, {batch}).decode.front(); };
    const double shortest = decode(Batch({{6, 200, 20}}));
    const double ragged = decode(Batch({{2, 200, 20}, {1, 300, 20}, {3, 400, 20}}));
    const double longest = decode(Batch({{6, 400, 20}}));
    CAPTURE(system);
    CHECK(ragged >= shortest);
    CHECK(ragged <= longest);
    // However a uniform batch was put together, it is one group.
    CHECK(Batch({{2, 200, 20}, {4, 200, 20}}) == Batch({{6, 200, 20}}));
  }
}

TEST_CASE("flexgen: batches that follow one another leave nothing behind") {
  const Batch batch({{4, 100, 8}, {2, 60, 6}});
  const Overrides everywhere =
      policy({"cache_gpu=30", "cache_cpu=30", "activations_gpu=30", "activations_cpu=40",
              "gpu_batch_size=3", "num_gpu_batches=2", "cpu_attention=true"});
  for (const auto& [system, overrides] : std::vector<std::pair<std::string, Overrides>>{
           {"flexgen", everywhere}, {"flexgen_gds", {}}, {"flexgen_sparq", {}}}) {
    // Swap and drives that hold two batches, but not three.
    const DesignPoint point =
        small_point(system, overrides + Overrides{"host/swap/size=1GiB", "ssd/0/capacity=1340MB"});
    const Driven driven = drive(point, std::vector(12, batch));
    CAPTURE(system);
    for (std::size_t i = 2; i < driven.decode.size(); ++i) {
      CHECK(driven.decode[i] == doctest::Approx(driven.decode[1]).epsilon(1e-3));
    }
    CHECK(driven.vram_left == point.model.weight_bytes() + 600_MiB);
  }
}

TEST_CASE("flexgen: more sequences than a block are worked on in blocks that follow one another") {
  const Overrides block = policy({"gpu_batch_size=2", "num_gpu_batches=2", "cache_gpu=100"});
  const RunResult one = run_alone(small_point("flexgen", block + Overrides{"workload/batch=4"}));
  const RunResult three = run_alone(small_point("flexgen", block + Overrides{"workload/batch=12"}));
  CHECK(three.at("decode_time") == doctest::Approx(3 * one.at("decode_time")).epsilon(1e-9));
  CHECK(three.at("prefill_time") == doctest::Approx(3 * one.at("prefill_time")).epsilon(1e-9));
  CHECK(three.at("high_water/VRAM") == one.at("high_water/VRAM"));
  CHECK(three.at("decode_throughput") ==
        doctest::Approx(one.at("decode_throughput")).epsilon(1e-9));
  // 5 sequences: blocks of 3 and 2.
  const RunResult two = run_alone(small_point("flexgen", block + Overrides{"workload/batch=5"}));
  CHECK(two.at("decode_time") < 2 * one.at("decode_time"));
  CHECK(two.at("decode_time") > one.at("decode_time"));
}

// -- Several GPUs ---------------------------------------------------------------------------------

TEST_CASE("flexgen: ranks and stages share the links to the host, not the drives") {
  const Overrides weights = policy({"weights_gpu=0", "weights_cpu=100", "cache_cpu=100"});
  const Overrides all = kInfiniteGpu + kNoLatency + kInfiniteMemory + kLonger + weights +
                        Overrides{"model/layers=4", "parallelism/collective_overhead=0ns"};
  const RunResult one = run_alone(small_point("flexgen", all));
  const RunResult two = run_alone(small_point("flexgen", all + Overrides{"parallelism/tensor=2"}));
  const RunResult stages =
      run_alone(small_point("flexgen", all + Overrides{"parallelism/pipeline=2"}));
  // Half of the weights and of the cache each; norms and the all-reduces are what is left.
  CHECK(two.at("decode_time") == doctest::Approx(one.at("decode_time") / 2).epsilon(0.02));
  CHECK(stages.at("decode_time") == doctest::Approx(one.at("decode_time")).epsilon(0.02));
  const auto loaded = [](const RunResult& run, const char* gpu) {
    return run.at(std::string("decode_traffic/pcie/") + gpu + "/down/bytes");
  };
  CHECK(loaded(two, "gpu/0") == doctest::Approx(loaded(two, "gpu/1")));
  CHECK(loaded(stages, "gpu/0") + loaded(stages, "gpu/1") ==
        doctest::Approx(loaded(one, "gpu/0")).epsilon(0.02));
  for (const std::string system : {"flexgen_gds", "flexgen_sparq"}) {
    const RunResult alone = run_alone(small_point(system, kLonger));
    const RunResult ranks =
        run_alone(small_point(system, kLonger + Overrides{"parallelism/tensor=2"}));
    CAPTURE(system);
    CHECK(ranks.at("decode_traffic/ssd/read") == alone.at("decode_traffic/ssd/read"));
    CHECK(loaded(ranks, "gpu/0") >= loaded(alone, "gpu/0") / 2);
  }
}

// -- Search -------------------------------------------------------------------------------------

TEST_CASE("flexgen: what the search finds fits the machine, and is in the record") {
  const std::string search =
      R"(system/policy={"kind":"search","percent_step":20,"cpu_attention":false,)"
      R"("compression":true})";
  for (const std::string system : {"flexgen", "flexgen_gds"}) {
    for (const char* vram : {"2GiB", "3GiB", "4GiB", "8GiB", "48GiB"}) {
      for (const char* dram : {"13GiB", "96GiB"}) {
        const DesignPoint point =
            small_point(system, {search, "workload/batch=24", "workload/prompt_tokens=400",
                                 std::string("gpu/0/memory_capacity=") + vram,
                                 std::string("host/dram=") + dram});
        const RunResult run = run_alone(point);
        CAPTURE(system);
        CAPTURE(vram);
        CAPTURE(dram);
        CHECK_MESSAGE(run.status == RunStatus::ok, run.detail);
        CHECK(run.at("policy/gpu_batch_size") >= 1);
        CHECK(run.at("policy/weights_gpu") + run.at("policy/weights_cpu") <= 100);
        CHECK(run.at("policy/overlap") == 1);
      }
    }
  }
  const RunResult nothing =
      run_alone(small_point("flexgen", {search, "gpu/0/memory_capacity=700MiB"}));
  CHECK(nothing.status == RunStatus::infeasible);
  CHECK_MESSAGE(nothing.detail.find("of VRAM or more") != std::string::npos, nothing.detail);
}

// -- Sampled runs -------------------------------------------------------------------------------

TEST_CASE("flexgen: the record has the policy that was used") {
  const auto flags = [](const std::vector<std::string>& fields) {
    const RunResult run = run_alone(small_point("flexgen", policy(fields)));
    std::vector<double> values;
    for (const char* name : {"overlap", "cpu_attention", "compress_weight", "compress_cache"}) {
      values.push_back(run.at(std::string("policy/") + name));
    }
    return values;
  };
  using Flags = std::vector<double>;
  CHECK(flags({"cache_cpu=100"}) == Flags{1, 0, 0, 0});
  CHECK(flags({"cache_cpu=100", "overlap=false"}) == Flags{0, 0, 0, 0});
  CHECK(flags({"cache_cpu=100", "cpu_attention=true"}) == Flags{1, 1, 0, 0});
  CHECK(flags({"cache_cpu=100", "compress_weight=true"}) == Flags{1, 0, 1, 0});
  CHECK(flags({"cache_cpu=100", "compress_cache=true"}) == Flags{1, 0, 0, 1});
  const RunResult run = run_alone(small_point(
      "flexgen",
      policy({"gpu_batch_size=1", "num_gpu_batches=2", "weights_gpu=60", "weights_cpu=30",
              "cache_gpu=20", "cache_cpu=70", "activations_gpu=50", "activations_cpu=40"})));
  CHECK(run.at("policy/gpu_batch_size") == 1);
  CHECK(run.at("policy/num_gpu_batches") == 2);
  CHECK(run.at("policy/weights_gpu") == 60);
  CHECK(run.at("policy/weights_cpu") == 30);
  CHECK(run.at("policy/cache_gpu") == 20);
  CHECK(run.at("policy/cache_cpu") == 70);
  CHECK(run.at("policy/activations_gpu") == 50);
  CHECK(run.at("policy/activations_cpu") == 40);
}

TEST_CASE("flexgen: sampled runs of any policy lie within their own bound of reuse") {
  const std::vector<std::pair<std::string, Overrides>> cases{
      {"flexgen", policy({"cache_cpu=50", "cache_gpu=20", "weights_gpu=0", "weights_cpu=30",
                          "gpu_batch_size=3", "num_gpu_batches=2"})},
      {"flexgen", policy({"cache_cpu=100", "cpu_attention=true", "activations_gpu=0"})},
      {"flexgen", policy({"weights_gpu=0", "overlap=false"}) +
                      Overrides{"host/dram=14GiB"}},  // of 5 GB of weights 2 in memory
      {"flexgen_gds", policy({"gpu_batch_size=2", "num_gpu_batches=3"})},
      {"flexgen_sparq", {}},
      {"flexgen_sparq", {"host/dram=12544MiB"}},
      {"flexgen_sparq", {"system/selected_data=pages"}}};
  for (const auto& [system, overrides] : cases) {
    const Overrides all = Overrides{"model/layers=8", "workload/batch=4",
                                    "workload/prompt_tokens=256", "workload/output_tokens=200"} +
                          overrides;
    const RunResult reuse = run_alone(small_point(system, all));
    const RunResult sampled =
        run_alone(small_point(system, all + Overrides{"simulation/fidelity=sampled"}));
    const double truth = reuse.at("decode_time");
    const double error = std::abs(sampled.at("decode_time") - truth);
    const double bound = sampled.at("decode_time_bound");
    MESSAGE(system, " ", overrides.empty() ? "" : overrides.front(), ": off by ",
            100 * error / truth, " %, bound ", 100 * bound / truth, " %, ",
            sampled.at("decode_steps_simulated"), " steps");
    CHECK(error <= bound + 1e-9 * truth);
    // Half of SparQ's cache in memory: what a step finds there is a matter of luck.
    const bool is_lucky = !overrides.empty() && overrides.front().starts_with("host/dram=12544");
    CHECK(bound <= (is_lucky ? 0.2 : 0.05) * truth);
    CHECK(sampled.at("prefill_time") == reuse.at("prefill_time"));
  }
}

TEST_CASE("flexgen: phases add up, equal runs are equal, and a point may be run again") {
  const Overrides mixed = policy({"weights_gpu=30", "weights_cpu=30", "cache_gpu=30",
                                  "cache_cpu=30", "activations_gpu=40", "activations_cpu=30",
                                  "gpu_batch_size=3", "num_gpu_batches=3", "cpu_attention=true"});
  for (const auto& [system, overrides] : std::vector<std::pair<std::string, Overrides>>{
           {"flexgen", mixed + Overrides{"workload/batch=8"}},
           {"flexgen_gds", {}},
           {"flexgen_sparq", {}}}) {
    CAPTURE(system);
    const DesignPoint point = small_point(system, kFastFiles + overrides);
    const RunResult run = run_alone(point);
    double phases = 0;
    for (const auto& [name, value] : run.metrics) {
      phases += name.starts_with("decode/phase/") ? value : 0;
      if (name.starts_with("utilization/")) {
        CAPTURE(name);
        CHECK(value <= 1 + 1e-9);
      }
    }
    CHECK(phases == doctest::Approx(run.at("decode_time")).epsilon(1e-9));
    const RunResult again = run_alone(point);
    CHECK(again.digest == run.digest);
    CHECK(again.metrics == run.metrics);
    const RunOutcome first = run_design_point(point);
    const RunOutcome second = run_design_point(point);
    CHECK(second.metrics.at("decode_time") ==
          doctest::Approx(first.metrics.at("decode_time")).epsilon(1e-9));
  }
}

// -- SparQ --------------------------------------------------------------------------------------

TEST_CASE("flexgen_sparq: an eighth of the cache is read, one and a half of it stored") {
  const DesignPoint point = small_point("flexgen_sparq", kLonger);
  const RunResult run = run_alone(point);
  const double read = over_steps(point, [](int context) {
    return 3 * kRow / 128 * (16.0 * (context - 1) + 2 * 0.0625 * context * 128);
  });
  CHECK(run.at("decode_traffic/pcie/gpu/0/down/bytes") == doctest::Approx(read).epsilon(1e-6));
  const double dense = over_steps(point, [](int context) { return 3 * 2 * kRow * (context - 1); });
  CHECK(read / dense == doctest::Approx(0.125).epsilon(0.01));
  CHECK(run.at("prefill_traffic/pcie/gpu/0/up/bytes") == 3 * 3 * kRow * 512);
  CHECK(run.at("decode_traffic/pcie/gpu/0/up/bytes") == 8 * 3 * 3 * kRow);
  const RunResult full = run_alone(small_point(
      "flexgen_sparq", kLonger + Overrides{"host/swap/size=1GiB", "ssd/0/capacity=1450MB"}));
  CHECK_MESSAGE(full.detail.starts_with("out_of_memory: SSD: layer 2 K by channel needs "),
                full.detail);
}

TEST_CASE("flexgen_sparq: one thread reads the channels, then two read K and V") {
  const DesignPoint point =
      small_point("flexgen_sparq", kPlain + kInfiniteGpu + kInfinitePcie + kLonger +
                                       Overrides{"system/sparsity/selected_share=0.25"});
  const RunResult run = run_alone(point);
  const double step = over_steps(point, [](int context) {
    return 3 * kRow * (16.0 / 128 * (context - 1) + 2 * 0.25 * context / 2) / 4096 * 6.65e-6;
  });
  CHECK(run.at("decode_time") == doctest::Approx(step).epsilon(0.05));
}

TEST_CASE("flexgen_sparq: shares of pages by counting") {
  ModelShape shape = shipped_point("flexgen").model;
  SparsityConfig sparsity;
  sparsity.channels = 16;
  sparsity.selected_share = 0.0625;
  const Bytes page = 4_KiB;
  const std::int64_t stored = 1024;
  const SparqReads packed = sparq_reads(shape, sparsity, SelectedData::packed, page, stored, 2047);
  CHECK(packed.channels == Bytes{2 * 16 * 40 * stored});
  CHECK(packed.keys == Bytes{2 * 64 * 5120 + 640});  // 1/16 of 1025 tokens
  // A row of 256 B of one head and token, 16 heads to a page.
  const SparqReads pages = sparq_reads(shape, sparsity, SelectedData::pages, page, stored, 2047);
  const double share = 1 - std::pow(1 - 1025.0 / 16 / 1024, 16);
  CHECK(size_of(pages.keys) == doctest::Approx(2.0 * 5120 * stored * share));
  CHECK(pages.values == pages.keys);
  // Rows of a channel: 2047 x 2 B, one to a page; 1023 x 2 B, two of a head's 128 to a page.
  CHECK(size_of(pages.channels) == doctest::Approx(2047 * 2 * 128 * 40 * (1 - 112.0 / 128)));
  const SparqReads shorter = sparq_reads(shape, sparsity, SelectedData::pages, page, 512, 1023);
  CHECK(size_of(shorter.channels) ==
        doctest::Approx(1023 * 2 * 128 * 40 * (1 - 112.0 * 111 / (128 * 127))));
  // Long contexts: rows of two pages and a half take three.
  const SparqReads longer = sparq_reads(shape, sparsity, SelectedData::pages, page, 5000, 6000);
  CHECK(longer.channels == page * (3 * 16 * 40));
  // All channels and tokens: everything.
  sparsity.channels = 128;
  sparsity.selected_share = 1;
  for (const SelectedData lies : {SelectedData::packed, SelectedData::pages}) {
    const SparqReads all = sparq_reads(shape, sparsity, lies, page, stored, 2048);
    CHECK(all.channels == shape.values(stored * 5120));
    CHECK(all.keys == shape.values(stored * 5120));
  }
}

TEST_CASE("flexgen_sparq: whole pages move more than what is selected, and take longer") {
  const RunResult packed = run_alone(small_point("flexgen_sparq", kLonger));
  const RunResult pages =
      run_alone(small_point("flexgen_sparq", kLonger + Overrides{"system/selected_data=pages"}));
  const RunResult dense = run_alone(small_point("flexgen", kLonger));
  CHECK(pages.at("decode_time") > packed.at("decode_time"));
  CHECK(dense.at("decode_time") > packed.at("decode_time"));
}

TEST_CASE("flexgen_sparq, flexgen_gds: policies that they cannot follow are config errors") {
  struct Case {
    std::string system;
    std::string field;
    std::string error;
  };
  for (const Case& c :
       {Case{"flexgen_sparq", "system/policy/cache_cpu=10", "/system/policy/cache_gpu: "},
        Case{"flexgen_sparq", "system/policy/cpu_attention=true", "/system/policy/cpu_attention: "},
        Case{"flexgen_sparq", "system/policy/compress_cache=true",
             "/system/policy/compress_cache: "},
        Case{"flexgen_sparq", "system/sparsity/channels=129", "/system/sparsity/channels: 129 "},
        Case{"flexgen_gds", "system/policy/cpu_attention=true",
             "/system/policy/cpu_attention: "}}) {
    CAPTURE(c.field);
    try {
      static_cast<void>(small_point(c.system, {c.field}));
      FAIL("no error");
    } catch (const ConfigError& error) {
      CHECK_MESSAGE(std::string(error.what()).starts_with(c.error), error.what());
    }
  }
}
