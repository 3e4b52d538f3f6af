// How nearkv calibrate times: one method for every probe, on the host's clock or the device's.
//
// A run is one measurement: the mean time of so many calls in a row that clock and start do not
// matter. After warm-up, runs repeat until their median is known well, or a limit is reached; what
// is kept is the median and the 10th and 90th percentile. The median is known well when the 95 %
// confidence interval of its order statistics (ranks n/2 -+ 0.98 sqrt(n), from the binomial
// distribution; no assumption about how times are distributed) is narrower than stable_width of it.
#pragma once

#include <functional>
#include <vector>

namespace nearkv {

struct TimeSpread {
  double median = 0;
  double p10 = 0;
  double p90 = 0;
  int runs = 0;
};

/// Percentiles linear between the two nearest values. check()s that there is a value.
[[nodiscard]] TimeSpread spread_of(std::vector<double> values);

/// Width of the median's confidence interval over the median; infinite below 6 values, where the
/// interval would reach beyond them.
[[nodiscard]] double median_uncertainty(std::vector<double> values);

struct RepeatPlan {
  int warm_ups = 2;
  int least_runs = 7;
  int most_runs = 100;
  double most_seconds = 0.4;   // of runs, once there are least_runs
  double stable_width = 0.01;  // stop when the median is known so well
};

/// `run` makes one measurement and returns it.
[[nodiscard]] TimeSpread repeat_until_stable(const std::function<double()>& run,
                                             const RepeatPlan& plan);

/// Seconds a call of `calls` calls in a row, on the host's clock.
[[nodiscard]] double seconds_a_call(const std::function<void()>& call, int calls);

/// Calls in a row that take `least_seconds`, when one takes `seconds`: 1 to `most`.
struct CallPlan {
  double least_seconds;
  int most;
};
[[nodiscard]] int calls_for(double seconds, const CallPlan& plan);

/// Times `call` on the host's clock: as many calls a run as take `least_seconds`.
[[nodiscard]] TimeSpread time_on_host(const std::function<void()>& call, const RepeatPlan& plan);

}  // namespace nearkv
