#include "models/systems/run.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "models/kv/head_reads.hpp"
#include "models/kv/kv_layout.hpp"
#include "models/llm/operators.hpp"
#include "models/systems/test_points.hpp"

using namespace nearkv;

namespace {

constexpr double kPage = 4096;
constexpr double kGroup = 16;  // tokens of OPT's heads in a page
constexpr double kHeads = 40;

/// All but storage and host: so fast that its time is below 1e-6 of any other.
const Overrides kInfiniteGpu{"gpu/0/memory_bandwidth=1000000TB/s", "gpu/0/tensor_peak=1000PFLOP/s",
                             "gpu/0/kernel_launch=0ns"};
Overrides infinite_pcie(int ports) {
  Overrides all{"pcie/generations/3/lane_rate=1000TB/s", "pcie/root_peer_to_peer/rate=1000TB/s",
                "pcie/root_peer_to_peer/latency=0ns", "host/dram_rate=10000TB/s"};
  for (int i = 0; i < ports; ++i) {
    all.push_back("pcie/ports/" + std::to_string(i) + "/link/latency=0ns");
  }
  return all;
}
const Overrides kInfiniteCsd{"csd/0/nvme/host_submit=0ns",
                             "csd/0/nvme/doorbell=0ns",
                             "csd/0/nvme/command_fetch=0ns",
                             "csd/0/nvme/completion=0ns",
                             "csd/0/engine/attend_cost=0ns",
                             "csd/0/controller/completion_cost=0ns",
                             "csd/0/engine/gemv_rate=1PFLOP/s",
                             "csd/0/engine/softmax_latency=0ns",
                             "csd/0/engine/filter_rate=1TB/s",
                             "csd/0/engine/argtopk_rate=1000000000000000",
                             "csd/0/engine/feed/heads_per_block=1000000"};
const Overrides kInfiniteFlash{
    "csd/0/flash/mega_transfers=100000", "csd/0/flash/read_command/bus=0ns",
    "csd/0/flash/program_command/bus=0ns", "csd/0/flash/t_read=1ps", "csd/0/flash/t_program=1ps"};

/// Sum over the decode steps of what step `context` gives.
template <class OfContext>
double over_steps(const DesignPoint& point, OfContext of_context) {
  double sum = 0;
  for (int step = 0; step < point.workload.output_tokens - 1; ++step) {
    sum += of_context(point.workload.prompt_tokens + 1 + step);
  }
  return sum;
}

bool is_insti(const std::string& system) { return system.starts_with("insti"); }

}  // namespace

// -- Closed forms -------------------------------------------------------------------------------

TEST_CASE("run: insti_dense with all else infinite takes the time of its flash channels") {
  // Pages of one layer: 2 x groups for each of batch x 40 heads, over 8 channels of
  // 4096 B / 1.4 GB/s + 950 ns each.
  const DesignPoint point = small_point(
      "insti_dense", kInfiniteGpu + infinite_pcie(3) + kInfiniteCsd +
                         Overrides{"workload/batch=16", "workload/prompt_tokens=1024",
                                   "workload/output_tokens=4", "csd/0/flash/t_read=1ps"});
  const RunResult run = run_alone(point);
  const double slot = kPage / 1.4e9 + 950e-9;
  const double expected = over_steps(point, [&](int context) {
    return 3 * 16 * kHeads * 2 * std::floor(context / kGroup) / 8 * slot;
  });
  CHECK(run.at("decode_time") == doctest::Approx(expected).epsilon(0.001));
  CHECK(run.at("utilization/csd/0/flash/channels") > 0.999);
}

TEST_CASE("run: insti_sparf with all else infinite comes near the time of its flash channels") {
  // Selected pages do not fall on the channels evenly, and its two steps depend on each other.
  const DesignPoint point = small_point(
      "insti_sparf", kInfiniteGpu + infinite_pcie(3) + kInfiniteCsd +
                         Overrides{"workload/batch=16", "workload/prompt_tokens=1024",
                                   "workload/output_tokens=4", "csd/0/flash/t_read=1ps"});
  const RunResult run = run_alone(point);
  const double pages = run.at("decode_traffic/csd/0/flash/read") / kPage;
  const double expected = pages / 8 * (kPage / 1.4e9 + 950e-9);
  CHECK(run.at("decode_time") >= expected);
  CHECK(run.at("decode_time") == doctest::Approx(expected).epsilon(0.03));
}

TEST_CASE("run: insti_dense with infinite drives takes the time of the drive's link") {
  // One lane of 1969230769 B/s x 256 / 280 x 0.972 carries q, k and v down, then the output up.
  const DesignPoint point = small_point(
      "insti_dense",
      kInfiniteGpu + kInfiniteCsd + kInfiniteFlash +
          Overrides{"pcie/ports/2/link/lanes=1", "pcie/ports/2/link/latency=0ns",
                    "pcie/ports/0/link/latency=0ns", "pcie/root_peer_to_peer/latency=0ns",
                    "workload/batch=64", "workload/prompt_tokens=16"});
  const RunResult run = run_alone(point);
  const double rate = std::floor(1969230769.0 * 256 / 280 * 0.972);
  const double bytes = 8 * 3 * 64 * (3 + 1) * 5120 * 2;
  CHECK(run.at("decode_time") == doctest::Approx(bytes / rate).epsilon(0.001));
}

