// Lists of design points in a figure's document: [{"name": "...", "point": {...}}].
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/systems/design_point.hpp"
#include "sim/app/figures/table_figure.hpp"

namespace nearkv {

/// The points of `list`, resolved, beside the names that were read of them.
template <class NamedEntry>
[[nodiscard]] std::vector<NamedPoint> named_points(const std::vector<NamedEntry>& entries,
                                                   const nlohmann::json& list) {
  std::vector<NamedPoint> named;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    named.push_back({entries[i].name, list.at(i).at("point")});
  }
  return named;
}

/// A point that was read before without a problem.
[[nodiscard]] DesignPoint design_point_of(const nlohmann::json& config);

}  // namespace nearkv
