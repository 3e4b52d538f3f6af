// What insti does beside the paper's runs (run_test.cpp): ragged batches, heads that drives do not
// share evenly, division by sequences, several GPUs, and the overlap of GPU and CSDs.
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
constexpr double kSlot = kPage / 1.4e9 + 950e-9;  // of a channel's bus, a page
constexpr double kRow = 128 * 2;                  // K or V of a head

const Overrides kInfiniteGpu{"gpu/0/memory_bandwidth=1000000TB/s", "gpu/0/tensor_peak=1000PFLOP/s",
                             "gpu/0/kernel_launch=0ns"};
const Overrides kInfinitePcie{
    "pcie/generations/3/lane_rate=1000TB/s", "pcie/root_peer_to_peer/rate=1000TB/s",
    "pcie/root_peer_to_peer/latency=0ns",    "host/dram_rate=10000TB/s",
    "pcie/ports/0/link/latency=0ns",         "pcie/ports/2/link/latency=0ns"};
const Overrides kInfiniteCsd{"csd/0/nvme/host_submit=0ns",
                             "csd/0/nvme/doorbell=0ns",
                             "csd/0/nvme/command_fetch=0ns",
                             "csd/0/nvme/completion=0ns",
                             "csd/0/engine/attend_cost=0ns",
                             "csd/0/controller/completion_cost=0ns",
                             "csd/0/engine/gemv_rate=1PFLOP/s",
                             "csd/0/engine/softmax_latency=0ns",
                             "csd/0/engine/feed/heads_per_block=1000000",
                             "csd/0/flash/t_read=1ps"};

double groups(int context) { return std::floor(context / kGroup); }

Overrides drives(int count) { return {"csd/0/count=" + std::to_string(count)}; }

}  // namespace

// -- Division -----------------------------------------------------------------------------------

TEST_CASE("insti: the drive with the most heads sets the time") {
  // 40 heads on 3 drives: 14, 13 and 13.
  for (const int count : {3, 7, 40, 64}) {
    CAPTURE(count);
    const DesignPoint point =
        small_point("insti_dense", kInfiniteGpu + kInfinitePcie + kInfiniteCsd + drives(count) +
                                       Overrides{"workload/batch=64", "workload/prompt_tokens=1024",
                                                 "workload/output_tokens=3"});
    const RunResult run = run_alone(point);
    const double most = std::ceil(kHeads / count);
    const double pages = 3 * 64 * most * 2 * (groups(1025) + groups(1026));
    CHECK(run.at("decode_time") == doctest::Approx(pages / 8 * kSlot).epsilon(0.002));
    double read = 0;
    for (int drive = 0; drive < count; ++drive) {
      read += run.at("decode_traffic/csd/" + std::to_string(drive) + "/flash/read");
    }
    CHECK(read == 3 * 64 * kHeads * 2 * (groups(1025) + groups(1026)) * kPage);
  }
}

TEST_CASE("insti: each drive moves and holds what its heads need") {
  const RunResult run = run_alone(small_point("insti_dense", drives(3)));
  const double of_drive[] = {14, 13, 13};
  for (int drive = 0; drive < 3; ++drive) {
    const std::string name = "csd/" + std::to_string(drive);
    const double rows = 3 * 2 * of_drive[drive];  // layers x sequences x heads
    CHECK(run.at("decode_traffic/pcie/" + name + "/down/bytes") == 8 * rows * 3 * kRow);
    CHECK(run.at("decode_traffic/pcie/" + name + "/up/bytes") == 8 * rows * kRow);
    CHECK(run.at("prefill_traffic/pcie/" + name + "/down/bytes") == 96 * rows * 2 * kRow);
    CHECK(run.at("high_water/" + name + "/flash") == rows * 2 * groups(96 + 8) * kPage);
  }
}