TEST_CASE("run: flexgen with all else infinite takes the CPU time of its two file streams") {
  // K and V are read at a time, page by page, hit_per_page = 6.65 us each; what a step stores hides
  // behind that but for the last layer, which is stored when nothing is left to load.
  const DesignPoint point = small_point(
      "flexgen",
      kInfiniteGpu + infinite_pcie(2) +
          Overrides{"workload/batch=8", "workload/prompt_tokens=512",
                    "host/file_system/miss_per_page=0ns", "host/framework/kernel_issue=0ns",
                    "host/framework/task=0ns", "host/framework/copy_task=0ns",
                    "host/framework/file_open=0ns", "system/separate_layers=false"});
  const RunResult run = run_alone(point);
  const double row = 8 * 5120 * 2 / kPage;  // pages of a token's K in a layer: 20
  const double expected =
      over_steps(point, [&](int context) { return (3 * row * (context - 1) + row) * 6.65e-6; });
  CHECK(run.at("decode_time") == doctest::Approx(expected).epsilon(0.001));
  CHECK(run.at("decode_traffic/ssd/read") == 0);
}

TEST_CASE("run: deepspeed with all else infinite takes the time of its pageable copies") {
  const DesignPoint point = small_point(
      "deepspeed", kInfiniteGpu + infinite_pcie(2) + Overrides{"host/swap/minor_fault=0ns"});
  const RunResult run = run_alone(point);
  const double row = 2 * 2 * 5120 * 2;  // K and V of a token of both sequences in a layer
  const double expected = over_steps(
      point, [&](int context) { return 3 * row * ((context - 1) / 7.9e9 + 1 / 14.8e9); });
  CHECK(run.at("decode_time") == doctest::Approx(expected).epsilon(0.001));
}

TEST_CASE("run: with infinite storage only the GPU is left") {
  const DesignPoint point =
      small_point("insti_dense", infinite_pcie(3) + kInfiniteCsd + kInfiniteFlash);
  Gpu gpu(point.gpu.front());
  const std::int64_t batch = point.workload.batch;
  SimDuration step = gpu.time_of(embedding(point.model, batch));
  step += (gpu.time_of(before_attention(point.model, batch)) +
           gpu.time_of(after_attention(point.model, batch))) *
          point.model.layers;
  step += gpu.time_of(next_token(point.model, batch));
  const RunResult run = run_alone(point);
  CHECK(run.at("decode_time") == doctest::Approx(8 * to_seconds(step)).epsilon(0.001));
  CHECK(run.at("decode/phase/gpu_compute") == doctest::Approx(8 * to_seconds(step)).epsilon(1e-9));
}

// -- More is never slower -----------------------------------------------------------------------

namespace {

/// Checks that each override alone makes neither prefill nor decode faster.
void check_never_faster(const std::string& system, const Overrides& base, const Overrides& halved) {
  const RunResult full = run_alone(small_point(system, base));
  REQUIRE(full.status == RunStatus::ok);
  for (const std::string& one : halved) {
    const RunResult half = run_alone(small_point(system, base + Overrides{one}));
    CAPTURE(system);
    CAPTURE(one);
    CHECK(half.at("decode_time") >= full.at("decode_time"));
    CHECK(half.at("prefill_time") >= full.at("prefill_time"));
    CHECK(half.at("throughput") <= full.at("throughput"));
  }
}

const Overrides kHalvedForAll{"gpu/0/memory_bandwidth=384GB/s",
                              "gpu/0/tensor_peak=77.4TFLOP/s",
                              "gpu/0/kernel_launch=10us",
                              "pcie/generations/3/lane_rate=984615384B/s",
                              "pcie/ports/0/link/lanes=8",
                              "pcie/root_peer_to_peer/rate=11.35GB/s",
                              "gpu/0/copy_engines=1"};
const Overrides kHalvedForCsds{"csd/0/flash/mega_transfers=700",
                               "csd/0/flash/t_read=72us",
                               "csd/0/flash/read_command/bus=1900ns",
                               "csd/0/flash/program_command/bus=1900ns",
                               "csd/0/flash/t_program=370us",
                               "csd/0/flash/channels=4",
                               "csd/0/flash/chips_per_channel=4",
                               "pcie/ports/2/link/lanes=2",
                               "csd/0/engine/gemv_rate=6.35GFLOP/s",
                               "csd/0/engine/attention_kernels=1",
                               "csd/0/engine/filter_rate=0.925GB/s",
                               "csd/0/engine/argtopk_rate=142500000",
                               "csd/0/controller/cores=2",
                               "csd/0/nvme/host_submit=10us"};
const Overrides kHalvedForHosts{
    "ssd/0/flash/mega_transfers=600", "ssd/0/flash/t_read=90us",    "ssd/0/dram/rate=6GB/s",
    "ssd/0/controller/cores=2",       "pcie/ports/1/link/lanes=2",  "host/cores=13",
    "host/dram_rate=52.5GB/s",        "host/pageable_h2d=3.95GB/s", "host/pageable_d2h=7.4GB/s"};

}  // namespace

