// Chooses which decode steps to simulate, and integrates over all of them with an error bound.
//
// Steps fall into classes (a step that flushes a full token group differs from one that does not)
// and have a size within the class (the flushed groups, the context). Steps of equal class and size
// are equal. Within a class, time and counters are taken as piecewise linear in the size between
// simulated steps. Starting from the smallest and the largest size of each class, the interval with
// the largest bound is halved until the bound on the total is below the tolerance or the budget of
// steps is spent. An interval that weighs more than the tolerance is halved, and its halves again,
// however small its bound is: what was seen once may be a coincidence.
//
// The bound on the steps between simulated a and b is the smaller of two:
// - If the time is monotone between a and b, they are together at most
//   |T(b) - T(a)| x max(sum of t, sum of 1 - t) off, where t in (0, 1) is a step's place. This
//   holds always. Where simulated steps lie outside of their neighbours, it is widened by noise.
// - When an interval is halved at m, the simulated value shows by how much linear interpolation was
//   wrong there, e = |T(m) - lerp(m)|. Each step of the two halves is taken to be off by at most
//   `safety` x max(e, e' / 4), where e' is what the halving before showed: halving a smooth curve
//   leaves a quarter. Where there is noise, it is at least the noise. This is a heuristic: a curve
//   that meets the lines wherever it is simulated deceives it.
// The noise of an interval is the distance by which the simulated step at its last halving lay
// outside of its neighbours (or a quarter of that at the halving before), or the root mean square
// of these over the class if that is more. Widening is by `safety` x noise for each step.
// The sum over all intervals is the bound on the total. While it is not below the total itself, the
// budget does not count: such a result would say nothing.
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
  int most_steps;    // simulate at most so many, but both ends of every class, and see above
  double safety;     // factor on the interpolation error seen at interval middles
};

/// A simulated step: its time in seconds first, then any cumulative counters' increments.
using StepValues = std::vector<double>;

class StepSampler {
 public:
  /// `keys[i]` is the key of step i.
  StepSampler(const std::vector<StepKey>& keys, const StepSamplerOptions& options);

  /// The step to simulate next; nothing when the bound is reached or the budget is spent. The ends
  /// of the classes come first, in the order of the steps.
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
  struct Class {
    std::vector<Size> sizes;  // ascending
    // Sums over the sizes before each.
    std::vector<std::int64_t> steps_before;
    std::vector<double> size_sum_before;  // of the steps' sizes, counted from the smallest
    double noise = 0;                     // root mean square of its intervals' `outside`
  };
  /// What a halving showed, in seconds a step.
  struct Halving {
    double error = 0;    // of interpolation
    double outside = 0;  // how far the simulated step lay outside of its neighbours
  };
  /// Between two neighbouring simulated sizes of a class.
  struct Interval {
    int step_class = 0;
    std::size_t lower = 0;
    std::size_t upper = 0;
    int halvings = 0;  // that led to it
    Halving last{};
    Halving before_last{};
    std::int64_t steps = 0;   // strictly between
    double upper_weight = 0;  // sum of their places, 0 at lower and 1 at upper

    [[nodiscard]] double lower_weight() const { return static_cast<double>(steps) - upper_weight; }
    [[nodiscard]] std::size_t middle() const { return (lower + upper) / 2; }
    [[nodiscard]] double error() const;
    [[nodiscard]] double outside() const;
  };

  void add_interval(Interval interval);
  void halve(int step_class, std::size_t index, double time);
  [[nodiscard]] double bound_of(const Interval& interval) const;
  [[nodiscard]] double time_inside(const Interval& interval) const;
  [[nodiscard]] const StepValues& values_at(int step_class, std::size_t index) const;
  [[nodiscard]] std::size_t index_of(const StepKey& key) const;
  [[nodiscard]] double time_between(const Interval& interval, std::size_t index) const;

  StepSamplerOptions options_;
  std::vector<StepKey> keys_;
  std::map<int, Class> classes_;
  std::vector<Interval> intervals_;  // those with steps inside
  int simulated_ = 0;
};

}  // namespace nearkv
