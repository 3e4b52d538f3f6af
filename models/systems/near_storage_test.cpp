#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/systems/test_batches.hpp"

using namespace nearkv;

namespace {

constexpr double kPage = 4096;
constexpr double kGroup = 16;  // tokens of OPT's heads in a page
constexpr double kHeads = 40;
constexpr double kRow = 128 * 2;                  // K or V of a head
constexpr double kSlot = kPage / 1.4e9 + 950e-9;  // of a channel's bus, a page
constexpr double kHidden = 5120 * 2;

const Overrides kInfiniteGpu{"gpu/0/memory_bandwidth=1000000TB/s", "gpu/0/tensor_peak=1000PFLOP/s",
                             "gpu/0/kernel_launch=0ns"};
const Overrides kInfinitePcie{
    "pcie/generations/3/lane_rate=1000TB/s", "pcie/root_peer_to_peer/rate=1000TB/s",
    "pcie/root_peer_to_peer/latency=0ns",    "host/dram_rate=10000TB/s",
    "pcie/ports/0/link/latency=0ns",         "pcie/ports/2/link/latency=0ns"};
const Overrides kInfiniteCsd{
    "csd/0/nvme/host_submit=0ns",        "csd/0/nvme/doorbell=0ns",
    "csd/0/nvme/command_fetch=0ns",      "csd/0/nvme/completion=0ns",
    "csd/0/engine/attend_cost=0ns",      "csd/0/controller/completion_cost=0ns",
    "csd/0/controller/command_cost=0ns", "csd/0/engine/gemv_rate=1PFLOP/s",
    "csd/0/engine/softmax_latency=0ns",  "csd/0/engine/feed/heads_per_block=1000000"};
const Overrides kInfiniteFlash{
    "csd/0/flash/mega_transfers=100000", "csd/0/flash/read_command/bus=0ns",
    "csd/0/flash/program_command/bus=0ns", "csd/0/flash/t_read=1ps", "csd/0/flash/t_program=1ps"};
const Overrides kNoWriteBack{R"(system/write_back={"kind": "none"})"};
const Overrides kNoCache{R"(system/cooperative_cache={"kind": "none"})"};
Overrides share(const std::string& of_sequences) {
  return {R"(system/cooperative_cache={"kind": "share", "share": )" + of_sequences + "}"};
}
const Overrides kFastHost{R"(system/write_back={"kind": "delayed", "spill_tokens": 16,
    "host_score_rate": {"value": "1000TFLOP/s", "source": "assumed", "citation": "a test"}})"};

DesignPoint point_of(const Overrides& overrides) {
  return small_point("near_storage_writeback",
                     Overrides{"csd/0/flash/read_command/bus=950ns"} + overrides);
}

double groups(int context) { return std::floor(context / kGroup); }

}  // namespace

TEST_CASE("near storage: with both techniques off it does what insti_dense does") {
  for (const Overrides& all :
       {Overrides{}, Overrides{"csd/0/count=3", "workload/batch=5", "workload/prompt_tokens=250"},
        Overrides{"csd/0/count=2", "system/division=sequences", "parallelism/tensor=2"}}) {
    CAPTURE(all.size());
    RunResult off = run_alone(point_of(kNoWriteBack + kNoCache + all));
    const RunResult insti = run_alone(small_point("insti_dense", all));
    CHECK(off.digest == insti.digest);
    for (const auto& [name, value] : insti.metrics) {
      CAPTURE(name);
      CHECK(off.at(name) == value);
    }
  }
}

// -- Delayed write-back -------------------------------------------------------------------------

