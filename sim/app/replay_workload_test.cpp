#include "sim/app/replay_workload.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;
using namespace std::chrono_literals;
using traces::AccessKind;
using traces::BlockRecord;

namespace {

constexpr Bytes kDrive = 1_GiB;

ReplayWorkload workload() {
  ReplayWorkload w;
  w.name = "test";
  w.pattern.kind = WorkloadPattern::random;
  w.sizes = {{4_KiB, 1}};
  w.alignment = 4_KiB;
  w.reads = 1;
  w.working_set = {WorkingSet::bytes, 1_MiB, 0};
  w.arrivals = {WorkloadArrivals::closed_loop, 1, 0, WorkloadArrivals::Spacing::equal};
  w.length = {WorkloadLength::requests, 100'000, {}};
  w.seed = 9;
  return w;
}

std::vector<BlockRecord> all_of(const ReplayWorkload& w) {
  WorkloadRequests requests(w, kDrive);
  std::vector<BlockRecord> all;
  for (BlockRecord record; requests.next(record);) {
    all.push_back(record);
  }
  return all;
}

bool same(const BlockRecord& a, const BlockRecord& b) {
  return a.at == b.at && a.kind == b.kind && a.first == b.first && a.size == b.size;
}

/// Within `sigmas` standard deviations of a binomial count.
void check_count(std::int64_t count, std::int64_t n, double p, double sigmas = 4.5) {
  const double expected = static_cast<double>(n) * p;
  CAPTURE(count);
  CAPTURE(expected);
  CHECK(std::abs(static_cast<double>(count) - expected) <=
        sigmas * std::sqrt(expected * (1 - p)) + 1);
}

}  // namespace

TEST_CASE("workload: the shipped ones are complete") {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(shipped_configs() / "workloads")) {
    CAPTURE(entry.path().string());
    ReplayWorkload w;
    read_fields(load_config(entry.path()), [&w](FieldVisitor& v) { w.fields(v); });
    CHECK(w.name == entry.path().stem().string());
    ++count;
  }
  CHECK(count >= 4);
}

TEST_CASE("workload: every request is aligned and within the working set") {
  for (const std::size_t kind : {WorkloadPattern::sequential, WorkloadPattern::random,
                                 WorkloadPattern::zipf, WorkloadPattern::hot_cold}) {
    CAPTURE(kind);
    ReplayWorkload w = workload();
    w.pattern = {kind, 0.9, 0.1, 0.9};
    w.sizes = {{4_KiB, 3}, {20_KiB, 1}, {512_B, 2}};
    w.alignment = 8_KiB;
    w.working_set.size = 1_MiB - 4_KiB;
    w.length.count = 20'000;
    Bytes furthest{};
    for (const BlockRecord& record : all_of(w)) {
      CHECK(record.first.count() % w.alignment.count() == 0);
      furthest = std::max(furthest, record.first + record.size);
    }
    CHECK(furthest <= w.working_set.size);
    CHECK(furthest > w.working_set.size - 2 * w.alignment - 20_KiB);
  }
}

TEST_CASE("workload: sequential goes on behind the last request and starts again") {
  ReplayWorkload w = workload();
  w.pattern.kind = WorkloadPattern::sequential;
  w.sizes = {{12_KiB, 1}};
  w.alignment = 8_KiB;
  w.working_set.size = 44_KiB;  // 0, 16 and 32 KiB; 48 KiB is beyond it
  w.length.count = 5;
  const auto all = all_of(w);
  REQUIRE(all.size() == 5);
  const Bytes expected[] = {0_KiB, 16_KiB, 32_KiB, 0_KiB, 16_KiB};
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK(all[i].first == expected[i]);
  }
}

