#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/recompute_plan.hpp"
#include "models/systems/test_points.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

using Counts = std::vector<std::int64_t>;

std::int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

/// Sequences that end a pass, over all passes.
std::int64_t sequences_of(const std::vector<RepeatedPass>& passes) {
  std::int64_t sequences = 0;
  for (const RepeatedPass& pass : passes) {
    sequences += pass.batch.sampled() * pass.times;
  }
  return sequences;
}

DesignPoint point_of(const Overrides& overrides) {
  return small_point(
      "recompute_static",
      Overrides{"system/scheduling_overhead=0ns", "system/memory_utilization=1"} + overrides);
}

/// VRAM that leaves exactly `blocks` KV blocks of 16 tokens.
std::string vram_with(const DesignPoint& point, std::int64_t blocks) {
  const SequenceBatch largest{1, 2048, 2048};
  const Bytes size = point.gpu.front().reserved_memory + point.model.weight_bytes() +
                     layer_workspace(point.model, largest, AttentionKernel::fused).peak() +
                     logits_bytes(point.model, point.workload.batch) +
                     point.model.kv_bytes_per_token() * 16 * blocks;
  return "gpu/0/memory_capacity=" + std::to_string(size.count()) + "B";
}

SimDuration pass_time(const DesignPoint& point, const SequenceBatch& batch) {
  const Gpu gpu(point.gpu.front());
  return gpu.time_of(embedding(point.model, batch.tokens())) +
         gpu.time_of(layer_operators(point.model, batch, AttentionKernel::fused)) *
             point.model.layers +
         gpu.time_of(next_token(point.model, batch.sequences));
}

struct BatchTimes {
  SimDuration prefill{};
  std::vector<SimDuration> steps;

  [[nodiscard]] SimDuration decode() const {
    return std::accumulate(steps.begin(), steps.end(), SimDuration{});
  }
};

/// All steps of a batch that is given directly.
BatchTimes run_batch(const DesignPoint& point, const Batch& batch) {
  BatchTimes times;
  Machine machine(point);
  ParallelModel model(machine, point);
  auto& system = dynamic_cast<BatchSystem&>(*point.system);
  machine.engine().spawn("driver", machine.host_node(), [&] {
    RunContext run{point, machine, model, &batch};
    system.place(run);
    system.begin_batch(run);
    SimTime before = machine.engine().now();
    const auto since_before = [&] {
      const SimDuration taken = machine.engine().now() - before;
      before = machine.engine().now();
      return taken;
    };
    system.prefill(run);
    times.prefill = since_before();
    for (int step = 0; step < batch.decode_steps(); ++step) {
      system.decode_step(run, step);
      times.steps.push_back(since_before());
    }
    system.finish_batch(run);
  });
  machine.engine().run();
  return times;
}

}  // namespace

// -- The plan -----------------------------------------------------------------------------------

TEST_CASE("recompute plan: a batch that fits keeps all") {
  const Batch batch({{4, 10, 5}});
  const RecomputePlan plan(
      batch, {.blocks = 56, .block_tokens = 1, .max_batched_tokens = 100, .attention_window = 0});
  for (int step = 0; step < 4; ++step) {
    CHECK(plan.kept(step) == Counts{4});
    CHECK(plan.recompute(step).empty());
    CHECK(plan.decode(step).decode_sequences == 4);
    CHECK(plan.decode(step).decode_context == 4 * (11 + step));
    CHECK(plan.key(step) == StepKey{0, step});
  }
  REQUIRE(plan.prefill().size() == 1);
  CHECK(plan.prefill()[0].batch.tokens() == 40);
}

TEST_CASE("recompute plan: by hand") {
  // Blocks of one token, 56 - 1 of them: at step 3 four sequences of 14 tokens do not fit. One is
  // recomputed at a time, in 14 blocks; the 41 that are left hold 2 sequences (28 blocks).
  const Batch batch({{4, 10, 5}});
  const RecomputePlan plan(
      batch, {.blocks = 55, .block_tokens = 1, .max_batched_tokens = 100, .attention_window = 0});
  CHECK(plan.kept(2) == Counts{4});
  CHECK(plan.kept(3) == Counts{2});
  CHECK(plan.recomputed(3) == Counts{2});
  REQUIRE(plan.recompute(3).size() == 1);
  CHECK(plan.recompute(3)[0].times == 2);
  CHECK(plan.recompute(3)[0].batch.prefill[0].new_tokens == 14);
  CHECK(plan.decode(3).decode_context == 28);
  CHECK(plan.key(2).step_class == 0);
  CHECK(plan.key(3).step_class == 1);
}

