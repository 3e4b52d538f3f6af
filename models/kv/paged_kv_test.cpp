#include "models/kv/paged_kv.hpp"

#include <array>

#include <doctest/doctest.h>

#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

PagedKvOptions options(int blocks, int swap_blocks, int block_tokens, int watermark_blocks) {
  return {.blocks = blocks,
          .swap_blocks = swap_blocks,
          .block_tokens = block_tokens,
          .watermark_blocks = watermark_blocks,
          .attention_window = 0,
          .block_size = 1_MiB};
}

}  // namespace

TEST_CASE("paged_kv: a sequence holds whole blocks") {
  PagedKv kv(options(10, 0, 16, 0));
  CHECK(kv.blocks_for(1) == 1);
  CHECK(kv.blocks_for(16) == 1);
  CHECK(kv.blocks_for(17) == 2);
  kv.admit(3, 16);
  CHECK(kv.held(3) == 1);
  kv.grow(3, 16);
  CHECK(kv.held(3) == 1);
  kv.grow(3, 17);
  CHECK(kv.held(3) == 2);
  CHECK(kv.free() == 8);
  kv.release(3);
  CHECK(kv.free() == 10);
  CHECK(kv.high_water() == 2);
  CHECK(kv.held(7) == 0);
}

TEST_CASE("paged_kv: admission leaves the watermark free, growth may use it") {
  PagedKv kv(options(10, 0, 1, 2));
  CHECK(kv.ever_fits(8));
  CHECK_FALSE(kv.ever_fits(9));
  kv.admit(0, 5);
  CHECK(kv.can_admit(3));
  CHECK_FALSE(kv.can_admit(4));
  kv.admit(1, 3);
  CHECK_FALSE(kv.can_admit(1));
  CHECK(kv.can_grow(0, 7));
  CHECK_FALSE(kv.can_grow(0, 8));
  kv.grow(0, 7);
  CHECK(kv.free() == 0);
}

TEST_CASE("paged_kv: swapped blocks are in host memory until they return") {
  PagedKv kv(options(8, 5, 4, 1));
  kv.admit(0, 16);
  kv.admit(1, 12);
  CHECK(kv.swap_out(0) == 4);
  CHECK(kv.free() == 5);
  CHECK(kv.swap_used() == 4);
  CHECK_THROWS_AS(kv.swap_out(1), OutOfCapacity);  // 3 blocks, 1 is left
  CHECK(kv.can_swap_in(0, 16));                    // 4 of 5, 1 stays free
  CHECK_FALSE(kv.can_swap_in(0, 17));              // would need the watermark
  CHECK(kv.swap_in(0) == 4);
  CHECK(kv.held(0) == 4);
  CHECK(kv.swap_used() == 0);
  CHECK(kv.swap_high_water() == 4);
}

TEST_CASE("paged_kv: a sliding window needs no more blocks than it reaches over") {
  CHECK(kv_blocks(100, 16, 0) == 7);
  CHECK(kv_blocks(100, 16, 40) == 4);  // 3 blocks filled, or 2 and parts of two others
  CHECK(kv_blocks(33, 16, 40) == 3);
  PagedKvOptions few = options(4, 0, 16, 0);
  few.attention_window = 40;
  PagedKv kv(few);
  CHECK(kv.ever_fits(1'000'000));
  kv.admit(0, 50);
  for (int tokens = 51; tokens < 200; ++tokens) {
    REQUIRE(kv.can_grow(0, tokens));
    kv.grow(0, tokens);
  }
  CHECK(kv.held(0) == 4);
}

TEST_CASE("paged_kv: what does not fit is refused") {
  PagedKv kv(options(4, 1, 4, 1));
  CHECK_THROWS_AS(kv.admit(0, 13), CheckFailure);
  kv.admit(0, 12);
  CHECK_THROWS_AS(kv.admit(0, 1), CheckFailure);
  CHECK_THROWS_AS(PagedKv(options(1, 0, 0, 0)), CheckFailure);
  SUBCASE("growth") { CHECK_THROWS_AS(kv.grow(0, 17), CheckFailure); }
  SUBCASE("swap space") {
    CHECK_THROWS_WITH_AS(kv.swap_out(0), doctest::Contains("swap space"), OutOfCapacity);
    CHECK(kv.held(0) == 3);
  }
}

TEST_CASE("paged_kv: no block is lost or doubled in a long random history") {
  constexpr int kSequences = 12;
  PagedKv kv(options(40, 25, 3, 2));
  Rng rng(1, "paged_kv");
  std::array<int, kSequences> tokens{};  // 0: not there
  std::array<bool, kSequences> swapped{};
  int swaps = 0;
  for (int i = 0; i < 20'000; ++i) {
    const int sequence = static_cast<int>(rng.below(kSequences));
    int& length = tokens[sequence];
    if (length == 0) {
      const int wanted = 1 + static_cast<int>(rng.below(30));
      if (kv.can_admit(wanted)) {
        kv.admit(sequence, wanted);
        length = wanted;
      }
    } else if (rng.below(5) == 0) {
      kv.release(sequence);
      length = 0;
      swapped[sequence] = false;
    } else if (swapped[sequence]) {
      if (kv.can_swap_in(sequence, length + 1)) {
        kv.swap_in(sequence);
        kv.grow(sequence, ++length);
        swapped[sequence] = false;
      }
    } else if (kv.can_grow(sequence, length + 1)) {
      kv.grow(sequence, ++length);
    } else if (kv.held(sequence) + kv.swap_used() <= kv.options().swap_blocks) {
      kv.swap_out(sequence);
      swapped[sequence] = true;
      ++swaps;
    }
    kv.check_all_sequences();
    std::int64_t expected = 0;
    for (int s = 0; s < kSequences; ++s) {
      expected += swapped[s] ? 0 : kv.blocks_for(tokens[s]);
    }
    REQUIRE(kv.used() == expected);
  }
  CHECK(swaps > 100);
  CHECK(kv.high_water() <= 40);
}
