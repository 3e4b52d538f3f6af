#include "models/systems/continuous_batching_scheduler.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

struct Length {
  std::int64_t prompt;
  std::int64_t output;
};

PagedKvOptions kv_of(std::int64_t blocks, std::int64_t block_tokens = 1, std::int64_t watermark = 0,
                     std::int64_t swap_blocks = 1'000'000) {
  return {.blocks = blocks,
          .swap_blocks = swap_blocks,
          .block_tokens = block_tokens,
          .watermark_blocks = watermark,
          .attention_window = 0,
          .block_size = 1_MiB};
}

SchedulerOptions options(Preemption preemption = Preemption::recompute, bool chunked = false,
                         std::int64_t tokens = 2048, std::int64_t sequences = 256) {
  return {.max_sequences = sequences,
          .max_batched_tokens = tokens,
          .chunked_prefill = chunked,
          .preemption = preemption};
}

/// A server whose iterations take one tick each; every request is there at tick 0.
struct Served {
  std::vector<int> first_token;  // by sequence: in which iteration, from 0
  std::vector<int> finished;
  std::vector<int> order;  // of first tokens
  std::vector<PassBatch> batches;
  std::vector<std::int64_t> tokens;  // by sequence: times that it got one
};

Served serve(ContinuousScheduler& scheduler, const std::vector<Length>& lengths) {
  Served served;
  served.first_token.resize(lengths.size(), -1);
  served.finished.resize(lengths.size(), -1);
  for (const Length& length : lengths) {
    REQUIRE(scheduler.arrive(length.prompt, length.output) ==
            ContinuousScheduler::Admission::accepted);
  }
  for (int tick = 0; !scheduler.idle(); ++tick) {
    REQUIRE(tick < 1'000'000);
    served.batches.push_back(scheduler.plan().batch);
    const auto& progress = scheduler.complete();
    for (const int sequence : progress.first_token) {
      REQUIRE(served.first_token[sequence] == -1);
      served.first_token[sequence] = tick;
      served.order.push_back(sequence);
    }
    for (const int sequence : progress.finished) {
      REQUIRE(served.finished[sequence] == -1);
      served.finished[sequence] = tick;
    }
    scheduler.kv().check_all_sequences();
    REQUIRE(scheduler.kv().free() >= 0);
  }
  CHECK(scheduler.kv().used() == 0);
  CHECK(scheduler.kv().swap_used() == 0);
  return served;
}

std::int64_t sampled_tokens(const Served& served) {
  return std::accumulate(
      served.batches.begin(), served.batches.end(), std::int64_t{0},
      [](std::int64_t sum, const PassBatch& batch) { return sum + batch.sampled(); });
}
std::int64_t computed_tokens(const Served& served) {
  return std::accumulate(
      served.batches.begin(), served.batches.end(), std::int64_t{0},
      [](std::int64_t sum, const PassBatch& batch) { return sum + batch.tokens(); });
}

std::vector<Length> random_lengths(int count, const char* stream) {
  Rng rng(1, stream);
  std::vector<Length> lengths;
  for (int i = 0; i < count; ++i) {
    lengths.push_back({1 + static_cast<std::int64_t>(rng.below(60)),
                       1 + static_cast<std::int64_t>(rng.below(60))});
  }
  return lengths;
}

}  // namespace

TEST_CASE("scheduler: equal requests with room for all prefill once and decode together") {
  ContinuousScheduler scheduler(options(), kv_of(1000));
  const Served served = serve(scheduler, {{10, 4}, {10, 4}, {10, 4}});
  REQUIRE(served.batches.size() == 4);
  CHECK(served.batches[0].prefill.size() == 3);
  CHECK(served.batches[0].decode_sequences == 0);
  for (int step = 0; step < 3; ++step) {
    CHECK(served.batches[step + 1].prefill.empty());
    CHECK(served.batches[step + 1].decode_sequences == 3);
    CHECK(served.batches[step + 1].decode_context == 3 * (10 + 1 + step));
  }
  CHECK(served.finished == std::vector<int>{3, 3, 3});
  CHECK(scheduler.counters().iterations == 4);
  CHECK(scheduler.counters().preemptions == 0);
}

TEST_CASE("scheduler: whole prompts up to the token budget, the rest in the next iteration") {
  ContinuousScheduler scheduler(options(Preemption::recompute, false, 25, 20), kv_of(1000));
  const Served served = serve(scheduler, {{10, 3}, {10, 3}, {10, 3}});
  // 2 prompts, 1 prompt, then all decode.
  CHECK(served.first_token == std::vector<int>{0, 0, 1});
  CHECK(served.finished == std::vector<int>{3, 3, 3});
}

