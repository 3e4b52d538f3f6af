#include "traces/request_generator.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

using namespace nearkv;
using namespace nearkv::traces;
using namespace std::chrono_literals;

namespace {

constexpr int kDraws = 20'000;
using Kind = LengthSpec::Kind;
using Arrivals = ArrivalSpec::Kind;

std::vector<int> lengths_of(const LengthSpec& spec, int count = kDraws) {
  const LengthDistribution distribution(spec);
  Rng rng(3, "traces/request_generator_test");
  std::vector<int> lengths;
  for (int i = 0; i < count; ++i) {
    lengths.push_back(distribution.draw(rng));
  }
  return lengths;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) {
    sum += value;
  }
  return sum / static_cast<double>(values.size());
}

double deviation_of(const std::vector<double>& values) {
  const double mean = mean_of(values);
  double sum = 0;
  for (const double value : values) {
    sum += (value - mean) * (value - mean);
  }
  return std::sqrt(sum / static_cast<double>(values.size()));
}

std::vector<double> logs_of(const std::vector<int>& lengths) {
  std::vector<double> logs;
  for (const int length : lengths) {
    logs.push_back(std::log(length));
  }
  return logs;
}

/// Seconds between arrivals.
std::vector<double> intervals_of(const ArrivalSpec& spec) {
  ArrivalTimes times(spec, 5);
  CHECK(times.next() == 0s);
  std::vector<double> intervals;
  SimDuration last{};
  for (int i = 0; i < kDraws; ++i) {
    const SimDuration at = times.next();
    intervals.push_back(to_seconds(at - last));
    last = at;
  }
  return intervals;
}

}  // namespace

TEST_CASE("request generator: fixed, uniform and empirical lengths") {
  CHECK(lengths_of({.kind = Kind::fixed, .tokens = 77}, 3) == std::vector<int>{77, 77, 77});

  std::map<int, int> counts;
  for (const int length : lengths_of({.kind = Kind::uniform, .least = 5, .most = 8})) {
    ++counts[length];
  }
  REQUIRE(counts.size() == 4);
  CHECK(counts.begin()->first == 5);
  CHECK(counts.rbegin()->first == 8);
  for (const auto& [length, count] : counts) {
    CHECK(count == doctest::Approx(kDraws / 4.0).epsilon(0.05));
  }

  counts.clear();
  for (const int length :
       lengths_of({.kind = Kind::empirical, .values = {10, 20, 30, 40}, .weights = {1, 0, 3, 0}})) {
    ++counts[length];
  }
  REQUIRE(counts.size() == 2);
  CHECK(counts[10] == doctest::Approx(kDraws / 4.0).epsilon(0.05));

  counts.clear();
  for (const int length : lengths_of({.kind = Kind::empirical, .values = {10, 20, 20, 40}})) {
    ++counts[length];
  }
  CHECK(counts[20] == doctest::Approx(kDraws / 2.0).epsilon(0.05));
}

// Of 20,000 draws the mean of the logarithms has a standard deviation of sigma / 141.
TEST_CASE("request generator: lognormal lengths have their median, sigma and mean") {
  const LengthSpec wide{.kind = Kind::lognormal,
                        .least = 1,
                        .most = kMostRequestTokens,
                        .median = 1000,
                        .sigma = 0.8};
  const std::vector<int> lengths = lengths_of(wide);
  CHECK(mean_of(logs_of(lengths)) == doctest::Approx(std::log(1000)).epsilon(0.003));
  CHECK(deviation_of(logs_of(lengths)) == doctest::Approx(0.8).epsilon(0.02));
  const double mean = mean_of({lengths.begin(), lengths.end()});
  CHECK(mean == doctest::Approx(1000 * std::exp(0.32)).epsilon(0.03));
  CHECK(lognormal_median(mean, 0.8) == doctest::Approx(1000).epsilon(0.03));

  LengthSpec narrow = wide;
  narrow.least = 900;
  narrow.most = 1100;
  const std::vector<int> cut = lengths_of(narrow);
  CHECK(*std::ranges::min_element(cut) == 900);
  CHECK(*std::ranges::max_element(cut) == 1100);
  // Truncated, not clipped: the ends are as rare as their neighbours.
  CHECK(std::ranges::count(cut, 1100) < kDraws / 50);

  LengthSpec nowhere = wide;
  nowhere.least = nowhere.most = kMostRequestTokens;
  CHECK_THROWS_AS(lengths_of(nowhere, 1), std::invalid_argument);
  LengthSpec huge = wide;
  huge.sigma = 1000;
  CHECK(lengths_of(huge, 10).size() == 10);
}

