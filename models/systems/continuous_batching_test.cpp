#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/llm/operators.hpp"
#include "models/systems/test_serving.hpp"
#include "sim/core/capacity.hpp"

using namespace nearkv;

namespace {

/// OPT-13B with 3 layers on one A6000 and no host work between iterations; all of VRAM may be used.
DesignPoint point_of(const Overrides& overrides) {
  return small_point("continuous_batching",
                     Overrides{"system/scheduling_overhead=0ns", "system/memory_utilization=1",
                               "system/watermark=0"} +
                         overrides);
}

/// VRAM that leaves exactly `blocks` KV blocks of 16 tokens on each tensor-parallel rank.
std::string vram_with(const DesignPoint& point, std::int64_t blocks) {
  const ModelShape rank = point.model.tensor_shard(point.parallelism.tensor);
  const SequenceBatch largest{1, 2048, 2048};
  const Bytes size = point.gpu.front().reserved_memory + rank.weight_bytes() +
                     layer_workspace(rank, largest, AttentionKernel::fused).peak() +
                     logits_bytes(rank, 256) + rank.kv_bytes_per_token() * 16 * blocks;
  return "gpu/0/memory_capacity=" + std::to_string(size.count()) + "B";
}

const Overrides kInfiniteGpu{"gpu/0/memory_bandwidth=1000000TB/s", "gpu/0/tensor_peak=1000PFLOP/s",
                             "gpu/0/kernel_launch=0ns"};
const Overrides kSwap{"system/preemption=swap", "system/swap_space=8GiB",
                      "system/swap_copy_overhead=0ns"};

SimDuration pass_time(const DesignPoint& point, const SequenceBatch& batch) {
  const Gpu gpu(point.gpu.front());
  return gpu.time_of(embedding(point.model, batch.tokens())) +
         gpu.time_of(layer_operators(point.model, batch, AttentionKernel::fused)) *
             point.model.layers +
         gpu.time_of(next_token(point.model, batch.sequences));
}

std::vector<Request> mixed_requests(int count, SimDuration apart = {}) {
  Rng rng(1, "mixed_requests");
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    requests.push_back({SimTime{apart * i}, 1 + static_cast<int>(rng.below(200)),
                        1 + static_cast<int>(rng.below(120))});
  }
  return requests;
}

void check_served(const ServingRun& run, const std::vector<Request>& requests) {
  REQUIRE(run.times.size() == requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CHECK(run.times[i].arrival == requests[i].arrival);
    CHECK(run.times[i].first_token > run.times[i].arrival);
    CHECK((run.times[i].finished > run.times[i].first_token) == (requests[i].output_tokens > 1));
    CHECK(run.times[i].is_served());
    CHECK(run.times[i].started.value() >= run.times[i].arrival);
    CHECK(run.times[i].first_token > run.times[i].started.value());
  }
}

}  // namespace

TEST_CASE("continuous batching: with room for all it is prefill, then the steps of the batch") {
  const DesignPoint point = point_of({});
  const ServingRun run = serve_requests(point, equal_requests(8, 96, 9));
  SimDuration expected = pass_time(point, {8, 96, 96});
  CHECK(run.times[7].first_token == SimTime{expected});
  for (int step = 0; step < 8; ++step) {
    expected += pass_time(point, {8, 1, 97 + step});
  }
  for (const RequestTimes& times : run.times) {
    CHECK(times.finished == SimTime{expected});
  }
  CHECK(run.metrics.at("batching/iterations") == 9);
  CHECK(run.metrics.at("batching/mean_running_sequences") == 8);
  CHECK(run.metrics.at("batching/preemptions") == 0);
}

