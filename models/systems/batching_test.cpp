#include "models/systems/batching.hpp"

#include <algorithm>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

using Indices = std::vector<int>;

SimTime at(SimDuration since_start) { return SimTime{since_start}; }

std::vector<Request> all_at_start(const std::vector<int>& prompts) {
  std::vector<Request> requests;
  for (const int prompt : prompts) {
    requests.push_back({SimTime{}, prompt, 10});
  }
  return requests;
}

/// All batches of a machine that is free again at once.
std::vector<Indices> batches_of(const std::vector<Request>& requests,
                                const BatchingConfig& config) {
  BatchFormer former(requests, config);
  std::vector<Indices> batches;
  while (!former.is_done()) {
    batches.push_back(former.next(SimTime{}).requests);
  }
  return batches;
}

struct Scenario {
  std::vector<Request> requests;
  BatchingConfig config;
  SimDuration longest_batch;
};

Scenario random_scenario(Rng& rng) {
  Scenario scenario;
  SimDuration arrival{};
  for (std::uint64_t left = 1 + rng.below(60); left > 0; --left) {
    scenario.requests.push_back(
        {at(arrival), 1 + static_cast<int>(rng.below(100)), 1 + static_cast<int>(rng.below(20))});
    arrival += rng.below(3) == 0 ? SimDuration{} : SimDuration(rng.below(1000));
  }
  scenario.config = {.order = rng.below(3),
                     .bucket_tokens = 1 + static_cast<int>(rng.below(40)),
                     .sequences = 1 + static_cast<int>(rng.below(9)),
                     .padded = false,
                     .wait = SimDuration(rng.below(2) * rng.below(3000))};
  scenario.longest_batch = SimDuration(1 + rng.below(5000));
  return scenario;
}

std::vector<FormedBatch> serve(const Scenario& scenario, std::uint64_t seed) {
  Rng rng(seed, "models/systems/batching_test/serve");
  BatchFormer former(scenario.requests, scenario.config);
  std::vector<FormedBatch> batches;
  SimTime free{};
  while (!former.is_done()) {
    batches.push_back(former.next(free));
    CHECK(batches.back().start >= free);
    free = batches.back().start +
           SimDuration(rng.below(static_cast<std::uint64_t>(scenario.longest_batch.count())));
  }
  CHECK_THROWS_AS(static_cast<void>(former.next(free)), CheckFailure);
  return batches;
}

}  // namespace

TEST_CASE("batching: offline, the orders divide the requests as they say") {
  const auto requests = all_at_start({30, 10, 50, 10, 40, 70, 20});
  BatchingConfig config{.order = BatchingConfig::arrival, .sequences = 3};
  CHECK(batches_of(requests, config) == std::vector<Indices>{{0, 1, 2}, {3, 4, 5}, {6}});
  config.order = BatchingConfig::length;
  CHECK(batches_of(requests, config) == std::vector<Indices>{{5, 2, 4}, {0, 6, 1}, {3}});
  config.order = BatchingConfig::bucket;
  config.bucket_tokens = 25;  // 1 to 25, 26 to 50, 51 to 75
  CHECK(batches_of(requests, config) == std::vector<Indices>{{0, 2, 4}, {1, 3, 6}, {5}});
  config.bucket_tokens = 1000;
  CHECK(batches_of(requests, config) == std::vector<Indices>{{0, 1, 2}, {3, 4, 5}, {6}});
}

