#include "sim/app/calibration_timing.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

TimeSpread spread_of(std::vector<double> values) {
  check(!values.empty(), "the spread of no measurement");
  std::sort(values.begin(), values.end());
  return {.median = percentile(values, 0.5),
          .p10 = percentile(values, 0.1),
          .p90 = percentile(values, 0.9),
          .runs = static_cast<int>(values.size())};
}

double median_uncertainty(std::vector<double> values) {
  constexpr double kHalfNormal = 0.98;  // 1.96 / 2: two-sided 95 % of a normal distribution
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  const double reach = kHalfNormal * std::sqrt(n);
  const double lower = std::round(n / 2 - reach);  // ranks from 1
  const double upper = std::round(n / 2 + 1 + reach);
  if (lower < 1 || upper > n) {
    return std::numeric_limits<double>::infinity();
  }
  const double width =
      values[static_cast<std::size_t>(upper) - 1] - values[static_cast<std::size_t>(lower) - 1];
  return width / percentile(values, 0.5);
}

TimeSpread repeat_until_stable(const std::function<double()>& run, const RepeatPlan& plan) {
  for (int i = 0; i < plan.warm_ups; ++i) {
    static_cast<void>(run());
  }
  std::vector<double> values;
  const Clock::time_point start = Clock::now();
  const auto count = [&values] { return static_cast<int>(values.size()); };
  while (count() < plan.least_runs ||
         (count() < plan.most_runs && seconds_since(start) < plan.most_seconds &&
          median_uncertainty(values) > plan.stable_width)) {
    values.push_back(run());
  }
  return spread_of(std::move(values));
}

double seconds_a_call(const std::function<void()>& call, int calls) {
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < calls; ++i) {
    call();
  }
  return seconds_since(start) / calls;
}

int calls_for(double seconds, const CallPlan& plan) {
  if (seconds * plan.most <= plan.least_seconds) {
    return plan.most;
  }
  return std::max(1, static_cast<int>(std::ceil(plan.least_seconds / seconds)));
}

TimeSpread time_on_host(const std::function<void()>& call, const RepeatPlan& plan) {
  constexpr CallPlan kHostCalls{.least_seconds = 200e-6,
                                .most = 1000};  // the clock has about 50 ns
  call();
  const int calls = calls_for(seconds_a_call(call, 1), kHostCalls);
  return repeat_until_stable([&] { return seconds_a_call(call, calls); }, plan);
}

}  // namespace nearkv
