// Runs design points, or takes their records from the cache.
//
// The cache holds one file a record, named by the hash of the resolved config and of the files
// that it names, in a folder named by the hash of the program; those of the last 8 programs are
// kept. A file that is not as it was written is not used: the point runs again.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/app/point.hpp"
#include "sim/app/progress.hpp"

namespace nearkv {

struct RunSetOptions {
  int jobs = 1;
  std::string label;  // of the progress
  Progress::Style progress = Progress::Style::silent;
  std::filesystem::path cache;  // the cache's folder; empty: none
  RunLimits limits{};           // of each point that runs
};

struct RunSet {
  std::vector<PointOutcome> outcomes;  // in the order of the points
  std::size_t run = 0;                 // points that ran, as the cache had no record
};

/// Equal points run once. Records are cached as they come, but for those of points that a limit
/// ended. Throws Interrupted, and ConfigError
/// when the cache cannot be written.
[[nodiscard]] RunSet run_set(const std::vector<PreparedPoint>& points,
                             const RunSetOptions& options);

}  // namespace nearkv
