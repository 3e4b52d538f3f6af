#include "sim/app/uncertainty/distributions.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

namespace {

constexpr double kUpperQuantile = 0.95;  // of an interval of 90 %

double normal_density(double z) {
  constexpr double kPeak = std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  return kPeak * portable_exp(-z * z / 2);
}

/// Probability that a number of Student's distribution is below t (Abramowitz and Stegun, 26.7.3
/// and 26.7.4).
double student_probability(double t, int degrees_of_freedom) {
  const double freedom = degrees_of_freedom;
  const double cosine = 1 / std::sqrt(1 + t * t / freedom);
  const double sine = t / std::sqrt(freedom) * cosine;
  const bool is_odd = degrees_of_freedom % 2 == 1;
  double term = is_odd ? cosine : 1;
  double sum = degrees_of_freedom == 1 ? 0 : term;
  for (int k = is_odd ? 3 : 2; k < degrees_of_freedom; k += 2) {
    term *= cosine * cosine * (k - 1) / k;
    sum += term;
  }
  const double inside =
      is_odd ? 2 / std::numbers::pi * (std::atan(t / std::sqrt(freedom)) + sine * sum) : sine * sum;
  return 0.5 + inside / 2;
}

}  // namespace

double normal_probability(double z) {
  constexpr double kFar = 8;  // 1e-15 is beyond it
  if (std::abs(z) > kFar) {
    return z > 0 ? 1 : 0;
  }
  // Marsaglia, J. Stat. Softw. 2004: z + z^3 / 3 + z^5 / (3 * 5) + ... times the density.
  double term = z;
  double sum = z;
  for (int odd = 3; sum + term != sum; odd += 2) {
    term *= z * z / odd;
    sum += term;
  }
  return 0.5 + sum * normal_density(z);
}

double normal_quantile(double probability) {
  check(probability > 0 && probability < 1, "a quantile of no probability");
  // Newton's method from the middle stays on one side of the solution and so converges.
  constexpr int kMostSteps = 200;
  constexpr double kClose = 1e-13;
  double z = 0;
  for (int i = 0; i < kMostSteps; ++i) {
    const double step = (normal_probability(z) - probability) / normal_density(z);
    z -= step;
    if (std::abs(step) < kClose) {
      break;
    }
  }
  return z;
}

double student_quantile(double probability, int degrees_of_freedom) {
  check(probability > 0 && probability < 1 && degrees_of_freedom > 0, "a quantile of nothing");
  constexpr int kHalvings = 200;
  double low = -1e9;
  double high = 1e9;
  for (int i = 0; i < kHalvings && low < high; ++i) {
    const double middle = low + (high - low) / 2;
    (student_probability(middle, degrees_of_freedom) < probability ? low : high) = middle;
  }
  return high;
}

double quantile_of(const FieldNumber& constant, double probability) {
  check(constant.interval.has_value(), "samples of a constant without an interval");
  const auto [lowest, highest] = *constant.interval;
  // In units of the distance between the median and the 95 % quantile.
  const double z = normal_quantile(probability) / normal_quantile(kUpperQuantile);
  double value = 0;
  if (lowest > 0) {
    const double side = z < 0 ? constant.value / lowest : highest / constant.value;
    value = constant.value * portable_exp(z * portable_log(side));
  } else {
    value = constant.value + z * (z < 0 ? constant.value - lowest : highest - constant.value);
  }
  return std::clamp(value, constant.range.lowest, constant.range.highest);
}

std::vector<double> stratified_probabilities(std::uint64_t seed, std::string_view name,
                                             std::size_t count) {
  Rng random(seed, name);
  std::vector<std::size_t> parts(count);
  std::iota(parts.begin(), parts.end(), std::size_t{0});
  for (std::size_t left = count; left > 1; --left) {
    std::swap(parts[left - 1], parts[random.below(left)]);
  }
  std::vector<double> probabilities;
  for (const std::size_t part : parts) {
    constexpr double kHalfStep = 0x1.0p-54;  // so that 0 is not drawn
    probabilities.push_back((static_cast<double>(part) + random.uniform() + kHalfStep) /
                            static_cast<double>(count));
  }
  return probabilities;
}

}  // namespace nearkv