TEST_CASE("insti: drives beyond the KV heads idle; divided by sequences all of them work") {
  const Overrides gqa{"model/kv_heads=4", "workload/batch=6"};
  const RunResult four = run_alone(small_point("insti_dense", gqa + drives(4)));
  const DesignPoint point = small_point("insti_dense", gqa + drives(6));
  const RunResult six = run_alone(point);
  CHECK(six.at("decode_time") == doctest::Approx(four.at("decode_time")).epsilon(1e-9));
  CHECK(six.at("decode_traffic/csd/5/flash/read") == 0);
  CHECK(six.at("high_water/csd/5/DRAM") == 0);
  CHECK(six.at("kv_ftl/csd/5/programs") == 0);
  const std::vector<std::string> notes = point.system->notes(point);
  REQUIRE(notes.size() == 1);
  CHECK(
      notes[0] ==
      "2 of 6 CSDs hold nothing: the model has 4 KV heads (system/division = sequences uses all)");
  const DesignPoint by_sequences =
      small_point("insti_dense", gqa + drives(6) + Overrides{"system/division=sequences"});
  CHECK(by_sequences.system->notes(by_sequences).empty());
  const RunResult all = run_alone(by_sequences);
  CHECK(all.at("decode_traffic/csd/5/flash/read") == all.at("decode_traffic/csd/0/flash/read"));
  CHECK(all.at("decode_time") < six.at("decode_time"));
}

TEST_CASE("insti: equal shares take equal time, whatever they are shares of") {
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    CAPTURE(system);
    const Overrides all = drives(4) + Overrides{"workload/batch=8", "workload/prompt_tokens=500"};
    const RunResult heads = run_alone(small_point(system, all));
    const RunResult sequences =
        run_alone(small_point(system, all + Overrides{"system/division=sequences"}));
    CHECK(heads.digest == sequences.digest);
    for (const auto& [name, value] : heads.metrics) {
      CAPTURE(name);
      const bool of_own_tokens = name.find("/writable_tokens") != std::string::npos;
      CHECK((of_own_tokens || sequences.at(name) == value));
    }
  }
}

TEST_CASE("insti: sequences that do not divide: the drive with the most sets the time") {
  const DesignPoint point = small_point(
      "insti_dense", kInfiniteGpu + kInfinitePcie + kInfiniteCsd + drives(3) +
                         Overrides{"workload/batch=64", "workload/prompt_tokens=1024",
                                   "workload/output_tokens=3", "system/division=sequences"});
  const double pages = 3 * 22 * kHeads * 2 * (groups(1025) + groups(1026));
  CHECK(run_alone(point).at("decode_time") == doctest::Approx(pages / 8 * kSlot).epsilon(0.002));
}

// -- Ragged batches -----------------------------------------------------------------------------

TEST_CASE("insti: a workload of equal lengths equals the fixed batch to the picosecond") {
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    CAPTURE(system);
    const RunResult fixed = run_alone(small_point(system, {"workload/batch=3"}));
    const RunResult lengths =
        run_alone(small_point(system, {R"(workload={"kind": "lengths", "requests": 3,
                    "prompt": {"kind": "fixed", "tokens": 96},
                    "output": {"kind": "fixed", "tokens": 9},
                    "longest": {"prompt_tokens": 1000, "output_tokens": 100, "beyond": "refuse"},
                    "arrivals": {"kind": "at_start"},
                    "batching": {"order": "arrival", "sequences": 8, "padded": false,
                                 "wait": "0s"},
                    "limits": []})"}));
    REQUIRE(lengths.status == RunStatus::ok);
    CHECK(lengths.digest == fixed.digest);
    CHECK(lengths.at("decode_time") == fixed.at("decode_time"));
    CHECK(lengths.at("prefill_time") == fixed.at("prefill_time"));
  }
}

