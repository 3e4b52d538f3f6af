#include "sim/core/capacity.hpp"

#include <map>
#include <string>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;

TEST_CASE("capacity: the last byte fits, one more does not") {
  CapacityLedger ledger("VRAM", 10_B);
  ledger.allocate("weights", 7_B);
  ledger.allocate("KV cache", 3_B);
  CHECK(ledger.available() == 0_B);
  CHECK_THROWS_AS(ledger.allocate("more", 1_B), OutOfCapacity);
  CHECK(ledger.held() == 10_B);  // a refused allocation changes nothing
  CHECK(ledger.held("more") == 0_B);
  ledger.allocate("nothing", 0_B);
  CHECK(ledger.held_at_high_water() ==
        std::map<std::string, Bytes, std::less<>>{{"KV cache", 3_B}, {"weights", 7_B}});
}

TEST_CASE("capacity: the error says what asked for how much of what") {
  CapacityLedger ledger("VRAM", 48_GiB);
  ledger.allocate("weights", 40_GiB);
  try {
    ledger.allocate("prefill attention scores", 10_GiB);
    FAIL("10 GiB into 8 GiB");
  } catch (const OutOfCapacity& error) {
    CHECK(error.resource == "VRAM");
    CHECK(error.operation == "prefill attention scores");
    CHECK(error.asked == 10_GiB);
    CHECK(error.available == 8_GiB);
    CHECK(error.capacity == 48_GiB);
    CHECK(std::string(error.what()) ==
          "out_of_memory: VRAM: prefill attention scores needs 10.74 GB, 8.59 GB of 51.54 GB are "
          "free");
  }
  // Rounded to four digits the two would be equal.
  try {
    ledger.allocate("scores", 8_GiB + 1_B);
    FAIL("one byte too many");
  } catch (const OutOfCapacity& error) {
    CHECK(std::string(error.what()) ==
          "out_of_memory: VRAM: scores needs 8589934593B, 8GiB of 48GiB are free");
  }
}

TEST_CASE("capacity: releases must match") {
  CapacityLedger ledger("host DRAM", 1_KiB);
  ledger.allocate("a", 10_B);
  CHECK_THROWS_AS(ledger.release("a", 11_B), CheckFailure);
  CHECK_THROWS_AS(ledger.release("b", 1_B), CheckFailure);
  CHECK_THROWS_AS(ledger.release("a", Bytes{-1}), CheckFailure);
  CHECK_THROWS_AS(ledger.allocate("a", Bytes{-1}), CheckFailure);
  CHECK_THROWS_AS(CapacityLedger("none", Bytes{-1}), CheckFailure);
  ledger.release("a", 4_B);
  CHECK(ledger.held("a") == 6_B);
  ledger.release_all("a");
  ledger.release_all("a");
  ledger.release_all("never held");
  CHECK(ledger.held() == 0_B);
  CHECK(ledger.high_water() == 10_B);
  CHECK(ledger.capacity() == 1_KiB);
  CHECK(ledger.resource() == "host DRAM");
}

TEST_CASE("capacity: a scoped allocation ends with its scope, also by an exception") {
  CapacityLedger ledger("CSD DRAM", 100_B);
  {
    const ScopedAllocation buffer(ledger, "buffer", 60_B);
    CHECK(ledger.held("buffer") == 60_B);
    CHECK_THROWS_AS(ScopedAllocation(ledger, "another", 60_B), OutOfCapacity);
  }
  CHECK(ledger.held() == 0_B);
}

TEST_CASE("capacity: bytes are conserved over random allocations and releases") {
  CapacityLedger ledger("VRAM", 1000_B);
  std::map<std::string, std::int64_t> oracle;
  std::int64_t high_water = 0;
  Rng rng{1, "sim/core/capacity_test"};
  for (int step = 0; step < 20'000; ++step) {
    const std::string label(1, static_cast<char>('a' + rng.below(5)));
    const auto size = static_cast<std::int64_t>(rng.below(200));
    std::int64_t sum = 0;
    for (const auto& [name, held] : oracle) {
      sum += held;
    }
    if (rng.below(2) == 0) {
      if (sum + size <= 1000) {
        ledger.allocate(label, Bytes{size});
        oracle[label] += size;
        high_water = std::max(high_water, sum + size);
      } else {
        REQUIRE_THROWS_AS(ledger.allocate(label, Bytes{size}), OutOfCapacity);
      }
    } else {
      const std::int64_t part = std::min(size, oracle[label]);
      ledger.release(label, Bytes{part});
      oracle[label] -= part;
    }
    REQUIRE(ledger.held(label) == Bytes{oracle[label]});
    REQUIRE(ledger.high_water() == Bytes{high_water});
  }
  Bytes at_mark{};
  for (const auto& [label, held] : ledger.held_at_high_water()) {
    CHECK(held > 0_B);
    at_mark += held;
  }
  CHECK(at_mark == ledger.high_water());
}