TEST_CASE("scheduler: at most max_sequences run at a time") {
  ContinuousScheduler scheduler(options(Preemption::recompute, false, 2048, 2), kv_of(1000));
  const Served served = serve(scheduler, {{10, 2}, {10, 3}, {10, 2}});
  // 0 and 1 prefill; decode, 0 is done; 2 prefills; 1 and 2 decode their last token.
  CHECK(served.first_token == std::vector<int>{0, 0, 2});
  CHECK(served.finished == std::vector<int>{1, 3, 3});
}

TEST_CASE("scheduler: chunked prefill fills the budget behind the decoding sequences") {
  ContinuousScheduler scheduler(options(Preemption::recompute, true, 8, 8), kv_of(1000));
  const Served served = serve(scheduler, {{6, 4}, {13, 2}});
  // 6 + 2 of 13; 1 + 7; 1 + 4, the first token of sequence 1; the last ones.
  REQUIRE(served.batches.size() == 4);
  CHECK(served.batches[0].prefill.size() == 2);
  CHECK(served.batches[0].prefill[1].new_tokens == 2);
  CHECK(served.batches[0].prefill[1].context == 2);
  CHECK(served.batches[0].last_piece_goes_on);
  CHECK(served.batches[0].sampled() == 1);
  CHECK(served.batches[1].prefill[0].new_tokens == 7);
  CHECK(served.batches[1].prefill[0].context == 9);
  CHECK(served.batches[1].decode_sequences == 1);
  CHECK(served.batches[1].decode_context == 7);
  CHECK(served.batches[2].prefill[0].new_tokens == 4);
  CHECK(served.batches[2].prefill[0].context == 13);
  CHECK_FALSE(served.batches[2].last_piece_goes_on);
  CHECK(served.batches[2].sampled() == 2);
  CHECK(served.first_token == std::vector<int>{0, 2});
  CHECK(served.finished == std::vector<int>{3, 3});
}

TEST_CASE("scheduler: recomputation by hand") {
  // Blocks of one token, 11 of them. Both prompts of 4 take 8; the decodes take 10, then sequence 0
  // takes the last one and 1 has to go with the KV of 5 tokens (prompt and one generated token;
  // the second generated one has none). 0 ends at 4 + 3 = 7 tokens. 1 prefills 4 + 2 = 6 tokens,
  // which gives its third token, and decodes the fourth.
  ContinuousScheduler scheduler(options(), kv_of(11));
  const Served served = serve(scheduler, {{4, 4}, {4, 4}});
  CHECK(scheduler.counters().preemptions == 1);
  CHECK(scheduler.counters().recomputed_tokens == 5);
  REQUIRE(served.batches.size() == 6);
  CHECK(served.batches[2].decode_sequences == 1);
  CHECK(served.batches[3].decode_sequences == 1);
  REQUIRE(served.batches[4].prefill.size() == 1);
  CHECK(served.batches[4].prefill[0].new_tokens == 6);
  CHECK(served.batches[5].decode_context == 7);
  CHECK(served.first_token == std::vector<int>{0, 0});
  CHECK(served.finished == std::vector<int>{3, 5});
}

TEST_CASE("scheduler: swapping by hand") {
  // As above, but the 5 blocks of sequence 1 move out and back when 0 is done.
  ContinuousScheduler scheduler(options(Preemption::swap), kv_of(11));
  const Served served = serve(scheduler, {{4, 4}, {4, 4}});
  CHECK(scheduler.counters().preemptions == 1);
  CHECK(scheduler.counters().recomputed_tokens == 0);
  CHECK(scheduler.counters().swapped_out_blocks == 5);
  CHECK(scheduler.counters().swapped_in_blocks == 5);
  REQUIRE(served.batches.size() == 6);
  CHECK(served.batches[4].decode_context == 6);
  CHECK(served.batches[5].decode_context == 7);
  CHECK(served.finished == std::vector<int>{3, 5});
}

TEST_CASE("scheduler: swap space that is full ends the run") {
  ContinuousScheduler scheduler(options(Preemption::swap), kv_of(11, 1, 0, 4));
  REQUIRE(scheduler.arrive(4, 4) == ContinuousScheduler::Admission::accepted);
  REQUIRE(scheduler.arrive(4, 4) == ContinuousScheduler::Admission::accepted);
  const auto go_on = [&scheduler] {
    scheduler.plan();
    scheduler.complete();
  };
  go_on();
  go_on();
  CHECK_THROWS_WITH_AS(go_on(), doctest::Contains("swap space"), OutOfCapacity);
}

