#include "sim/app/validation/report_page.hpp"

#include "sim/app/figure_claims.hpp"
#include "sim/app/validation/report_cells.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

json statistics_as_json(const RowStatistics& statistics) {
  return {{"rows", statistics.rows},
          {"passing", statistics.passing},
          {"median", percent_text(statistics.median)},
          {"worst", percent_text(statistics.worst)}};
}

json row_as_json(const Row& row, const RowResult& result) {
  const RowCells cells = cells_of(row, result);
  json document = claim_as_json({row, result});
  document["cells"] = {{"reference", cells.reference},
                       {"simulated", cells.simulated},
                       {"error", cells.error},
                       {"tolerance", cells.tolerance},
                       {"what", cells.what}};
  return document;
}

json requirements_as_json(const SuiteReport& report) {
  json requirements = json::array();
  for (const Requirement& requirement : report.suite.requirements) {
    const RowStatistics test = statistics_of(report, RowRole::test, requirement.group);
    requirements.push_back({{"group", name_of(requirement)},
                            {"median", percent_text(test.median)},
                            {"most_median", percent_text(requirement.median)},
                            {"worst", percent_text(test.worst)},
                            {"most_worst", percent_text(requirement.worst)},
                            {"pass", is_reached(report, requirement)},
                            {"why", requirement.why}});
  }
  return requirements;
}

}  // namespace

json report_for_page(const std::vector<SuiteReport>& reports) {
  json suites = json::array();
  for (const SuiteReport& report : reports) {
    json rows = json::array();
    for (std::size_t i = 0; i < report.results.size(); ++i) {
      rows.push_back(row_as_json(report.suite.rows[i], report.results[i]));
    }
    json not_covered = json::array();
    for (const NotCovered& row : report.suite.not_covered) {
      not_covered.push_back({{"row", row.row}, {"reason", row.reason}});
    }
    suites.push_back({{"name", report.suite.name},
                      {"title", report.suite.title},
                      {"source", report.suite.source},
                      {"statistics",
                       {{"test", statistics_as_json(statistics_of(report, RowRole::test))},
                        {"fit", statistics_as_json(statistics_of(report, RowRole::fit))}}},
                      {"requirements", requirements_as_json(report)},
                      {"rows", rows},
                      {"not_covered", not_covered}});
  }
  return {{"suites", suites}};
}

}  // namespace nearkv
