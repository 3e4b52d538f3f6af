#include "sim/app/validation/gate.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "sim/app/point.hpp"
#include "sim/app/validation/report_cells.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

using Names = std::map<std::string, std::vector<std::string>>;

Names names_in(const json& document, const char* key) {
  if (!document.is_object() || !document.contains(key)) {
    throw ConfigError(fmt::format("/{}: missing; nearkv validate --accept writes this file", key));
  }
  try {
    return document.at(key).get<Names>();
  } catch (const json::exception&) {
    throw ConfigError(fmt::format("/{}: must be lists of names by suite", key));
  }
}

std::vector<std::string> passing_rows(const SuiteReport& report) {
  std::vector<std::string> ids;
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    if (report.suite.rows[i].role == RowRole::test && report.results[i].passes) {
      ids.push_back(report.suite.rows[i].id);
    }
  }
  return ids;
}

std::vector<std::string> reached_requirements(const SuiteReport& report) {
  std::vector<std::string> names;
  for (const Requirement& requirement : report.suite.requirements) {
    if (is_reached(report, requirement)) {
      names.push_back(name_of(requirement));
    }
  }
  return names;
}

bool is_listed(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Those of `before` that are not in `now`.
std::vector<std::string> lost(const Names& before, const std::string& suite,
                              const std::vector<std::string>& now) {
  std::vector<std::string> gone;
  if (const auto found = before.find(suite); found != before.end()) {
    for (const std::string& name : found->second) {
      if (!is_listed(now, name)) {
        gone.push_back(name);
      }
    }
  }
  return gone;
}

void add_row_problems(std::vector<std::string>& problems, const SuiteReport& report,
                      const Passing& passing) {
  const Suite& suite = report.suite;
  const std::vector<std::string> gone = lost(passing.rows, suite.name, passing_rows(report));
  for (const std::string& id : gone) {
    const bool is_row = std::any_of(suite.rows.begin(), suite.rows.end(), [&id](const Row& row) {
      return row.id == id && row.role == RowRole::test;
    });
    problems.push_back(fmt::format(
        "{}, {}: {}", suite.name, id,
        is_row ? "passed before and fails now" : "passed before and is no test row any more"));
  }
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const Row& row = suite.rows[i];
    if (!report.results[i].passes && row.why.empty() && !is_listed(gone, row.id)) {
      problems.push_back(fmt::format("{}, {}: fails without a reason; give one in {}", suite.name,
                                     row.id,
                                     row.is_from_table ? "\"reasons\"" : row.path + "/why"));
    }
  }
}

void add_requirement_problems(std::vector<std::string>& problems, const SuiteReport& report,
                              const Passing& passing) {
  const Suite& suite = report.suite;
  const std::vector<std::string> gone =
      lost(passing.requirements, suite.name, reached_requirements(report));
  for (const std::string& name : gone) {
    problems.push_back(
        fmt::format("{}: what is required of {} test rows was reached before and is not now",
                    suite.name, name));
  }
  for (std::size_t i = 0; i < suite.requirements.size(); ++i) {
    const Requirement& requirement = suite.requirements[i];
    if (!is_reached(report, requirement) && requirement.why.empty() &&
        !is_listed(gone, name_of(requirement))) {
      problems.push_back(
          fmt::format("{}: what is required of {} test rows is not reached; say why in "
                      "/requirements/{}/why",
                      suite.name, name_of(requirement), i));
    }
  }
}

}  // namespace

fs::path passing_file() { return shipped_configs().parent_path() / "validation" / "passing.json"; }

Passing read_passing(const fs::path& file) {
  if (!fs::exists(file)) {
    return {};
  }
  try {
    const json document = load_json(file);
    return {names_in(document, "rows"), names_in(document, "requirements")};
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    throw ConfigError(message.starts_with(file.string()) ? message
                                                         : prefix_lines(file.string(), message));
  }
}

json passing_as_json(const Passing& passing) {
  return {{"comment",
           "Written by nearkv validate --accept: the test rows that pass, and the requirements "
           "that are reached. The tests fail when one of them does not any more."},
          {"rows", passing.rows},
          {"requirements", passing.requirements}};
}

Passing accept(const std::vector<SuiteReport>& reports, Passing before) {
  for (const SuiteReport& report : reports) {
    before.rows[report.suite.name] = passing_rows(report);
    before.requirements[report.suite.name] = reached_requirements(report);
  }
  return before;
}

std::vector<std::string> gate_problems(const std::vector<SuiteReport>& reports,
                                       const Passing& passing) {
  std::vector<std::string> problems;
  for (const SuiteReport& report : reports) {
    add_row_problems(problems, report, passing);
    add_requirement_problems(problems, report, passing);
  }
  return problems;
}

}  // namespace nearkv
