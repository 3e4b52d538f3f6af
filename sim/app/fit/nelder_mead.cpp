#include "sim/app/fit/nelder_mead.hpp"

#include <algorithm>
#include <vector>

#include "sim/app/fit/fit_objective.hpp"

namespace nearkv {

using Eigen::Index;
using Eigen::VectorXd;

namespace {

class Simplex {
 public:
  Simplex(FitObjective& objective, const VectorXd& start) : objective_(objective) {
    constexpr double kFirstReach = 0.1;  // of the way between the bounds
    std::vector<VectorXd> corners{start};
    for (Index i = 0; i < start.size(); ++i) {
      const double reach = kFirstReach * (objective.highest()[i] - objective.lowest()[i]);
      VectorXd corner = start;
      corner[i] += corner[i] + reach > objective.highest()[i] ? -reach : reach;
      corners.push_back(corner);
    }
    add(corners);
  }

  [[nodiscard]] const VectorXd& best() const { return corners_.front().place; }

  /// The largest distance of a corner from the best one, in a single constant.
  [[nodiscard]] double size() const {
    double largest = 0;
    for (const Corner& corner : corners_) {
      largest = std::max(largest, (corner.place - best()).lpNorm<Eigen::Infinity>());
    }
    return largest;
  }

  void improve() {
    const auto n = static_cast<double>(corners_.size() - 1);
    const double expansion = 1 + 2 / n;
    const double contraction = 0.75 - 1 / (2 * n);
    const double shrinking = 1 - 1 / n;
    const Corner worst = corners_.back();
    const double second_worst = corners_[corners_.size() - 2].sum;
    VectorXd middle = VectorXd::Zero(worst.place.size());
    for (std::size_t i = 0; i + 1 < corners_.size(); ++i) {
      middle += corners_[i].place / n;
    }
    const auto beyond = [&](double factor) {
      return corner_at(middle + factor * (middle - worst.place));
    };
    const Corner reflected = beyond(1);
    if (reflected.sum < corners_.front().sum) {
      const Corner expanded = beyond(expansion);
      replace_worst(expanded.sum < reflected.sum ? expanded : reflected);
    } else if (reflected.sum < second_worst) {
      replace_worst(reflected);
    } else {
      const Corner contracted = beyond(reflected.sum < worst.sum ? contraction : -contraction);
      if (contracted.sum < std::min(reflected.sum, worst.sum)) {
        replace_worst(contracted);
      } else {
        shrink(corners_.size() > 2 ? shrinking : 0.5);
      }
    }
  }

 private:
  struct Corner {
    VectorXd place;
    double sum;
  };

  Corner corner_at(const VectorXd& place) {
    const VectorXd inside = objective_.within_bounds(place);
    return {inside, objective_.sum_of_squares(inside)};
  }

  void add(const std::vector<VectorXd>& places) {
    objective_.prepare(places);
    for (const VectorXd& place : places) {
      corners_.push_back({place, objective_.sum_of_squares(place)});
    }
    sort();
  }

  void sort() {
    std::stable_sort(corners_.begin(), corners_.end(),
                     [](const Corner& a, const Corner& b) { return a.sum < b.sum; });
  }

  void replace_worst(const Corner& corner) {
    corners_.back() = corner;
    sort();
  }

  void shrink(double factor) {
    std::vector<VectorXd> places;
    for (std::size_t i = 1; i < corners_.size(); ++i) {
      places.emplace_back(best() + factor * (corners_[i].place - best()));
    }
    corners_.resize(1);
    add(places);
  }

  FitObjective& objective_;
  std::vector<Corner> corners_;  // the best one first
};

}  // namespace

SimplexEnding run_nelder_mead(FitObjective& objective, const VectorXd& start, int most_iterations) {
  constexpr double kSmall = 0.1;  // of the objective's step
  Simplex simplex(objective, start);
  for (int i = 0; i < most_iterations; ++i) {
    if (simplex.size() < kSmall * objective.step()) {
      return {simplex.best(), i, true};
    }
    simplex.improve();
  }
  return {simplex.best(), most_iterations, false};
}

}  // namespace nearkv