TEST_CASE("recompute plan: when others end, a sequence is recomputed once more and stays") {
  // 20 blocks. Two of 6 + 2 tokens, and one of 6 + 6: at step 0 each has 7 tokens; 21 do not fit.
  // 7 blocks are set aside, 13 left: one is kept, of the shorter output. From step 1 on only the
  // long one is active and fits, but its KV is not there yet.
  const Batch batch({{2, 6, 2}, {1, 6, 6}});
  const RecomputePlan plan(
      batch, {.blocks = 20, .block_tokens = 1, .max_batched_tokens = 7, .attention_window = 0});
  REQUIRE(batch.groups()[0].output_tokens == 6);
  CHECK(plan.kept(0) == Counts{0, 1});
  CHECK(plan.recomputed(0) == Counts{1, 1});
  CHECK(plan.recomputed(1) == Counts{1, 0});
  CHECK(plan.kept(1) == Counts{0, 0});
  CHECK(plan.kept(2) == Counts{1, 0});
  CHECK(sequences_of(plan.recompute(2)) == 0);
}

TEST_CASE("recompute plan: short contexts share a pass in the blocks of the longest one") {
  // 12 blocks for recomputation, 12 for residents: one of 5 tokens and one of 6 are kept.
  const Batch batch({{1, 11, 2}, {3, 5, 2}, {1, 4, 2}});
  const RecomputePlan plan(
      batch, {.blocks = 24, .block_tokens = 1, .max_batched_tokens = 100, .attention_window = 0});
  CHECK(plan.kept(0) == Counts{0, 1, 1});
  const std::vector<RepeatedPass> passes = plan.recompute(0);
  REQUIRE(passes.size() == 2);
  CHECK(passes[0].batch.prefill.size() == 1);
  CHECK(passes[0].batch.prefill[0].sequences == 2);
  CHECK(passes[0].batch.tokens() == 12);
  CHECK(passes[1].batch.tokens() == 12);
}

TEST_CASE("recompute plan: a context longer than a pass goes in pieces") {
  const Batch batch({{3, 25, 2}});
  const RecomputePlan plan(
      batch, {.blocks = 30, .block_tokens = 1, .max_batched_tokens = 10, .attention_window = 0});
  CHECK(plan.kept(0) == Counts{0});
  const std::vector<RepeatedPass> passes = plan.recompute(0);
  REQUIRE(passes.size() == 3);
  for (const RepeatedPass& pass : passes) {
    CHECK(pass.times == 3);
  }
  CHECK(passes[0].batch.prefill[0].context == 10);
  CHECK(passes[0].batch.last_piece_goes_on);
  CHECK(passes[2].batch.prefill[0].new_tokens == 6);
  CHECK(passes[2].batch.prefill[0].context == 26);
  CHECK_FALSE(passes[2].batch.last_piece_goes_on);
  CHECK(sequences_of(passes) == 3);
  CHECK_THROWS_AS(
      RecomputePlan(
          batch,
          {.blocks = 25, .block_tokens = 1, .max_batched_tokens = 10, .attention_window = 0}),
      CheckFailure);
}

TEST_CASE("recompute plan: a sliding window keeps more sequences") {
  const Batch batch({{4, 30, 5}});
  RecomputeOptions options{
      .blocks = 44, .block_tokens = 1, .max_batched_tokens = 100, .attention_window = 0};
  CHECK(RecomputePlan(batch, options).kept(0) == Counts{0});
  options.attention_window = 10;
  const RecomputePlan plan(batch, options);
  CHECK(plan.kept(3) == Counts{4});
  CHECK(plan.decode(3).decode_context == 40);
}

TEST_CASE("recompute plan: each active sequence gets a token a step, within the blocks") {
  Rng rng(1, "recompute_plan");
  for (int round = 0; round < 50; ++round) {
    std::vector<SequenceGroup> groups;
    for (int group = 0; group < 6; ++group) {
      groups.push_back({1 + static_cast<int>(rng.below(5)), 1 + static_cast<int>(rng.below(60)),
                        1 + static_cast<int>(rng.below(30))});
    }
    const Batch batch(groups);
    const RecomputeOptions options{
        .blocks = ceil_div(batch.longest_context(), 4) + static_cast<std::int64_t>(rng.below(200)),
        .block_tokens = 4,
        .max_batched_tokens = 20 + static_cast<std::int64_t>(rng.below(100)),
        .attention_window = 0};
    const RecomputePlan plan(batch, options);
    CHECK(sequences_of(plan.prefill()) == batch.sequences());
    for (int step = 0; step < batch.decode_steps(); ++step) {
      const std::vector<RepeatedPass> passes = plan.recompute(step);
      REQUIRE(plan.decode(step).decode_sequences + sequences_of(passes) ==
              batch.active_sequences(step));
      REQUIRE(sum(plan.kept(step)) + sum(plan.recomputed(step)) == batch.active_sequences(step));
      std::int64_t resident = 0;
      for (std::size_t i = 0; i < batch.groups().size(); ++i) {
        resident += plan.kept(step)[i] * ceil_div(batch.groups()[i].context_of(step), 4);
      }
      for (const RepeatedPass& pass : passes) {
        std::int64_t blocks = 0;
        for (const SequenceBatch& piece : pass.batch.prefill) {
          blocks += piece.sequences * ceil_div(piece.context, 4);
        }
        REQUIRE(resident + blocks <= options.blocks);
        REQUIRE(pass.batch.tokens() <= options.max_batched_tokens);
      }
    }
  }
}

