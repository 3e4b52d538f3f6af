#include "sim/app/sweep/sweep_file.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "models/llm/huggingface_config.hpp"
#include "sim/app/point.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr double kMostPoints = 100e6;  // more is a slip of the finger

/// Values of any type become their JSON text, which field lists know. Points are emptied: their
/// fields are checked with the axes.
json with_values_as_text(const json& node) {
  constexpr std::array<std::string_view, 5> kFreeValues{"values", "from", "to", "step", "shares"};
  json copy = node;
  for (auto& [key, value] : copy.items()) {
    const bool is_free = node.is_object() && std::find(kFreeValues.begin(), kFreeValues.end(),
                                                       key) != kFreeValues.end();
    if (is_free) {
      value = value.dump();
    } else if (value.is_object() && key == "point") {
      value = json::object();
    } else if (value.is_structured()) {
      value = with_values_as_text(value);
    }
  }
  return copy;
}

json free_value(FieldVisitor& v, std::string_view name, std::string_view doc) {
  std::string text;
  v.parameter(name, text, doc);
  return json::parse(text, nullptr, /*allow_exceptions=*/false);
}

bool is_plain(const json& value) {
  return value.is_number() || value.is_string() || value.is_boolean();
}

bool is_identifier(std::string_view name) {
  return !name.empty() && std::isdigit(static_cast<unsigned char>(name.front())) == 0 &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
         });
}

/// The fields of a sweep file; `document` is the file with free values as text.
class SweepFields {
 public:
  SweepFields(const json& document, Sweep& sweep) : document_(document), sweep_(sweep) {}

  void fields(FieldVisitor& v) {
    v.parameter("title", sweep_.title, "what the sweep is about, in one line");
    v.object({"point", "the base: a design point, or what the variants complete to one"},
             [](FieldVisitor& /*emptied*/) {});
    dimensions(v);
    if (document_.contains("sample")) {
      v.object({"sample", "draws the axes that have a range or an interval"},
               [this](FieldVisitor& inner) { sampling(inner); });
    }
    v.parameter("repeats", sweep_.repeats, "runs of each point, with seeds that rise by one",
                {1, 1e6});
    texts(v, "skip", sweep_.skip, "conditions on axes: a point for which one holds is left out");
    texts(v, "metrics", sweep_.metrics, "metrics to keep; all below a name: utilization/*");
    v.list({"objectives", "what is good", FieldKind::parameter, {0, 100}},
           ListAccess{[this](std::size_t size) { sweep_.objectives.resize(size); },
                      [this](std::size_t i, FieldVisitor& inner) {
                        objective(sweep_.objectives[i], inner);
                      },
                      {}});
    texts(v, "constraints", sweep_.constraints, "conditions that a point must meet to be good");
    if (document_.contains("most_seconds")) {
      v.parameter("most_seconds", sweep_.most_seconds.emplace(),
                  "a point that runs longer is ended and recorded as such", {0.1, 1e7});
    }
    if (document_.contains("most_memory")) {
      v.parameter("most_memory", sweep_.most_memory.emplace(),
                  "a point that takes more memory is ended and recorded as such", {1, 1e15});
    }
  }

 private:
  void dimensions(FieldVisitor& v) {
    v.list({"axes", "what changes", FieldKind::parameter, {1, 1000}},
           ListAccess{[this](std::size_t size) { sweep_.dimensions.resize(size); },
                      [this](std::size_t i, FieldVisitor& inner) { dimension(i, inner); },
                      {}});
  }

  void dimension(std::size_t i, FieldVisitor& v) {
    const json& node = document_.at("axes").at(i);
    std::vector<SweepAxis>& axes = sweep_.dimensions[i];
    const std::string place = fmt::format("/axes/{}", i);
    if (!node.contains("zip")) {
      axes.resize(1);
      axis(node, place, axes.front(), v);
      return;
    }
    v.list({"zip", "axes that move together", FieldKind::parameter, {2, 1000}},
           ListAccess{[&axes](std::size_t size) { axes.resize(size); },
                      [&](std::size_t member, FieldVisitor& inner) {
                        axis(node.at("zip").at(member), fmt::format("{}/zip/{}", place, member),
                             axes[member], inner);
                      },
                      {}});
  }

