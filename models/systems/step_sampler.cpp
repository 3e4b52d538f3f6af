#include "models/systems/step_sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {
constexpr double kUnknown = std::numeric_limits<double>::infinity();
}

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
    classes_[key.step_class].push_back(size);
  }
  for (const auto& [step_class, sizes] : classes_) {
    if (sizes.size() > 1) {
      intervals_.push_back({step_class, 0, sizes.size() - 1, kUnknown});
    }
  }
}

std::int64_t StepSampler::inner_steps(const Interval& interval) const {
  const std::vector<Size>& sizes = classes_.at(interval.step_class);
  std::int64_t steps = 0;
  for (std::size_t i = interval.lower + 1; i < interval.upper; ++i) {
    steps += sizes[i].count;
  }
  return steps;
}

double StepSampler::interval_bound(const Interval& interval) const {
  const std::int64_t steps = inner_steps(interval);
  if (steps == 0) {
    return 0;
  }
  const std::vector<Size>& sizes = classes_.at(interval.step_class);
  const double lower = sizes[interval.lower].values->front();
  const double upper = sizes[interval.upper].values->front();
  const double monotone = std::abs(upper - lower);
  // Where halving has shown that the time is not monotone, only what it showed counts.
  const double seen = options_.safety * interval.error;
  return (seen > monotone && interval.error != kUnknown ? std::max(monotone, interval.error)
                                                        : std::min(monotone, seen)) *
         static_cast<double>(steps);
}

std::optional<int> StepSampler::next() const {
  // Both ends of every class first: without them there is nothing to integrate.
  for (const auto& [step_class, sizes] : classes_) {
    for (const std::size_t end : {std::size_t{0}, sizes.size() - 1}) {
      if (!sizes[end].values) {
        return sizes[end].first_step;
      }
    }
  }
  const Interval* worst = nullptr;
  double worst_bound = 0;
  for (const Interval& interval : intervals_) {
    const double bound = interval_bound(interval);
    if (bound > worst_bound) {
      worst = &interval;
      worst_bound = bound;
    }
  }
  if (worst == nullptr || simulated_ >= options_.most_steps) {
    return std::nullopt;
  }
  const Total sum = total();
  if (sum.time_bound <= options_.tolerance * sum.values.front()) {
    return std::nullopt;
  }
  return classes_.at(worst->step_class)[(worst->lower + worst->upper) / 2].first_step;
}

void StepSampler::observe(int step, StepValues values) {
  const StepKey key = keys_.at(step);
  std::vector<Size>& sizes = classes_.at(key.step_class);
  const auto found = std::find_if(sizes.begin(), sizes.end(),
                                  [&](const Size& size) { return size.size == key.size; });
  check(!found->values, "a decode step was simulated twice");
  const auto index = static_cast<std::size_t>(found - sizes.begin());
  for (std::size_t i = 0; i < intervals_.size(); ++i) {
    const Interval interval = intervals_[i];
    if (interval.step_class == key.step_class && interval.lower < index && index < interval.upper) {
      const double error = std::abs(values.front() - interpolated(key.step_class, index).front());
      intervals_[i] = {key.step_class, interval.lower, index, error};
      intervals_.push_back({key.step_class, index, interval.upper, error});
      break;
    }
  }
  found->values = std::move(values);
  ++simulated_;
}

StepValues StepSampler::interpolated(int step_class, std::size_t index) const {
  const std::vector<Size>& sizes = classes_.at(step_class);
  if (sizes[index].values) {
    return *sizes[index].values;
  }
  std::size_t lower = index;
  while (!sizes[lower].values) {
    check(lower > 0, "a decode step lies before all simulated ones");
    --lower;
  }
  std::size_t upper = index;
  while (!sizes[upper].values) {
    ++upper;
    check(upper < sizes.size(), "a decode step lies behind all simulated ones");
  }
  const double weight = static_cast<double>(sizes[index].size - sizes[lower].size) /
                        static_cast<double>(sizes[upper].size - sizes[lower].size);
  StepValues values = *sizes[lower].values;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] += weight * ((*sizes[upper].values)[i] - values[i]);
  }
  return values;
}

StepSampler::Total StepSampler::total() const {
  Total total;
  total.steps_simulated = simulated_;
  for (const auto& [step_class, sizes] : classes_) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const StepValues values = interpolated(step_class, i);
      total.values.resize(values.size());
      for (std::size_t j = 0; j < values.size(); ++j) {
        total.values[j] += values[j] * sizes[i].count;
      }
      total.steps_equal_to_simulated += sizes[i].values ? sizes[i].count : 0;
    }
  }
  for (const Interval& interval : intervals_) {
    total.time_bound += interval_bound(interval);
  }
  return total;
}

double StepSampler::time_of(int step) const {
  const StepKey key = keys_.at(step);
  const std::vector<Size>& sizes = classes_.at(key.step_class);
  const auto found = std::find_if(sizes.begin(), sizes.end(),
                                  [&](const Size& size) { return size.size == key.size; });
  return interpolated(key.step_class, static_cast<std::size_t>(found - sizes.begin())).front();
}

}  // namespace nearkv