TEST_CASE("request generator: arrivals have their rate and burstiness") {
  CHECK(mean_of(intervals_of({.kind = Arrivals::at_start})) == 0);
  const auto constant = intervals_of({.kind = Arrivals::constant, .rate = 3});
  CHECK(mean_of(constant) == doctest::Approx(1.0 / 3).epsilon(1e-12));
  CHECK(deviation_of(constant) < 1e-12);
  const auto poisson = intervals_of({.kind = Arrivals::poisson, .rate = 3});
  CHECK(mean_of(poisson) == doctest::Approx(1.0 / 3).epsilon(0.03));
  CHECK(deviation_of(poisson) == doctest::Approx(1.0 / 3).epsilon(0.05));
  for (const double cv : {0.2, 1.0, 3.0}) {
    CAPTURE(cv);
    const auto gamma = intervals_of({.kind = Arrivals::gamma, .rate = 3, .cv = cv});
    const double tolerance = 4 * cv / std::sqrt(kDraws);
    CHECK(mean_of(gamma) == doctest::Approx(1.0 / 3).epsilon(tolerance));
    CHECK(deviation_of(gamma) / mean_of(gamma) == doctest::Approx(cv).epsilon(0.1));
  }
  ArrivalTimes slow({.kind = Arrivals::constant, .rate = 1e-6}, 1);
  for (int i = 0; i < 5; ++i) {
    static_cast<void>(slow.next());
  }
  CHECK_THROWS_AS(static_cast<void>(slow.next()), std::invalid_argument);  // 58 days
}

// Mean and variance are both the shape; the third central moment is twice the shape.
TEST_CASE("request generator: the gamma distribution has its moments") {
  Rng rng(9, "traces/request_generator_test/gamma");
  for (const double shape : {0.3, 1.0, 4.5, 100.0}) {
    CAPTURE(shape);
    std::vector<double> draws;
    for (int i = 0; i < 10 * kDraws; ++i) {
      draws.push_back(draw_gamma(rng, shape));
      CHECK(draws.back() >= 0);
    }
    const double mean = mean_of(draws);
    CHECK(mean == doctest::Approx(shape).epsilon(0.02));
    CHECK(deviation_of(draws) == doctest::Approx(std::sqrt(shape)).epsilon(0.02));
    double third = 0;
    for (const double draw : draws) {
      third += std::pow(draw - mean, 3) / static_cast<double>(draws.size());
    }
    CHECK(third == doctest::Approx(2 * shape).epsilon(shape > 50 ? 0.8 : 0.1));
  }
}

TEST_CASE("request generator: one stream each, and the same numbers everywhere") {
  RequestSpec spec{
      .prompt = {.kind = Kind::lognormal, .least = 1, .most = 8000, .median = 1020, .sigma = 1.1},
      .output = {.kind = Kind::uniform, .least = 1, .most = 500},
      .arrivals = {.kind = Arrivals::gamma, .rate = 2, .cv = 1.5},
      .seed = 42};
  const auto requests_of = [](const RequestSpec& wanted) {
    RequestGenerator generator(wanted);
    std::vector<RequestRecord> records;
    for (int i = 0; i < 100; ++i) {
      records.push_back(generator.next());
    }
    return records;
  };
  const auto records = requests_of(spec);
  CHECK(requests_of(spec) == records);
  std::uint64_t hash = fnv1a64("");
  for (const RequestRecord& record : records) {
    hash = fnv1a64(std::to_string(record.at.count()) + "," + std::to_string(record.prompt_tokens) +
                       "," + std::to_string(record.output_tokens) + "\n",
                   hash);
  }
  CHECK(hash == 3266745349732766612U);

  RequestSpec other = spec;
  other.prompt = {.kind = Kind::fixed, .tokens = 1};
  const auto changed = requests_of(other);
  for (std::size_t i = 0; i < records.size(); ++i) {
    CHECK(changed[i].at == records[i].at);
    CHECK(changed[i].output_tokens == records[i].output_tokens);
  }
  spec.seed = 43;
  CHECK(requests_of(spec) != records);
}