// -- The system ---------------------------------------------------------------------------------

TEST_CASE("recompute static: when all fits it is plain decoding on the GPU") {
  const DesignPoint point = point_of({});
  const RunResult run = run_alone(point);
  SimDuration decode{};
  for (int step = 0; step < 8; ++step) {
    decode += pass_time(point, {2, 1, 97 + step});
  }
  CHECK(run.at("prefill_time") == to_seconds(pass_time(point, {2, 96, 96})));
  CHECK(run.at("decode_time") == doctest::Approx(to_seconds(decode)).epsilon(1e-12));
  CHECK(run.at("kv_access_share") == 0);
  CHECK(run.at("recompute/share_of_tokens") == 0);
}

TEST_CASE("recompute static: what does not fit takes the time of prefill in every step") {
  // Contexts of 97 to 104 tokens are 7 blocks. 24 blocks hold 3 of 4 sequences: 2 stay resident,
  // and the others are recomputed in the place of the third.
  const Overrides four{"workload/batch=4"};
  const DesignPoint point = point_of(four + Overrides{vram_with(point_of(four), 24)});
  const BatchTimes times = run_batch(point, Batch({{4, 96, 9}}));
  for (int step = 0; step < 8; ++step) {
    const int context = 97 + step;
    CHECK(times.steps[step] ==
          pass_time(point, {2, 1, context}) + pass_time(point, {1, context, context}) * 2);
  }
}

TEST_CASE("recompute static: batches of equal sequences are the same however they are given") {
  const Overrides eight{"workload/batch=8"};
  const DesignPoint point = point_of(eight + Overrides{vram_with(point_of(eight), 30)});
  const BatchTimes one = run_batch(point, Batch({{8, 96, 9}}));
  const BatchTimes many = run_batch(
      point, Batch({{1, 96, 9}, {2, 96, 9}, {1, 96, 9}, {1, 96, 9}, {1, 96, 9}, {2, 96, 9}}));
  CHECK(one.prefill == many.prefill);
  CHECK(one.steps == many.steps);
}

TEST_CASE("recompute static: a ragged batch ends sequence by sequence") {
  const DesignPoint point = point_of({vram_with(point_of({}), 40)});
  const BatchTimes times = run_batch(point, Batch({{2, 200, 3}, {3, 96, 9}, {1, 30, 20}}));
  REQUIRE(times.steps.size() == 19);
  CHECK(times.steps[18] == pass_time(point, {1, 1, 49}));
  CHECK(times.steps[0] > times.steps[2]);
}

TEST_CASE("recompute static: more VRAM is never slower") {
  const Overrides shape{"workload/batch=12", "workload/prompt_tokens=150",
                        "workload/output_tokens=40"};
  const Batch equal({{12, 150, 40}});
  const Batch ragged({{4, 150, 40}, {4, 300, 20}, {4, 40, 60}});
  for (const std::string tokens : {"200", "400", "2048"}) {
    const Overrides all = shape + Overrides{"system/max_batched_tokens=" + tokens};
    for (const Batch& batch : {equal, ragged}) {
      SimDuration before = SimDuration::max();
      for (int blocks = 20; blocks <= 200; blocks += 6) {
        const DesignPoint point = point_of(all + Overrides{vram_with(point_of(all), blocks)});
        const SimDuration decode = run_batch(point, batch).decode();
        CAPTURE(tokens);
        CAPTURE(blocks);
        CHECK(decode <= before);
        before = decode;
      }
    }
  }
}

