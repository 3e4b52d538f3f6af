// REPORT.md: equal results give equal bytes, on any machine.
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "sim/app/validation/report.hpp"
#include "sim/app/validation/report_cells.hpp"

namespace nearkv {

namespace {

constexpr std::string_view kIntroduction =
    "# Validation report\n\n"
    "Written by `nearkv validate`; do not edit. Each row compares one simulated number, or a "
    "truth, with a reference. Rows of role `fit` may have set a constant; `test` rows never have, "
    "so that they tell how far to trust a prediction. The error is simulated over reference, less "
    "one; medians and worst cases are of absolute errors of the test rows with a number. A row "
    "that does not pass stays here with its reason. `+-` is the error bound of sampled runs.\n\n";

/// A suite's text, with nothing in it that ends a line, or that is an element of HTML.
std::string plain(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    escaped += c == '<' ? "&lt;" : c == '&' ? "&amp;" : c == '\n' ? " " : std::string(1, c);
  }
  return escaped;
}

/// The same without what ends a cell.
std::string cell(std::string_view text) {
  std::string escaped;
  for (const char c : plain(text)) {
    escaped += c == '|' ? "\\|" : std::string(1, c);
  }
  return escaped;
}

std::string line(const std::vector<std::string>& cells) {
  std::string text = "|";
  for (const std::string& one : cells) {
    text += fmt::format(" {} |", cell(one));
  }
  return text + "\n";
}

/// The header; a name that begins with a space is aligned to the right.
std::string header(const std::vector<std::string>& names) {
  std::string rules = "|";
  for (const std::string& name : names) {
    rules += name.starts_with(' ') ? "---:|" : "---|";
  }
  std::vector<std::string> titles;
  for (const std::string& name : names) {
    titles.push_back(name.starts_with(' ') ? name.substr(1) : name);
  }
  return line(titles) + rules + "\n";
}

std::string summary(const std::vector<SuiteReport>& reports) {
  std::string text = header(
      {"suite", "what", " test rows", " pass", " median error", " worst", " fit rows", " pass"});
  for (const SuiteReport& report : reports) {
    const RowStatistics test = statistics_of(report, RowRole::test);
    const RowStatistics fit = statistics_of(report, RowRole::fit);
    text +=
        line({fmt::format("[{0}](#{0})", report.suite.name), report.suite.title,
              std::to_string(test.rows), std::to_string(test.passing), percent_text(test.median),
              percent_text(test.worst), std::to_string(fit.rows), std::to_string(fit.passing)});
  }
  return text;
}

std::string requirements(const std::vector<SuiteReport>& reports) {
  std::string rows;
  for (const SuiteReport& report : reports) {
    for (const Requirement& requirement : report.suite.requirements) {
      const RowStatistics test = statistics_of(report, RowRole::test, requirement.group);
      rows += line({report.suite.name, name_of(requirement), percent_text(test.median),
                    percent_text(requirement.median), percent_text(test.worst),
                    percent_text(requirement.worst),
                    is_reached(report, requirement) ? "pass" : "**FAIL**", requirement.why});
    }
  }
  return rows.empty() ? ""
                      : "\nRequired of the test rows as a whole:\n\n" +
                            header({"suite", "test rows", " median error", " at most", " worst",
                                    " at most", "verdict", "why not"}) +
                            rows;
}

std::string rows_of(const SuiteReport& report, RowRole role) {
  std::string rows;
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    if (report.suite.rows[i].role == role) {
      const RowCells cells = cells_of(report.suite.rows[i], report.results[i]);
      rows += line({cells.id, cells.reference, cells.simulated, cells.error, cells.tolerance,
                    report.results[i].passes ? cells.verdict : "**FAIL**", cells.what});
    }
  }
  return rows.empty() ? ""
                      : fmt::format("\nRows of role `{}`:\n\n{}{}", name_of(role),
                                    header({"row", " reference", " simulated", " error",
                                            " tolerance", "verdict", "what"}),
                                    rows);
}

}  // namespace

std::string report_markdown(const std::vector<SuiteReport>& reports, const std::string& picture) {
  std::string text = std::string(kIntroduction) + summary(reports) + requirements(reports);
  text += fmt::format("\n![Simulated against reference]({})\n", picture);
  for (const SuiteReport& report : reports) {
    text += fmt::format("\n## {}\n\n{}. Source: {}\n", plain(report.suite.name),
                        plain(report.suite.title), cell(report.suite.source));
    text += rows_of(report, RowRole::test) + rows_of(report, RowRole::fit);
    for (const NotCovered& row : report.suite.not_covered) {
      text += fmt::format("\n{} is not covered: {}\n", plain(row.row), plain(row.reason));
    }
  }
  return text;
}

}  // namespace nearkv