TEST_CASE("near storage: write-back moves whole pages, and what waits goes with the commands") {
  // A prompt of 100 leaves 4 tokens over. At 112, 128 and 144 tokens 16 of them spill.
  const RunResult run = run_alone(
      point_of(kNoCache + Overrides{"workload/prompt_tokens=100", "workload/output_tokens=50"}));
  const double pairs = 3 * 2 * kHeads;  // layers x sequences x heads
  double read = 0;
  double waiting = 0;
  for (int context = 101; context <= 149; ++context) {
    const double spilled = groups(context - 1);
    read += 2 * spilled;
    waiting += context - kGroup * spilled;
  }
  CHECK(run.at("decode_traffic/csd/0/flash/read") == pairs * read * kPage);
  CHECK(run.at("decode_traffic/csd/0/flash/programmed") == pairs * 2 * 3 * kPage);
  CHECK(run.at("prefill_traffic/csd/0/flash/programmed") == pairs * 2 * 6 * kPage);
  CHECK(run.at("high_water/csd/0/group buffers") == 0);
  // q of each step, a score and a row of V for each token that waits, and three spills.
  CHECK(run.at("decode_traffic/pcie/csd/0/down/bytes") ==
        pairs * (49 * kRow + waiting * (2 + kRow) + 3 * 2 * kPage));
  CHECK(run.at("decode_traffic/pcie/csd/0/up/bytes") == pairs * 49 * kRow);
  CHECK(run.at("decode_traffic/pcie/gpu/0/up/bytes") == pairs * 49 * (1 + 3) * kRow);
  CHECK(run.at("prefill_traffic/pcie/csd/0/down/bytes") == pairs * 2 * 6 * kPage);
  CHECK(run.at("prefill_traffic/pcie/gpu/0/up/bytes") == pairs * 100 * 2 * kRow);
  CHECK(run.at("high_water/write-back buffers") == pairs * 2 * 16 * 2 * kRow);
}

TEST_CASE("near storage: spills may be larger, and then they are fewer") {
  const auto run = [](int tokens) {
    return run_alone(
        point_of(kNoCache + Overrides{"workload/prompt_tokens=100", "workload/output_tokens=50",
                                      "system/write_back/spill_tokens=" + std::to_string(tokens)}));
  };
  const RunResult large = run(48);  // at 144 tokens
  CHECK(large.at("decode_traffic/csd/0/flash/programmed") ==
        run(16).at("decode_traffic/csd/0/flash/programmed"));
  CHECK(run(64).at("decode_traffic/csd/0/flash/programmed") == 0);
  CHECK(large.at("decode_traffic/csd/0/flash/read") <
        run(16).at("decode_traffic/csd/0/flash/read"));
}

TEST_CASE("near storage: with infinite compute write-back takes the time of the flash channels") {
  const DesignPoint point =
      point_of(kNoCache + kFastHost + kInfiniteGpu + kInfinitePcie + kInfiniteCsd +
               Overrides{"workload/batch=16", "workload/prompt_tokens=1024",
                         "workload/output_tokens=4", "csd/0/flash/t_read=1ps"});
  const RunResult run = run_alone(point);
  const double pages = 3 * 16 * kHeads * 2 * 3 * groups(1024);
  CHECK(run.at("decode_time") == doctest::Approx(pages / 8 * kSlot).epsilon(0.001));
}

// -- Cooperative cache --------------------------------------------------------------------------

TEST_CASE("near storage: inputs are half of K and V, on flash and on the way to the GPU") {
  for (const Overrides& variant : {Overrides{}, Overrides{"csd/0/count=3"},
                                   Overrides{"csd/0/count=3", "system/division=sequences"}}) {
    const RunResult run = run_alone(
        point_of(kNoWriteBack + share("0.5") + variant + Overrides{"workload/prompt_tokens=100"}));
    double read = 0;
    double inputs = 0;
    double programmed = 0;
    double to_gpu = 0;
    double to_drives = 0;
    const int count = variant.empty() ? 1 : 3;
    for (int drive = 0; drive < count; ++drive) {
      const std::string name = "csd/" + std::to_string(drive);
      read += run.at("decode_traffic/" + name + "/flash/read");
      programmed += run.at("prefill_traffic/" + name + "/flash/programmed");
      to_gpu += run.at("decode_traffic/pcie/" + name + "/up/bytes");
      to_drives += run.at("decode_traffic/pcie/" + name + "/down/bytes");
    }
    const double rows = 3 * kHeads;  // layers x heads, of one of the two sequences
    double kv_pages = 0;
    double input_pages = 0;
    for (int context = 101; context <= 108; ++context) {
      kv_pages += 2 * groups(context);
      input_pages += groups(context - 1);
      inputs += context - 1;
    }
    CHECK(read == rows * (kv_pages + input_pages) * kPage);
    CHECK(programmed == rows * 3 * groups(100) * kPage);
    CHECK(to_gpu == 3 * (8 * kHidden + inputs * kHidden));
    CHECK(to_drives == 3 * 8 * 3 * kHidden);
  }
}

