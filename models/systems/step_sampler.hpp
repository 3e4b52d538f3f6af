// Chooses which decode steps to simulate, and integrates over all of them with an error bound.
//
// Steps fall into classes (a step that flushes a full token group differs from one that does not)
// and have a size within the class (the flushed groups, the context). Steps of equal class and size
// are equal. Within a class, time and counters are taken as piecewise linear in the size between
// simulated steps. Starting from the smallest and the largest size of each class, the interval with
// the largest bound is halved until the bound on the total is below the tolerance or the budget of
// steps is spent.
//
// The bound. Between a and b a step is taken to be off by at most |T(b) - T(a)|, which holds where
// the time is monotone in the size. When the interval is halved at m, the simulated value shows by
// how much linear interpolation was wrong there, e = |T(m) - lerp(m)|; a step of the two halves is
// then taken to be off by at most `safety` * e, if that is less. The sum over all steps that were
// not simulated is the bound on the total.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "sim/core/units.hpp"

namespace nearkv {

/// Equal keys: equal steps.
struct StepKey {
  int step_class = 0;
  std::int64_t size = 0;
  auto operator<=>(const StepKey&) const = default;
};

struct StepSamplerOptions {
  double tolerance;  // wanted bound, relative to the total time
  int most_steps;    // simulate at most so many, but both ends of every class
  double safety;     // factor on the interpolation error seen at interval middles
};

/// A simulated step: its time in seconds first, then any cumulative counters' increments.
using StepValues = std::vector<double>;

class StepSampler {
 public:
  /// `keys[i]` is the key of step i.
  StepSampler(const std::vector<StepKey>& keys, const StepSamplerOptions& options);

  /// The step to simulate next; nothing when the bound is reached or the budget is spent.
  [[nodiscard]] std::optional<int> next() const;
  void observe(int step, StepValues values);

  struct Total {
    StepValues values;      // sums over all steps
    double time_bound = 0;  // at most so many seconds off in values[0]
    int steps_simulated = 0;
    int steps_equal_to_simulated = 0;  // of all steps, those whose key was simulated
  };
  /// Requires that every class has been observed at its smallest and largest size.
  [[nodiscard]] Total total() const;

  /// Time of a step: simulated or interpolated, in seconds.
  [[nodiscard]] double time_of(int step) const;

 private:
  struct Size {
    std::int64_t size;
    int count;       // steps of this key
    int first_step;  // one of them
    std::optional<StepValues> values;
  };
  /// Between two neighbouring simulated sizes of a class; `error` is what halving showed.
  struct Interval {
    int step_class;
    std::size_t lower;
    std::size_t upper;
    double error;  // seconds a step; infinite before any halving
  };

  [[nodiscard]] double interval_bound(const Interval& interval) const;
  [[nodiscard]] std::int64_t inner_steps(const Interval& interval) const;
  [[nodiscard]] StepValues interpolated(int step_class, std::size_t index) const;

  StepSamplerOptions options_;
  std::vector<StepKey> keys_;
  std::map<int, std::vector<Size>> classes_;
  std::vector<Interval> intervals_;
  int simulated_ = 0;
};

}  // namespace nearkv