  static void axis(const json& node, const std::string& place, SweepAxis& axis, FieldVisitor& v) {
    constexpr std::array<std::string_view, 4> kKinds{"values", "range", "interval", "variants"};
    axis.place = place;
    std::vector<std::string_view> given;
    for (std::size_t kind = 0; kind < kKinds.size(); ++kind) {
      if (node.contains(kKinds[kind])) {
        given.push_back(kKinds[kind]);
        axis.kind = static_cast<AxisKind>(kind);
      }
    }
    if (given.size() != 1) {
      throw ConfigError(fmt::format(
          "{}: must have one of {} (or zip), and has {}", place, fmt::join(kKinds, ", "),
          given.empty() ? "none" : fmt::format("{}", fmt::join(given, " and "))));
    }
    if (axis.kind != AxisKind::variants) {
      v.parameter("path", axis.path, "path of the value in the design point");
      axis.path = axis.path.starts_with('/') ? axis.path : "/" + axis.path;
      axis.name = axis.path.substr(axis.path.rfind('/') + 1);
    }
    if (axis.kind == AxisKind::variants || node.contains("name")) {
      v.parameter("name", axis.name, "name of the axis in tables and expressions");
    }
    v.require(is_identifier(axis.name), node.contains("name") ? "name" : "path",
              fmt::format("\"{}\" names the axis in tables and expressions; give it a \"name\" of "
                          "letters, digits and '_'",
                          axis.name));
    switch (axis.kind) {
      case AxisKind::values:
        values(axis, v);
        break;
      case AxisKind::range:
        v.object({"range", "from one value to another, both included"}, [&](FieldVisitor& inner) {
          range(node.at("range"), axis.range, inner);
          shares(node.at("range"), axis, inner);
        });
        break;
      case AxisKind::interval:
        v.object({"interval", "through the 90 % interval of a constant"}, [&](FieldVisitor& inner) {
          if (node.at("interval").contains("count")) {
            inner.parameter("count", axis.count, "number of values", {1, 1e7});
          }
          shares(node.at("interval"), axis, inner);
        });
        break;
      case AxisKind::variants:
        variants(axis, v);
        break;
    }
  }

  static void values(SweepAxis& axis, FieldVisitor& v) {
    const json list = free_value(v, "values", "values of the axis, in order");
    const bool is_list =
        list.is_array() && !list.empty() && std::all_of(list.begin(), list.end(), is_plain);
    v.require(is_list, "values",
              list.is_array() && list.empty()
                  ? "is empty; an axis has at least one value"
                  : "must be a list of numbers, quantities, names or true and false");
    if (is_list) {
      axis.values.assign(list.begin(), list.end());
    }
  }

  static void range(const json& node, SweepRange& range, FieldVisitor& v) {
    range.from = free_value(v, "from", "the first value");
    range.to = free_value(v, "to", "the last value; with a step, none is above it");
    v.require(is_plain(range.from), "from", "must be a number or a quantity such as \"50us\"");
    v.require(is_plain(range.to), "to", "must be a number or a quantity such as \"50us\"");
    if (node.contains("scale")) {
      enum class Scale { linear, log };
      auto scale = Scale::linear;
      v.one_of("scale", scale, {"linear", "log"}, "what is equally spaced: values or logarithms");
      range.is_logarithmic = scale == Scale::log;
    }
    if (node.contains("step")) {
      range.step = free_value(v, "step", "distance between two values");
      v.require(is_plain(range.step), "step", "must be a number or a quantity such as \"5us\"");
      v.require(!node.contains("count"), "count", "say the count of values or the step, not both");
      v.require(!range.is_logarithmic, "step", "a logarithmic range has a count, not a step");
    }
    if (node.contains("count")) {
      v.parameter("count", range.count, "number of values", {1, 1e7});
    }
  }

  static void shares(const json& node, SweepAxis& axis, FieldVisitor& v) {
    if (!node.contains("shares")) {
      return;
    }
    const json list = free_value(v, "shares", "places between 0 and 1, in order");
    const bool is_list = list.is_array() && !list.empty() &&
                         std::all_of(list.begin(), list.end(), [](const json& x) {
                           return x.is_number() && x.get<double>() > 0 && x.get<double>() < 1;
                         });
    v.require(is_list, "shares", "must be a list of numbers above 0 and below 1");
    v.require(!node.contains("count") && !node.contains("step"), "shares",
              "say shares, a count or a step, not two of them");
    axis.shares = is_list ? list.get<std::vector<double>>() : std::vector<double>{};
  }

