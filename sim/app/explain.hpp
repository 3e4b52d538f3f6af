// Where the time of a decode step goes, and what would make it shorter.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/systems/recording.hpp"
#include "sim/app/point.hpp"
#include "sim/app/twice_as_fast.hpp"
#include "sim/core/critical_path.hpp"

namespace nearkv {

/// The critical path of one window of a run.
struct StepPath {
  std::string name;  // "decode step 511"
  SimDuration time;
  std::vector<PathShare> shares;  // add up to `time`
};

/// Records the part, one window, in a child process. Throws ConfigError when it does not run,
/// Interrupted.
[[nodiscard]] StepPath path_of_step(const PreparedPoint& prepared, const RecordedPart& part);

/// What one resource, by its name without numbers, has of the critical path.
struct ResourceShare {
  std::string family;
  SimDuration time;
};
/// The longest first, of equal ones by names; they add up to the step's time.
[[nodiscard]] std::vector<ResourceShare> resource_shares(const StepPath& path);

/// The step's time if the resource were twice as fast and nothing else became critical: half of
/// its share less.
[[nodiscard]] SimDuration predicted_time(const StepPath& path, const std::string& family);

/// A resource that was made twice as fast.
struct Confirmation {
  std::string family;
  SimDuration predicted;
  SimDuration simulated;
  std::vector<ChangedConstant> changes;
};

struct Explanation {
  std::string name;
  std::string system;
  std::string config_hash;
  StepPath path;
  std::optional<Confirmation> twice;
};

[[nodiscard]] std::string explanation_text(const Explanation& explanation);
[[nodiscard]] nlohmann::json explanation_json(const Explanation& explanation);

}  // namespace nearkv
