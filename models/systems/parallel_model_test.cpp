#include "models/systems/parallel_model.hpp"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "models/systems/test_points.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

/// OPT-13B with all else as shipped.
DesignPoint point_of(const Overrides& overrides) { return small_point("deepspeed", overrides); }

Overrides gpus(int tensor, int pipeline) {
  return {"parallelism/tensor=" + std::to_string(tensor),
          "parallelism/pipeline=" + std::to_string(pipeline)};
}

/// Runs `body` in an actor of the point's machine and returns how long it took.
SimDuration time_of(const DesignPoint& point,
                    const std::function<void(Machine&, ParallelModel&)>& body) {
  Machine machine(point);
  ParallelModel model(machine, point);
  SimDuration taken{};
  machine.engine().spawn("test", machine.host_node(), [&] {
    const SimTime begin = machine.engine().now();
    body(machine, model);
    taken = machine.engine().now() - begin;
    machine.stop_workers();
  });
  machine.engine().run();
  return taken;
}

}  // namespace

TEST_CASE("parallel model: layers are divided over stages, the first ones get what is left") {
  const DesignPoint point = point_of(gpus(1, 4) + Overrides{"model/layers=10"});
  Machine machine(point);
  const ParallelModel model(machine, point);
  std::vector<int> stages;
  for (int layer = 0; layer < 10; ++layer) {
    stages.push_back(model.stage_of(layer));
  }
  CHECK(stages == std::vector<int>{0, 0, 0, 1, 1, 1, 2, 2, 3, 3});
  CHECK(model.layers_of(0) == 3);
  CHECK(model.layers_of(3) == 2);
  CHECK(model.gpu_of(9, 0) == 3);
}

TEST_CASE("parallel model: the weights of all GPUs are those of the model, and what is doubled") {
  const DesignPoint one = point_of({});
  const ModelShape& shape = one.model;
  {
    Machine machine(one);
    CHECK(ParallelModel(machine, one).weight_bytes(0) == shape.weight_bytes());
  }
  const auto total = [](const DesignPoint& point) {
    Machine machine(point);
    const ParallelModel model(machine, point);
    Bytes sum{};
    for (int stage = 0; stage < model.stages(); ++stage) {
      sum += model.weight_bytes(stage) * model.ranks();
    }
    return sum;
  };
  // The last stage has a copy of OPT's tied embedding table.
  CHECK(total(point_of(gpus(1, 2))) ==
        shape.weight_bytes() + shape.values(shape.hidden * shape.vocab));
  // Ranks double norms, learned positions and biases of the residual stream: little.
  const Bytes two_ranks = total(point_of(gpus(2, 1)));
  CHECK(two_ranks >= shape.weight_bytes());
  CHECK(two_ranks.count() < 1.02 * static_cast<double>(shape.weight_bytes().count()));
}

TEST_CASE("parallel model: a ring all-reduce takes its closed form") {
  // Four GPUs at root ports: each port forwards 22.7 GB/s to one peer and from another.
  for (const int ranks : {2, 4, 8}) {
    CAPTURE(ranks);
    const DesignPoint point = point_of(gpus(ranks, 1));
    const Bytes size{80'000'000};
    SimDuration promised{};
    const SimDuration taken = time_of(point, [&](Machine& /*machine*/, ParallelModel& model) {
      promised = model.all_reduce_time(0, size);
      model.all_reduce(0, size);
    });
    const PcieConfig& pcie = point.pcie;
    const double steps = 2 * (ranks - 1);
    // Up and down a GPU's link and the root complex.
    const SimDuration latency = pcie.ports[0].link.latency * 2 + pcie.root_peer_to_peer.latency;
    const double expected = to_seconds(point.parallelism.collective_overhead) +
                            steps * to_seconds(latency) + steps / ranks * 80e6 / 22.7e9;
    CHECK(to_seconds(taken) == doctest::Approx(expected).epsilon(1e-9));
    CHECK(to_seconds(promised) == doctest::Approx(to_seconds(taken)).epsilon(1e-9));
  }
}

TEST_CASE("parallel model: one GPU communicates nothing") {
  CHECK(time_of(point_of({}), [](Machine& /*machine*/, ParallelModel& model) {
          model.all_reduce(0, Bytes{1'000'000});
          model.enter_layer(2, 1);
        }) == SimDuration{});
}

TEST_CASE("parallel model: a layer of one rank is the GPU's time; ranks add two all-reduces") {
  const std::vector<SequenceBatch> batch{{4, 1, 100}, {2, 1, 57}};
  for (const int ranks : {1, 2, 4}) {
    CAPTURE(ranks);
    const DesignPoint point = point_of(gpus(ranks, 1));
    SimDuration operators{};
    SimDuration reduces{};
    const SimDuration taken = time_of(point, [&](Machine& machine, ParallelModel& model) {
      operators =
          machine.gpu().time_of(layer_operators(model.rank_shape(), batch, AttentionKernel::fused));
      reduces = model.all_reduce_time(0, point.model.hidden_bytes_per_token() * 6) * 2;
      model.layer(0, batch, AttentionKernel::fused);
    });
    CHECK(to_seconds(taken) == doctest::Approx(to_seconds(operators + reduces)).epsilon(1e-9));
  }
}