TEST_CASE("near storage: with all else infinite loading takes the time of the drive's link") {
  const DesignPoint point = point_of(
      kNoWriteBack + share("1") + kInfiniteGpu + kInfiniteCsd + kInfiniteFlash +
      Overrides{"pcie/ports/2/link/lanes=1", "pcie/ports/2/link/latency=0ns",
                "pcie/ports/0/link/latency=0ns", "pcie/root_peer_to_peer/latency=0ns",
                "workload/batch=16", "workload/prompt_tokens=500", "csd/0/store_chunk=1MiB"});
  const RunResult run = run_alone(point);
  const double rate = std::floor(1969230769.0 * 256 / 280 * 0.972);
  double bytes = 0;
  for (int context = 501; context <= 508; ++context) {
    bytes += 3 * 16 * (context - 1) * kHidden;
  }
  CHECK(run.at("decode_time") == doctest::Approx(bytes / rate).epsilon(0.001));
}

TEST_CASE("near storage: with all else infinite both kinds of sequences share the flash channels") {
  const DesignPoint point =
      point_of(kNoWriteBack + share("0.5") + kInfiniteGpu + kInfinitePcie + kInfiniteCsd +
               Overrides{"workload/batch=32", "workload/prompt_tokens=1024",
                         "workload/output_tokens=4", "csd/0/flash/t_read=1ps"});
  double pages = 0;
  for (int context = 1025; context <= 1027; ++context) {
    pages += 3 * 16 * kHeads * (2 * groups(context) + groups(context - 1));
  }
  CHECK(run_alone(point).at("decode_time") == doctest::Approx(pages / 8 * kSlot).epsilon(0.001));
}

TEST_CASE("near storage: the balanced share follows from flash and PCIe") {
  const auto share_of = [](const Overrides& overrides) {
    return run_alone(point_of(overrides)).at("cooperative_cache/share");
  };
  const double flash = 8 * kPage / kSlot;
  const double link = std::floor(1969230769.0 * 4 * 256 / 280 * 0.972);
  CHECK(share_of({}) == doctest::Approx(2 * link / (flash + link)).epsilon(1e-6));
  // Three drives: three links, and all of their flash. The GPU's link takes less than eight bring.
  CHECK(share_of({"csd/0/count=3"}) == doctest::Approx(2 * link / (flash + link)).epsilon(1e-6));
  CHECK(share_of({"csd/0/count=16"}) < 0.5);
  CHECK(share_of({"csd/0/flash/channels=1"}) == 1);
  const DesignPoint grouped = point_of({"model/kv_heads=8"});
  CHECK(run_alone(grouped).at("cooperative_cache/share") == 0);
  const std::vector<std::string> notes = run_batch(grouped, Batch({{2, 20, 3}})).notes;
  REQUIRE(notes.size() == 1);
  CHECK(
      notes[0] ==
      "cooperative cache: none, since layer inputs are no smaller than the K and V of this model");
}

TEST_CASE("near storage: the GPUs compute K and V of all inputs in every layer") {
  const auto flops = [](const std::string& of_sequences) {
    const DesignPoint point = point_of(kNoWriteBack + share(of_sequences));
    Machine machine(point);
    ParallelModel model(machine, point);
    auto& system = dynamic_cast<BatchSystem&>(*point.system);
    const Batch batch({{4, 96, 2}});
    double found = 0;
    machine.engine().spawn("driver", machine.host_node(), [&] {
      RunContext context{point, machine, model, &batch};
      system.place(context);
      system.begin_batch(context);
      system.prefill(context);
      const auto before = machine.gpu().counters().flops;
      system.decode_step(context, 0);
      found = static_cast<double>(machine.gpu().counters().flops - before);
      system.finish_batch(context);
      machine.stop_workers();
    });
    machine.engine().run();
    return found;
  };
  // One step of two of four sequences: 96 tokens each, and attention over 97.
  const double recomputed = 3 * 2 * (2.0 * 96 * 5120 * 2 * 5120 + 4.0 * 97 * 5120);
  CHECK(flops("0.5") - flops("0") == recomputed);
}

