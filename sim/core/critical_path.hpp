// Why something took as long as it did: the chain of causes from its end back to its begin.
#pragma once

#include <string>
#include <vector>

#include "sim/core/activity_log.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// A part of the path, all times of the same words together.
struct PathShare {
  std::string phase;  // of the actor on the path; empty outside of any
  std::string resource;
  std::string what;
  Activity activity;
  SimDuration time;
};

/// The shares add up to the window's time, to the picosecond; the longest come first, of equal ones
/// by names. What lies on the path before the window is cut off.
[[nodiscard]] std::vector<PathShare> critical_path(const ActivityLog& log,
                                                   const ActivityLog::Window& window);

/// "csd/gemv_units" of "csd/0/gemv_units": the name of a resource without its numbers. Equal parts
/// share it.
[[nodiscard]] std::string family_of(const std::string& resource);

}  // namespace nearkv
