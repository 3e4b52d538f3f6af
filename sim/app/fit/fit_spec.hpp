// What `nearkv fit` is asked for, as a file:
//
//   {
//     "name": "h200_host", "suites": ["flexgen_h200"], "groups": ["decode_step"],
//     "method": "levenberg_marquardt", "step": 0.05, "most_iterations": 30,
//     "part": "host",
//     "constants": [{"path": "/host/framework/issue_per_kernel", "lowest": "1us",
//                    "highest": "200us",
//                    "prior": {"value": "20us", "factor": 2, "citation": "..."}}],
//     "output": "configs/calibration/h200_host_fit.json"
//   }
//
// The rows are those of role fit of the suites that have a number: all of them, those of the
// `groups`, or those that "rows": ["C01", ...] names. A row counts by its relative error over
// its tolerance, or over "sigma" where the file has it. "prior" may be left out. The constants
// lie in one part of a design point ("host", "csd/0"); the output is a config of that part, to be
// extended. Suites are names or files; paths are relative to the working folder.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/fit/least_squares.hpp"

namespace nearkv {

struct FitConstant {
  std::string path;
  nlohmann::json lowest;  // as configs write the constant: "1us"
  nlohmann::json highest;
  std::optional<nlohmann::json> prior_value;  // no prior without
  double prior_factor = 0;
  std::string prior_citation;
};

struct FitSpec {
  std::filesystem::path file;
  std::string name;
  std::vector<std::string> suites;
  std::vector<std::string> groups;  // empty: all
  std::vector<std::string> rows;    // empty: all
  std::string part;
  std::vector<FitConstant> constants;
  std::optional<double> sigma;
  FitOptions options;
  std::filesystem::path output;
};

/// Throws ConfigError whose lines start with the file.
[[nodiscard]] FitSpec load_fit_spec(const std::filesystem::path& file);

}  // namespace nearkv
