// The function that a fit minimizes, in logarithms: residuals of rows and priors, and their
// Jacobian. Remembers what it was asked, so that nothing is simulated twice.
#pragma once

#include <Eigen/Core>
#include <map>
#include <vector>

#include "sim/app/fit/least_squares.hpp"

namespace nearkv {

class FitObjective {
 public:
  /// Keeps references.
  FitObjective(const std::vector<FitParameter>& parameters, const ResidualFunction& rows,
               double step);

  [[nodiscard]] Eigen::Index size() const { return lowest_.size(); }
  [[nodiscard]] const Eigen::VectorXd& lowest() const { return lowest_; }  // logarithms
  [[nodiscard]] const Eigen::VectorXd& highest() const { return highest_; }
  [[nodiscard]] const Eigen::VectorXd& start() const { return start_; }
  [[nodiscard]] double step() const { return step_; }

  /// Residuals of the rows, then of the priors.
  [[nodiscard]] Eigen::VectorXd residuals(const Eigen::VectorXd& logarithms);
  [[nodiscard]] double sum_of_squares(const Eigen::VectorXd& logarithms) {
    return residuals(logarithms).squaredNorm();
  }
  [[nodiscard]] std::vector<double> row_residuals(const Eigen::VectorXd& logarithms);

  /// Evaluates the points together, so that they can run side by side.
  void prepare(const std::vector<Eigen::VectorXd>& points);

  /// d residual / d logarithm, by central differences; one-sided at a bound.
  [[nodiscard]] Eigen::MatrixXd jacobian(const Eigen::VectorXd& logarithms);

  /// The points a step away in each direction that are within the bounds.
  [[nodiscard]] std::vector<Eigen::VectorXd> neighbours(const Eigen::VectorXd& logarithms) const;

  [[nodiscard]] static std::vector<double> values(const Eigen::VectorXd& logarithms);
  [[nodiscard]] Eigen::VectorXd within_bounds(const Eigen::VectorXd& logarithms) const {
    return logarithms.cwiseMax(lowest_).cwiseMin(highest_);
  }

 private:
  /// `index` moved by `distance`, as far as its bounds let it.
  [[nodiscard]] Eigen::VectorXd moved(const Eigen::VectorXd& logarithms, Eigen::Index index,
                                      double distance) const;

  const std::vector<FitParameter>& parameters_;
  const ResidualFunction& rows_;
  double step_;
  Eigen::VectorXd lowest_;
  Eigen::VectorXd highest_;
  Eigen::VectorXd start_;
  std::map<std::vector<double>, std::vector<double>> known_;  // by values
};

}  // namespace nearkv