TEST_CASE("run: halving any rate never makes insti faster") {
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    check_never_faster(system, {"workload/prompt_tokens=500", "workload/output_tokens=24"},
                       kHalvedForAll + kHalvedForCsds);
  }
}

TEST_CASE("run: halving any rate never makes flexgen faster") {
  // In memory, and with 320 MiB of page cache for 480 MiB of KV.
  check_never_faster("flexgen", {}, kHalvedForAll + kHalvedForHosts);
  check_never_faster("flexgen",
                     {"workload/batch=16", "workload/prompt_tokens=500", "host/dram=12608MiB"},
                     kHalvedForAll + kHalvedForHosts);
}

TEST_CASE("run: halving any rate never makes deepspeed faster") {
  check_never_faster("deepspeed", {}, kHalvedForAll + kHalvedForHosts);
}

TEST_CASE("run: more VRAM, drive DRAM, swap or SSD space never changes a run that fits") {
  for (const std::string& system : all_systems()) {
    const RunResult fits = run_alone(small_point(system));
    Overrides more{"gpu/0/memory_capacity=96GiB"};
    if (is_insti(system)) {
      more.emplace_back("csd/0/dram/capacity=128GiB");
      more.emplace_back("csd/0/flash/blocks_per_plane=4096");
    } else {
      more.emplace_back("host/swap/size=256GiB");
      more.emplace_back("ssd/0/capacity=2001GB");
    }
    for (const std::string& one : more) {
      CAPTURE(one);
      RunResult larger = run_alone(small_point(system, {one}));
      CHECK(larger.digest == fits.digest);
      if (one.find("blocks_per_plane") != std::string::npos) {  // the drive itself is larger
        for (const char* of_size : {"free_pages", "writable_tokens", "writable_tokens_with_copy"}) {
          const std::string name = std::string("kv_ftl/csd/0/") + of_size;
          CHECK(larger.at(name) > fits.at(name));
          larger.metrics[name] = fits.at(name);
        }
      }
      CHECK(larger.metrics == fits.metrics);
    }
  }
}

TEST_CASE("run: more channels, dies or planes are never slower for insti_dense") {
  const auto times = [](const std::string& path, const std::vector<int>& counts) {
    std::vector<double> found;
    for (const int count : counts) {
      found.push_back(run_alone(small_point("insti_dense", {"workload/prompt_tokens=1000",
                                                            path + "=" + std::to_string(count)}))
                          .at("decode_time"));
    }
    return found;
  };
  for (const char* path :
       {"csd/0/flash/channels", "csd/0/flash/chips_per_channel", "csd/0/flash/planes_per_die"}) {
    CAPTURE(path);
    const std::vector<double> found = times(path, {1, 2, 4, 8, 16});
    CHECK(std::is_sorted(found.rbegin(), found.rend()));
    CHECK(found.back() < found.front());
  }
}

// -- Fidelity -----------------------------------------------------------------------------------

namespace {

void check_equal(const RunResult& a, const RunResult& b) {
  CHECK(a.digest == b.digest);
  CHECK(a.wakeups == b.wakeups);
  REQUIRE(a.metrics.size() == b.metrics.size());
  for (const auto& [name, value] : a.metrics) {
    CAPTURE(name);
    CHECK(value == b.at(name));
  }
}

}  // namespace

TEST_CASE("run: reuse equals exact in every bit of every metric") {
  // Token groups fill every 16 steps, a chunk of channel groups at context 512, a prompt of 500
  // leaves groups half full.
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    for (const char* count : {"csd/0/count=1", "csd/0/count=2"}) {
      const Overrides all{"workload/prompt_tokens=500", "workload/output_tokens=40", count};
      CAPTURE(system);
      CAPTURE(count);
      check_equal(run_alone(small_point(system, all + Overrides{"simulation/fidelity=exact"})),
                  run_alone(small_point(system, all)));
    }
  }
}

TEST_CASE("run: reuse equals exact with other layouts, engines and page sizes") {
  const std::vector<Overrides> variants{
      {"csd/0/flash/page_size=512B"},  // 2 tokens a group: flushes at every other step
      {"csd/0/flash/page_size=16KiB", "csd/0/layout/channels_per_group=8"},
      {"csd/0/engine/feed/staging_buffers=2", "csd/0/engine/feed/heads_per_block=7"},
      {"csd/0/flash/array_unit=die", "csd/0/flash/policy=fifo", "csd/0/flash/cache_read=true"},
      {"csd/0/flash/t_program=20ms"},  // flushes go on for many layers
  };
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    for (const Overrides& variant : variants) {
      const Overrides all = Overrides{"workload/prompt_tokens=250"} + variant;
      CAPTURE(system);
      CAPTURE(variant.front());
      check_equal(run_alone(small_point(system, all + Overrides{"simulation/fidelity=exact"})),
                  run_alone(small_point(system, all)));
    }
  }
}

TEST_CASE("run: the baselines have nothing to reuse") {
  for (const std::string system : {"deepspeed", "flexgen"}) {
    check_equal(run_alone(small_point(system, {"simulation/fidelity=exact"})),
                run_alone(small_point(system)));
  }
}

