#include "sim/app/uncertainty/distributions.hpp"

#include <algorithm>
#include <cmath>

#include <doctest/doctest.h>

#include "models/systems/request_metrics.hpp"

namespace nearkv {

namespace {

constexpr double kNoLimit = 1e300;

FieldNumber around(double value, double lowest, double highest) {
  return {NumberType::real, value, {-kNoLimit, kNoLimit}, Range{lowest, highest}};
}

}  // namespace

// Published to 10 digits in any table of the normal distribution.
TEST_CASE("distributions: the normal distribution and its inverse") {
  CHECK(normal_probability(0) == 0.5);
  CHECK(normal_probability(1.6448536269514722) == doctest::Approx(0.95).epsilon(1e-14));
  CHECK(normal_probability(-1) == doctest::Approx(0.15865525393145707).epsilon(1e-13));
  CHECK(normal_probability(3) == doctest::Approx(0.9986501019683699).epsilon(1e-14));
  CHECK(normal_probability(9) == 1);
  CHECK(normal_probability(-9) == 0);
  CHECK(normal_quantile(0.975) == doctest::Approx(1.959963984540054).epsilon(1e-13));
  for (const double p : {1e-12, 1e-6, 0.01, 0.3, 0.5, 0.77, 0.999, 1 - 1e-9}) {
    CHECK(normal_probability(normal_quantile(p)) == doctest::Approx(p).epsilon(1e-9));
  }
}

TEST_CASE("distributions: Student's quantiles") {
  CHECK(student_quantile(0.95, 1) == doctest::Approx(6.313751514675043).epsilon(1e-12));
  CHECK(student_quantile(0.95, 2) == doctest::Approx(2.919985580355516).epsilon(1e-12));
  CHECK(student_quantile(0.95, 5) == doctest::Approx(2.015048373333024).epsilon(1e-12));
  CHECK(student_quantile(0.05, 10) == doctest::Approx(-1.812461122811676).epsilon(1e-12));
  CHECK(student_quantile(0.95, 10'000) == doctest::Approx(normal_quantile(0.95)).epsilon(1e-3));
}

TEST_CASE("distributions: value and interval are the median and the quantiles of 5 and 95 %") {
  const FieldNumber skewed = around(10, 5, 80);
  CHECK(quantile_of(skewed, 0.5) == doctest::Approx(10));
  CHECK(quantile_of(skewed, 0.05) == doctest::Approx(5));
  CHECK(quantile_of(skewed, 0.95) == doctest::Approx(80));
  // Lognormal: twice the distance squares the factor.
  const double twice = normal_probability(2 * normal_quantile(0.95));
  CHECK(quantile_of(skewed, twice) == doctest::Approx(640));
  CHECK(quantile_of(skewed, 1 - twice) == doctest::Approx(2.5));
}

TEST_CASE("distributions: normal where an end is not above zero, and within the field's range") {
  const FieldNumber from_zero = around(1, 0, 3);
  CHECK(quantile_of(from_zero, 0.05) == doctest::Approx(0));
  CHECK(quantile_of(from_zero, 0.95) == doctest::Approx(3));
  const double twice = normal_probability(2 * normal_quantile(0.95));
  CHECK(quantile_of(from_zero, twice) == doctest::Approx(5));
  CHECK(quantile_of(from_zero, 1 - twice) == doctest::Approx(-1));
  FieldNumber share = from_zero;
  share.range = {0, 4};
  CHECK(quantile_of(share, 1 - twice) == 0);
  CHECK(quantile_of(share, twice) == 4);
  CHECK(quantile_of(around(5, 5, 8), 0.01) == doctest::Approx(5));  // one-sided
}

TEST_CASE("distributions: a column of a Latin hypercube has one number in each part") {
  constexpr std::size_t kCount = 32;
  std::vector<double> column = stratified_probabilities(7, "samples/a", kCount);
  CHECK(column == stratified_probabilities(7, "samples/a", kCount));
  CHECK(column != stratified_probabilities(8, "samples/a", kCount));
  CHECK(column != stratified_probabilities(7, "samples/b", kCount));
  CHECK_FALSE(std::is_sorted(column.begin(), column.end()));
  std::sort(column.begin(), column.end());
  for (std::size_t i = 0; i < kCount; ++i) {
    CHECK(static_cast<std::size_t>(column[i] * kCount) == i);
    CHECK(column[i] > 0);
    CHECK(column[i] < 1);
  }
}

// With 32 samples the quantiles of one constant's samples are already near its own.
TEST_CASE("distributions: 32 samples show the interval that they were drawn from") {
  const FieldNumber constant = around(10, 6, 15);
  std::vector<double> values;
  for (const double p : stratified_probabilities(1, "samples/a", 32)) {
    values.push_back(quantile_of(constant, p));
  }
  std::sort(values.begin(), values.end());
  CHECK(percentile(values, 50) == doctest::Approx(10).epsilon(0.02));
  CHECK(percentile(values, 5) == doctest::Approx(6).epsilon(0.05));
  CHECK(percentile(values, 95) == doctest::Approx(15).epsilon(0.05));
}

}  // namespace nearkv
