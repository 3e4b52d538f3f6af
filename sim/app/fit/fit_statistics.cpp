#include "sim/app/fit/fit_statistics.hpp"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "sim/app/fit/fit_objective.hpp"
#include "sim/app/uncertainty/distributions.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

constexpr double kUpperQuantile = 0.95;  // of an interval of 90 %

/// Standard deviations of the logarithms without the rows.
VectorXd deviations_without_rows(const std::vector<FitParameter>& parameters,
                                 const FitObjective& objective) {
  constexpr double kUniform = 12;  // the variance of a uniform distribution is width^2 / 12
  VectorXd precision =
      kUniform * (objective.highest() - objective.lowest()).array().square().inverse();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (const auto& prior = parameters[i].prior) {
      const double deviation = portable_log(prior->factor);
      precision[static_cast<Index>(i)] += 1 / (deviation * deviation);
    }
  }
  return precision.array().sqrt().inverse();
}

/// Eigenvectors of the rows' information in units of what is known without them: those below 1
/// the rows tell less about than priors and bounds do.
std::vector<OpenDirection> open_directions(const MatrixXd& information, const VectorXd& deviations,
                                           double quantile) {
  const MatrixXd whitened = deviations.asDiagonal() * information * deviations.asDiagonal();
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(whitened);
  std::vector<OpenDirection> open;
  for (Index k = 0; k < deviations.size() && solver.eigenvalues()[k] < 1; ++k) {
    VectorXd direction = deviations.cwiseProduct(solver.eigenvectors().col(k));
    Index largest = 0;
    direction.cwiseAbs().maxCoeff(&largest);
    // The sign is arbitrary: the constant that changes most goes up.
    const double sign = direction[largest] < 0 ? -1 : 1;
    direction *= sign * quantile / std::sqrt(1 + solver.eigenvalues()[k]);
    open.push_back({FitObjective::values(direction)});
  }
  return open;
}

std::vector<std::vector<double>> correlation_of(const MatrixXd& covariance) {
  std::vector<std::vector<double>> correlation;
  for (Index i = 0; i < covariance.rows(); ++i) {
    std::vector<double> row;
    for (Index j = 0; j < covariance.cols(); ++j) {
      row.push_back(i == j ? 1 : covariance(i, j) / std::sqrt(covariance(i, i) * covariance(j, j)));
    }
    correlation.push_back(row);
  }
  return correlation;
}

}  // namespace

FitStatistics fit_statistics_of(const std::vector<FitParameter>& parameters,
                                const ResidualFunction& rows, double step,
                                const FitSolution& solution) {
  FitObjective objective(parameters, rows, step);
  VectorXd point(objective.size());
  for (Index i = 0; i < point.size(); ++i) {
    point[i] = portable_log(solution.values[static_cast<std::size_t>(i)]);
  }
  point = objective.within_bounds(point);
  const auto row_count = static_cast<Index>(solution.residuals.size());
  const MatrixXd jacobian = objective.jacobian(point).topRows(row_count);
  FitStatistics found;
  found.degrees_of_freedom = static_cast<int>(row_count - point.size());
  double squares = 0;
  for (const double residual : solution.residuals) {
    squares += residual * residual;
  }
  // Rows that agree better than their tolerances say nothing about these: the variance is known to
  // be 1, and so is its distribution.
  const bool is_estimated =
      found.degrees_of_freedom > 0 && squares > static_cast<double>(found.degrees_of_freedom);
  if (is_estimated) {
    found.residual_variance = squares / found.degrees_of_freedom;
  }
  const double quantile = is_estimated ? student_quantile(kUpperQuantile, found.degrees_of_freedom)
                                       : normal_quantile(kUpperQuantile);
  const VectorXd deviations = deviations_without_rows(parameters, objective);
  const MatrixXd information = jacobian.transpose() * jacobian / found.residual_variance;
  MatrixXd precision = information;
  precision.diagonal() += deviations.array().square().inverse().matrix();
  const MatrixXd covariance =
      precision.ldlt().solve(MatrixXd::Identity(point.size(), point.size()));
  found.correlation = correlation_of(covariance);
  found.open = open_directions(information, deviations, quantile);
  const VectorXd reach = quantile * covariance.diagonal().cwiseSqrt();
  const std::vector<double> lowest = FitObjective::values(objective.within_bounds(point - reach));
  const std::vector<double> highest = FitObjective::values(objective.within_bounds(point + reach));
  constexpr double kTouching = 1e-3;  // of the way between the bounds
  for (Index i = 0; i < point.size(); ++i) {
    const auto j = static_cast<std::size_t>(i);
    found.intervals.push_back({lowest[j], highest[j]});
    found.is_unidentified.push_back(covariance(i, i) > 0.5 * deviations[i] * deviations[i]);
    const double width = objective.highest()[i] - objective.lowest()[i];
    found.is_at_bound.push_back(point[i] - objective.lowest()[i] < kTouching * width ||
                                objective.highest()[i] - point[i] < kTouching * width);
  }
  return found;
}

}  // namespace nearkv
