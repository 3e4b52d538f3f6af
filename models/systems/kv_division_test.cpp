#include "models/systems/kv_division.hpp"

#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;

TEST_CASE("kv division: heads are divided in order, the first drives get one more") {
  const auto counts = [](int drives, std::int64_t heads) {
    std::vector<std::int64_t> found;
    std::int64_t next = 0;
    for (int drive = 0; drive < drives; ++drive) {
      const RowRange range = rows_of_drive(KvDivision::heads, drive, drives, heads);
      CHECK(range.first == next);
      next = range.last;
      found.push_back(range.count());
    }
    CHECK(next == heads);
    return found;
  };
  CHECK(counts(1, 40) == std::vector<std::int64_t>{40});
  CHECK(counts(3, 40) == std::vector<std::int64_t>{14, 13, 13});
  CHECK(counts(4, 40) == std::vector<std::int64_t>{10, 10, 10, 10});
  CHECK(counts(5, 3) == std::vector<std::int64_t>{1, 1, 1, 0, 0});
  CHECK(rows_of_drive(KvDivision::sequences, 2, 3, 40).count() == 40);
  CHECK(rows_of_drive(KvDivision::sequences, 2, 3, 40).first == 0);
}

TEST_CASE("kv division: sequences are dealt over the groups, none twice, at most one apart") {
  using Dealt = std::vector<std::vector<int>>;
  CHECK(sequences_of_drives(KvDivision::sequences, 3, {7}) == Dealt{{3}, {2}, {2}});
  CHECK(sequences_of_drives(KvDivision::sequences, 3, {1, 1, 2, 3}) ==
        Dealt{{1, 0, 1, 1}, {0, 1, 0, 1}, {0, 0, 1, 1}});
  CHECK(sequences_of_drives(KvDivision::heads, 2, {7, 2}) == Dealt{{7, 2}, {7, 2}});
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "kv_division_test/sequences");
    std::vector<int> groups(1 + rng.below(6));
    for (int& group : groups) {
      group = 1 + static_cast<int>(rng.below(9));
    }
    const int drives = 1 + static_cast<int>(rng.below(7));
    const Dealt dealt = sequences_of_drives(KvDivision::sequences, drives, groups);
    std::vector<int> of_groups(groups.size());
    const int all = std::accumulate(groups.begin(), groups.end(), 0);
    for (const std::vector<int>& drive : dealt) {
      for (std::size_t group = 0; group < groups.size(); ++group) {
        of_groups[group] += drive[group];
      }
      const int held = std::accumulate(drive.begin(), drive.end(), 0);
      CHECK(held >= all / drives);
      CHECK(held <= (all + drives - 1) / drives);
    }
    CHECK(of_groups == groups);
  }
}

TEST_CASE("kv division: pairs within a range of rows are those counted one by one") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "kv_division_test/pairs");
    const auto below = [&rng](std::int64_t n) {
      return static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(n)));
    };
    const std::int64_t rows = 1 + below(9);
    const std::int64_t first = below(40);
    const std::int64_t last = first + below(40);
    RowRange wanted;
    wanted.first = below(rows);
    wanted.last = wanted.first + below(rows - wanted.first + 1);
    std::int64_t expected = 0;
    for (std::int64_t pair = first; pair < last; ++pair) {
      expected += wanted.first <= pair % rows && pair % rows < wanted.last ? 1 : 0;
    }
    CHECK(pairs_within(first, last, rows, wanted) == expected);
  }
}