TEST_CASE("run: sampling every key of insti gives what all steps give") {
  // The steps come in another order and each after a warm-up, so this is what says that steps of
  // equal keys are equal and that warm_up() restores all that matters.
  const Overrides across_chunks{"workload/prompt_tokens=495", "workload/output_tokens=60"};
  const std::vector<Overrides> variants{
      across_chunks + Overrides{"csd/0/count=2"},
      across_chunks + Overrides{"csd/0/flash/page_size=1KiB"},
      // What a step flushes is still on its way when the next one attends.
      {"workload/prompt_tokens=607", "workload/output_tokens=250", "csd/0/flash/t_program=4ms"},
      {"workload/prompt_tokens=96", "workload/output_tokens=50", "csd/0/flash/t_program=20ms"},
  };
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    for (const Overrides& all : variants) {
      const RunResult reuse = run_alone(small_point(system, all));
      const RunResult sampled =
          run_alone(small_point(system, all + Overrides{"simulation/fidelity=sampled",
                                                        "simulation/sampling_tolerance=1e-6",
                                                        "simulation/most_sampled_steps=1000"}));
      CAPTURE(system);
      CAPTURE(all.back());
      // It stops at a bound of 1e-6; a last step of SparF may deceive it.
      const double epsilon = system == "insti_dense" ? 1e-6 : 2e-4;
      CHECK(sampled.at("decode_time") == doctest::Approx(reuse.at("decode_time")).epsilon(epsilon));
      CHECK(sampled.at("decode_time_bound") <= 1e-6 * reuse.at("decode_time"));
      CHECK(sampled.at("decode_traffic/csd/0/flash/read") ==
            doctest::Approx(reuse.at("decode_traffic/csd/0/flash/read")).epsilon(epsilon));
    }
  }
}

namespace {

/// Samples 200 tokens behind 256 in 8 layers, and checks the result against a run of all steps.
void check_sampled(const std::string& system, const std::vector<Overrides>& cases) {
  const Overrides longer{"model/layers=8", "workload/prompt_tokens=256",
                         "workload/output_tokens=200"};
  for (const Overrides& overrides : cases) {
    const Overrides all = longer + overrides;
    const RunResult reuse = run_alone(small_point(system, all));
    const RunResult sampled =
        run_alone(small_point(system, all + Overrides{"simulation/fidelity=sampled"}));
    const double truth = reuse.at("decode_time");
    const double error = std::abs(sampled.at("decode_time") - truth);
    const double bound = sampled.at("decode_time_bound");
    std::string name = system;
    for (const std::string& one : overrides) {
      name += " " + one;
    }
    MESSAGE(name, ": off by ", 100 * error / truth, " %, bound ", 100 * bound / truth, " %, ",
            sampled.at("decode_steps_simulated"), " steps");
    CHECK(error <= bound + 1e-9 * truth);  // a step is rounded to 1 ps
    CHECK(bound <= 0.05 * truth);
    CHECK(sampled.at("decode_steps_simulated") <= 24);
    CHECK(sampled.at("prefill_time") == reuse.at("prefill_time"));
    CHECK(reuse.at("decode_time_bound") == 0);
    CHECK(reuse.at("throughput_bound") == 0);
    const double fastest = sampled.at("throughput") + sampled.at("throughput_bound");
    CHECK(reuse.at("throughput") <= fastest * (1 + 1e-9));
  }
}

}  // namespace

TEST_CASE("run: sampled insti_dense lies within its own bound of reuse") {
  check_sampled("insti_dense", {{},
                                {"csd/0/count=2", "workload/batch=5"},
                                {"csd/0/flash/page_size=16KiB", "csd/0/flash/t_program=5ms"},
                                {"csd/0/engine/feed/staging_buffers=2", "csd/0/flash/channels=3"}});
}

TEST_CASE("run: sampled insti_sparf lies within its own bound of reuse") {
  check_sampled("insti_sparf",
                {{},
                 {"csd/0/count=4", "workload/prompt_tokens=450"},
                 {"simulation/seed=77", "system/kv_source/queries=1"},
                 {"csd/0/layout/channels_per_group=8", "csd/0/flash/page_size=2KiB"}});
}

TEST_CASE("run: sampled flexgen lies within its own bound of reuse") {
  check_sampled("flexgen", {{},
                            // Nearly nothing stays in memory; half; too little from step 154 on.
                            {"workload/batch=4", "host/dram=12304MiB"},
                            {"workload/batch=4", "host/dram=12448MiB"},
                            {"workload/batch=4", "host/dram=12544MiB"}});
}

TEST_CASE("run: sampled deepspeed lies within its own bound of reuse") {
  check_sampled("deepspeed", {{},
                              // Swaps always; in the later steps only.
                              {"workload/batch=4", "host/dram=4160MiB"},
                              {"workload/batch=4", "host/dram=4352MiB"},
                              {"workload/batch=4", "host/dram=4608MiB"}});
}

TEST_CASE("run: flexgen in memory is linear in the context, but for its ends and new windows") {
  const RunResult run =
      run_alone(small_point("flexgen", {"workload/prompt_tokens=256", "workload/output_tokens=200",
                                        "simulation/fidelity=sampled"}));
  // Two kinds of steps, those that begin a window of the files and others: their ends and three
  // between; the first and the last one.
  CHECK(run.at("decode_steps_simulated") == 2 * 5 + 2);
  // Nearly linear: which of two things at a time takes longer may change.
  CHECK(run.at("decode_time_bound") <= 1e-4 * run.at("decode_time"));
}

