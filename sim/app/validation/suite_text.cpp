#include "sim/app/validation/suite_text.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "sim/app/validation/stored_numbers.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

template <class T>
void optional(FieldVisitor& v, const json& document, std::string_view name, std::optional<T>& field,
              std::string_view doc) {
  if (document.contains(name)) {
    v.parameter(name, field.emplace(), doc);
  }
}

template <class T, class Visit>
void list(FieldVisitor& v, std::string_view name, std::string_view doc, std::vector<T>& values,
          Visit visit) {
  v.list({name, doc}, ListAccess{[&values](std::size_t size) { values.resize(size); }, visit, {}});
}

/// `document` says which of the limits are there.
void requirement_fields(FieldVisitor& v, const json& document, Requirement& requirement) {
  v.parameter("group", requirement.group, "group of rows; empty for all");
  v.parameter("why", requirement.why, "why it is not reached yet");
  optional(v, document, "median", requirement.median,
           "most of the median of the absolute relative errors");
  optional(v, document, "worst", requirement.worst, "most of each of them");
  v.require(requirement.median.has_value() || requirement.worst.has_value(), "median",
            "a requirement limits the median, the worst, or both");
}

void reason_fields(FieldVisitor& v, Reason& reason) {
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

void run_fields(FieldVisitor& v, const json& runs) {
  for (const auto& item : runs.items()) {
    v.object({item.key(), "a design point or a figure"}, [&](FieldVisitor& fields) {
      const bool is_figure = item.value().contains("figure");
      std::string ignored;
      if (is_figure) {
        fields.parameter("figure", ignored, "a figure's file");
      } else if (is_of_stored_numbers(item.value())) {
        stored_numbers_fields(fields);
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

}  // namespace

void ClaimText::fields(FieldVisitor& v, const json& document) {
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

void SuiteText::fields(FieldVisitor& v) {
  v.parameter("name", suite.name, "name of the suite");
  v.parameter("title", suite.title, "what it compares, in one line");
  v.parameter("source", suite.source, "where the references are from");
  v.parameter("tolerance", suite.tolerance, "of the relative errors", {0, kLargestTolerance});
  list(v, "requirements", "what groups of test rows must reach", suite.requirements,
       [this](std::size_t i, FieldVisitor& fields) {
         requirement_fields(fields, document.at("requirements").at(i), suite.requirements[i]);
       });
  list(v, "reasons", "why rows of a table do not pass yet", suite.reasons,
       [this](std::size_t i, FieldVisitor& fields) { reason_fields(fields, suite.reasons[i]); });
  v.object({"runs", "design points and figures by the names that expressions use"},
           [this](FieldVisitor& fields) { run_fields(fields, document.at("runs")); });
  list(v, "claims", "one row each", claims, [this](std::size_t i, FieldVisitor& fields) {
    claims[i].fields(fields, document.at("claims").at(i));
  });
}

json completed_suite(json document) {
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
      if (is_of_stored_numbers(run) && run.contains("named_by")) {
        run["named_by"] = run["named_by"].dump();
      }
      run.erase("sets");
    }
  }
  return document;
}

}  // namespace nearkv
