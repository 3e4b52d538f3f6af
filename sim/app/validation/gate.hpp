// The gate of a validation: what passed before passes, and what fails says why. The test rows that
// pass are in validation/passing.json, which `nearkv validate --accept` rewrites.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/validation/report.hpp"

namespace nearkv {

/// Ids of test rows and names of requirements, by suite.
struct Passing {
  std::map<std::string, std::vector<std::string>> rows;
  std::map<std::string, std::vector<std::string>> requirements;
};

[[nodiscard]] std::filesystem::path passing_file();
/// Nothing passes where there is no file. Throws ConfigError that starts with the file.
[[nodiscard]] Passing read_passing(const std::filesystem::path& file);
[[nodiscard]] nlohmann::json passing_as_json(const Passing& passing);

/// What passes now in the suites that ran; as before in the others.
[[nodiscard]] Passing accept(const std::vector<SuiteReport>& reports, Passing before);

/// One line for each row and requirement that must pass and fails, fails without a reason, or is
/// no test row any more.
[[nodiscard]] std::vector<std::string> gate_problems(const std::vector<SuiteReport>& reports,
                                                     const Passing& passing);

}  // namespace nearkv
