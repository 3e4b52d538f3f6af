// What a constant may really be, and where to look: the distribution behind a value with its 90 %
// interval, and Latin hypercube samples of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "sim/core/config_numbers.hpp"

namespace nearkv {

/// Probability that a standard normal number is at most z; the same bits on every machine.
[[nodiscard]] double normal_probability(double z);

/// Its inverse, for 0 < probability < 1.
[[nodiscard]] double normal_quantile(double probability);

/// Of Student's distribution with so many degrees of freedom (at least 1), for
/// 0 < probability < 1.
[[nodiscard]] double student_quantile(double probability, int degrees_of_freedom);

/// Quantile, in base units, of a constant that has an interval: its value is the median and the
/// ends of the interval are the 5 % and 95 % quantiles. Between and beyond them the logarithm is
/// normal, with a width of its own on each side of the median; where an end is not above zero the
/// number itself is. Clamped to the range of the field.
[[nodiscard]] double quantile_of(const FieldNumber& constant, double probability);

/// A column of a Latin hypercube: `count` probabilities, one in each of `count` equal parts of
/// (0, 1), in random order. `name` is the name of the random stream.
[[nodiscard]] std::vector<double> stratified_probabilities(std::uint64_t seed,
                                                           std::string_view name,
                                                           std::size_t count);

}  // namespace nearkv
