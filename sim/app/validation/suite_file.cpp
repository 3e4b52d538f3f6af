// Reads the files of suites.
#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "models/llm/huggingface_config.hpp"
#include "sim/app/validation/stored_numbers.hpp"
#include "sim/app/validation/suite.hpp"
#include "sim/app/validation/suite_text.hpp"
#include "sim/app/validation/table_rows.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// Puts a path before those with which each line of an error begins.
std::string add_before_lines(const std::string& path, const std::string& lines) {
  std::string text = path;
  for (const char c : lines) {
    text += c;
    text += c == '\n' ? path : "";
  }
  return text;
}

void throw_if_any(const std::vector<std::string>& problems) {
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
}

void read_runs(Suite& suite, const json& document) {
  std::vector<std::string> problems;
  for (const auto& [name, run] : document.at("runs").items()) {
    const std::string path = "/runs/" + name;
    SuiteRun& added = suite.runs[name];
    added.set = json::parse(run.at("set").get<std::string>());
    if (is_of_stored_numbers(run)) {
      try {
        added.point = stored_numbers(run, suite.file.parent_path(), name);
      } catch (const ConfigError& error) {
        problems.push_back(add_before_lines(path, error.what()));
      }
    } else if (run.contains("point")) {
      added.point = PreparedPoint{.origin = fmt::format("{}, {}", suite.name, name),
                                  .name = run.at("point").at("name"),
                                  .config = run.at("point")};
    } else {
      const std::string file = run.at("figure");
      const bool is_below_suite = !file.starts_with(kShippedPrefix) && fs::path(file).is_relative();
      const fs::path found = is_below_suite ? suite.file.parent_path() / file : path_of(file);
      allowed_paths().check(found, file, path + "/figure");
      try {
        added.figure = load_figure(found);
      } catch (const ConfigError& error) {
        problems.push_back(prefix_lines(path + "/figure", error.what()));
      }
    }
  }
  throw_if_any(problems);
}

RunShapes shapes_of(const Suite& suite) {
  RunShapes shapes;
  for (const auto& [name, run] : suite.runs) {
    RunShape& shape = shapes[name];
    if (run.figure) {
      for (const FigureSeries& series : run.figure->series) {
        shape.series.push_back(series.name);
      }
      shape.axis = run.figure->axis.values.texts();
    }
  }
  return shapes;
}

Row row_of(const ClaimText& claim, std::string path, const RunShapes& shapes) {
  const auto parsed = [&] {
    try {
      return Expression(claim.expression, shapes);
    } catch (const ConfigError& error) {
      throw ConfigError(prefix_lines("/expression", error.what()));
    }
  };
  Row row{.id = claim.id,
          .path = std::move(path),
          .text = claim.text,
          .group = claim.group,
          .source = claim.source,
          .unit = claim.unit,
          .why = claim.why,
          .note = {},
          .role = claim.role,
          .reference = claim.value,
          .holds = claim.holds,
          .tolerance = claim.tolerance,
          .simulated = parsed()};
  if (row.simulated.is_truth() != claim.holds.has_value()) {
    throw ConfigError(claim.holds ? "/expression: is a number; holds needs a truth: a comparison, "
                                    "runs(), overflows()"
                                  : "/expression: is a truth; it needs holds (true or false)");
  }
  if (claim.reference) {
    try {
      row.reference = evaluate_arithmetic(*claim.reference);
    } catch (const ConfigError& error) {
      throw ConfigError(prefix_lines("/reference", error.what()));
    }
    if (row.reference == 0.0) {
      throw ConfigError("/reference: is 0; a relative error needs another number");
    }
  }
  return row;
}

void read_claims(Suite& suite, const std::vector<ClaimText>& claims) {
  const RunShapes shapes = shapes_of(suite);
  std::map<std::string, std::string> paths;
  std::vector<std::string> problems;
  for (std::size_t i = 0; i < claims.size(); ++i) {
    const std::string path = fmt::format("/claims/{}", i);
    const auto [first, is_new] = paths.emplace(claims[i].id, path);
    if (!is_new) {
      problems.push_back(fmt::format("{}/id: {} is the id of {} too; ids must differ", path,
                                     in_quotes(claims[i].id), first->second));
    }
    try {
      suite.rows.push_back(row_of(claims[i], path, shapes));
    } catch (const ConfigError& error) {
      problems.push_back(path + error.what());
    }
  }
  throw_if_any(problems);
}

Row row_of(const TableRow& row, const Suite& suite, const RunShapes& shapes) {
  Row made{.id = row.id,
           .path = "/rows",
           .is_from_table = true,
           .text = row.text,
           .group = row.group,
           .source = suite.source,
           .unit = row.unit,
           .why = {},
           .note = row.note,
           .role = row.role,
           .reference = row.reference,
           .holds = {},
           .tolerance = row.tolerance.value_or(suite.tolerance),
           .simulated = Expression(row.expression, shapes)};
  if (!row.looser_if.empty()) {
    made.looser_if = Expression(row.looser_if, shapes);
    made.looser_tolerance = row.looser_tolerance;
  }
  return made;
}

/// Adds the runs and rows of a table.
void add_table(Suite& suite, Table table) {
  suite.source += table.source.empty() ? "" : "\n" + table.source;
  for (auto& [name, run] : table.runs) {
    check(suite.runs.emplace(name, std::move(run)).second, "a table's run has a name twice");
  }
  const RunShapes shapes = shapes_of(suite);
  std::set<std::string> ids;
  for (const TableRow& row : table.rows) {
    if (!ids.insert(row.id).second) {
      throw ConfigError(
          fmt::format("{} is the name of two rows; names must differ", in_quotes(row.id)));
    }
    suite.rows.push_back(row_of(row, suite, shapes));
  }
  suite.not_covered = std::move(table.not_covered);
}

void check_suite(const Suite& suite) {
  if (std::none_of(suite.rows.begin(), suite.rows.end(),
                   [](const Row& row) { return row.role == RowRole::test; })) {
    throw ConfigError("/claims: none has the role test; a suite is judged by its test rows");
  }
  for (std::size_t i = 0; i < suite.requirements.size(); ++i) {
    const std::string& group = suite.requirements[i].group;
    if (!group.empty() && std::none_of(suite.rows.begin(), suite.rows.end(), [&](const Row& row) {
          return row.group == group && row.role == RowRole::test;
        })) {
      throw ConfigError(fmt::format("/requirements/{}/group: no test row is in the group {}", i,
                                    in_quotes(group)));
    }
  }
}

}  // namespace

Suite load_suite(const fs::path& file, const SuiteOptions& options) {
  Suite suite;
  suite.file = file;
  json loaded = load_config(file, translate_huggingface);
  std::optional<TableSpec> table;
  try {
    json document = completed_suite(std::move(loaded));
    if (document.contains("rows")) {
      try {
        table = read_table_spec(document["rows"], file.parent_path(), options.table);
      } catch (const ConfigError& error) {
        throw ConfigError(add_before_lines("/rows", error.what()));
      }
      document.erase("rows");
    } else if (!options.table.empty()) {
      throw ConfigError("/rows: missing; --points takes another table for suites that have one");
    }
    SuiteText text{document, suite};
    read_fields(document, [&text](FieldVisitor& v) { text.fields(v); });
    read_runs(suite, document);
    read_claims(suite, text.claims);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(file.string(), error.what()));
  }
  Table rows = table ? read_table(*table) : Table{};
  try {
    add_table(suite, std::move(rows));
    check_suite(suite);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(file.string(), error.what()));
  }
  return suite;
}

}  // namespace nearkv