TEST_CASE("insti: a ragged batch reads and moves what each of its sequences needs") {
  const Batch batch({{2, 96, 9}, {1, 40, 20}, {3, 200, 4}, {1, 12, 30}});
  for (const char* overlap : {"none", "two_batches"}) {
    for (const char* division : {"heads", "sequences"}) {
      CAPTURE(overlap);
      CAPTURE(division);
      const DesignPoint point = small_point(
          "insti_dense", drives(3) + Overrides{std::string("system/division=") + division,
                                               std::string("system/gpu_csd_overlap=") + overlap});
      const BatchRun run = run_batch(point, batch);
      double read = 0;
      double tokens = 0;
      double prompts = 0;
      double programmed = 0;
      for (const SequenceGroup& group : batch.groups()) {
        for (int step = 0; step < group.decode_steps(); ++step) {
          read += group.sequences * groups(group.context_of(step));
          tokens += group.sequences;
        }
        prompts += group.sequences * group.prompt_tokens;
        programmed += group.sequences * groups(group.longest_context());
      }
      const double rows = 3 * kHeads;  // layers x heads
      double found_read = 0;
      double found_programmed = 0;
      for (const std::string drive : {"csd/0", "csd/1", "csd/2"}) {
        found_read += run.decode.at(drive + "/flash/read");
        found_programmed += run.decode.at(drive + "/flash/programmed") +
                            run.prefill.at(drive + "/flash/programmed");
      }
      CHECK(found_read == rows * 2 * read * kPage);
      CHECK(found_programmed == rows * 2 * programmed * kPage);
      CHECK(run.decode.at("pcie/gpu/0/up/bytes") == rows * tokens * 3 * kRow);
      CHECK(run.decode.at("pcie/gpu/0/down/bytes") == rows * tokens * kRow);
      CHECK(run.prefill.at("pcie/gpu/0/up/bytes") == rows * prompts * 2 * kRow);
      // The three that end after 3 steps leave the batch.
      REQUIRE(run.step_times.size() == 29);
      CHECK(run.step_times[3] < run.step_times[2]);
      CHECK(run.step_times[8] < run.step_times[7]);
    }
  }
}

TEST_CASE("insti: with all else infinite a ragged batch takes the time of its flash channels") {
  const Batch batch({{16, 1024, 4}, {32, 512, 3}, {5, 800, 2}});
  const BatchRun run =
      run_batch(small_point("insti_dense", kInfiniteGpu + kInfinitePcie + kInfiniteCsd), batch);
  double pages = 0;
  for (const SequenceGroup& group : batch.groups()) {
    for (int step = 0; step < group.decode_steps(); ++step) {
      pages += 3 * kHeads * group.sequences * 2 * groups(group.context_of(step));
    }
  }
  CHECK(run.decode_time() == doctest::Approx(pages / 8 * kSlot).epsilon(0.001));
}

namespace {

/// Six requests of drawn lengths in one batch.
std::string ragged_workload() {
  return R"(workload={"kind": "lengths", "requests": 6,
             "prompt": {"kind": "uniform", "least": 60, "most": 260},
             "output": {"kind": "uniform", "least": 4, "most": 60},
             "longest": {"prompt_tokens": 1000, "output_tokens": 100, "beyond": "refuse"},
             "arrivals": {"kind": "at_start"},
             "batching": {"order": "arrival", "sequences": 6, "padded": false, "wait": "0s"},
             "limits": []})";
}

}  // namespace

TEST_CASE("insti: reuse equals exact, and sampling lies within its bound, for ragged batches") {
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    for (const char* overlap : {"none", "two_batches"}) {
      CAPTURE(system);
      CAPTURE(overlap);
      const Overrides all{ragged_workload(), "csd/0/count=3",
                          std::string("system/gpu_csd_overlap=") + overlap};
      const auto run = [&](const std::string& fidelity) {
        return run_alone(small_point(system, all + Overrides{"simulation/fidelity=" + fidelity}));
      };
      const RunResult exact = run("exact");
      const RunResult reuse = run("reuse");
      REQUIRE(exact.status == RunStatus::ok);
      CHECK(exact.digest == reuse.digest);
      CHECK(exact.metrics == reuse.metrics);
      const RunResult sampled = run("sampled");
      const double truth = reuse.at("decode_time");
      const double error = std::abs(sampled.at("decode_time") - truth);
      MESSAGE(system, " ", overlap, ": off by ", 100 * error / truth, " %, bound ",
              100 * sampled.at("decode_time_bound") / truth, " %, ",
              sampled.at("decode_steps_simulated"), " of ", sampled.at("decode_steps"), " steps");
      CHECK(error <= sampled.at("decode_time_bound") + 1e-9 * truth);
      for (const char* name :
           {"kv_ftl/csd/0/programs", "kv_ftl/csd/0/valid_pages", "high_water/csd/0/flash"}) {
        CAPTURE(name);
        CHECK(sampled.at(name) == reuse.at(name));
      }
      if (std::string(overlap) == "none") {  // else it hangs on which half is ahead
        CHECK(sampled.at("high_water/csd/0/group buffers") ==
              reuse.at("high_water/csd/0/group buffers"));
      }
    }
  }
}