TEST_CASE("scheduler: the watermark keeps a new sequence out, not a growing one") {
  ContinuousScheduler scheduler(options(), kv_of(12, 1, 2));
  const Served served = serve(scheduler, {{5, 5}, {4, 1}});
  // Sequence 1 would leave 12 - 5 - 4 = 3 >= 2 blocks: admitted at once.
  CHECK(served.first_token == std::vector<int>{0, 0});
  ContinuousScheduler full(options(), kv_of(10, 1, 2));
  // 10 - 5 - 4 = 1 < 2: only when sequence 0 is done, which grows to 9 blocks.
  CHECK_FALSE(PagedKv(kv_of(10, 1, 2)).ever_fits(9));
  CHECK(serve(full, {{4, 5}, {5, 1}}).first_token == std::vector<int>{0, 5});
}

TEST_CASE("scheduler: what can never run is turned away at once") {
  ContinuousScheduler scheduler(options(Preemption::recompute, false, 32, 8), kv_of(20));
  CHECK(scheduler.arrive(33, 1) == ContinuousScheduler::Admission::exceeds_batch);
  CHECK(scheduler.arrive(20, 2) == ContinuousScheduler::Admission::exceeds_kv);
  CHECK(scheduler.idle());
  CHECK(scheduler.arrive(20, 1) == ContinuousScheduler::Admission::accepted);
  CHECK(scheduler.plan().batch.tokens() == 20);
  CHECK(scheduler.complete().finished == std::vector<int>{2});
  ContinuousScheduler chunked(options(Preemption::recompute, true, 32, 8), kv_of(50));
  CHECK(chunked.arrive(33, 1) == ContinuousScheduler::Admission::accepted);
}

TEST_CASE("scheduler: every request ends once with its tokens, in the order of arrival") {
  const std::vector<Length> lengths = random_lengths(200, "scheduler");
  const std::int64_t output =
      std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0},
                      [](std::int64_t sum, const Length& length) { return sum + length.output; });
  const std::int64_t least = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0},
                                             [](std::int64_t sum, const Length& length) {
                                               return sum + length.prompt + length.output - 1;
                                             });
  for (const Preemption preemption : {Preemption::recompute, Preemption::swap}) {
    for (const bool chunked : {false, true}) {
      for (const std::int64_t blocks : {40, 60, 100, 100'000}) {
        CAPTURE(chunked);
        CAPTURE(blocks);
        ContinuousScheduler scheduler(options(preemption, chunked, 130, 32), kv_of(blocks, 4, 1));
        const Served served = serve(scheduler, lengths);
        CHECK(std::count(served.finished.begin(), served.finished.end(), -1) == 0);
        CHECK(sampled_tokens(served) == output);
        CHECK(computed_tokens(served) == least + scheduler.counters().recomputed_tokens);
        CHECK(scheduler.counters().swapped_in_blocks == scheduler.counters().swapped_out_blocks);
        CHECK((blocks < 1000) == (scheduler.counters().preemptions > 0));
        CHECK(std::is_sorted(served.order.begin(), served.order.end()));
        CHECK(scheduler.kv().high_water() <= blocks);
      }
    }
  }
}

TEST_CASE("scheduler: with a sliding window decoding sees, and keeps, the window only") {
  PagedKvOptions few = kv_of(26);
  few.attention_window = 12;
  ContinuousScheduler scheduler(options(), few);
  const Served served = serve(scheduler, {{10, 8}, {20, 8}});  // 13 blocks each at most
  REQUIRE(served.batches.size() == 8);
  CHECK(served.batches[1].decode_context == 11 + 12);
  CHECK(served.batches[7].decode_context == 12 + 12);
  CHECK(scheduler.counters().preemptions == 0);
  CHECK(scheduler.kv().high_water() == 26);
}

TEST_CASE("scheduler: the policies agree where nothing is preempted") {
  const std::vector<Length> lengths = random_lengths(100, "policies");
  for (const bool chunked : {false, true}) {
    ContinuousScheduler recompute(options(Preemption::recompute, chunked), kv_of(100'000));
    ContinuousScheduler swap(options(Preemption::swap, chunked), kv_of(100'000));
    const Served one = serve(recompute, lengths);
    const Served other = serve(swap, lengths);
    CHECK(one.first_token == other.first_token);
    CHECK(one.finished == other.finished);
    CHECK(recompute.counters().preemptions == 0);
  }
}

TEST_CASE("scheduler: an iteration is planned, then completed") {
  ContinuousScheduler scheduler(options(), kv_of(100));
  CHECK_THROWS_AS(scheduler.plan(), CheckFailure);
  CHECK_THROWS_AS(scheduler.complete(), CheckFailure);
  scheduler.arrive(4, 4);
  scheduler.plan();
  CHECK_THROWS_AS(scheduler.plan(), CheckFailure);
  CHECK_THROWS_AS(scheduler.arrive(0, 4), CheckFailure);
  CHECK_THROWS_AS(ContinuousScheduler(options(Preemption::recompute, true, 4, 8), kv_of(100)),
                  CheckFailure);
}