TEST_CASE("workload: shares of kinds and sizes") {
  ReplayWorkload w = workload();
  INFO("seed ", w.seed);
  w.reads = 0.6;
  w.trims = 0.1;
  w.sizes = {{4_KiB, 6}, {16_KiB, 3}, {64_KiB, 1}};
  std::map<AccessKind, std::int64_t> kinds;
  std::map<Bytes, std::int64_t> sizes;
  for (const BlockRecord& record : all_of(w)) {
    ++kinds[record.kind];
    ++sizes[record.size];
  }
  const std::int64_t n = w.length.count;
  check_count(kinds[AccessKind::read], n, 0.6);
  check_count(kinds[AccessKind::trim], n, 0.1);
  check_count(kinds[AccessKind::write], n, 0.3);
  check_count(sizes[4_KiB], n, 0.6);
  check_count(sizes[16_KiB], n, 0.3);
  check_count(sizes[64_KiB], n, 0.1);
  CHECK(sizes.size() == 3);
}

// 1 MiB has 256 slots of 4 KiB. Chi-squared with 255 degrees of freedom: mean 255, sd 22.6.
TEST_CASE("workload: random takes all slots alike") {
  const ReplayWorkload w = workload();
  INFO("seed ", w.seed);
  std::map<Bytes, std::int64_t> slots;
  for (const BlockRecord& record : all_of(w)) {
    ++slots[record.first];
  }
  CHECK(slots.size() == 256);
  const double expected = static_cast<double>(w.length.count) / 256;
  double chi_squared = 0;
  for (const auto& [slot, count] : slots) {
    chi_squared += std::pow(static_cast<double>(count) - expected, 2) / expected;
  }
  CHECK(chi_squared > 255 - 4 * 22.6);
  CHECK(chi_squared < 255 + 4 * 22.6);
}

TEST_CASE("workload: hot slots get their share, the others the rest") {
  ReplayWorkload w = workload();
  INFO("seed ", w.seed);
  w.pattern = {WorkloadPattern::hot_cold, 0, 0.25, 0.8};
  std::int64_t hot = 0;
  for (const BlockRecord& record : all_of(w)) {
    hot += record.first < 256_KiB ? 1 : 0;
  }
  check_count(hot, w.length.count, 0.8);
  for (const double share : {0.0, 1.0}) {  // nothing is hot, all is
    w.pattern.hot_share = share;
    CHECK(all_of(w).size() == static_cast<std::size_t>(w.length.count));
  }
}

// P(rank r) = r^-s / sum of k^-s over all n.
TEST_CASE("workload: Zipf's ranks have their probabilities") {
  constexpr std::int64_t kRanks = 1000;
  constexpr std::int64_t kDraws = 200'000;
  for (const double exponent : {0.2, 0.99, 1.0, 1.0 + 1e-12, 1.2, 3.0}) {
    CAPTURE(exponent);
    const ZipfRanks ranks(kRanks, exponent);
    Rng rng(4, "sim/app/replay_workload_test");
    std::vector<std::int64_t> counts(kRanks + 1);
    for (std::int64_t i = 0; i < kDraws; ++i) {
      const std::int64_t rank = ranks.draw(rng);
      REQUIRE(rank >= 1);
      REQUIRE(rank <= kRanks);
      ++counts[static_cast<std::size_t>(rank)];
    }
    double sum = 0;
    for (std::int64_t k = 1; k <= kRanks; ++k) {
      sum += std::pow(static_cast<double>(k), -exponent);
    }
    std::int64_t tail = 0;
    double tail_share = 0;
    for (std::int64_t k = 1; k <= kRanks; ++k) {
      const double p = std::pow(static_cast<double>(k), -exponent) / sum;
      if (k <= 20) {
        check_count(counts[static_cast<std::size_t>(k)], kDraws, p);
      } else {
        tail += counts[static_cast<std::size_t>(k)];
        tail_share += p;
      }
    }
    check_count(tail, kDraws, tail_share);
  }
  Rng rng(4, "one rank");
  CHECK(ZipfRanks(1, 0.9).draw(rng) == 1);
}

