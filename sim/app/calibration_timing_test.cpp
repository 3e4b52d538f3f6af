#include "sim/app/calibration_timing.hpp"

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

using namespace nearkv;

namespace {

std::vector<double> counted(int n) {
  std::vector<double> values;
  for (int i = 1; i <= n; ++i) {
    values.push_back(i);
  }
  return values;
}

/// No time limit, so that the number of runs depends on the values alone.
RepeatPlan plan_without_time() {
  return {
      .warm_ups = 2, .least_runs = 7, .most_runs = 50, .most_seconds = 1e9, .stable_width = 0.01};
}

}  // namespace

TEST_CASE("calibration timing: percentiles are linear between the nearest values") {
  const TimeSpread spread = spread_of({11, 1, 3, 2, 4, 5, 6, 7, 8, 9, 10});
  CHECK(spread.median == 6);
  CHECK(spread.p10 == 2);
  CHECK(spread.p90 == 10);
  CHECK(spread.runs == 11);
  CHECK(spread_of({1, 2}).median == 1.5);
  CHECK(spread_of({1, 2}).p90 == doctest::Approx(1.9));
  CHECK(spread_of({3}).p10 == 3);
  CHECK_THROWS_AS(static_cast<void>(spread_of({})), CheckFailure);
}

TEST_CASE("calibration timing: the median's interval is that of the binomial ranks") {
  // 100 values: ranks 50 - 9.8 -> 40 and 51 + 9.8 -> 61, as in the usual table.
  CHECK(median_uncertainty(counted(100)) == doctest::Approx((61.0 - 40.0) / 50.5));
  CHECK(std::isinf(median_uncertainty(counted(5))));
  CHECK(!std::isinf(median_uncertainty(counted(7))));
  CHECK(median_uncertainty(std::vector<double>(20, 4.0)) == 0);
}

TEST_CASE(
    "calibration timing: equal runs end early, noisy ones at the limit; warm-up is left out") {
  int calls = 0;
  const TimeSpread steady =
      repeat_until_stable([&] { return ++calls <= 2 ? 100.0 : 5.0; }, plan_without_time());
  CHECK(calls == 9);
  CHECK(steady.runs == 7);
  CHECK(steady.median == 5);
  CHECK(steady.p90 == 5);
  calls = 0;
  const TimeSpread noisy =
      repeat_until_stable([&] { return ++calls % 2 == 0 ? 1.0 : 3.0; }, plan_without_time());
  CHECK(noisy.runs == 50);
  RepeatPlan hurried = plan_without_time();
  hurried.most_seconds = 0;
  calls = 0;
  CHECK(repeat_until_stable([&] { return ++calls % 2 == 0 ? 1.0 : 3.0; }, hurried).runs == 7);
}

TEST_CASE("calibration timing: calls in a row fill the least time of a run") {
  CHECK(calls_for(1.0, {.least_seconds = 0.5, .most = 10}) == 1);
  CHECK(calls_for(0.2, {.least_seconds = 0.5, .most = 10}) == 3);
  CHECK(calls_for(0.001, {.least_seconds = 0.5, .most = 10}) == 10);
  CHECK(calls_for(0.0, {.least_seconds = 0.5, .most = 10}) == 10);
  int calls = 0;
  const double seconds = seconds_a_call([&] { ++calls; }, 17);
  CHECK(calls == 17);
  CHECK(seconds >= 0);
}
