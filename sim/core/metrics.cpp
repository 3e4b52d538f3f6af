#include "sim/core/metrics.hpp"

#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

void Metrics::add(std::string name, double value, std::string unit, std::string doc) {
  check(!find(name).has_value(), fmt::format("the metric {} was reported twice", name));
  check(std::isfinite(value), fmt::format("the metric {} is no finite number", name));
  metrics_.push_back({std::move(name), value, std::move(unit), std::move(doc)});
}

std::optional<double> Metrics::find(std::string_view name) const {
  for (const Metric& metric : metrics_) {
    if (metric.name == name) {
      return metric.value;
    }
  }
  return std::nullopt;
}

double Metrics::at(std::string_view name) const {
  const std::optional<double> value = find(name);
  check(value.has_value(), fmt::format("no metric {}", name));
  return *value;
}

std::string_view name_of(RunStatus status) {
  switch (status) {
    case RunStatus::ok:
      return "ok";
    case RunStatus::out_of_memory:
      return "out_of_memory";
    case RunStatus::data_lost:
      return "data_lost";
    case RunStatus::infeasible:
      return "infeasible";
    case RunStatus::stopped:
      return "stopped";
    default:
      return "drive_full";
  }
}

}  // namespace nearkv