TEST_CASE("workload: Zipf's ranks are scattered, one slot each") {
  ReplayWorkload w = workload();
  w.pattern = {WorkloadPattern::zipf, 0.5, 0, 0};
  w.working_set.size = 1_MiB - 4_KiB;  // 255 slots: not a power of two, not prime
  std::map<Bytes, std::int64_t> slots;
  for (const BlockRecord& record : all_of(w)) {
    ++slots[record.first];
  }
  CHECK(slots.size() == 255);
  std::vector<std::pair<std::int64_t, Bytes>> hottest;
  for (const auto& [slot, count] : slots) {
    hottest.emplace_back(-count, slot);
  }
  std::sort(hottest.begin(), hottest.end());
  CHECK(std::abs((hottest[0].second - hottest[1].second).count()) > 64 * 1024);
}

TEST_CASE("workload: equal arrivals are at multiples of 1 / rate, and end before the duration") {
  ReplayWorkload w = workload();
  w.arrivals = {WorkloadArrivals::open_loop, 0, 3e6, WorkloadArrivals::Spacing::equal};
  w.length.count = 4;
  const auto all = all_of(w);
  REQUIRE(all.size() == 4);
  CHECK(all[0].at == 0ns);
  CHECK(all[1].at == SimDuration{333'334});  // rounded up
  CHECK(all[2].at == SimDuration{666'667});
  CHECK(all[3].at == 1us);
  w.length = {WorkloadLength::duration, 0, 1us};
  CHECK(all_of(w).size() == 3);
  w.length.time = 1us + SimDuration{1};
  CHECK(all_of(w).size() == 4);
}

// Gaps of mean m and standard deviation m: the mean of n of them has a deviation of m / sqrt(n).
TEST_CASE("workload: Poisson arrivals have exponential gaps") {
  ReplayWorkload w = workload();
  INFO("seed ", w.seed);
  w.arrivals = {WorkloadArrivals::open_loop, 0, 1e5, WorkloadArrivals::Spacing::poisson};
  const auto all = all_of(w);
  CHECK(all.front().at == 0ns);
  const auto n = static_cast<double>(all.size() - 1);
  const double mean = to_seconds(all.back().at) / n;
  CHECK(std::abs(mean - 1e-5) < 4.5 * 1e-5 / std::sqrt(n));
  std::int64_t long_gaps = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    REQUIRE(all[i].at >= all[i - 1].at);
    long_gaps += all[i].at - all[i - 1].at > 10us ? 1 : 0;
  }
  check_count(long_gaps, static_cast<std::int64_t>(n), std::exp(-1.0));
}

TEST_CASE(
    "workload: the same seed gives the same requests, and streams do not disturb each other") {
  ReplayWorkload w = workload();
  w.length.count = 1000;
  w.reads = 0.5;
  const auto first = all_of(w);
  const auto second = all_of(w);
  CHECK(std::equal(first.begin(), first.end(), second.begin(), second.end(), same));
  ReplayWorkload more_reads = w;
  more_reads.reads = 0.9;
  const auto third = all_of(more_reads);
  CHECK(std::equal(first.begin(), first.end(), third.begin(), third.end(),
                   [](const auto& a, const auto& b) { return a.first == b.first; }));
  w.seed = 10;
  CHECK_FALSE(std::equal(first.begin(), first.end(), all_of(w).begin(), same));
}

TEST_CASE("workload: what does not fit the drive is refused") {
  ReplayWorkload w = workload();
  w.working_set.size = 2_GiB;
  CHECK_THROWS_WITH_AS(WorkloadRequests(w, kDrive),
                       "/working_set/size: 2GiB is more than the drive's 1GiB; must be "
                       "at most that, or choose a larger drive",
                       ConfigError);
  w.working_set.size = 2_KiB;
  CHECK_THROWS_WITH_AS(
      WorkloadRequests(w, kDrive),
      "/sizes: a request of 4KiB does not fit in the working set of 2KiB; must be at most that",
      ConfigError);
  w = workload();
  w.arrivals = {WorkloadArrivals::open_loop, 0, 1e-3, WorkloadArrivals::Spacing::equal};
  CHECK_THROWS_AS(WorkloadRequests(w, kDrive), ConfigError);
  w.working_set = {WorkingSet::share, {}, 1};
  w.arrivals.kind = WorkloadArrivals::closed_loop;
  CHECK(WorkloadRequests(w, kDrive).working_set() == kDrive);
}