TEST_CASE("insti: one batch after another finds flash and DRAM as the first one did") {
  const Batch batch({{2, 96, 9}, {1, 200, 20}});
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    CAPTURE(system);
    const Overrides longest{"workload/prompt_tokens=200", "workload/output_tokens=20"};
    const BatchRun once = run_batch(small_point(system, longest), batch);
    const BatchRun twice = run_batch(small_point(system, longest), batch, 2);
    CHECK(twice.decode_time() == doctest::Approx(once.decode_time()).epsilon(1e-9));
    CHECK(twice.pages_programmed == 2 * once.pages_programmed);
  }
}

TEST_CASE("insti: a window ends the reads of older tokens") {
  const DesignPoint point =
      small_point("insti_dense", {"model/attention_window=64", "workload/prompt_tokens=200"});
  const RunResult run = run_alone(point);
  double pages = 0;
  for (int context = 201; context <= 208; ++context) {
    pages += groups(context) - groups(context - 64);
  }
  CHECK(run.at("decode_traffic/csd/0/flash/read") == 3 * 2 * kHeads * 2 * pages * kPage);
  CHECK_THROWS_WITH(small_point("insti_sparf", {"model/attention_window=64"}),
                    "/model/attention_window: 64 is less than the longest context, 104; SparF "
                    "selects among all tokens");
}

// -- Several GPUs -------------------------------------------------------------------------------

TEST_CASE("insti: q, k and v come from the GPU that owns the heads, outputs go back there") {
  // Two ranks of 20 heads; three drives of 14, 13 and 13: the second drive has heads of both.
  const RunResult run =
      run_alone(small_point("insti_dense", drives(3) + Overrides{"parallelism/tensor=2"}));
  const double row = 8 * 3 * 2 * kRow;  // steps x layers x sequences
  // The all-reduces of the ranks go over the same links.
  const RunResult reduces_only =
      run_alone(small_point("insti_dense", drives(1) + Overrides{"parallelism/tensor=2"}));
  for (const std::string gpu : {"gpu/0", "gpu/1"}) {
    CAPTURE(gpu);
    CHECK(run.at("decode_traffic/pcie/" + gpu + "/up/bytes") ==
          reduces_only.at("decode_traffic/pcie/" + gpu + "/up/bytes"));
    CHECK(run.at("decode_traffic/pcie/" + gpu + "/down/bytes") ==
          reduces_only.at("decode_traffic/pcie/" + gpu + "/down/bytes"));
    CHECK(run.at("decode_traffic/pcie/" + gpu + "/up/bytes") > 20 * row * 3);
  }
  CHECK(run.at("decode_traffic/pcie/csd/0/down/bytes") == 14 * row * 3);
  CHECK(run.at("decode_traffic/pcie/csd/1/down/bytes") == 13 * row * 3);
  CHECK(run.at("prefill_traffic/pcie/csd/1/down/bytes") == 96 * 3 * 2 * 13 * 2 * kRow);
  const RunResult one = run_alone(small_point("insti_dense", drives(3)));
  CHECK(run.at("decode_traffic/csd/1/flash/read") == one.at("decode_traffic/csd/1/flash/read"));
}

TEST_CASE("insti: stages of a pipeline send and get what their layers need") {
  const RunResult run = run_alone(small_point(
      "insti_dense", drives(2) + Overrides{"parallelism/pipeline=3", "system/division=sequences"}));
  const double row = 8 * 2 * kHeads * kRow;  // steps x sequences x heads: of one layer
  const double hidden = 8 * 2 * 5120 * 2;
  CHECK(run.at("decode_traffic/pcie/gpu/0/up/bytes") == 3 * row + hidden);
  CHECK(run.at("decode_traffic/pcie/gpu/1/up/bytes") == 3 * row + hidden);
  CHECK(run.at("decode_traffic/pcie/gpu/2/up/bytes") == 3 * row);
  CHECK(run.at("decode_traffic/pcie/csd/1/down/bytes") == 3 * 3 * row / 2);
}

// -- Overlap ------------------------------------------------------------------------------------

