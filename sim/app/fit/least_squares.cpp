#include "sim/app/fit/least_squares.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <numbers>
#include <unsupported/Eigen/NonLinearOptimization>

#include <fmt/format.h>

#include "sim/app/fit/fit_objective.hpp"
#include "sim/app/fit/nelder_mead.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

constexpr double kTolerance = 1e-6;      // relative, of the sum of squares and of the constants
constexpr double kBetter = 1e-4;         // a neighbour lowers the sum if by this share of it
constexpr double kAlmostNothing = 1e-9;  // a sum of squares that is as good as zero

/// The objective in Eigen's terms, as a function of u with
/// logarithm = middle + half width * sin(u). MINPACK wants at least as many residuals as
/// constants, so zeros are added.
struct BoundedFunction {
  FitObjective& objective;
  Index count;  // of residuals

  explicit BoundedFunction(FitObjective& of)
      : objective(of), count(std::max(of.residuals(of.start()).size(), of.size())) {}

  [[nodiscard]] Index values() const { return count; }

  [[nodiscard]] VectorXd half_width() const {
    return (objective.highest() - objective.lowest()) / 2;
  }

  [[nodiscard]] VectorXd logarithms(const VectorXd& u) const {
    const VectorXd middle = (objective.highest() + objective.lowest()) / 2;
    const VectorXd unbounded = middle + half_width().cwiseProduct(u.array().sin().matrix());
    return objective.within_bounds(unbounded);  // against rounding
  }

  /// The inverse. Away from the bounds, where a step has no effect.
  [[nodiscard]] VectorXd angles(const VectorXd& logarithms) const {
    constexpr double kInside = 0.98;
    VectorXd u(logarithms.size());
    for (Index i = 0; i < u.size(); ++i) {
      const double middle = (objective.highest()[i] + objective.lowest()[i]) / 2;
      u[i] = std::asin(std::clamp((logarithms[i] - middle) / half_width()[i], -kInside, kInside));
    }
    return u;
  }

  int operator()(const VectorXd& u, VectorXd& residuals) const {
    const VectorXd found = objective.residuals(logarithms(u));
    residuals = VectorXd::Zero(count);
    residuals.head(found.size()) = found;
    return 0;
  }

  int df(const VectorXd& u, MatrixXd& jacobian) const {
    const MatrixXd found = objective.jacobian(logarithms(u));
    jacobian = MatrixXd::Zero(count, u.size());
    jacobian.topRows(found.rows()) =
        found * half_width().cwiseProduct(u.array().cos().matrix()).asDiagonal();
    return 0;
  }
};

/// Where a method ended, and whether it says that it is done.
struct Ending {
  VectorXd logarithms;
  int iterations = 0;
  bool is_done = false;
};

Ending run_levenberg_marquardt(FitObjective& objective, const VectorXd& start,
                               int most_iterations) {
  using Eigen::LevenbergMarquardtSpace::Status;
  BoundedFunction function(objective);
  Eigen::LevenbergMarquardt<BoundedFunction> method(function);
  method.parameters.ftol = kTolerance;
  method.parameters.xtol = kTolerance;
  // The distance of the first step is at most this times the length of u.
  method.parameters.factor = 1;
  VectorXd u = function.angles(start);
  Status status = method.minimizeInit(u);
  int iterations = 0;
  while (status == Status::NotStarted || status == Status::Running) {
    if (iterations == most_iterations) {
      return {function.logarithms(u), iterations, false};
    }
    status = method.minimizeOneStep(u);
    ++iterations;
  }
  check(status != Status::ImproperInputParameters, "Levenberg-Marquardt without its parameters");
  return {function.logarithms(u), iterations, status != Status::TooManyFunctionEvaluation};
}

Ending run_method(FitObjective& objective, const VectorXd& start, FitMethod method,
                  int most_iterations) {
  if (method == FitMethod::levenberg_marquardt) {
    return run_levenberg_marquardt(objective, start, most_iterations);
  }
  const SimplexEnding ending = run_nelder_mead(objective, start, most_iterations);
  return {ending.logarithms, ending.iterations, ending.is_done};
}

/// The neighbour that is clearly better than `point`, or `point`.
VectorXd best_around(FitObjective& objective, const VectorXd& point) {
  const std::vector<VectorXd> neighbours = objective.neighbours(point);
  objective.prepare(neighbours);
  const double here = objective.sum_of_squares(point);
  VectorXd best = point;
  double least = here * (1 - kBetter) - kAlmostNothing;
  for (const VectorXd& neighbour : neighbours) {
    if (objective.sum_of_squares(neighbour) < least) {
      least = objective.sum_of_squares(neighbour);
      best = neighbour;
    }
  }
  return best;
}

FitSolution solution_at(FitObjective& objective, const VectorXd& point, int iterations) {
  return {.has_converged = false,
          .ending = {},
          .iterations = iterations,
          .values = FitObjective::values(point),
          .residuals = objective.row_residuals(point),
          .sum_of_squares = objective.sum_of_squares(point)};
}

}  // namespace

FitSolution solve_least_squares(const std::vector<FitParameter>& parameters,
                                const ResidualFunction& rows, const FitOptions& options) {
  FitObjective objective(parameters, rows, options.step);
  VectorXd point = objective.start();
  int iterations = 0;
  for (;;) {
    const Ending ending =
        run_method(objective, point, options.method, options.most_iterations - iterations);
    iterations += ending.iterations;
    // A method may end away from the start's neighbourhood but above it, where it is not smooth.
    const bool is_lower =
        objective.sum_of_squares(ending.logarithms) <= objective.sum_of_squares(point);
    point = is_lower ? ending.logarithms : point;
    FitSolution solution = solution_at(objective, point, iterations);
    if (!ending.is_done) {
      solution.ending = fmt::format("stopped after {} iterations", iterations);
      return solution;
    }
    const VectorXd better = best_around(objective, point);
    if (better == point) {
      solution.has_converged = true;
      solution.ending = fmt::format("converged after {} iterations", iterations);
      return solution;
    }
    if (iterations >= options.most_iterations) {
      solution.ending = fmt::format("stopped after {} iterations beside a lower place", iterations);
      return solution;
    }
    point = better;
  }
}

}  // namespace nearkv