// -- Conservation -------------------------------------------------------------------------------

TEST_CASE("run: the phases add up to the decode time, and nothing is busier than always") {
  for (const std::string& system : all_systems()) {
    for (const char* fidelity : {"exact", "reuse", "sampled"}) {
      for (const int count : {1, 4}) {
        if (count > 1 && !is_insti(system)) {
          continue;
        }
        Overrides all{std::string("simulation/fidelity=") + fidelity, "model/layers=7",
                      "workload/output_tokens=30"};
        if (is_insti(system)) {
          all.push_back("csd/0/count=" + std::to_string(count));
        }
        const RunResult run = run_alone(small_point(system, all));
        CAPTURE(system);
        CAPTURE(fidelity);
        double phases = 0;
        for (const auto& [name, value] : run.metrics) {
          if (name.starts_with("decode/phase/")) {
            CHECK(value >= 0);
            phases += value;
          }
          if (name.starts_with("utilization/")) {
            CAPTURE(name);
            CHECK(value >= 0);
            CHECK(value <= 1 + 1e-9);
          }
        }
        CHECK(phases == doctest::Approx(run.at("decode_time")).epsilon(1e-9));
        CHECK(run.at("kv_access_share") > 0);
        CHECK(run.at("kv_access_share") <= 1);
        CHECK(run.at("ttft") == run.at("prefill_time"));
        CHECK(run.at("tpot") == doctest::Approx(run.at("decode_time") / 29));
        CHECK(run.at("throughput") ==
              doctest::Approx(2 * 30 / (run.at("prefill_time") + run.at("decode_time"))));
      }
    }
  }
}

TEST_CASE("run: prefill of insti overlaps a layer's computing with the way of the one before") {
  // Once computing takes longer, once the drive's link, and once programming.
  for (const char* slow :
       {"gpu/0/tensor_peak=10TFLOP/s", "pcie/ports/2/link/lanes=1", "csd/0/flash/t_program=2ms"}) {
    const RunResult run = run_alone(
        small_point("insti_dense", {"model/layers=10", "workload/batch=16",
                                    "workload/prompt_tokens=512", "csd/0/store_chunk=1MiB", slow}));
    const double compute = run.at("prefill_busy/gpu/0/compute");
    const double link = run.at("prefill_busy/pcie/csd/0/down");
    const double program = run.at("prefill_busy/csd/0/storing");
    const double slowest = std::max({compute, link, program});
    CAPTURE(slow);
    CHECK(run.at("prefill_time") >= slowest);
    // The first layer must be computed before the second stage has work, and the last one stored.
    CHECK(run.at("prefill_time") <= slowest + (compute + link + program) / 10 * 1.3);
  }
}

TEST_CASE("run: upload, submission and download of insti by hand") {
  const RunResult run = run_alone(small_point("insti_dense"));
  const double layers = 8 * 3;  // over all steps
  const double token = 2 * 5120 * 2;
  CHECK(run.at("decode/phase/submission") == doctest::Approx(layers * 2 * kHeads * 5e-6));
  // Two links and the root complex, 250 ns each; the drive's link is the slowest.
  const double rate = std::floor(1969230769.0 * 4 * 256 / 280 * 0.972);
  CHECK(run.at("decode/phase/upload") ==
        doctest::Approx(layers * (750e-9 + 3 * token / rate)).epsilon(1e-6));
  CHECK(run.at("decode/phase/download") ==
        doctest::Approx(layers * (750e-9 + token / rate)).epsilon(1e-6));
}

TEST_CASE("run: pages read and programmed by insti_dense, bytes over its links, capacity held") {
  for (const int count : {1, 2, 5}) {
    const DesignPoint point = small_point(
        "insti_dense", {"workload/batch=3", "workload/prompt_tokens=100",
                        "workload/output_tokens=60", "csd/0/count=" + std::to_string(count)});
    const RunResult run = run_alone(point);
    CAPTURE(count);
    const double pairs = 3 * kHeads / count;
    const auto groups = [](double context) { return std::floor(context / kGroup); };
    const double read =
        over_steps(point, [&](int context) { return 3 * pairs * 2 * groups(context) * kPage; });
    const double token = 3 * 3 * 5120 * 2;  // one of q, k, v and output: layers, batch, values
    const double last = 100 + 59;
    for (int i = 0; i < count; ++i) {
      const std::string drive = "csd/" + std::to_string(i);
      CHECK(run.at("decode_traffic/" + drive + "/flash/read") == read);
      CHECK(run.at("prefill_traffic/" + drive + "/flash/read") == 0);
      CHECK(run.at("prefill_traffic/" + drive + "/flash/programmed") ==
            3 * pairs * 2 * groups(100) * kPage);
      CHECK(run.at("decode_traffic/" + drive + "/flash/programmed") ==
            3 * pairs * 2 * (groups(last) - groups(100)) * kPage);
      CHECK(run.at("high_water/" + drive + "/flash") == 3 * pairs * 2 * groups(last) * kPage);
      // Group buffers, two store chunks, one staged block of heads.
      CHECK(run.at("high_water/" + drive + "/DRAM") ==
            3 * pairs * 2 * kPage + 2 * (64 << 20) +
                std::min(64.0, pairs) * 2 * groups(last) * kPage);
      CHECK(run.at("decode_traffic/pcie/" + drive + "/down/bytes") == 59 * 3 * token / count);
      CHECK(run.at("decode_traffic/pcie/" + drive + "/up/bytes") == 59 * token / count);
      CHECK(run.at("prefill_traffic/pcie/" + drive + "/down/bytes") == 100 * 2 * token / count);
    }
    CHECK(run.at("decode_traffic/pcie/gpu/0/up/bytes") == 59 * 3 * token);
    CHECK(run.at("decode_traffic/pcie/gpu/0/down/bytes") == 59 * token);
    // Weights, CUDA context, the prompt's workspace and one layer's KV on its way.
    const double hidden = 3 * 100 * 5120 * 2;
    const double weights = static_cast<double>(point.model.weight_bytes().count());
    CHECK(run.at("high_water/VRAM") ==
          weights + (600 << 20) + (2 + std::max(3 + 1, 4)) * hidden + 2 * hidden);
  }
}

