// Which points of a sweep are good: by objectives, among those that meet the constraints.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "sim/app/sweep/result_store.hpp"
#include "sim/app/sweep/sweep_plan.hpp"

namespace nearkv {

struct RankedPoint {
  std::size_t point = 0;
  std::vector<double> objectives;
};

struct SweepRanking {
  std::vector<RankedPoint> points;  // that ran, meet the constraints and have all objectives
  std::size_t did_not_run = 0;
  std::size_t against_constraints = 0;
  std::size_t without_objective = 0;  // an expression could not be computed
};

/// Throws ConfigError for an expression that names no axis and no metric of the results.
[[nodiscard]] SweepRanking rank_points(const SweepPlan& plan, const ResultStore& journal,
                                       const std::vector<SweepObjective>& objectives,
                                       const std::vector<std::string>& constraints);

/// Points than which no other is better in one objective and at least as good in all others, by
/// the first objective from the best on. Equal points are all there.
[[nodiscard]] std::vector<RankedPoint> pareto_front(const SweepRanking& ranking,
                                                    const std::vector<SweepObjective>& objectives);

/// The best `count` points by the first objective; of equal ones the first.
[[nodiscard]] std::vector<RankedPoint> best_points(const SweepRanking& ranking,
                                                   const std::vector<SweepObjective>& objectives,
                                                   std::size_t count);

}  // namespace nearkv
