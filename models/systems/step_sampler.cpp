#include "models/systems/step_sampler.hpp"

#include <algorithm>
#include <cmath>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {
/// What halving leaves of the interpolation error of a smooth curve.
constexpr double kLeftByHalving = 0.25;  // not a constant: it falls with the square of the width
/// Errors that were seen less often are not trusted.
constexpr int kEnoughHalvings = 2;
}  // namespace

StepSampler::StepSampler(const std::vector<StepKey>& keys, const StepSamplerOptions& options)
    : options_(options), keys_(keys) {
  check(!keys.empty(), "a run without decode steps was sampled");
  std::map<StepKey, Size> by_key;
  for (std::size_t step = 0; step < keys.size(); ++step) {
    const StepKey key = keys[step];
    const auto [entry, is_new] =
        by_key.try_emplace(key, Size{key.size, 0, static_cast<int>(step), std::nullopt});
    ++entry->second.count;
  }
  for (const auto& [key, size] : by_key) {
    Class& of_class = classes_[key.step_class];
    const bool is_first = of_class.sizes.empty();
    const Size& last = is_first ? size : of_class.sizes.back();
    of_class.steps_before.push_back(is_first ? 0 : of_class.steps_before.back() + last.count);
    of_class.size_sum_before.push_back(
        is_first ? 0
                 : of_class.size_sum_before.back() +
                       static_cast<double>(last.size - of_class.sizes.front().size) * last.count);
    of_class.sizes.push_back(size);
  }
  for (const auto& [step_class, of_class] : classes_) {
    add_interval({.step_class = step_class, .lower = 0, .upper = of_class.sizes.size() - 1});
  }
}

double StepSampler::Interval::error() const {
  return std::max(last.error, kLeftByHalving * before_last.error);
}

double StepSampler::Interval::outside() const {
  return std::max(last.outside, kLeftByHalving * before_last.outside);
}

/// Counts the steps inside; an interval without any is not kept.
void StepSampler::add_interval(Interval interval) {
  const auto [lower, upper] = std::pair{interval.lower, interval.upper};
  if (upper <= lower + 1) {
    return;
  }
  const Class& c = classes_.at(interval.step_class);
  const double sizes = c.size_sum_before[upper] - c.size_sum_before[lower + 1];
  const auto from_smallest = [&c](std::size_t i) {
    return static_cast<double>(c.sizes[i].size - c.sizes.front().size);
  };
  interval.steps = c.steps_before[upper] - c.steps_before[lower + 1];
  interval.upper_weight = (sizes - static_cast<double>(interval.steps) * from_smallest(lower)) /
                          (from_smallest(upper) - from_smallest(lower));
  intervals_.push_back(interval);
}

double StepSampler::bound_of(const Interval& interval) const {
  const double lower = values_at(interval.step_class, interval.lower).front();
  const double upper = values_at(interval.step_class, interval.upper).front();
  const double monotone =
      std::abs(upper - lower) * std::max(interval.lower_weight(), interval.upper_weight);
  const double noise = classes_.at(interval.step_class).noise;
  const double each = options_.safety * static_cast<double>(interval.steps);
  const double widened = monotone + each * std::max(noise, interval.outside());
  if (interval.halvings < kEnoughHalvings) {
    return widened;
  }
  return std::min(widened, each * std::max(noise, interval.error()));
}

/// Interpolated time of all steps inside.
double StepSampler::time_inside(const Interval& interval) const {
  return values_at(interval.step_class, interval.lower).front() * interval.lower_weight() +
         values_at(interval.step_class, interval.upper).front() * interval.upper_weight;
}

std::optional<int> StepSampler::next() const {
  // Both ends of every class first: without them there is nothing to integrate.
  std::optional<int> first_end;
  for (const auto& [step_class, of_class] : classes_) {
    for (const Size& end : {of_class.sizes.front(), of_class.sizes.back()}) {
      if (!end.values && (!first_end || end.first_step < *first_end)) {
        first_end = end.first_step;
      }
    }
  }
  if (first_end.has_value()) {
    return first_end;
  }
  const Total sum = total();
  if (simulated_ >= options_.most_steps && sum.time_bound < sum.values.front()) {
    return std::nullopt;
  }
  const double tolerated = options_.tolerance * sum.values.front();
  const bool is_reached = sum.time_bound <= tolerated;
  // What nobody has looked into may hold anything: it counts with its whole time.
  const Interval* worst = nullptr;
  double worst_bound = 0;
  for (const Interval& interval : intervals_) {
    const bool is_unknown =
        interval.halvings < kEnoughHalvings && time_inside(interval) > tolerated;
    const double bound = is_unknown ? time_inside(interval) : bound_of(interval);
    if (bound > worst_bound && (is_unknown || !is_reached)) {
      worst = &interval;
      worst_bound = bound;
    }
  }
  if (worst == nullptr) {
    return std::nullopt;
  }
  return classes_.at(worst->step_class).sizes[worst->middle()].first_step;
}

