// What a validation found: statistics of suites, the table for the terminal, REPORT.md and JSON.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/validation/suite.hpp"

namespace nearkv {

/// A suite that ran; one result a row.
struct SuiteReport {
  Suite suite;
  std::vector<RowResult> results;
};

/// Of rows of one role.
struct RowStatistics {
  std::size_t rows = 0;
  std::size_t passing = 0;
  // Of the absolute relative errors of those with a number; infinite when there should be a
  // number and there is none.
  std::optional<double> median;
  std::optional<double> worst;
};

/// `group` empty: all rows.
[[nodiscard]] RowStatistics statistics_of(const SuiteReport& report, RowRole role,
                                          const std::string& group = "");

/// Whether the test rows reach what a requirement asks.
[[nodiscard]] bool is_reached(const SuiteReport& report, const Requirement& requirement);

/// Summary of all suites, then their rows, those of role test first.
[[nodiscard]] std::string report_text(const std::vector<SuiteReport>& reports);

/// A list of rows {suite, id, role, reference, simulated, unit, error, tolerance, pass, note}.
[[nodiscard]] nlohmann::json report_as_json(const std::vector<SuiteReport>& reports);

}  // namespace nearkv