  static void variants(SweepAxis& axis, FieldVisitor& v) {
    v.list(
        {"variants", "named changes of the base", FieldKind::parameter, {1, 1e5}},
        ListAccess{
            [&axis](std::size_t size) { axis.variants.resize(size); },
            [&](std::size_t i, FieldVisitor& inner) {
              SweepVariant& variant = axis.variants[i];
              inner.parameter("name", variant.name, "name of the variant");
              inner.object({"point", "what changes in the base"}, [](FieldVisitor& /*emptied*/) {});
              for (std::size_t other = 0; other < i; ++other) {
                inner.require(axis.variants[other].name != variant.name, "name",
                              "two variants have this name");
              }
            },
            {}});
  }

  void sampling(FieldVisitor& v) {
    SweepSampling& sampling = sweep_.sampling.emplace();
    v.one_of("method", sampling.method, {kSamplingMethods.begin(), kSamplingMethods.end()},
             "how values are drawn");
    v.parameter("count", sampling.count, "number of samples", {1, kMostPoints});
    v.parameter("seed", sampling.seed, "names the random stream", {0, 1e15});
  }

  static void objective(SweepObjective& objective, FieldVisitor& v) {
    enum class Goal { minimize, maximize };
    auto goal = Goal::minimize;
    v.parameter("name", objective.name, "what it is called");
    v.parameter("expression", objective.expression, "an expression over axes and metrics");
    v.one_of("goal", goal, {"minimize", "maximize"}, "which values are good");
    objective.is_maximized = goal == Goal::maximize;
  }

  static void texts(FieldVisitor& v, std::string_view name, std::vector<std::string>& texts,
                    std::string_view doc) {
    std::string text;
    v.parameter(name, text, doc);
    const json list = json::parse(text, nullptr, /*allow_exceptions=*/false);
    const bool is_list =
        list.is_array() &&
        std::all_of(list.begin(), list.end(), [](const json& item) { return item.is_string(); });
    v.require(is_list, name, "must be a list of texts");
    texts = is_list ? list.get<std::vector<std::string>>() : std::vector<std::string>{};
  }

  const json& document_;
  Sweep& sweep_;
};

void fill_points(Sweep& sweep) {
  sweep.point = sweep.document.at("point");
  for (std::vector<SweepAxis>& axes : sweep.dimensions) {
    for (SweepAxis& axis : axes) {
      for (std::size_t i = 0; i < axis.variants.size(); ++i) {
        const json::json_pointer variant(fmt::format("{}/variants/{}", axis.place, i));
        axis.variants[i].point = sweep.document.at(variant).at("point");
      }
    }
  }
}

void check_names(const Sweep& sweep) {
  std::map<std::string, const SweepAxis*> by_name;
  std::map<std::string, const SweepAxis*> by_path;
  std::vector<std::string> problems;
  for (const std::vector<SweepAxis>& axes : sweep.dimensions) {
    for (const SweepAxis& axis : axes) {
      const auto [path, is_new_path] = by_path.emplace(axis.path, &axis);
      if (!axis.path.empty() && !is_new_path) {
        problems.push_back(fmt::format("{}/path: {} is set by {} too", axis.place, axis.path,
                                       path->second->place));
        continue;
      }
      const auto [name, is_new] = by_name.emplace(axis.name, &axis);
      if (!is_new) {
        problems.push_back(
            fmt::format("{}: \"{}\" is the name of {} too; give one of them "
                        "another \"name\"",
                        axis.place, axis.name, name->second->place));
      }
    }
  }
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
}

}  // namespace

Sweep load_sweep(const fs::path& file) {
  Sweep sweep;
  sweep.file = file;
  sweep.name = file.stem().string();
  sweep.document = load_config(file, translate_huggingface);
  try {
    json text = with_values_as_text(sweep.document);
    if (text.is_object()) {
      for (const char* list : {"skip", "metrics", "constraints"}) {
        text[list] = text.value(list, json::array()).dump();
      }
      text.emplace("objectives", json::array());
      text.emplace("repeats", 1);
    }
    SweepFields fields(text, sweep);
    read_fields(text, [&fields](FieldVisitor& v) { fields.fields(v); });
    check_names(sweep);
    if (!is_file_name(sweep.name)) {
      throw ConfigError(
          "the file's name names results; use letters, digits, '.', '_' and '-', and start with a "
          "letter or digit");
    }
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(file.string(), error.what()));
  }
  fill_points(sweep);
  return sweep;
}

}  // namespace nearkv