void StepSampler::observe(int step, StepValues values) {
  const StepKey key = keys_.at(step);
  Class& of_class = classes_.at(key.step_class);
  const std::size_t index = index_of(key);
  Size& size = of_class.sizes[index];
  check(!size.values, "a decode step was simulated twice");
  halve(key.step_class, index, values.front());
  size.values = std::move(values);
  ++simulated_;
}

/// Divides the interval around a size, if there is one, by what was simulated there.
void StepSampler::halve(int step_class, std::size_t index, double time) {
  const auto around = std::find_if(intervals_.begin(), intervals_.end(), [&](const Interval& i) {
    return i.step_class == step_class && i.lower < index && index < i.upper;
  });
  if (around == intervals_.end()) {
    return;
  }
  const Interval halved = *around;
  const auto [least, most] = std::minmax(values_at(step_class, halved.lower).front(),
                                         values_at(step_class, halved.upper).front());
  Interval half = halved;
  half.halvings = halved.halvings + 1;
  half.before_last = halved.last;
  half.last = {.error = std::abs(time - time_between(halved, index)),
               .outside = std::max({least - time, time - most, 0.0})};
  intervals_.erase(around);
  half.upper = index;
  add_interval(half);
  half.lower = index;
  half.upper = halved.upper;
  add_interval(half);
  double squares = 0;
  int intervals = 0;
  for (const Interval& interval : intervals_) {
    if (interval.step_class == step_class) {
      squares += interval.outside() * interval.outside();
      ++intervals;
    }
  }
  classes_.at(step_class).noise = std::sqrt(squares / std::max(intervals, 1));
}

const StepValues& StepSampler::values_at(int step_class, std::size_t index) const {
  const Size& size = classes_.at(step_class).sizes[index];
  check(size.values.has_value(), "a class of decode steps was not simulated at both ends");
  return *size.values;
}

std::size_t StepSampler::index_of(const StepKey& key) const {
  const std::vector<Size>& sizes = classes_.at(key.step_class).sizes;
  const auto found =
      std::lower_bound(sizes.begin(), sizes.end(), key.size,
                       [](const Size& size, std::int64_t wanted) { return size.size < wanted; });
  return static_cast<std::size_t>(found - sizes.begin());
}

/// Interpolated time of a size inside.
double StepSampler::time_between(const Interval& interval, std::size_t index) const {
  const std::vector<Size>& sizes = classes_.at(interval.step_class).sizes;
  const double lower = values_at(interval.step_class, interval.lower).front();
  const double upper = values_at(interval.step_class, interval.upper).front();
  const double place = static_cast<double>(sizes[index].size - sizes[interval.lower].size) /
                       static_cast<double>(sizes[interval.upper].size - sizes[interval.lower].size);
  return lower + place * (upper - lower);
}

StepSampler::Total StepSampler::total() const {
  Total total;
  total.steps_simulated = simulated_;
  const auto add = [&total](const StepValues& values, double weight) {
    total.values.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      total.values[i] += values[i] * weight;
    }
  };
  for (const auto& [step_class, of_class] : classes_) {
    static_cast<void>(values_at(step_class, 0));
    static_cast<void>(values_at(step_class, of_class.sizes.size() - 1));
    for (const Size& size : of_class.sizes) {
      if (size.values) {
        add(*size.values, size.count);
        total.steps_equal_to_simulated += size.count;
      }
    }
  }
  for (const Interval& interval : intervals_) {
    add(values_at(interval.step_class, interval.lower), interval.lower_weight());
    add(values_at(interval.step_class, interval.upper), interval.upper_weight);
    total.time_bound += bound_of(interval);
  }
  return total;
}

double StepSampler::time_of(int step) const {
  const StepKey key = keys_.at(step);
  const std::size_t index = index_of(key);
  const Size& size = classes_.at(key.step_class).sizes[index];
  if (size.values) {
    return size.values->front();
  }
  const auto around = std::find_if(intervals_.begin(), intervals_.end(), [&](const Interval& i) {
    return i.step_class == key.step_class && i.lower < index && index < i.upper;
  });
  check(around != intervals_.end(), "a decode step lies in no interval");
  return time_between(*around, index);
}

}  // namespace nearkv
