#include "models/systems/forward_pass.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/systems/test_points.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

DesignPoint point_of(int tensor, int pipeline, const Overrides& overrides = {}) {
  return small_point(
      "recompute_static",
      Overrides{"parallelism/tensor=" + std::to_string(tensor),
                "parallelism/pipeline=" + std::to_string(pipeline), "model/layers=4"} +
          overrides);
}

using Body = std::function<void(Machine&, ParallelModel&, const std::function<SimTime()>&)>;

/// Runs `body` in an actor of the point's machine.
void in_actor(const DesignPoint& point, const Body& body) {
  Machine machine(point);
  ParallelModel model(machine, point);
  machine.engine().spawn("test", machine.host_node(), [&] {
    body(machine, model, [&machine] { return machine.engine().now(); });
    machine.stop_workers();
  });
  machine.engine().run();
}

/// The pass layer by layer and operator by operator, without micro-batches.
void simulate(ParallelModel& model, const PassBatch& batch) {
  model.embed(batch.tokens());
  for (std::int64_t layer = 0; layer < model.shape().layers; ++layer) {
    model.enter_layer(layer, batch.tokens());
    model.before_attention(layer, batch.tokens());
    if (!batch.prefill.empty()) {
      model.attention(layer, batch.prefill, AttentionKernel::fused);
    }
    if (batch.decode_sequences > 0) {
      model.attention(layer,
                      ForwardPass::decode_groups(batch.decode_sequences, batch.decode_context),
                      AttentionKernel::fused);
    }
    model.after_attention(layer, batch.tokens());
  }
  if (batch.sampled() > 0) {
    model.next_token(batch.sampled());
  }
}

const std::vector<PassBatch> kBatches{
    {.prefill = {{1, 700, 700}, {1, 30, 500}}, .last_piece_goes_on = true},
    {.decode_sequences = 5, .decode_context = 5003},
    {.prefill = {{1, 100, 164}}, .decode_sequences = 3, .decode_context = 2000},
    {.prefill = {{1, 16, 64}}, .last_piece_goes_on = true},
    {.decode_sequences = 1, .decode_context = 1},
};

}  // namespace

TEST_CASE("forward pass: the attention of decoding sequences depends on the sum of contexts") {
  const DesignPoint point = point_of(1, 1);
  const Gpu gpu(point.gpu.front());
  Rng rng(1, "decode_groups");
  for (int i = 0; i < 200; ++i) {
    std::vector<SequenceBatch> groups;
    std::int64_t sequences = 0;
    std::int64_t contexts = 0;
    const auto count = 1 + rng.below(9);
    for (std::uint64_t group = 0; group < count; ++group) {
      groups.push_back({static_cast<std::int64_t>(1 + rng.below(5)), 1,
                        static_cast<std::int64_t>(1 + rng.below(4000))});
      sequences += groups.back().sequences;
      contexts += groups.back().sequences * groups.back().context;
    }
    for (const AttentionKernel kernel : {AttentionKernel::fused, AttentionKernel::unfused}) {
      const auto expected = gpu.time_of(attention(point.model, groups, kernel));
      const auto summed = gpu.time_of(
          attention(point.model, ForwardPass::decode_groups(sequences, contexts), kernel));
      REQUIRE(summed == expected);
    }
  }
}

TEST_CASE("forward pass: takes the time of its operators one by one, again and again") {
  const auto compare = [](const DesignPoint& point) {
    in_actor(point, [](Machine& machine, ParallelModel& model, const auto& now) {
      ForwardPass pass(machine, model, AttentionKernel::fused);
      // To the picosecond; with flows, whose ends come from SimGrid's clock, nearly so.
      const bool is_exact = model.ranks() == 1;
      const auto is_same = [is_exact](double a, double b) {
        return is_exact ? a == b : a == doctest::Approx(b).epsilon(1e-8);
      };
      for (const PassBatch& batch : kBatches) {
        const auto taken = [&](const std::function<void()>& action) {
          const std::vector<double> before = machine.read_gauges();
          const SimTime begin = now();
          action();
          std::vector<double> found = machine.read_gauges();
          for (std::size_t i = 0; i < found.size(); ++i) {
            found[i] -= before[i];
          }
          found.push_back(static_cast<double>((now() - begin).count()));  // ps
          return found;
        };
        const std::vector<double> expected = taken([&] { simulate(model, batch); });
        for (int again = 0; again < 3; ++again) {
          const std::vector<double> found = taken([&] { pass.run(batch); });
          for (std::size_t i = 0; i + 1 < found.size(); ++i) {
            CAPTURE(machine.gauges().all()[i].name);
            CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-9));
          }
          CHECK(is_same(found.back(), expected.back()));
        }
        const std::vector<double> ten = taken([&] { pass.run(batch, 10); });
        CHECK(is_same(ten.back(), 10 * expected.back()));
      }
    });
  };
  SUBCASE("one GPU") { compare(point_of(1, 1)); }
  SUBCASE("two ranks") { compare(point_of(2, 1)); }
  SUBCASE("four ranks without peer-to-peer transfers") {
    compare(point_of(4, 1, {"pcie/peer_to_peer/through_root=false"}));
  }
}

TEST_CASE("forward pass: one prompt passes the stages one after another") {
  in_actor(point_of(1, 3), [](Machine& machine, ParallelModel& model, const auto& now) {
    ForwardPass pass(machine, model, AttentionKernel::fused);
    const PassBatch prompt{.prefill = {{1, 700, 700}}};
    const SimTime begin = now();
    simulate(model, prompt);
    const SimTime between = now();
    pass.run(prompt);
    CHECK(to_seconds(now() - between) ==
          doctest::Approx(to_seconds(between - begin)).epsilon(1e-8));
  });
}

TEST_CASE("forward pass: equal micro-batches keep the slowest stage at work") {
  in_actor(point_of(1, 2), [](Machine& machine, ParallelModel& model, const auto& now) {
    ForwardPass pass(machine, model, AttentionKernel::fused);
    const PassBatch whole{.decode_sequences = 8, .decode_context = 8000};
    const Gpu& gpu = machine.gpu();
    const SimDuration layers =
        gpu.time_of(layer_operators(model.rank_shape(), ForwardPass::decode_groups(4, 4000),
                                    AttentionKernel::fused)) *
        2;
    const SimDuration first =
        gpu.time_of(embedding(model.shape(), 4)) + layers + model.stage_step_time(0, 4);
    const SimDuration last = layers + gpu.time_of(next_token(model.shape(), 4));
    SimTime begin = now();
    pass.run(whole);
    CHECK(now() - begin == 2 * std::max(first, last));  // the last stage has the LM head
    begin = now();
    pass.run({.decode_sequences = 1, .decode_context = 1000});
    const SimTime between = now();
    simulate(model, {.decode_sequences = 1, .decode_context = 1000});
    CHECK(to_seconds(now() - between) ==
          doctest::Approx(to_seconds(between - begin)).epsilon(1e-8));
  });
}

TEST_CASE("forward pass: a batch without tokens is our bug") {
  in_actor(point_of(1, 1), [](Machine& machine, ParallelModel& model, const auto& /*now*/) {
    ForwardPass pass(machine, model, AttentionKernel::fused);
    CHECK_THROWS_AS(pass.run({}), CheckFailure);
    CHECK_THROWS_AS(pass.run({.decode_sequences = 1, .decode_context = 1}, 0), CheckFailure);
    CHECK_THROWS_AS(pass.run({.decode_sequences = 2, .decode_context = 1}), CheckFailure);
  });
}
