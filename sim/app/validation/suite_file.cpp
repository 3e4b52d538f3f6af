// Reads the files of suites.
#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "models/llm/huggingface_config.hpp"
#include "models/systems/design_point.hpp"
#include "sim/app/validation/suite.hpp"
#include "sim/app/validation/table_rows.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr double kLargestTolerance = 10;

/// A claim as the file has it.
struct ClaimText {
  std::string id;
  std::string text;
  RowRole role = RowRole::test;
  std::string source;
  std::string expression;
  std::string unit;
  std::string group;
  std::string why;
  double tolerance = 0;
  std::optional<double> value;
  std::optional<std::string> reference;
  std::optional<bool> holds;

  /// `document` is the claim in JSON: it says which of the optional fields are there.
  void fields(FieldVisitor& v, const json& document) {
    v.parameter("id", id, "name of the row, unique in its suite");
    v.parameter("text", text, "the claim in words");
    v.one_of("role", role, {"fit", "test"},
             "fit: may be used to calibrate; test: never enters a calibration");
    v.parameter("source", source, "where it is claimed");
    v.parameter("expression", expression, "what the records say to it");
    v.parameter("unit", unit, "unit of the value; 1 for plain ratios");
    v.parameter("group", group, "group of the suite's requirements");
    v.parameter("why", why, "why it does not pass yet");
    v.parameter("tolerance", tolerance, "of the relative error", {0, kLargestTolerance});
    optional(v, document, "value", value, "the number that is claimed");
    optional(v, document, "reference", reference, "the number as arithmetic without runs");
    optional(v, document, "holds", holds, "whether the expression, a truth, holds");
    v.require(value.has_value() + reference.has_value() + holds.has_value() == 1, "value",
              "a claim has one of value (a number), reference (arithmetic without runs) and holds "
              "(true or false)");
    v.require(value != 0.0, "value",
              "is 0; a relative error needs another number, or a claim "
              "with holds and a comparison");
  }

 private:
  template <class T>
  static void optional(FieldVisitor& v, const json& document, std::string_view name,
                       std::optional<T>& field, std::string_view doc) {
    if (document.contains(name)) {
      v.parameter(name, field.emplace(), doc);
    }
  }
};

/// The fields of a suite's file but for its table of rows.
struct SuiteText {
  const json& document;
  Suite& suite;
  std::vector<ClaimText> claims{};

  void fields(FieldVisitor& v) {
    v.parameter("name", suite.name, "name of the suite");
    v.parameter("title", suite.title, "what it compares, in one line");
    v.parameter("source", suite.source, "where the references are from");
    v.parameter("tolerance", suite.tolerance, "of the relative errors", {0, kLargestTolerance});
    v.list_of("requirements", suite.requirements, "what groups of test rows must reach");
    list(v, "reasons", "why rows of a table do not pass yet", suite.reasons,
         [this](std::size_t i, FieldVisitor& fields) { reason(i, fields); });
    v.object({"runs", "design points and figures by the names that expressions use"},
             [this](FieldVisitor& fields) { runs(fields); });
    list(v, "claims", "one row each", claims, [this](std::size_t i, FieldVisitor& fields) {
      claims[i].fields(fields, document.at("claims").at(i));
    });
  }

 private:
  template <class T, class Visit>
  static void list(FieldVisitor& v, std::string_view name, std::string_view doc,
                   std::vector<T>& values, Visit visit) {
    v.list({name, doc},
           ListAccess{[&values](std::size_t size) { values.resize(size); }, visit, {}});
  }

  void reason(std::size_t i, FieldVisitor& v) {
    Reason& reason = suite.reasons[i];
    std::string names;
    v.parameter("rows", names, "ids of rows; * stands for any text");
    v.parameter("why", reason.why, "why they do not pass yet");
    const json list = json::parse(names, nullptr, /*allow_exceptions=*/false);
    const bool is_list =
        list.is_array() && !list.empty() &&
        std::all_of(list.begin(), list.end(), [](const json& name) { return name.is_string(); });
    v.require(is_list, "rows", "must be a list of at least one row's id");
    reason.rows = is_list ? list.get<std::vector<std::string>>() : std::vector<std::string>{};
  }

