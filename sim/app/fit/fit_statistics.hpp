// How well the rows of a fit know its constants, from the Jacobian at the solution.
//
// The covariance of the logarithms is (J' J / s2 + P)^-1: J is that of the rows, s2 the residual
// variance (sum of the squares over rows less constants; at least 1, so that the intervals never
// say that rows are better known than their sigma; Student's quantile where it is estimated, the
// normal one where it is 1), P the precision of what is known besides: the
// priors, and the bounds as a uniform distribution between them.
#pragma once

#include <vector>

#include "sim/app/fit/least_squares.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

/// Constants that may change together by these factors, and the rows hardly see it.
struct OpenDirection {
  std::vector<double> factors;  // of the constants, to the edge of 90 %; near 1: not part of it
};

struct FitStatistics {
  int degrees_of_freedom = 0;    // rows less constants, may be below 1
  double residual_variance = 1;  // s2
  std::vector<Range> intervals;  // 90 %, within the bounds
  std::vector<std::vector<double>> correlation;
  /// Of the variance that a constant has without the rows, more than half is left.
  std::vector<bool> is_unidentified;
  std::vector<bool> is_at_bound;
  std::vector<OpenDirection> open;
};

[[nodiscard]] FitStatistics fit_statistics_of(const std::vector<FitParameter>& parameters,
                                              const ResidualFunction& rows, double step,
                                              const FitSolution& solution);

}  // namespace nearkv
