// What a fit found, for people, for machines, and as a config.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/fit/fit_problem.hpp"
#include "sim/app/fit/fit_statistics.hpp"

namespace nearkv {

struct FitReport {
  FitSolution solution;  // its values rounded as they are written
  FitStatistics statistics;
  std::vector<RowResult> before;  // of the fit's rows, with the constants as they were
  std::vector<RowResult> after;
  std::vector<RowResult> test;  // of the test rows, afterwards
};

/// What would be fitted to what.
[[nodiscard]] std::string fit_plan_text(const FitSpec& spec, const FitProblem& problem);

[[nodiscard]] std::string fit_report_text(const FitProblem& problem, const FitReport& report);
[[nodiscard]] nlohmann::json fit_report_as_json(const FitSpec& spec, const FitProblem& problem,
                                                const FitReport& report);

/// A config of the spec's part with the fitted constants, their intervals and their rows.
[[nodiscard]] nlohmann::ordered_json fitted_config(const FitSpec& spec, const FitProblem& problem,
                                                   const FitReport& report);

}  // namespace nearkv
