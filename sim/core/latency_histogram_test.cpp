#include "sim/core/latency_histogram.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kSeed = 21;

/// Latencies over many orders of magnitude.
std::vector<SimDuration> latencies(std::size_t count) {
  Rng rng(kSeed, "sim/core/latency_histogram_test");
  std::vector<SimDuration> values;
  for (std::size_t i = 0; i < count; ++i) {
    values.emplace_back(static_cast<std::int64_t>(rng.next() >> (1 + rng.below(62))));
  }
  return values;
}

LatencyHistogram histogram_of(const std::vector<SimDuration>& values) {
  LatencyHistogram histogram;
  for (const SimDuration value : values) {
    histogram.add(value);
  }
  return histogram;
}

/// Number ceil(percent / 100 x n), in thousandths of a percent so that it is exact.
SimDuration sorted_percentile(std::vector<SimDuration> values, std::int64_t milli_percent) {
  std::sort(values.begin(), values.end());
  const auto n = static_cast<std::int64_t>(values.size());
  const std::int64_t rank = std::max<std::int64_t>(1, ceil_div(milli_percent * n, 100'000));
  return values[static_cast<std::size_t>(rank - 1)];
}

constexpr std::int64_t kMilliPercents[] = {0,      1,      1'000,  25'000, 50'000,
                                           90'000, 95'000, 99'000, 99'900, 100'000};

}  // namespace

TEST_CASE("latency histogram: ten latencies by hand") {
  LatencyHistogram histogram;
  for (int i = 10; i >= 1; --i) {
    histogram.add(i * 10us);
  }
  CHECK(histogram.count() == 10);
  CHECK(histogram.is_exact());
  CHECK(histogram.least() == 10us);
  CHECK(histogram.most() == 100us);
  CHECK(histogram.mean_seconds() == doctest::Approx(55e-6).epsilon(1e-15));
  CHECK(histogram.percentile(0) == 10us);
  CHECK(histogram.percentile(10) == 10us);
  CHECK(histogram.percentile(10.1) == 20us);
  CHECK(histogram.percentile(50) == 50us);
  CHECK(histogram.percentile(95) == 100us);
  CHECK(histogram.percentile(100) == 100us);
}

TEST_CASE("latency histogram: percentiles are those of sorting, exact while few") {
  INFO("seed ", kSeed);
  for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{999},
                                  std::size_t{1000}, LatencyHistogram::kKept}) {
    const std::vector<SimDuration> values = latencies(count);
    const LatencyHistogram histogram = histogram_of(values);
    CHECK(histogram.is_exact());
    for (const std::int64_t milli : kMilliPercents) {
      CAPTURE(count);
      CAPTURE(milli);
      CHECK(histogram.percentile(static_cast<double>(milli) / 1000) ==
            sorted_percentile(values, milli));
    }
  }
}

TEST_CASE("latency histogram: with many, at most 0.1 % above the sorted one, never below") {
  INFO("seed ", kSeed);
  const std::vector<SimDuration> values = latencies(LatencyHistogram::kKept + 1);
  const LatencyHistogram histogram = histogram_of(values);
  CHECK_FALSE(histogram.is_exact());
  for (const std::int64_t milli : kMilliPercents) {
    CAPTURE(milli);
    const SimDuration exact = sorted_percentile(values, milli);
    const SimDuration found = histogram.percentile(static_cast<double>(milli) / 1000);
    CHECK(found >= exact);
    CHECK((found - exact).count() <= exact.count() / 1000);
  }
  CHECK(histogram.percentile(100) == *std::max_element(values.begin(), values.end()));
  CHECK(histogram.least() == *std::min_element(values.begin(), values.end()));
}

TEST_CASE("latency histogram: buckets hold what was added, in order, at most 0.1 % wide") {
  INFO("seed ", kSeed);
  std::vector<SimDuration> values = latencies(20'000);
  for (const std::int64_t power : {11, 12, 30, 62}) {  // both sides of a power of two
    values.emplace_back((std::int64_t{1} << power) - 1);
    values.emplace_back(std::int64_t{1} << power);
  }
  values.push_back(SimDuration::max());
  values.emplace_back(0);
  const LatencyHistogram histogram = histogram_of(values);
  std::sort(values.begin(), values.end());
  std::size_t at = 0;
  for (const LatencyHistogram::Bucket& bucket : histogram.buckets()) {
    CHECK((bucket.last - bucket.first).count() * 1000 <= bucket.first.count());
    REQUIRE(bucket.count > 0);
    REQUIRE(at + static_cast<std::size_t>(bucket.count) <= values.size());
    CHECK(values[at] >= bucket.first);
    at += static_cast<std::size_t>(bucket.count);
    CHECK(values[at - 1] <= bucket.last);
    CHECK((at == values.size() || values[at] > bucket.last));
  }
  CHECK(at == values.size());
}

TEST_CASE("latency histogram: two together are the histogram of all") {
  INFO("seed ", kSeed);
  for (const std::size_t count : {std::size_t{0}, std::size_t{5000}, std::size_t{70'000}}) {
    const std::vector<SimDuration> all = latencies(count + 40'000);
    LatencyHistogram sum = histogram_of({all.begin(), all.begin() + 40'000});
    sum.add(histogram_of({all.begin() + 40'000, all.end()}));
    const LatencyHistogram whole = histogram_of(all);
    CHECK(sum.count() == whole.count());
    CHECK(sum.is_exact() == whole.is_exact());
    CHECK(sum.mean_seconds() == whole.mean_seconds());
    for (const std::int64_t milli : kMilliPercents) {
      const double percent = static_cast<double>(milli) / 1000;
      CHECK(sum.percentile(percent) == whole.percentile(percent));
    }
  }
}

TEST_CASE("latency histogram: nothing has no percentile, and time does not go back") {
  LatencyHistogram histogram;
  CHECK_THROWS_AS(histogram.add(SimDuration{-1}), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(histogram.percentile(50)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(histogram.mean_seconds()), CheckFailure);
  CHECK(histogram.buckets().empty());
  histogram.add(1us);
  CHECK_THROWS_AS(static_cast<void>(histogram.percentile(100.5)), CheckFailure);
}
