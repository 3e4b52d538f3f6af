#include "sim/app/sweep/sweep_ranking.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "sim/app/expression/value_expression.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// Axes, and then the metrics that points of the journal have.
class PointValues {
 public:
  PointValues(const SweepPlan& plan, const ResultStore& journal) : plan_(plan) {
    for (const SweepColumn& column : plan.columns()) {
      names_.push_back({column.name, column.is_text});
    }
    const std::size_t axes = names_.size();
    journal.for_each([&](std::size_t, const std::string&, const PointResult& result) {
      for (const Metric& metric : result.metrics) {
        if (index_.emplace(metric.name, axes + index_.size()).second) {
          names_.push_back({metric.name});
        }
      }
    });
  }

  [[nodiscard]] const std::vector<ValueName>& names() const { return names_; }

  [[nodiscard]] std::vector<NamedValue> of(std::size_t point, const PointResult& result) const {
    std::vector<NamedValue> values = plan_.values(point);
    values.resize(names_.size());
    for (const Metric& metric : result.metrics) {
      values[index_.at(metric.name)] = metric.value;
    }
    return values;
  }

 private:
  const SweepPlan& plan_;
  std::vector<ValueName> names_;
  std::map<std::string, std::size_t> index_;
};

ValueExpression parsed(const std::string& text, const std::string& place, bool is_truth,
                       const std::vector<ValueName>& names) {
  try {
    ValueExpression expression(text, names);
    if (expression.is_truth() != is_truth) {
      throw ConfigError(is_truth ? "is a number; a constraint compares some"
                                 : "is a condition; an objective is a number");
    }
    return expression;
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("{}: {}", place, error.what()));
  }
}

/// Negative when `a` is better.
double compare(const SweepObjective& objective, double a, double b) {
  return objective.is_maximized ? b - a : a - b;
}

void sort_by_first(std::vector<RankedPoint>& points,
                   const std::vector<SweepObjective>& objectives) {
  std::stable_sort(points.begin(), points.end(), [&](const RankedPoint& a, const RankedPoint& b) {
    for (std::size_t i = 0; i < objectives.size(); ++i) {
      const double order = compare(objectives[i], a.objectives[i], b.objectives[i]);
      if (order != 0) {
        return order < 0;
      }
    }
    return false;
  });
}

bool dominates(const RankedPoint& a, const RankedPoint& b,
               const std::vector<SweepObjective>& objectives) {
  bool is_better = false;
  for (std::size_t i = 0; i < objectives.size(); ++i) {
    const double order = compare(objectives[i], a.objectives[i], b.objectives[i]);
    if (order > 0) {
      return false;
    }
    is_better = is_better || order < 0;
  }
  return is_better;
}

}  // namespace

SweepRanking rank_points(const SweepPlan& plan, const ResultStore& journal,
                         const std::vector<SweepObjective>& objectives,
                         const std::vector<std::string>& constraints) {
  const PointValues point_values(plan, journal);
  std::vector<ValueExpression> wanted;
  for (std::size_t i = 0; i < objectives.size(); ++i) {
    wanted.push_back(parsed(objectives[i].expression, fmt::format("/objectives/{}/expression", i),
                            false, point_values.names()));
  }
  std::vector<ValueExpression> required;
  for (std::size_t i = 0; i < constraints.size(); ++i) {
    required.push_back(
        parsed(constraints[i], fmt::format("/constraints/{}", i), true, point_values.names()));
  }
  SweepRanking ranking;
  journal.for_each([&](std::size_t point, const std::string&, const PointResult& result) {
    if (result.status != "ok") {
      ++ranking.did_not_run;
      return;
    }
    const std::vector<NamedValue> values = point_values.of(point, result);
    const bool is_allowed =
        std::all_of(required.begin(), required.end(), [&](const ValueExpression& constraint) {
          return constraint.holds(values).value_or(false);
        });
    if (!is_allowed) {
      ++ranking.against_constraints;
      return;
    }
    RankedPoint ranked{point, {}};
    for (const ValueExpression& objective : wanted) {
      const std::optional<double> number = objective.number(values);
      if (!number) {
        ++ranking.without_objective;
        return;
      }
      ranked.objectives.push_back(*number);
    }
    ranking.points.push_back(std::move(ranked));
  });
  return ranking;
}

std::vector<RankedPoint> pareto_front(const SweepRanking& ranking,
                                      const std::vector<SweepObjective>& objectives) {
  std::vector<RankedPoint> sorted = ranking.points;
  sort_by_first(sorted, objectives);
  // What dominates a point comes before it, and so does a point of the front that dominates it.
  std::vector<RankedPoint> front;
  for (const RankedPoint& point : sorted) {
    const bool is_dominated =
        std::any_of(front.begin(), front.end(),
                    [&](const RankedPoint& other) { return dominates(other, point, objectives); });
    if (!is_dominated) {
      front.push_back(point);
    }
  }
  return front;
}

std::vector<RankedPoint> best_points(const SweepRanking& ranking,
                                     const std::vector<SweepObjective>& objectives,
                                     std::size_t count) {
  std::vector<RankedPoint> sorted = ranking.points;
  sort_by_first(sorted, objectives);
  sorted.resize(std::min(count, sorted.size()));
  return sorted;
}

}  // namespace nearkv
