#include "sim/app/validation/suite_runs.hpp"

#include <cstddef>
#include <map>
#include <utility>

#include <nlohmann/json.hpp>

#include "sim/app/exit_status.hpp"

namespace nearkv {

namespace {

/// The points of all suites, and where those of each one begin.
struct PointsOfSuites {
  std::vector<PreparedPoint> points;
  std::vector<std::map<PointName, std::size_t>> positions;
};

PointsOfSuites points_of_suites(const std::vector<Suite>& suites) {
  PointsOfSuites all;
  for (const Suite& suite : suites) {
    std::map<PointName, std::size_t>& positions = all.positions.emplace_back();
    for (const PointName& name : points_of(suite.rows)) {
      positions[name] = all.points.size();
      all.points.push_back(prepare(suite, name));
    }
  }
  return all;
}

std::vector<SuiteReport> reports_on(std::vector<Suite> suites, const PointsOfSuites& all,
                                    const std::vector<PointOutcome>& outcomes) {
  std::vector<RecordView> records;
  for (const PointOutcome& outcome : outcomes) {
    records.emplace_back(nlohmann::json::parse(outcome.record_text));
  }
  std::vector<SuiteReport> reports;
  for (std::size_t i = 0; i < suites.size(); ++i) {
    const auto& positions = all.positions[i];
    reports.push_back(report_on(std::move(suites[i]), [&](const PointName& name) {
      return &records.at(positions.at(name));
    }));
  }
  return reports;
}

}  // namespace

SuiteRuns run_suites(std::vector<Suite> suites, const RunSetOptions& options) {
  const PointsOfSuites all = points_of_suites(suites);
  const RunSet set = run_set(all.points, options);
  if (const int status = report_problems(set.outcomes); status != kExitOk) {
    return {status, {}};
  }
  return {kExitOk, reports_on(std::move(suites), all, set.outcomes)};
}

}  // namespace nearkv