TEST_CASE("recompute static: sampled runs are as exact as they say") {
  const Overrides base{"workload/batch=40", "workload/prompt_tokens=300",
                       "workload/output_tokens=200"};
  const Overrides small = base + Overrides{vram_with(point_of(base), 500)};
  const RunResult exact = run_alone(point_of(small));
  const RunResult sampled = run_alone(point_of(small + Overrides{"simulation/fidelity=sampled"}));
  CHECK(exact.at("recompute/share_of_tokens") > 0.1);
  CHECK(sampled.at("decode_steps_simulated") < 100);
  CHECK(std::abs(sampled.at("decode_time") - exact.at("decode_time")) <=
        sampled.at("decode_time_bound"));
  CHECK(exact.at("decode_time_bound") == 0);
}

TEST_CASE("recompute static: halving a rate is never faster") {
  const Overrides base{"workload/batch=8"};
  const Overrides small = base + Overrides{vram_with(point_of(base), 30)};
  const RunResult full = run_alone(point_of(small));
  for (const std::string half : {"gpu/0/memory_bandwidth=384GB/s", "gpu/0/tensor_peak=77.4TFLOP/s",
                                 "gpu/0/kernel_launch=10us", "system/scheduling_overhead=1ms"}) {
    CAPTURE(half);
    const RunResult run = run_alone(point_of(small + Overrides{half}));
    CHECK(run.at("decode_time") >= full.at("decode_time"));
    CHECK(run.at("prefill_time") >= full.at("prefill_time"));
  }
}

TEST_CASE("recompute static: the phases add up to the decode time") {
  const Overrides base{"workload/batch=8", "system/scheduling_overhead=1ms"};
  const RunResult run =
      run_alone(small_point("recompute_static", Overrides{"system/memory_utilization=1"} + base +
                                                    Overrides{vram_with(point_of(base), 40)}));
  CHECK(run.at("decode/phase/gpu_compute") + run.at("decode/phase/kv_recompute") +
            run.at("decode/phase/scheduling") ==
        doctest::Approx(run.at("decode_time")).epsilon(1e-9));
  CHECK(run.at("kv_access_share") > 0);
  CHECK(
      run.at("utilization/gpu/0/compute") ==
      doctest::Approx(1 - run.at("decode/phase/scheduling") / run.at("decode_time")).epsilon(1e-9));
}

TEST_CASE("recompute static: a sequence that does not fit is infeasible") {
  const RunResult run = run_alone(point_of({vram_with(point_of({}), 6)}));
  CHECK(run.status == RunStatus::infeasible);
  CHECK(run.detail.find("6 KV blocks of 16 tokens") != std::string::npos);
  CHECK(run_alone(point_of({vram_with(point_of({}), 7)})).status == RunStatus::ok);
}

TEST_CASE("recompute static: equal runs are equal, in one process and in two") {
  const Overrides base{"workload/batch=8"};
  const DesignPoint point = point_of(base + Overrides{vram_with(point_of(base), 30)});
  const RunResult one = run_alone(point);
  const RunResult two = run_alone(point);
  CHECK(one.digest == two.digest);
  CHECK(one.metrics == two.metrics);
  for (int again = 0; again < 2; ++again) {
    const RunOutcome here = run_design_point(point);
    CHECK(here.metrics.at("decode_time") == one.at("decode_time"));
    CHECK(here.metrics.at("recompute/share_of_tokens") == one.at("recompute/share_of_tokens"));
  }
}

TEST_CASE("recompute static: the smallest run, and several GPUs") {
  const Overrides smallest{"model/layers=1", "workload/batch=1", "workload/prompt_tokens=1",
                           "workload/output_tokens=2"};
  for (const std::string fidelity : {"exact", "reuse", "sampled"}) {
    const RunResult run =
        run_alone(point_of(smallest + Overrides{"simulation/fidelity=" + fidelity}));
    CHECK(run.status == RunStatus::ok);
    CHECK(run.at("decode_steps_simulated") == 1);
    CHECK(run.at("decode_time_bound") == 0);
  }
  const Overrides base{"workload/batch=8", "model/layers=4"};
  const Overrides small = base + Overrides{vram_with(point_of(base), 30)};
  const RunResult one = run_alone(point_of(small));
  const RunResult ranks = run_alone(point_of(small + Overrides{"parallelism/tensor=2"}));
  const RunResult stages = run_alone(point_of(small + Overrides{"parallelism/pipeline=2"}));
  CHECK(one.at("recompute/share_of_tokens") > 0);
  CHECK(ranks.at("recompute/share_of_tokens") == 0);
  CHECK(ranks.at("decode_time") < one.at("decode_time"));
  CHECK(stages.at("recompute/share_of_tokens") == 0);
  CHECK(stages.at("decode_time") < one.at("decode_time"));
}