TEST_CASE("batching: a machine waits for a full batch, but not for ever and not for nobody") {
  const std::vector<Request> requests{
      {at(10s), 1, 1}, {at(12s), 1, 1}, {at(13s), 1, 1}, {at(30s), 1, 1}, {at(31s), 1, 1}};
  const auto first_start = [&](int sequences, SimDuration wait, SimDuration free) {
    BatchFormer former(requests,
                       {.order = BatchingConfig::arrival, .sequences = sequences, .wait = wait});
    const FormedBatch batch = former.next(at(free));
    CHECK(batch.requests.front() == 0);
    return std::pair(batch.start, batch.requests.size());
  };
  using Start = std::pair<SimTime, std::size_t>;
  CHECK(first_start(3, 0s, 0s) == Start{at(10s), 1});  // nobody was there before
  CHECK(first_start(3, 2s, 0s) == Start{at(12s), 2});  // who comes at the deadline is taken
  CHECK(first_start(3, 1999ms, 0s) == Start{at(11'999ms), 1});
  CHECK(first_start(3, 5s, 0s) == Start{at(13s), 3});  // full before the deadline
  CHECK(first_start(2, 5s, 0s) == Start{at(12s), 2});
  CHECK(first_start(4, 5s, 0s) == Start{at(15s), 3});   // the deadline
  CHECK(first_start(4, 5s, 20s) == Start{at(25s), 3});  // counted from when it is free
  CHECK(first_start(9, 60s, 0s) == Start{at(31s), 5});  // nobody else comes
  CHECK(first_start(3, 60s, 40s) == Start{at(40s), 3});
}

TEST_CASE("batching: a bucket is full when the one of the oldest request is") {
  const std::vector<Request> requests{
      {at(0s), 5, 1}, {at(1s), 50, 1}, {at(2s), 51, 1}, {at(3s), 6, 1}, {at(4s), 52, 1}};
  BatchFormer former(
      requests,
      {.order = BatchingConfig::bucket, .bucket_tokens = 10, .sequences = 2, .wait = 10s});
  FormedBatch batch = former.next(at(0s));
  CHECK(batch.requests == Indices{0, 3});
  CHECK(batch.start == at(3s));
  batch = former.next(at(3s));
  CHECK(batch.requests == Indices{1});  // 51 and 52 are in the next bucket
  CHECK(batch.start == at(4s));         // nobody else comes
  CHECK(former.next(at(5s)).requests == Indices{2, 4});
  CHECK(former.is_done());
}

TEST_CASE("batching: every request is served once, not before it came, in batches of the size") {
  constexpr std::uint64_t kSeed = 1;
  INFO("seed ", kSeed);
  Rng rng(kSeed, "models/systems/batching_test");
  for (int round = 0; round < 500; ++round) {
    CAPTURE(round);
    const Scenario scenario = random_scenario(rng);
    const std::uint64_t seed = rng.next();
    const std::vector<FormedBatch> batches = serve(scenario, seed);
    Indices served;
    for (const FormedBatch& batch : batches) {
      REQUIRE(!batch.requests.empty());
      CHECK(batch.requests.size() <= static_cast<std::size_t>(scenario.config.sequences));
      for (const int request : batch.requests) {
        CHECK(batch.start >= scenario.requests[static_cast<std::size_t>(request)].arrival);
        served.push_back(request);
      }
      if (scenario.config.order == BatchingConfig::arrival) {
        CHECK(std::ranges::is_sorted(served));
      }
    }
    std::ranges::sort(served);
    REQUIRE(served.size() == scenario.requests.size());
    for (std::size_t i = 0; i < served.size(); ++i) {
      CHECK(served[i] == static_cast<int>(i));
    }
    const std::vector<FormedBatch> again = serve(scenario, seed);
    REQUIRE(again.size() == batches.size());
    for (std::size_t i = 0; i < batches.size(); ++i) {
      CHECK(again[i].requests == batches[i].requests);
      CHECK(again[i].start == batches[i].start);
    }
  }
}

TEST_CASE("batching: padding makes every sequence as long as the longest") {
  const std::vector<Request> requests{{{}, 100, 3}, {{}, 40, 9}, {{}, 100, 3}, {{}, 7, 1}};
  const Batch ragged = batch_of(requests, {0, 1, 2}, false);
  CHECK(ragged.groups() == std::vector<SequenceGroup>{{2, 100, 3}, {1, 40, 9}});
  const Batch padded = batch_of(requests, {0, 1, 2}, true);
  CHECK(padded.groups() == std::vector<SequenceGroup>{{3, 100, 9}});
  CHECK(batch_of(requests, {3}, true).groups() == std::vector<SequenceGroup>{{1, 7, 1}});
}

TEST_CASE("batching: requests must come in order") {
  const std::vector<Request> requests{{at(2s), 1, 1}, {at(1s), 1, 1}};
  CHECK_THROWS_AS(BatchFormer(requests, {.sequences = 1}), CheckFailure);
}