// -- All together -------------------------------------------------------------------------------

TEST_CASE("near storage: reuse equals exact in every bit, sampling lies within its bound") {
  for (const Overrides& variant : {Overrides{}, Overrides{"csd/0/count=3", "workload/batch=5"},
                                   kNoWriteBack + share("0.4") + Overrides{"workload/batch=5"}}) {
    const Overrides all =
        Overrides{"workload/prompt_tokens=250", "workload/output_tokens=60"} + variant;
    const auto run = [&](const std::string& fidelity) {
      return run_alone(point_of(all + Overrides{"simulation/fidelity=" + fidelity}));
    };
    const RunResult exact = run("exact");
    const RunResult reuse = run("reuse");
    REQUIRE_MESSAGE(exact.status == RunStatus::ok, exact.detail);
    CHECK(exact.digest == reuse.digest);
    CHECK(exact.metrics == reuse.metrics);
    const RunResult sampled = run("sampled");
    const double truth = reuse.at("decode_time");
    const double error = std::abs(sampled.at("decode_time") - truth);
    MESSAGE("off by ", 100 * error / truth, " %, bound ",
            100 * sampled.at("decode_time_bound") / truth, " %, ",
            sampled.at("decode_steps_simulated"), " steps");
    CHECK(error <= sampled.at("decode_time_bound") + 1e-9 * truth);
    for (const char* name :
         {"kv_ftl/csd/0/programs", "high_water/csd/0/group buffers", "high_water/csd/0/flash"}) {
      CAPTURE(name);
      CHECK(sampled.at(name) == reuse.at(name));
    }
  }
}

TEST_CASE("near storage: the phases add up, halving any rate is never faster") {
  const Overrides all{"csd/0/count=3", "workload/batch=6", "workload/prompt_tokens=300"};
  const RunResult full = run_alone(point_of(all));
  double phases = 0;
  for (const auto& [name, value] : full.metrics) {
    phases += name.starts_with("decode/phase/") ? value : 0;
  }
  CHECK(phases == doctest::Approx(full.at("decode_time")).epsilon(1e-9));
  const std::string share_now = R"(system/cooperative_cache={"kind": "share", "share": )" +
                                std::to_string(full.at("cooperative_cache/share")) + "}";
  for (const char* half :
       {"gpu/0/memory_bandwidth=384GB/s", "gpu/0/tensor_peak=77.4TFLOP/s",
        "pcie/ports/2/link/lanes=2", "pcie/ports/0/link/lanes=8", "host/dram_rate=52.5GB/s",
        "csd/0/flash/mega_transfers=700", "csd/0/flash/t_program=370us",
        "csd/0/engine/gemv_rate=6.35GFLOP/s", "csd/0/nvme/host_submit=10us"}) {
    CAPTURE(half);
    const RunResult slower = run_alone(point_of(all + Overrides{share_now, half}));
    CHECK(slower.at("decode_time") >= full.at("decode_time") * (1 - 1e-9));
    CHECK(slower.at("prefill_time") >= full.at("prefill_time") * (1 - 1e-9));
  }
}

TEST_CASE("near storage: ragged batches, one after another") {
  const Batch batch({{2, 96, 9}, {1, 40, 20}, {3, 200, 4}});
  for (const Overrides& variant :
       {Overrides{"csd/0/count=3"}, kNoWriteBack + share("0.5"),
        Overrides{"system/division=sequences", "csd/0/count=4", "parallelism/tensor=2"}}) {
    const BatchRun once = run_batch(point_of(variant), batch);
    const BatchRun twice = run_batch(point_of(variant), batch, 2);
    CHECK(twice.decode_time() == doctest::Approx(once.decode_time()).epsilon(1e-9));
    CHECK(twice.pages_programmed == 2 * once.pages_programmed);
  }
}

TEST_CASE("near storage: host memory that is too small for what waits is a result") {
  const RunResult run = run_alone(point_of(
      {"host/dram=4200MiB", "host/reserved=4GiB", "workload/batch=64", "model/layers=40"}));
  CHECK(run.status == RunStatus::out_of_memory);
  CHECK_MESSAGE(run.detail.starts_with("out_of_memory: host DRAM: KV that is not written back yet"),
                run.detail);
}
