// The run record as JSON. Equal inputs give equal bytes; nothing here depends on the wall clock,
// but that a run was stopped at a limit that the user set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/core/config.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

struct RunRecord {
  std::string name;
  nlohmann::json config;  // resolved
  std::int64_t seed = 0;
  std::string fidelity;
  RunOutcome outcome;
  std::vector<ConstantUse> constants;  // all that the run used

  /// Versioned JSON; "constants" lists the assumed, fitted and overridden values with citations,
  /// and counts the rest by source.
  [[nodiscard]] nlohmann::json to_json(std::string_view program_version) const;
};

/// Writes by a temporary file beside it and rename, so that no reader sees half a file; makes the
/// folders that are missing. Throws ConfigError, and leaves nothing, when it cannot be written.
void write_file_atomically(const std::filesystem::path& file, std::string_view text);

}  // namespace nearkv