  void runs(FieldVisitor& v) {
    for (const auto& [name, run] : document.at("runs").items()) {
      v.object({name, "a design point or a figure"}, [&](FieldVisitor& fields) {
        const bool is_figure = run.contains("figure");
        std::string ignored;
        if (is_figure) {
          fields.parameter("figure", ignored, "a figure's file");
        } else {
          fields.object({"point", "a design point"}, [](FieldVisitor& inner) {
            DesignPoint point;
            point.fields(inner);
          });
        }
        fields.parameter("set", ignored, "values by path, set in each point");
      });
    }
  }
};

void add_missing(json& object, std::string_view name, json value) {
  if (object.is_object() && !object.contains(name)) {
    object[std::string(name)] = std::move(value);
  }
}

/// What a run sets: the suite's sets that it names, in their order, and its own over them.
json all_set(const json& sets, const json& run, const std::string& path) {
  json all = json::object();
  const json names = run.value("sets", json::array());
  if (!names.is_array()) {
    throw ConfigError(path + "/sets: must be a list of names of the suite's sets");
  }
  for (const json& name : names) {
    if (!name.is_string() || !sets.contains(name.get<std::string>())) {
      std::vector<std::string> known;
      for (const auto& [set, values] : sets.items()) {
        known.push_back(set);
      }
      const std::string nearest =
          name.is_string() ? nearest_name(name.get<std::string>(), known) : "";
      throw ConfigError(fmt::format("{}/sets: {} is no set of this suite; {}", path, name.dump(),
                                    nearest.empty()
                                        ? fmt::format("there are: {}", fmt::join(known, ", "))
                                        : fmt::format("did you mean \"{}\"?", nearest)));
    }
    all.update(sets.at(name.get<std::string>()));
  }
  const json own = run.value("set", json::object());
  if (!own.is_object()) {
    throw ConfigError(path + "/set: must be an object of values by path");
  }
  all.update(own);
  return all;
}

/// "sets" of a suite: objects of values by path, by name.
json take_sets(json& document) {
  json sets = document.value("sets", json::object());
  document.erase("sets");
  if (!sets.is_object() ||
      !std::all_of(sets.begin(), sets.end(), [](const json& set) { return set.is_object(); })) {
    throw ConfigError("/sets: must be an object of objects of values by path");
  }
  return sets;
}

/// Field lists know neither optional fields nor free ones. This gives the optional ones the values
/// that stand for their absence, and turns the free ones into texts.
json completed(json document) {
  if (!document.is_object()) {
    throw ConfigError("must be an object");
  }
  for (const std::string_view list : {"requirements", "claims", "reasons"}) {
    add_missing(document, list, json::array());
  }
  add_missing(document, "runs", json::object());
  for (json& requirement : document["requirements"]) {
    add_missing(requirement, "group", "");
    add_missing(requirement, "why", "");
  }
  for (json& claim : document["claims"]) {
    add_missing(claim, "unit", "1");
    add_missing(claim, "group", "");
    add_missing(claim, "why", "");
    add_missing(claim, "tolerance", document.value("tolerance", json(0)));
  }
  for (json& reason : document["reasons"]) {
    if (reason.is_object() && reason.contains("rows")) {
      reason["rows"] = reason["rows"].dump();
    }
  }
  const json sets = take_sets(document);
  for (auto& [name, run] : document["runs"].items()) {
    if (run.is_object()) {
      run["set"] = all_set(sets, run, "/runs/" + name).dump();
      run.erase("sets");
    }
  }
  return document;
}

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
    if (run.contains("point")) {
      added.point = PreparedPoint{.origin = fmt::format("{}, {}", suite.name, name),
                                  .name = run.at("point").at("name"),
                                  .config = run.at("point")};
    } else {
      const std::string file = run.at("figure");
      const bool is_below_suite = !file.starts_with(kShippedPrefix) && fs::path(file).is_relative();
      try {
        added.figure =
            load_figure(is_below_suite ? suite.file.parent_path() / file : path_of(file));
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

void Requirement::fields(FieldVisitor& v) {
  v.parameter("group", group, "group of rows; empty for all");
  v.parameter("median", median, "most of the median of the absolute relative errors",
              {0, kLargestTolerance});
  v.parameter("worst", worst, "most of each of them", {0, kLargestTolerance});
  v.parameter("why", why, "why it is not reached yet");
}

Suite load_suite(const fs::path& file, const SuiteOptions& options) {
  Suite suite;
  suite.file = file;
  json loaded = load_config(file, translate_huggingface);
  std::optional<TableSpec> table;
  try {
    json document = completed(std::move(loaded));
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