TEST_CASE("run: pages read by insti_sparf are those that the kernels touch") {
  const Overrides all{"workload/batch=3", "workload/prompt_tokens=500",
                      "workload/output_tokens=20"};
  const DesignPoint point = small_point("insti_sparf", all);
  auto config = load_config(shipped_configs() / "design_points" / "insti_sparf_opt13b_a6000.json");
  apply_override(config, "system/kv_source/heads=4");
  apply_override(config, "system/kv_source/queries=2");
  SparsityConfig sparsity;
  KvSourceConfig source;
  read_fields(config.at("system").at("sparsity"), [&](FieldVisitor& v) { sparsity.fields(v); });
  read_fields(config.at("system").at("kv_source"), [&](FieldVisitor& v) { source.fields(v); });
  const kernels::PageGeometry geometry({128, 4096, 4});
  const SparfReads reads(geometry, {128, 1}, sparsity, source.synthetic, 1, 519);
  const int pairs = 3 * 40;
  const double pages = over_steps(point, [&](int context) {
    const std::vector<HeadReads> patterns = reads.at(context);
    std::int64_t sum = 0;
    for (int pair = 0; pair < pairs; ++pair) {
      sum += patterns[static_cast<std::size_t>(pair) % patterns.size()].pages();
    }
    return static_cast<double>(3 * sum);
  });
  const RunResult run = run_alone(point);
  CHECK(run.at("decode_traffic/csd/0/flash/read") == pages * kPage);
  // 32 token groups of K and V, and 32 channel groups with one chunk of 512 tokens.
  CHECK(run.at("high_water/csd/0/flash") == 3 * pairs * (2 * 32 + 32) * kPage);
  CHECK(run.at("prefill_traffic/csd/0/flash/programmed") == 3 * pairs * 2 * 31 * kPage);
  CHECK(run.at("decode_traffic/csd/0/flash/programmed") == 3 * pairs * (2 + 32) * kPage);
  CHECK(run.at("high_water/csd/0/DRAM") ==
        3 * pairs * (2 + 32) * kPage + 2 * (64 << 20) + 64 * (2 * 32 + 32) * kPage);
}

TEST_CASE("run: bytes of the baselines over the GPU's link, and memory held") {
  const double token = 3 * 2 * 2 * 5120 * 2;  // K and V: layers, batch, values
  for (const std::string system : {"deepspeed", "flexgen"}) {
    const DesignPoint point = small_point(system);
    const RunResult run = run_alone(point);
    CAPTURE(system);
    const double loaded = over_steps(point, [&](int context) { return (context - 1) * token; });
    CHECK(run.at("decode_traffic/pcie/gpu/0/down/bytes") == loaded);
    CHECK(run.at("decode_traffic/pcie/gpu/0/up/bytes") == 8 * token);
    CHECK(run.at("prefill_traffic/pcie/gpu/0/up/bytes") == 96 * token);
    CHECK(run.at("prefill_traffic/pcie/gpu/0/down/bytes") == 0);
    // Unfused attention holds the score matrix twice; flexgen a second layer's KV, and the scores
    // over the vocabulary of all tokens, which are more than a layer's workspace here.
    const double hidden = 2 * 96 * 5120 * 2;
    const double scores = 2 * 40 * 96 * 96 * 2;
    const double kv = 2 * hidden * (point.system_kind == "flexgen" ? 2 : 1);
    const double weights = static_cast<double>(point.model.weight_bytes().count());
    const double workspace = system == "flexgen" ? 2 * 96 * 50272 * 2 : 6 * hidden + 2 * scores;
    CHECK(run.at("high_water/VRAM") == weights + (600 << 20) + workspace + kv);
  }
}

// -- Out of memory ------------------------------------------------------------------------------

TEST_CASE("run: claim C07: flexgen runs at batch 64 and is out of VRAM at 128; insti runs at 256") {
  const auto status = [](const std::string& system, int batch) {
    return run_alone(shipped_point(
        system, {"workload/batch=" + std::to_string(batch), "workload/output_tokens=2"}));
  };
  CHECK(status("flexgen", 64).status == RunStatus::ok);
  const RunResult overflow = status("flexgen", 128);
  CHECK(overflow.status == RunStatus::out_of_memory);
  CHECK(overflow.detail ==
        "out_of_memory: VRAM: prefill workspace needs 29.53 GB, 25.2 GB of 51.54 GB are free");
  CHECK(status("insti_dense", 256).status == RunStatus::ok);
  CHECK(status("insti_sparf", 256).status == RunStatus::ok);
}