TEST_CASE("insti: two half batches take the time of the slower of GPU and CSDs in each layer") {
  // Halves alone tell what either part takes. A GPU so slow that both take about as long; a
  // faster one; and a slower one.
  const Overrides base =
      kInfinitePcie + Overrides{"model/layers=20", "workload/output_tokens=4",
                                "workload/prompt_tokens=500", "csd/0/nvme/host_submit=0ns"};
  for (const char* bandwidth : {"8GB/s", "16GB/s", "100GB/s"}) {
    const Overrides all = base + Overrides{std::string("gpu/0/memory_bandwidth=") + bandwidth};
    const RunResult half =
        run_alone(small_point("insti_dense", all + Overrides{"workload/batch=16"}));
    const RunResult whole =
        run_alone(small_point("insti_dense", all + Overrides{"workload/batch=32"}));
    const RunResult both = run_alone(small_point(
        "insti_dense", all + Overrides{"workload/batch=32", "system/gpu_csd_overlap=two_batches"}));
    const double gpu = half.at("decode/phase/gpu_compute");
    const double csd = half.at("decode/phase/csd_attention");
    const double slower = 2 * std::max(gpu, csd);
    const double fill =
        (gpu + csd) / 20 * 2;  // of a layer, and the LM head that no attention hides
    MESSAGE(bandwidth, ": half GPU ", gpu, " s, CSDs ", csd, " s; in turn ",
            whole.at("decode_time"), " s, overlapped ", both.at("decode_time"), " s");
    CHECK(both.at("decode_time") >= slower * (1 - 1e-6));
    CHECK(both.at("decode_time") <= slower + fill);
    double phases = 0;
    for (const auto& [name, value] : both.metrics) {
      phases += name.starts_with("decode/phase/") ? value : 0;
    }
    CHECK(phases == doctest::Approx(both.at("decode_time")).epsilon(1e-9));
  }
}

TEST_CASE("insti: two half batches are slower than one by no more than the split costs") {
  struct Case {
    int batch;
    Overrides more;
  };
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    for (const Case& one : {Case{2, {}}, Case{7, {"csd/0/count=3"}},
                            Case{16, {"workload/prompt_tokens=1000"}}, Case{16, drives(20)}}) {
      CAPTURE(system);
      CAPTURE(one.batch);
      const auto run = [&](int batch, const Overrides& more) {
        return run_alone(small_point(
            system, one.more + Overrides{"workload/batch=" + std::to_string(batch)} + more));
      };
      const RunResult none = run(one.batch, {});
      const RunResult two = run(one.batch, {"system/gpu_csd_overlap=two_batches"});
      // In turn, the halves would take what they take alone.
      const double in_turn =
          run((one.batch + 1) / 2, {}).at("decode_time") + run(one.batch / 2, {}).at("decode_time");
      CHECK(two.at("decode_time") <= in_turn);
      CHECK(two.at("decode_traffic/csd/0/flash/read") ==
            none.at("decode_traffic/csd/0/flash/read"));
      CHECK(two.at("decode_traffic/pcie/gpu/0/up/bytes") ==
            none.at("decode_traffic/pcie/gpu/0/up/bytes"));
    }
  }
}

TEST_CASE("insti: a batch of one sequence has nothing to overlap") {
  const RunResult none = run_alone(small_point("insti_dense", {"workload/batch=1"}));
  const RunResult two = run_alone(
      small_point("insti_dense", {"workload/batch=1", "system/gpu_csd_overlap=two_batches"}));
  CHECK(none.at("decode_time") == two.at("decode_time"));
}

TEST_CASE("insti: halving any rate makes no division and no overlap faster") {
  const Overrides uneven = drives(3) + Overrides{"workload/batch=5"};
  for (const Overrides& variant : {uneven, uneven + Overrides{"system/division=sequences"},
                                   uneven + Overrides{"system/gpu_csd_overlap=two_batches"},
                                   uneven + Overrides{"parallelism/tensor=2"}}) {
    CAPTURE(variant.back());
    const RunResult full = run_alone(small_point("insti_dense", variant));
    for (const char* half : {"gpu/0/memory_bandwidth=384GB/s", "pcie/ports/2/link/lanes=2",
                             "pcie/ports/0/link/lanes=8", "csd/0/flash/mega_transfers=700",
                             "csd/0/engine/gemv_rate=6.35GFLOP/s", "csd/0/nvme/host_submit=10us",
                             "csd/0/flash/t_program=370us"}) {
      CAPTURE(half);
      const RunResult slower = run_alone(small_point("insti_dense", variant + Overrides{half}));
      CHECK(slower.at("decode_time") >= full.at("decode_time"));
      CHECK(slower.at("prefill_time") >= full.at("prefill_time"));
    }
  }
}
