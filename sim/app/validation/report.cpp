#include "sim/app/validation/report.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "sim/app/table.hpp"
#include "sim/app/validation/report_cells.hpp"

namespace nearkv {

using nlohmann::json;
using Align = TextTable::Align;

namespace {

void add_rows(TextTable& table, const SuiteReport& report, RowRole role) {
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const Row& row = report.suite.rows[i];
    if (row.role == role) {
      RowCells cells = cells_of(row, report.results[i]);
      table.row({cells.id, cells.reference, cells.simulated, cells.error, cells.tolerance,
                 std::string(name_of(role)), cells.verdict, cells.what});
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
               percent_text(test.median), percent_text(test.worst), std::to_string(fit.rows),
               std::to_string(fit.passing)});
  }
  return table.text();
}

/// Empty when no suite requires anything of its test rows as a whole.
std::string requirements_table(const std::vector<SuiteReport>& reports) {
  TextTable table({{"suite", Align::left},
                   {"test rows", Align::left},
                   {"median error", Align::right},
                   {"at most", Align::right},
                   {"worst", Align::right},
                   {"at most", Align::right},
                   {"verdict", Align::left},
                   {"why not", Align::left}});
  for (const SuiteReport& report : reports) {
    for (const Requirement& requirement : report.suite.requirements) {
      const RowStatistics test = statistics_of(report, RowRole::test, requirement.group);
      table.row({report.suite.name, name_of(requirement), percent_text(test.median),
                 percent_text(requirement.median), percent_text(test.worst),
                 percent_text(requirement.worst), is_reached(report, requirement) ? "pass" : "FAIL",
                 requirement.why});
    }
  }
  return table.is_empty() ? "" : "\nrequired of the test rows as a whole\n\n" + table.text();
}

/// Whether a text is as a pattern, in which "*" stands for any text.
bool is_like(std::string_view text, std::string_view pattern) {
  if (pattern.empty()) {
    return text.empty();
  }
  if (pattern.front() != '*') {
    return !text.empty() && text.front() == pattern.front() &&
           is_like(text.substr(1), pattern.substr(1));
  }
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (is_like(text.substr(i), pattern.substr(1))) {
      return true;
    }
  }
  return false;
}

void add_reasons(SuiteReport& report) {
  for (const Reason& reason : report.suite.reasons) {
    for (const std::string& pattern : reason.rows) {
      bool is_needed = false;
      for (std::size_t i = 0; i < report.results.size(); ++i) {
        Row& row = report.suite.rows[i];
        if (!report.results[i].passes && is_like(row.id, pattern)) {
          is_needed = true;
          row.why = row.why.empty() ? reason.why : row.why;
        }
      }
      if (!is_needed) {
        report.warnings.push_back(
            fmt::format("warning: a reason is given for {}, where nothing fails", pattern));
      }
    }
  }
}

void warn_of_whys(SuiteReport& report) {
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const Row& row = report.suite.rows[i];
    if (report.results[i].passes && !row.why.empty()) {
      report.warnings.push_back(fmt::format("warning: {} passes, so that its why must go", row.id));
    }
  }
  for (const Requirement& requirement : report.suite.requirements) {
    if (is_reached(report, requirement) && !requirement.why.empty()) {
      report.warnings.push_back(
          fmt::format("warning: what is required of {} test rows is reached, so that its why must "
                      "go",
                      name_of(requirement)));
    }
  }
}

/// All that there is to say about a row.
std::string note_of(const Row& row, const RowResult& result) {
  std::vector<std::string> parts;
  for (const std::string& part : {row.text, result.detail, row.note}) {
    if (!part.empty()) {
      parts.push_back(part);
    }
  }
  if (!row.why.empty()) {
    parts.push_back("why: " + row.why);
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace

SuiteReport report_on(Suite suite, const RecordOf& record_of) {
  SuiteReport report{.suite = std::move(suite), .results = {}};
  for (const Row& row : report.suite.rows) {
    report.results.push_back(evaluate(report.suite, row, record_of));
  }
  add_reasons(report);
  warn_of_whys(report);
  return report;
}

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
  const auto is_within = [](std::optional<double> error, std::optional<double> limit) {
    return !limit || (error && *error <= *limit);
  };
  return is_within(test.median, requirement.median) && is_within(test.worst, requirement.worst);
}

std::string report_text(const std::vector<SuiteReport>& reports) {
  std::string text = summary_table(reports) + requirements_table(reports);
  for (const SuiteReport& report : reports) {
    const Suite& suite = report.suite;
    text += fmt::format("\n{}: {}\n", suite.name, suite.title);
    for (const std::string& line : wrap_text(suite.source, kTerminalColumns)) {
      text += line + "\n";
    }
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
    text += "\n" + table.text();
    for (const NotCovered& row : suite.not_covered) {
      text += fmt::format("{} is not covered: {}\n", row.row, row.reason);
    }
    for (const std::string& warning : report.warnings) {
      text += warning + "\n";
    }
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
