#include "sim/app/validation/report_cells.hpp"

#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "sim/app/table.hpp"

namespace nearkv {

namespace {

constexpr int kCellDigits = 4;

std::string truth_text(bool truth) { return truth ? "yes" : "no"; }

std::string simulated_text(const Row& row, const RowResult& result) {
  if (row.holds) {
    return result.holds ? truth_text(*result.holds) : "undecided";
  }
  if (!result.simulated) {
    return "-";
  }
  const std::string value = format_metric(result.simulated->value, row.unit, kCellDigits);
  constexpr double kVisible = 1e-4;  // a smaller bound is beyond the printed digits
  const bool is_exact = result.simulated->bound() < kVisible * std::abs(result.simulated->value);
  return is_exact ? value
                  : fmt::format("{} +- {}", value,
                                format_metric(result.simulated->bound(), row.unit, 1));
}

std::string error_text(std::optional<double> error) {
  constexpr double kSmall = 0.01;
  return error ? fmt::format("{:+.{}f} %", *error * 100, std::abs(*error) < kSmall ? 3 : 1) : "";
}

/// The numbers behind a row say nothing new where there is one, or where a truth holds.
bool needs_detail(const Row& row, const RowResult& result) {
  const bool is_one_number = result.simulated && row.simulated.points().size() < 2;
  return !result.detail.empty() && !is_one_number && !(row.holds && result.passes);
}

std::string what_text(const Row& row, const RowResult& result) {
  std::vector<std::string> parts;
  if (!row.text.empty()) {
    parts.push_back(row.text);
  }
  if (needs_detail(row, result)) {
    parts.push_back(result.detail);
  }
  if (!row.note.empty()) {
    parts.push_back(row.note);
  }
  if (!row.why.empty()) {
    parts.push_back((result.passes ? "warning: passes, but has a why: " : "why: ") + row.why);
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace

RowCells cells_of(const Row& row, const RowResult& result) {
  return {.id = row.id,
          .reference = row.holds ? truth_text(*row.holds)
                                 : format_metric(*row.reference, row.unit, kCellDigits),
          .simulated = simulated_text(row, result),
          .error = error_text(result.error),
          .tolerance = row.holds ? "" : percent_text(result.tolerance),
          .verdict = result.passes ? "pass" : "FAIL",
          .what = what_text(row, result)};
}

std::string percent_text(std::optional<double> share) {
  constexpr int kPercentDigits = 3;
  constexpr double kSmall = 1e-7;
  if (!share) {
    return "";
  }
  if (!std::isfinite(*share)) {
    return "no number";
  }
  return *share < kSmall ? "0 %"
                         : fmt::format("{} %", format_significant(*share * 100, kPercentDigits));
}

std::string name_of(const Requirement& requirement) {
  return requirement.group.empty() ? "all" : requirement.group;
}

}  // namespace nearkv
