#include "models/systems/prompt_pieces.hpp"

#include <string>

#include <doctest/doctest.h>

#include "models/systems/test_points.hpp"

namespace nearkv {

namespace {

bool operator==(const SequenceBatch& a, const SequenceBatch& b) {
  return a.sequences == b.sequences && a.new_tokens == b.new_tokens && a.context == b.context;
}

}  // namespace

TEST_CASE("prompt pieces: whole prompts as far as they fit, else parts of one prompt") {
  const PromptPieces pieces({{5, 100, 100}, {2, 1000, 1000}}, 250);
  REQUIRE(pieces.pieces().size() == 6);
  const auto is = [&](std::size_t i, const SequenceBatch& batch, std::int64_t times) {
    CAPTURE(i);
    CHECK(pieces.pieces()[i].batch.front() == batch);
    CHECK(pieces.pieces()[i].times == times);
  };
  is(0, {2, 100, 100}, 2);
  is(1, {1, 100, 100}, 1);
  is(2, {1, 250, 250}, 2);
  is(5, {1, 250, 1000}, 2);
}

TEST_CASE("prompt pieces: every token passes once, and attends over what it attends over whole") {
  const std::vector<SequenceBatch> prompts{{7, 123, 123}, {3, 4097, 4097}, {1, 1, 1}};
  for (const std::int64_t most : {1, 7, 128, 1000, 5000, 100'000, 0}) {
    CAPTURE(most);
    std::int64_t tokens = 0;
    std::int64_t pairs = 0;
    const PromptPieces pieces(prompts, most);
    for (const PromptPieces::Piece& piece : pieces.pieces()) {
      for (const SequenceBatch& group : piece.batch) {
        const std::int64_t earlier = group.context - group.new_tokens;
        tokens += group.tokens() * piece.times;
        pairs += piece.times * group.sequences *
                 (group.new_tokens * earlier + group.new_tokens * (group.new_tokens + 1) / 2);
      }
    }
    CHECK(tokens == 7 * 123 + 3 * 4097 + 1);
    CHECK(pairs == 7 * (123 * 124 / 2) + 3 * (4097LL * 4098 / 2) + 1);
  }
}

TEST_CASE("prompt pieces: smaller ones take less memory and more time") {
  double last_time = 0;
  double last_memory = 0;
  for (const int most : {0, 96, 32, 8}) {
    CAPTURE(most);
    const RunResult run =
        run_alone(small_point("insti_dense", {"system/prefill_tokens=" + std::to_string(most)}));
    REQUIRE(run.status == RunStatus::ok);
    CHECK(run.at("prefill_time") > last_time);
    CHECK((last_memory == 0 || run.at("high_water/VRAM") < last_memory));
    last_time = run.at("prefill_time");
    last_memory = run.at("high_water/VRAM");
  }
  // Pieces as large as the batch are the batch.
  CHECK(run_alone(small_point("insti_dense", {"system/prefill_tokens=192"})).digest ==
        run_alone(small_point("insti_dense")).digest);
}

TEST_CASE("prompt pieces: a prompt of a million tokens fits a GPU of 48 GB") {
  const Overrides million{"workload/batch=1",          "workload/prompt_tokens=1000000",
                          "workload/output_tokens=2",  "model/max_positions=1048576",
                          "model/learned_positions=0", "model/kv_heads=8",
                          "host/dram=2048GiB"};
  CHECK(run_alone(small_point("insti_dense", million)).status == RunStatus::out_of_memory);
  CHECK(run_alone(small_point("insti_dense", million + Overrides{"system/prefill_tokens=16384"}))
            .status == RunStatus::ok);
}

}  // namespace nearkv
