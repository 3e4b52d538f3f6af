#include "sim/app/fit/fit_spec.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "sim/app/point.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// The fields of the file. Lists of names and values of constants, which field lists do not know,
/// are texts in it (see completed).
struct SpecText {
  const json& document;
  FitSpec& spec;

  void fields(FieldVisitor& v) {
    v.parameter("name", spec.name, "name of the fit");
    names(v, "suites", spec.suites, "names or files of validation suites");
    names(v, "groups", spec.groups, "groups of rows; none: all");
    names(v, "rows", spec.rows, "ids of rows; none: all");
    v.require(spec.groups.empty() || spec.rows.empty(), "rows",
              "name groups or rows, not both of them");
    v.one_of("method", spec.options.method, {"levenberg_marquardt", "nelder_mead"},
             "how the least sum of squares is looked for");
    v.parameter("step", spec.options.step, "relative step of the differences", {1e-6, 0.5});
    v.parameter("most_iterations", spec.options.most_iterations, "then it gives up",
                {1, 1'000'000});
    if (document.contains("sigma")) {
      v.parameter("sigma", spec.sigma.emplace(), "relative error of a row that counts as one",
                  {1e-9, 10});
    }
    v.parameter("part", spec.part, "part of a design point that has the constants, such as host");
    v.list({"constants", "what is fitted", FieldKind::parameter, {1, 1000}},
           ListAccess{[this](std::size_t size) { spec.constants.resize(size); },
                      [this](std::size_t i, FieldVisitor& fields) { constant(i, fields); },
                      {}});
    std::string output;
    v.parameter("output", output, "file that the constants are written to");
    spec.output = output;
  }

 private:
  static void names(FieldVisitor& v, std::string_view field, std::vector<std::string>& names,
                    std::string_view doc) {
    std::string text;
    v.parameter(field, text, doc);
    const json list = json::parse(text, nullptr, /*allow_exceptions=*/false);
    const bool is_list =
        list.is_array() &&
        std::all_of(list.begin(), list.end(), [](const json& name) { return name.is_string(); });
    v.require(is_list, field, "must be a list of names");
    names = is_list ? list.get<std::vector<std::string>>() : std::vector<std::string>{};
  }

  void constant(std::size_t i, FieldVisitor& v) {
    FitConstant& constant = spec.constants[i];
    v.parameter("path", constant.path, "path of a constant in the design points");
    const auto value = [&v](std::string_view name, json& field, std::string_view doc) {
      std::string text;
      v.parameter(name, text, doc);
      field = json::parse(text, nullptr, /*allow_exceptions=*/false);
    };
    value("lowest", constant.lowest, "lower bound, as configs write the constant");
    value("highest", constant.highest, "upper bound");
    if (document.at("constants").at(i).contains("prior")) {
      v.object({"prior", "what is known of the constant besides"}, [&](FieldVisitor& prior) {
        std::string text;
        prior.parameter("value", text, "its most likely value");
        constant.prior_value = json::parse(text, nullptr, /*allow_exceptions=*/false);
        prior.parameter("factor", constant.prior_factor,
                        "one standard deviation of its logarithm, as a factor", {1.0001, 1e6});
        prior.parameter("citation", constant.prior_citation, "where that is from");
      });
    }
  }
};

/// Free values become texts, and what may be left out empty.
json completed(json document) {
  for (const char* list : {"suites", "groups", "rows"}) {
    if (document.contains(list)) {
      document[list] = document[list].dump();
    }
  }
  for (const char* list : {"groups", "rows"}) {
    if (!document.contains(list)) {
      document[list] = "[]";
    }
  }
  const auto as_text = [](json& object, const char* key) {
    if (object.is_object() && object.contains(key)) {
      object[key] = object[key].dump();
    }
  };
  if (document.contains("constants") && document["constants"].is_array()) {
    for (json& constant : document["constants"]) {
      as_text(constant, "lowest");
      as_text(constant, "highest");
      if (constant.is_object() && constant.contains("prior")) {
        as_text(constant["prior"], "value");
      }
    }
  }
  return document;
}

void check_spec(const FitSpec& spec) {
  std::vector<std::string> problems;
  if (!is_file_name(spec.name)) {
    problems.push_back(fmt::format("/name: {} is no name; use letters, digits, '.', '_' and '-'",
                                   in_quotes(spec.name)));
  }
  if (spec.suites.empty()) {
    problems.emplace_back("/suites: is empty; name a suite");
  }
  std::set<std::string> paths;
  for (std::size_t i = 0; i < spec.constants.size(); ++i) {
    const std::string& path = spec.constants[i].path;
    if (!path.starts_with("/" + spec.part + "/")) {
      problems.push_back(
          fmt::format("/constants/{}/path: {} is outside the part {}; the output is "
                      "a config of one part",
                      i, in_quotes(path), in_quotes(spec.part)));
    }
    if (!paths.insert(path).second) {
      problems.push_back(fmt::format("/constants/{}/path: {} is there twice", i, in_quotes(path)));
    }
  }
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
}

}  // namespace

FitSpec load_fit_spec(const fs::path& file) {
  FitSpec spec;
  spec.file = file;
  const json document = completed(load_config(file));
  try {
    SpecText text{document, spec};
    read_fields(document, [&text](FieldVisitor& v) { text.fields(v); });
    check_spec(spec);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(file.string(), error.what()));
  }
  return spec;
}

}  // namespace nearkv