TEST_CASE("run: each memory that is too small is a result that names it") {
  struct Case {
    std::string system;
    Overrides overrides;
    std::string detail;
  };
  const std::vector<Case> cases{
      {"insti_dense",
       {"gpu/0/memory_capacity=3062MB"},
       "out_of_memory: VRAM: prefill workspace needs "},
      {"insti_dense",
       {"csd/0/flash/blocks_per_plane=1", "csd/0/flash/pages_per_block=8"},
       "out_of_memory: CSD flash: KV cache needs 11.8 MB, 8.389 MB of 8.389 MB are free"},
      {"insti_dense",
       {"csd/0/dram/capacity=128MiB"},
       "out_of_memory: CSD DRAM: store chunks needs "},
      {"insti_sparf",
       {"csd/0/dram/capacity=64MiB", "csd/0/store_chunk=1MiB", "workload/batch=8"},
       "out_of_memory: CSD DRAM: channel group buffers needs "},
      {"flexgen", {"host/dram=10GiB"}, "out_of_memory: host DRAM: relay buffers needs "},
      {"flexgen", {"host/dram=12GiB"}, "out_of_memory: host DRAM: page cache needs 2.097 MB"},
      {"flexgen", {"host/swap/size=1GiB", "ssd/0/capacity=1084MB"}, "out_of_memory: SSD: layer 2 "},
      {"deepspeed",
       {"host/dram=4128MiB", "host/swap/size=0B", "workload/prompt_tokens=400"},
       "out_of_memory: host DRAM and swap: anonymous needs "},
      {"deepspeed", {"gpu/0/memory_capacity=3069MB"}, "out_of_memory: VRAM: KV of one layer "},
  };
  for (const Case& c : cases) {
    const RunResult run = run_alone(small_point(c.system, c.overrides));
    CAPTURE(c.system);
    CAPTURE(c.overrides.front());
    CHECK(run.status == RunStatus::out_of_memory);
    CHECK_MESSAGE(run.detail.starts_with(c.detail), run.detail);
    CHECK(run.detail.find('\n') == std::string::npos);
    CHECK(run.metrics.count("throughput") == 0);
    CHECK(run.at("high_water/VRAM") > 0);
    for (const auto& [name, value] : run.metrics) {
      CHECK_MESSAGE(name.starts_with("high_water/"), name);
    }
  }
}

TEST_CASE("run: weights that do not fit VRAM are infeasible, with what would help") {
  for (const std::string system : {"deepspeed", "insti_dense", "insti_sparf"}) {
    const RunResult run = run_alone(small_point(system, {"gpu/0/memory_capacity=3GB"}));
    CAPTURE(system);
    CHECK(run.status == RunStatus::infeasible);
    CHECK_MESSAGE(run.detail.starts_with("infeasible: VRAM: the weights of OPT-13B take "),
                  run.detail);
    CHECK(run.detail.find("parallelism/tensor") != std::string::npos);
    CHECK(run.metrics.count("throughput") == 0);
  }
}

TEST_CASE("run: after an overflow at any stage the next run of the process is as ever") {
  // Before the workers exist, in prefill, inside the event loop under two streams, in decode.
  const std::vector<std::pair<std::string, Overrides>> overflows{
      {"insti_dense", {"gpu/0/memory_capacity=3GB"}},
      {"insti_sparf", {"gpu/0/memory_capacity=3062MB"}},
      {"flexgen", {"host/dram=12GiB"}},
      {"flexgen",
       {"gpu/0/memory_capacity=3080MB", "workload/prompt_tokens=16", "workload/batch=1",
        "workload/output_tokens=2000", "simulation/fidelity=sampled"}},
      {"deepspeed", {"gpu/0/memory_capacity=3069MB"}},
  };
  for (const auto& [system, overrides] : overflows) {
    CAPTURE(system);
    const DesignPoint too_small = small_point(system, overrides);
    const RunOutcome first = run_design_point(too_small);
    CHECK_MESSAGE(first.status != RunStatus::ok, overrides.front());
    CHECK(run_design_point(too_small).status_detail == first.status_detail);
    for (const std::string& next : all_systems()) {
      const DesignPoint point = small_point(next);
      const RunResult alone = run_alone(point);
      const RunOutcome here = run_design_point(point);
      REQUIRE(here.status == RunStatus::ok);
      CHECK(here.metrics.at("decode_time") ==
            doctest::Approx(alone.at("decode_time")).epsilon(1e-9));
    }
  }
}

// -- Determinism --------------------------------------------------------------------------------

TEST_CASE("run: the same point twice gives equal digests and metrics") {
  for (const std::string& system : all_systems()) {
    for (const char* fidelity : {"simulation/fidelity=reuse", "simulation/fidelity=sampled"}) {
      CAPTURE(system);
      check_equal(run_alone(small_point(system, {fidelity})),
                  run_alone(small_point(system, {fidelity})));
    }
  }
}