TEST_CASE("parallel model: the step to the next stage moves the hidden states once") {
  for (const int ranks : {1, 2, 4}) {
    CAPTURE(ranks);
    const DesignPoint point = point_of(gpus(ranks, 2));
    SimDuration promised{};
    const SimDuration taken = time_of(point, [&](Machine& /*machine*/, ParallelModel& model) {
      promised = model.stage_step_time(0, 1000);
      model.enter_layer(2, 1000);  // three layers, two stages
    });
    CHECK(to_seconds(taken) == doctest::Approx(to_seconds(promised)).epsilon(1e-9));
    // Each rank sends its share to its peer, then the peers pass the shares round.
    const PcieConfig& pcie = point.pcie;
    const double latency =
        to_seconds(pcie.ports[0].link.latency * 2 + pcie.root_peer_to_peer.latency);
    const double overhead = to_seconds(point.parallelism.collective_overhead);
    const double share =
        static_cast<double>(point.model.hidden_bytes_per_token().count()) * 1000 / ranks / 22.7e9;
    const int steps = ranks - 1;
    const double gather = steps > 0 ? overhead + steps * (latency + share) : 0;
    CHECK(to_seconds(taken) == doctest::Approx(overhead + latency + share + gather).epsilon(1e-9));
  }
}

TEST_CASE("parallel model: KV heads are shared out once, also when ranks hold them twice") {
  const auto heads_of = [](int tensor, int kv_heads) {
    const DesignPoint point =
        point_of(gpus(tensor, 1) + Overrides{"model/kv_heads=" + std::to_string(kv_heads)});
    Machine machine(point);
    const ParallelModel model(machine, point);
    std::vector<std::pair<std::int64_t, std::int64_t>> heads;
    for (const ParallelModel::Share& share : model.shares(0)) {
      heads.emplace_back(share.first_head, share.last_head);
    }
    return heads;
  };
  using Heads = std::vector<std::pair<std::int64_t, std::int64_t>>;
  CHECK(heads_of(1, 40) == Heads{{0, 40}});
  CHECK(heads_of(4, 40) == Heads{{0, 10}, {10, 20}, {20, 30}, {30, 40}});
  CHECK(heads_of(8, 4) == Heads{{0, 1}, {1, 2}, {2, 3}, {3, 4}});
}

TEST_CASE("parallel model: a copy to the ranks of a layer goes over all their links at once") {
  const Bytes kv{1'000'000'000};
  const auto copy = [&](const Overrides& overrides) {
    return time_of(point_of(overrides + Overrides{"host/dram_rate=1000GB/s"}),
                   [&](Machine& /*machine*/, ParallelModel& model) {
                     model.copy(Machine::CopyDirection::host_to_gpu, 0, kv,
                                ParallelModel::HostMemoryKind::pinned);
                   });
  };
  const double one = to_seconds(copy({}));
  CHECK(to_seconds(copy(gpus(4, 1))) == doctest::Approx(one / 4).epsilon(1e-4));
  // Two KV heads on four ranks: each head is copied twice.
  CHECK(to_seconds(copy(gpus(4, 1) + Overrides{"model/kv_heads=2"})) ==
        doctest::Approx(one / 2).epsilon(1e-4));
}

TEST_CASE("machine: data of devices that may not reach each other pass host memory in chunks") {
  const Bytes size{100'000'000};
  const DesignPoint point = point_of(gpus(2, 1) + Overrides{"pcie/peer_to_peer/through_root=false",
                                                            "pcie/peer_to_peer/bounce_chunk=1MB",
                                                            "host/dram_rate=1000GB/s"});
  const SimDuration taken = time_of(point, [&](Machine& machine, ParallelModel& /*model*/) {
    machine.transfer(machine.gpu_node(0), machine.gpu_node(1), size);
  });
  Machine machine(point);
  const auto up = machine.fabric().path("gpu/0", "host");
  const auto down = machine.fabric().path("host", "gpu/1");
  REQUIRE(up.bandwidth == down.bandwidth);
  const SimDuration expected = time_for(size + Bytes{1'000'000}, up.bandwidth) + up.latency * 3;
  CHECK(to_seconds(taken) == doctest::Approx(to_seconds(expected)).epsilon(1e-9));
}

TEST_CASE("parallelism: what cannot be divided is refused with the path and what would do") {
  const auto problem = [](const Overrides& overrides) -> std::string {
    try {
      static_cast<void>(point_of(overrides));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(problem(gpus(3, 1)).starts_with("/parallelism/tensor: "));
  CHECK(problem(gpus(1, 4)) ==
        "/parallelism/pipeline: 4 stages cannot share 3 layers; use at most 3");
  CHECK(problem(gpus(4, 3) + Overrides{"model/layers=12"}) ==
        "/parallelism/tensor: times pipeline makes 12 GPUs; at most 8 are simulated");
}

TEST_CASE("run: tensor parallel GPUs are faster than one, pipeline stages hold larger models") {
  const RunResult one = run_alone(small_point("deepspeed", {}));
  const RunResult two = run_alone(small_point("deepspeed", gpus(2, 1)));
  CHECK(two.at("decode_time") < one.at("decode_time"));
  CHECK(two.at("high_water/VRAM of gpu/1") < one.at("high_water/VRAM"));
  // Weights that one GPU cannot hold.
  const Overrides small_gpu{"gpu/0/memory_capacity=3GB"};
  CHECK(run_alone(small_point("deepspeed", small_gpu)).status == RunStatus::infeasible);
  CHECK(run_alone(small_point("deepspeed", small_gpu + gpus(1, 3))).status == RunStatus::ok);
}

}  // namespace nearkv
