// Runs all points of validation suites and evaluates their rows.
#pragma once

#include <vector>

#include "sim/app/validation/report.hpp"
#include "sim/app/validation/run_set.hpp"
#include "sim/app/validation/suite.hpp"

namespace nearkv {

struct SuiteRuns {
  int status = 0;  // the exit status when points failed; their problems are printed
  std::vector<SuiteReport> reports;  // one a suite; none when points failed
};

/// Throws ConfigError, and Interrupted.
[[nodiscard]] SuiteRuns run_suites(std::vector<Suite> suites, const RunSetOptions& options);

}  // namespace nearkv