TEST_CASE("run: one point object may be run again") {
  for (const std::string& system : all_systems()) {
    const DesignPoint point = small_point(system, {"simulation/fidelity=sampled"});
    const RunOutcome first = run_design_point(point);
    const RunOutcome second = run_design_point(point);
    REQUIRE(second.status == RunStatus::ok);
    CHECK(second.metrics.all().size() == first.metrics.all().size());
    for (const Metric& metric : first.metrics.all()) {
      CAPTURE(metric.name);
      // Flows of a second engine of a process may end 1 ps apart.
      CHECK(second.metrics.at(metric.name) == doctest::Approx(metric.value).epsilon(1e-7));
    }
  }
}

TEST_CASE("run: the seed changes insti_sparf and nothing else") {
  for (const std::string& system : all_systems()) {
    CAPTURE(system);
    const Overrides longer{"workload/prompt_tokens=500"};
    const RunResult one = run_alone(small_point(system, longer));
    const RunResult other = run_alone(small_point(system, longer + Overrides{"simulation/seed=2"}));
    if (system == "insti_sparf") {
      CHECK(one.digest != other.digest);
      CHECK(one.at("decode_time") != other.at("decode_time"));
      CHECK(one.at("decode_time") == doctest::Approx(other.at("decode_time")).epsilon(0.1));
    } else {
      check_equal(one, other);
    }
  }
}

// -- Shapes and counts --------------------------------------------------------------------------

TEST_CASE("run: grouped queries: a KV head serves eight query heads") {
  const auto llama = [](const std::string& system, const Overrides& overrides) {
    auto config =
        load_config(shipped_configs() / "design_points" / (system + "_opt13b_a6000.json"));
    set_existing(config, "/model", load_config(shipped_configs() / "models/llama-2-70b.json"),
                 "the test");
    for (const std::string& one :
         Overrides{"model/layers=2", "workload/batch=4", "workload/prompt_tokens=300",
                   "workload/output_tokens=20", "simulation/fidelity=reuse"} +
             overrides) {
      apply_override(config, one);
    }
    if (system == "insti_sparf") {
      apply_override(config, "system/kv_source/heads=4");
      apply_override(config, "system/kv_source/queries=2");
    }
    DesignPoint point;
    read_fields(config, [&point](FieldVisitor& v) { point.fields(v); });
    return point;
  };
  for (const std::string& system : all_systems()) {
    CAPTURE(system);
    const RunResult run = run_alone(llama(system, {}));
    CHECK(run.status == RunStatus::ok);
    CHECK(run.at("throughput") > 0);
  }
  const DesignPoint point = llama("insti_dense", {"csd/0/count=2"});
  const RunResult run = run_alone(point);
  const double read = over_steps(point, [&](int context) {
    return 2 * 4 * (8 / 2) * 2 * std::floor(context / kGroup) * kPage;
  });
  CHECK(run.at("decode_traffic/csd/1/flash/read") == read);
  // q has 64 heads, k and v 8 each; half of them on each drive.
  CHECK(run.at("decode_traffic/pcie/csd/1/down/bytes") == 19 * 2 * 4 * (64 + 8 + 8) * 128 * 2 / 2);
  CHECK(run.at("decode_traffic/pcie/csd/1/up/bytes") == 19 * 2 * 4 * 64 * 128 * 2 / 2);
  check_equal(run, run_alone(llama("insti_dense", {"csd/0/count=2", "simulation/fidelity=exact"})));
}

TEST_CASE("run: more drives share the heads: faster, but less than in proportion") {
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    CAPTURE(system);
    const auto decode_time = [&](int count) {
      return run_alone(small_point(system, {"workload/batch=16", "workload/prompt_tokens=1000",
                                            "workload/output_tokens=3",
                                            "csd/0/count=" + std::to_string(count)}))
          .at("decode_time");
    };
    const double one = decode_time(1);
    double before = one;
    for (const int count : {2, 4, 8}) {
      const double now = decode_time(count);
      CAPTURE(count);
      CHECK(now < before);
      CHECK(now > one / count);
      before = now;
    }
  }
}

TEST_CASE("run: the smallest workload of one layer runs in every system") {
  for (const std::string& system : all_systems()) {
    for (const char* fidelity : {"simulation/fidelity=exact", "simulation/fidelity=reuse",
                                 "simulation/fidelity=sampled"}) {
      const RunResult run = run_alone(
          small_point(system, {"model/layers=1", "workload/batch=1", "workload/prompt_tokens=1",
                               "workload/output_tokens=2", fidelity}));
      CAPTURE(system);
      CHECK(run.status == RunStatus::ok);
      CHECK(run.at("decode_steps_simulated") == 1);
      CHECK(run.at("decode_time_bound") == 0);
    }
  }
}

TEST_CASE("run: a pair's KV larger than a store chunk takes the DRAM that it needs") {
  // 300 tokens of a head are 150 KiB; two of them are in the drive at a time.
  const RunResult run = run_alone(
      small_point("insti_dense", {"csd/0/store_chunk=64KiB", "workload/prompt_tokens=300"}));
  CHECK(run.at("high_water/csd/0/DRAM") ==
        3 * 2 * kHeads * 2 * kPage + 2 * 300 * 2 * 128 * 2 + 64 * 2 * 19 * kPage);
}