TEST_CASE("continuous batching: host work is added to each iteration") {
  const auto requests = equal_requests(2, 96, 9);
  const ServingRun without = serve_requests(point_of({}), requests);
  const ServingRun with = serve_requests(point_of({"system/scheduling_overhead=3ms"}), requests);
  CHECK(with.end() - without.end() == SimDuration{9 * 3'000'000'000});
}

TEST_CASE("continuous batching: an idle server starts when the next request arrives") {
  const DesignPoint point = point_of({});
  std::vector<Request> requests = equal_requests(2, 96, 1);
  requests[1].arrival = SimTime{SimDuration{5'000'000'000'000}};
  const ServingRun run = serve_requests(point, requests);
  const SimDuration alone = pass_time(point, {1, 96, 96});
  CHECK(run.times[0].finished == SimTime{alone});
  CHECK(run.times[1].finished - run.times[1].arrival == alone);
  // One that arrives in the middle of an iteration waits for its end.
  requests[1].arrival = SimTime{alone / 2};
  const ServingRun close = serve_requests(point, requests);
  CHECK(close.times[1].finished == SimTime{2 * alone});
}

TEST_CASE("continuous batching: every request is served, in the order of arrival") {
  for (const std::string preemption : {"recompute", "swap"}) {
    for (const std::string chunked : {"false", "true"}) {
      for (const SimDuration apart : {SimDuration{}, SimDuration{20'000'000'000}}) {
        const DesignPoint point =
            point_of({"system/preemption=" + preemption, "system/chunked_prefill=" + chunked,
                      vram_with(point_of({}), 100)});
        const std::vector<Request> requests = mixed_requests(80, apart);
        const ServingRun run = serve_requests(point, requests);
        CAPTURE(preemption);
        CAPTURE(chunked);
        check_served(run, requests);
        CHECK(run.metrics.at("batching/kv_blocks") == 100);
        CHECK(run.metrics.at("batching/preemptions") > 0);
        CHECK(run.metrics.at("swap/in") == run.metrics.at("swap/out"));
        CHECK(std::is_sorted(run.times.begin(), run.times.end(),
                             [](const RequestTimes& a, const RequestTimes& b) {
                               return a.first_token < b.first_token;
                             }));
      }
    }
  }
}

TEST_CASE("continuous batching: the policies agree where nothing is preempted") {
  const std::vector<Request> requests = mixed_requests(60);
  const ServingRun recompute = serve_requests(point_of({}), requests);
  const ServingRun swap = serve_requests(point_of(kSwap), requests);
  REQUIRE(recompute.metrics.at("batching/preemptions") == 0);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CHECK(recompute.times[i].finished == swap.times[i].finished);
  }
}

TEST_CASE("continuous batching: with infinite compute, swapping takes the time of the GPU's link") {
  for (const int gpus : {1, 2}) {
    const Overrides base =
        kInfiniteGpu + kSwap +
        Overrides{"pcie/ports/0/link/latency=0ns", "parallelism/tensor=" + std::to_string(gpus),
                  "parallelism/collective_overhead=0ns",
                  R"(parallelism/gpu_link={"kind": "nvlink",
                     "rate": {"value": "100TB/s", "source": "assumed", "citation": "test"},
                     "latency": {"value": "1ns", "source": "assumed", "citation": "test"}})"};
    const DesignPoint point = point_of(base + Overrides{vram_with(point_of(base), 300)});
    const ServingRun run = serve_requests(point, equal_requests(40, 200, 600));
    CHECK(run.metrics.at("batching/kv_blocks") == 300);
    const double bytes = run.metrics.at("swap/in") + run.metrics.at("swap/out");
    CHECK(bytes > 1e9);
    const double rate = 16 * 1969230769.0 * 256 / 280 * 0.913;
    CHECK(to_seconds(run.end()) == doctest::Approx(bytes / gpus / rate).epsilon(0.001));
  }
}

TEST_CASE("continuous batching: copies of swapped blocks have an overhead each") {
  const Overrides small = kSwap + Overrides{vram_with(point_of({}), 60)};
  const auto requests = equal_requests(8, 100, 200);
  const ServingRun without = serve_requests(point_of(small), requests);
  const ServingRun with =
      serve_requests(point_of(small + Overrides{"system/swap_copy_overhead=5us"}), requests);
  const double block = 3 * 2 * 5120 * 2 * 16;
  const double copies =  // K and V of three layers
      (with.metrics.at("swap/in") + with.metrics.at("swap/out")) / block * 6;
  REQUIRE(copies > 0);
  CHECK(to_seconds(with.end() - without.end()) == doctest::Approx(copies * 5e-6).epsilon(1e-6));
}

TEST_CASE("continuous batching: more VRAM is never slower for equal requests") {
  const auto requests = equal_requests(24, 150, 100);  // 16 blocks each at the end
  for (const Overrides& preemption : {Overrides{"system/preemption=recompute"}, kSwap}) {
    SimTime before = kNever;
    for (const int blocks : {16, 32, 64, 128, 256, 384, 1000}) {
      const ServingRun run = serve_requests(
          point_of(preemption + Overrides{vram_with(point_of({}), blocks)}), requests);
      CAPTURE(blocks);
      CHECK(run.end() <= before);
      if (blocks >= 384) {
        CHECK(run.metrics.at("batching/preemptions") == 0);
        CHECK(run.metrics.at("batching/kv_high_water") == doctest::Approx(384.0 / blocks));
      }
      before = run.end();
    }
  }
}

TEST_CASE("continuous batching: halving a rate is never faster") {
  const Overrides small = kSwap + Overrides{vram_with(point_of({}), 60)};
  const auto requests = equal_requests(8, 100, 200);
  const SimTime full = serve_requests(point_of(small), requests).end();
  for (const std::string half :
       {"gpu/0/memory_bandwidth=384GB/s", "gpu/0/tensor_peak=77.4TFLOP/s",
        "gpu/0/kernel_launch=10us", "pcie/generations/3/lane_rate=984615384B/s",
        "pcie/ports/0/link/lanes=8", "system/scheduling_overhead=1ms"}) {
    CAPTURE(half);
    CHECK(serve_requests(point_of(small + Overrides{half}), requests).end() >= full);
  }
}

TEST_CASE("continuous batching: chunked prefill keeps iterations short") {
  // A prompt of 1500 tokens arrives while another sequence decodes.
  std::vector<Request> requests = equal_requests(2, 16, 60);
  requests[1] = {SimTime{SimDuration{100'000'000'000}}, 1500, 2};
  const auto longest_wait = [&](const Overrides& overrides) {
    return serve_requests(point_of(overrides), requests).times[0].finished;
  };
  const SimTime whole = longest_wait({});
  const SimTime pieces = longest_wait(
      {"system/chunked_prefill=true", "system/max_batched_tokens=256", "system/max_sequences=64"});
  CHECK(pieces != whole);
  const ServingRun run =
      serve_requests(point_of({"system/chunked_prefill=true", "system/max_batched_tokens=256",
                               "system/max_sequences=64"}),
                     requests);
  check_served(run, requests);
  // 16; then 255 x 5 and 225 of 1500 beside decodes: 6 iterations with prefill; 60 tokens in all.
  CHECK(run.metrics.at("batching/iterations") == 60);
}

TEST_CASE("continuous batching: what fits nowhere is turned away and counted, or infeasible") {
  const DesignPoint point = point_of({vram_with(point_of({}), 10)});
  std::vector<Request> requests = equal_requests(3, 96, 9);
  requests[1].prompt_tokens = 160;
  const ServingRun run = serve_requests(point, requests);
  CHECK(run.times[0].is_served());
  CHECK_FALSE(run.times[1].is_served());
  CHECK(run.times[2].is_served());
  REQUIRE(run.notes.size() == 1);
  CHECK(run.notes[0].starts_with("1 requests were turned away"));
  CHECK_THROWS_WITH_AS(serve_requests(point, equal_requests(3, 160, 9)),
                       doctest::Contains("10 KV blocks of 16 tokens"), Infeasible);
  CHECK_THROWS_WITH_AS(serve_requests(point_of({vram_with(point_of({}), 0)}), requests),
                       doctest::Contains("no KV block"), Infeasible);
}

TEST_CASE("continuous batching: full swap space ends the run") {
  const DesignPoint point =
      point_of(kSwap + Overrides{vram_with(point_of({}), 60), "system/swap_space=2MiB"});
  CHECK_THROWS_WITH_AS(serve_requests(point, equal_requests(8, 100, 200)),
                       doctest::Contains("swap space"), OutOfCapacity);
}

TEST_CASE("continuous batching: a point may be run again, with the same result") {
  const DesignPoint point = point_of({vram_with(point_of({}), 100)});
  const std::vector<Request> requests = mixed_requests(80);
  const ServingRun one = serve_requests(point, requests);
  const ServingRun other = serve_requests(point, requests);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CHECK(one.times[i].finished == other.times[i].finished);
  }
}

TEST_CASE("continuous batching: GPUs that share the layers serve faster, stages hold more KV") {
  const std::vector<Request> requests = mixed_requests(60);
  const Overrides four_layers{"model/layers=4"};
  const ServingRun one = serve_requests(point_of(four_layers), requests);
  const ServingRun ranks =
      serve_requests(point_of(four_layers + Overrides{"parallelism/tensor=2"}), requests);
  const ServingRun stages =
      serve_requests(point_of(four_layers + Overrides{"parallelism/pipeline=2"}), requests);
  CHECK(ranks.end() < one.end());
  CHECK(ranks.metrics.at("batching/kv_blocks") > 2 * one.metrics.at("batching/kv_blocks"));
  CHECK(stages.metrics.at("batching/kv_blocks") > 2 * one.metrics.at("batching/kv_blocks"));
  check_served(stages, requests);
}
