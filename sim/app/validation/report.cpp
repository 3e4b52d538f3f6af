#include "sim/app/validation/report.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;
using Align = TextTable::Align;

namespace {

constexpr int kDigits = 4;

std::string percent(std::optional<double> share) {
  if (!share) {
    return "";
  }
  return std::isfinite(*share) ? fmt::format("{} %", format_significant(*share * 100, 3))
                               : "no number";
}

std::string truth_text(bool truth) { return truth ? "yes" : "no"; }

std::string reference_text(const Row& row) {
  return row.holds ? truth_text(*row.holds) : format_metric(*row.reference, row.unit, kDigits);
}

std::string simulated_text(const Row& row, const RowResult& result) {
  if (row.holds) {
    return result.holds ? truth_text(*result.holds) : "undecided";
  }
  if (!result.simulated) {
    return "-";
  }
  const std::string value = format_metric(result.simulated->value, row.unit, kDigits);
  return result.simulated->is_exact()
             ? value
             : fmt::format("{} +- {}", value,
                           format_metric(result.simulated->bound(), row.unit, 1));
}

/// What a reader should know of a row: words, numbers behind it, and why it does not pass.
std::string note_of(const Row& row, const RowResult& result) {
  std::vector<std::string> parts;
  // A row of a table is one number of one run.
  const bool tells_detail = !row.is_from_table || !result.simulated;
  for (const std::string& part :
       {row.text, tells_detail ? result.detail : std::string(), row.note}) {
    if (!part.empty()) {
      parts.push_back(part);
    }
  }
  if (!row.why.empty()) {
    parts.push_back("why: " + row.why);
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::string signed_percent(std::optional<double> share) {
  return share ? fmt::format("{:+.{}f} %", *share * 100, std::abs(*share) < 0.01 ? 3 : 1) : "";
}

void add_rows(TextTable& table, const SuiteReport& report, RowRole role) {
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const Row& row = report.suite.rows[i];
    const RowResult& result = report.results[i];
    if (row.role == role) {
      table.row({row.id, reference_text(row), simulated_text(row, result),
                 signed_percent(result.error), row.holds ? "" : percent(result.tolerance),
                 std::string(name_of(role)), result.passes ? "pass" : "FAIL",
                 note_of(row, result)});
    }
  }
}

std::string summary_table(const std::vector<SuiteReport>& reports) {
  TextTable table({{"suite", Align::left},
                   {"test rows", Align::right},
                   {"pass", Align::right},
                   {"median error", Align::right},
                   {"worst", Align::right},
                   {"fit rows", Align::right},
                   {"pass", Align::right}});
  for (const SuiteReport& report : reports) {
    const RowStatistics test = statistics_of(report, RowRole::test);
    const RowStatistics fit = statistics_of(report, RowRole::fit);
    table.row({report.suite.name, std::to_string(test.rows), std::to_string(test.passing),
               percent(test.median), percent(test.worst), std::to_string(fit.rows),
               std::to_string(fit.passing)});
  }
  return table.text();
}

}  // namespace

RowStatistics statistics_of(const SuiteReport& report, RowRole role, const std::string& group) {
  RowStatistics found;
  std::vector<double> errors;
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const Row& row = report.suite.rows[i];
    if (row.role != role || (!group.empty() && row.group != group)) {
      continue;
    }
    ++found.rows;
    found.passing += report.results[i].passes ? 1 : 0;
    if (row.reference) {
      errors.push_back(report.results[i].error ? std::abs(*report.results[i].error)
                                               : std::numeric_limits<double>::infinity());
    }
  }
  if (!errors.empty()) {
    std::sort(errors.begin(), errors.end());
    const std::size_t middle = errors.size() / 2;
    found.median =
        errors.size() % 2 == 1 ? errors[middle] : (errors[middle - 1] + errors[middle]) / 2;
    found.worst = errors.back();
  }
  return found;
}

bool is_reached(const SuiteReport& report, const Requirement& requirement) {
  const RowStatistics test = statistics_of(report, RowRole::test, requirement.group);
  return test.median && *test.median <= requirement.median && *test.worst <= requirement.worst;
}

std::string report_text(const std::vector<SuiteReport>& reports) {
  std::string text = summary_table(reports);
  for (const SuiteReport& report : reports) {
    const Suite& suite = report.suite;
    text += fmt::format("\n{}: {}\n{}\n\n", suite.name, suite.title, suite.source);
    TextTable table({{"row", Align::left},
                     {"reference", Align::right},
                     {"simulated", Align::right},
                     {"error", Align::right},
                     {"tolerance", Align::right},
                     {"role", Align::left},
                     {"verdict", Align::left},
                     {"what", Align::left}});
    add_rows(table, report, RowRole::test);
    add_rows(table, report, RowRole::fit);
    text += table.text();
  }
  return text;
}

json report_as_json(const std::vector<SuiteReport>& reports) {
  const auto or_null = [](const auto& value) { return value ? json(*value) : json(); };
  json rows = json::array();
  for (const SuiteReport& report : reports) {
    for (std::size_t i = 0; i < report.results.size(); ++i) {
      const Row& row = report.suite.rows[i];
      const RowResult& result = report.results[i];
      json simulated = row.holds ? or_null(result.holds)
                                 : (result.simulated ? json(result.simulated->value) : json());
      rows.push_back({{"suite", report.suite.name},
                      {"id", row.id},
                      {"role", name_of(row.role)},
                      {"reference", row.holds ? json(*row.holds) : json(*row.reference)},
                      {"simulated", std::move(simulated)},
                      {"unit", row.unit},
                      {"error", or_null(result.error)},
                      {"tolerance", row.holds ? json() : json(result.tolerance)},
                      {"pass", result.passes},
                      {"note", note_of(row, result)}});
    }
  }
  return rows;
}

}  // namespace nearkv
