#include "sim/app/fit/fit_objective.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

FitObjective::FitObjective(const std::vector<FitParameter>& parameters,
                           const ResidualFunction& rows, double step)
    : parameters_(parameters), rows_(rows), step_(step) {
  const auto count = static_cast<Index>(parameters.size());
  lowest_.resize(count);
  highest_.resize(count);
  start_.resize(count);
  check(count > 0 && step > 0, "a fit without constants or step");
  for (Index i = 0; i < count; ++i) {
    const FitParameter& parameter = parameters[static_cast<std::size_t>(i)];
    check(parameter.lowest > 0 && parameter.lowest < parameter.highest &&
              parameter.start >= parameter.lowest && parameter.start <= parameter.highest,
          fmt::format("{}: the start of a fit is outside its bounds", parameter.name));
    lowest_[i] = portable_log(parameter.lowest);
    highest_[i] = portable_log(parameter.highest);
    start_[i] = portable_log(parameter.start);
  }
}

std::vector<double> FitObjective::values(const VectorXd& logarithms) {
  std::vector<double> values;
  for (const double logarithm : logarithms) {
    values.push_back(portable_exp(logarithm));
  }
  return values;
}

void FitObjective::prepare(const std::vector<VectorXd>& points) {
  std::vector<std::vector<double>> unknown;
  for (const VectorXd& point : points) {
    std::vector<double> set = values(point);
    const bool is_listed = std::find(unknown.begin(), unknown.end(), set) != unknown.end();
    if (!known_.contains(set) && !is_listed) {
      unknown.push_back(std::move(set));
    }
  }
  if (unknown.empty()) {
    return;
  }
  std::vector<std::vector<double>> found = rows_(unknown);
  check(found.size() == unknown.size(), "a fit lacks residuals");
  for (std::size_t i = 0; i < unknown.size(); ++i) {
    known_[unknown[i]] = std::move(found[i]);
  }
}

std::vector<double> FitObjective::row_residuals(const VectorXd& logarithms) {
  prepare({logarithms});
  return known_.at(values(logarithms));
}

VectorXd FitObjective::residuals(const VectorXd& logarithms) {
  std::vector<double> all = row_residuals(logarithms);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (const auto& prior = parameters_[i].prior) {
      all.push_back((logarithms[static_cast<Index>(i)] - portable_log(prior->value)) /
                    portable_log(prior->factor));
    }
  }
  return Eigen::Map<const VectorXd>(all.data(), static_cast<Index>(all.size()));
}

VectorXd FitObjective::moved(const VectorXd& logarithms, Index index, double distance) const {
  VectorXd point = logarithms;
  point[index] += distance;
  return within_bounds(point);
}

std::vector<VectorXd> FitObjective::neighbours(const VectorXd& logarithms) const {
  std::vector<VectorXd> points;
  for (Index i = 0; i < size(); ++i) {
    for (const double distance : {-step_, step_}) {
      points.push_back(moved(logarithms, i, distance));
    }
  }
  return points;
}

MatrixXd FitObjective::jacobian(const VectorXd& logarithms) {
  prepare(neighbours(logarithms));
  MatrixXd jacobian(residuals(logarithms).size(), size());
  for (Index i = 0; i < size(); ++i) {
    const VectorXd below = moved(logarithms, i, -step_);
    const VectorXd above = moved(logarithms, i, step_);
    jacobian.col(i) = (residuals(above) - residuals(below)) / (above[i] - below[i]);
  }
  return jacobian;
}

}  // namespace nearkv
