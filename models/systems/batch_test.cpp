#include "models/systems/batch.hpp"

#include <doctest/doctest.h>

namespace nearkv {

TEST_CASE("batch: contexts of the decode steps") {
  const SequenceGroup group{.sequences = 2, .prompt_tokens = 1024, .output_tokens = 1024};
  CHECK(group.decode_steps() == 1023);  // prefill gives the first token
  CHECK(group.context_of(0) == 1025);
  CHECK(group.context_of(1022) == 2047);
  CHECK(group.longest_context() == 2047);
  const SequenceGroup least{.sequences = 1, .prompt_tokens = 1, .output_tokens = 2};
  CHECK(least.decode_steps() == 1);
  CHECK(least.context_of(0) == least.longest_context());
}

TEST_CASE("batch: equal sequences are one group, whatever their order") {
  const Batch batch({{1, 10, 5}, {2, 20, 3}, {3, 10, 5}, {1, 20, 7}});
  REQUIRE(batch.groups().size() == 3);
  CHECK(batch.groups()[0] == SequenceGroup{1, 20, 7});
  CHECK(batch.groups()[1] == SequenceGroup{2, 20, 3});
  CHECK(batch.groups()[2] == SequenceGroup{4, 10, 5});
  CHECK(batch == Batch({{1, 20, 7}, {4, 10, 5}, {2, 20, 3}}));
  CHECK_FALSE(batch.is_uniform());
  CHECK(batch.sequences() == 7);
  CHECK(batch.prompt_tokens() == 60 + 40);
  CHECK(batch.output_tokens() == 7 + 6 + 20);
  CHECK(batch.final_kv_tokens() == 100 + 33 - 7);
  CHECK(batch.decode_steps() == 6);
  CHECK(batch.longest_context() == 26);
}

TEST_CASE("batch: a step processes the sequences that are not done") {
  const Batch batch({{1, 20, 7}, {2, 20, 3}, {4, 10, 5}});
  CHECK(batch.prompts().size() == 3);
  const auto first = batch.at_step(0);
  REQUIRE(first.size() == 3);
  CHECK(first[1].sequences == 2);
  CHECK(first[1].new_tokens == 1);
  CHECK(first[1].context == 21);
  CHECK(batch.active_sequences(0) == 7);
  CHECK(batch.context_tokens(0) == 3 * 21 + 4 * 11);
  CHECK(batch.at_step(2).size() == 2);  // the group of 3 tokens is done after steps 0 and 1
  CHECK(batch.active_sequences(2) == 5);
  CHECK(batch.active_sequences(5) == 1);
  CHECK(batch.context_tokens(5) == 26);
  CHECK(batch.active_sequences(6) == 0);
}

}  // namespace nearkv
