// Readers and describers of field lists.
#include <cmath>
#include <set>
#include <stdexcept>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

const std::vector<std::string> kSources{"datasheet", "measured", "paper",
                                        "fit",       "assumed",  "override"};

std::string type_phrase(const json& node) {
  if (node.is_null()) {
    return "null";
  }
  return fmt::format("{} ({})", node.dump().substr(0, 40), node.type_name());
}

/// Formats a limit of a range in the text form of the field.
using LimitText = std::function<std::string(double)>;

std::string range_text(const Range& range, const LimitText& text) {
  const bool has_lowest = range.lowest > std::numeric_limits<double>::lowest();
  const bool has_highest = range.highest < std::numeric_limits<double>::max();
  if (has_lowest && has_highest) {
    return fmt::format("{} to {}", text(range.lowest), text(range.highest));
  }
  if (has_lowest) {
    return fmt::format("at least {}", text(range.lowest));
  }
  return has_highest ? fmt::format("at most {}", text(range.highest)) : "";
}

std::string plain_number(double value) { return fmt::format("{:g}", value); }
template <class Quantity>
std::string quantity_text(double value) {
  return format_exact(Quantity{static_cast<std::int64_t>(value)});
}

class JsonReader final : public FieldVisitor {
 public:
  JsonReader(const json& node, std::string path, std::vector<std::string>& problems,
             std::vector<ConstantUse>& constants)
      : node_(node), path_(std::move(path)), problems_(problems), constants_(constants) {}

  void integer(const FieldInfo& info, std::int64_t& value) override {
    if (const json* found = scalar(info)) {
      if (!found->is_number_integer()) {
        wrong_type(info, *found, "a whole number");
      } else if (in_range(info, found->get<double>(), plain_number)) {
        value = found->get<std::int64_t>();
      }
    }
  }

  void real(const FieldInfo& info, double& value) override {
    if (const json* found = scalar(info)) {
      if (!found->is_number()) {
        wrong_type(info, *found, "a number");
      } else if (in_range(info, found->get<double>(), plain_number)) {
        value = found->get<double>();
      }
    }
  }

  void boolean(const FieldInfo& info, bool& value) override {
    if (const json* found = scalar(info)) {
      if (!found->is_boolean()) {
        wrong_type(info, *found, "true or false");
      } else {
        value = found->get<bool>();
      }
    }
  }

  void text(const FieldInfo& info, std::string& value) override {
    if (const json* found = scalar(info)) {
      if (!found->is_string()) {
        wrong_type(info, *found, "a string");
      } else {
        value = found->get<std::string>();
      }
    }
  }

  void choice(const FieldInfo& info, const std::vector<std::string_view>& names,
              std::size_t& index) override {
    static_cast<void>(choose(info, names, index));
  }

  void duration(const FieldInfo& info, SimDuration& value) override {
    quantity(info, value, parse_duration, "a duration such as \"50us\"");
  }
  void bytes(const FieldInfo& info, Bytes& value) override {
    quantity(info, value, parse_bytes, "a size such as \"4KiB\"");
  }
  void rate(const FieldInfo& info, Rate& value) override {
    quantity(info, value, parse_rate, "a data rate such as \"1.4GB/s\"");
  }
  void flop_rate(const FieldInfo& info, FlopRate& value) override {
    quantity(info, value, parse_flop_rate, "a compute rate such as \"12.7GFLOP/s\"");
  }

  void object(const FieldInfo& info, const std::function<void(FieldVisitor&)>& visit) override {
    if (const json* found = member(info)) {
      read_object(*found, path_of(info.name), visit);
    }
  }

  void list(const FieldInfo& info, const ListAccess& access) override {
    const json* found = member(info);
    if (found == nullptr) {
      return;
    }
    if (!found->is_array()) {
      wrong_type(info, *found, "a list of objects");
      return;
    }
    if (!in_range(info, static_cast<double>(found->size()),
                  [](double n) { return fmt::format("{:g} elements", n); })) {
      return;
    }
    access.resize(found->size());
    for (std::size_t i = 0; i < found->size(); ++i) {
      read_object((*found)[i], fmt::format("{}/{}", path_of(info.name), i),
                  [&](FieldVisitor& v) { access.visit(i, v); });
    }
  }

  void integers(const FieldInfo& info, std::vector<std::int64_t>& values) override {
    const json* found = member(info);
    if (found == nullptr) {
      return;
    }
    if (!found->is_array()) {
      wrong_type(info, *found, "a list of whole numbers");
      return;
    }
    values.clear();
    for (const json& element : *found) {
      if (!element.is_number_integer()) {
        wrong_type(info, element, "a list of whole numbers");
        return;
      }
      if (!in_range(info, element.get<double>(), plain_number)) {
        return;
      }
      values.push_back(element.get<std::int64_t>());
    }
  }

  void variant(const FieldInfo& info, const std::vector<std::string_view>& names,
               std::size_t& index,
               const std::function<void(std::size_t, FieldVisitor&)>& visit) override {
    if (choose(info, names, index)) {
      visit(index, *this);
    } else {
      fields_are_known_ = false;
    }
  }

  void require(bool holds, std::string_view field, const std::string& message) override {
    if (!holds && problems_.size() == problems_at_start_) {
      problem(path_of(field), message);
    }
  }

  /// Reads one object with all its rules; reports unknown and missing keys.
  void read_all(const std::function<void(FieldVisitor&)>& visit) {
    problems_at_start_ = problems_.size();
    visit(*this);
    if (!fields_are_known_) {
      return;
    }
    std::set<std::string> explained;
    const std::vector<std::string> known(known_.begin(), known_.end());
    for (const auto& [key, value] : node_.items()) {
      if (known_.contains(key)) {
        continue;
      }
      std::vector<std::string> candidates(missing_);
      candidates.insert(candidates.end(), known.begin(), known.end());
      const std::string nearest = nearest_name(key, candidates);
      explained.insert(nearest);
      problem(path_of(key), nearest.empty()
                                ? fmt::format("unknown key; known here: {}", fmt::join(known, ", "))
                                : fmt::format("unknown key; did you mean \"{}\"?", nearest));
    }
    for (const std::string& name : missing_) {
      if (!explained.contains(name)) {
        problem(path_of(name), fmt::format("missing; it gives {}", docs_.at(name)));
      }
    }
  }

 private:
  std::string path_of(std::string_view name) const { return fmt::format("{}/{}", path_, name); }

  void problem(const std::string& path, const std::string& message) {
    problems_.push_back(path + ": " + message);
  }
  void wrong_type(const FieldInfo& info, const json& found, std::string_view wanted) {
    problem(path_of(info.name), fmt::format("is {}; must be {}", type_phrase(found), wanted));
  }

  const json* member(const FieldInfo& info) {
    const std::string name(info.name);
    known_.insert(name);
    docs_[name] = std::string(info.doc);
    const auto found = node_.find(name);
    if (found == node_.end()) {
      missing_.push_back(name);
      return nullptr;
    }
    return &*found;
  }

  /// The value of a scalar field, taken out of its source object if it has one.
  const json* scalar(const FieldInfo& info) {
    const json* found = member(info);
    if (found == nullptr) {
      return nullptr;
    }
    if (found->is_object()) {
      return sourced(info, *found);
    }
    if (info.kind == FieldKind::constant) {
      problem(path_of(info.name),
              fmt::format("a constant needs its source; write {{\"value\": {}, \"source\": "
                          "\"assumed\", \"citation\": \"why\"}} (sources: {})",
                          found->dump(), fmt::join(kSources, ", ")));
      return nullptr;
    }
    return found;
  }

  const json* sourced(const FieldInfo& info, const json& object) {
    for (const auto& [key, value] : object.items()) {
      if (key != "value" && key != "source" && key != "citation") {
        problem(path_of(info.name) + "/" + key,
                "unknown key; a sourced value has \"value\", \"source\" and \"citation\"");
        return nullptr;
      }
    }
    for (const char* key : {"value", "source", "citation"}) {
      if (!object.contains(key)) {
        problem(path_of(info.name) + "/" + key,
                "missing; a sourced value has \"value\", \"source\" and \"citation\"");
        return nullptr;
      }
    }
    const json& source = object["source"];
    const json& citation = object["citation"];
    if (!source.is_string() ||
        std::find(kSources.begin(), kSources.end(), source.get<std::string>()) == kSources.end()) {
      problem(path_of(info.name) + "/source",
              fmt::format("is {}; must be one of {}", source.dump(), fmt::join(kSources, ", ")));
      return nullptr;
    }
    if (!citation.is_string() || citation.get<std::string>().empty()) {
      problem(path_of(info.name) + "/citation", "must say where the value came from");
      return nullptr;
    }
    const json& value = object["value"];
    constants_.push_back({path_of(info.name),
                          value.is_string() ? value.get<std::string>() : value.dump(),
                          source.get<std::string>(), citation.get<std::string>()});
    return &value;
  }

  bool in_range(const FieldInfo& info, double value, const LimitText& text) {
    if (value >= info.range.lowest && value <= info.range.highest) {
      return true;
    }
    problem(path_of(info.name),
            fmt::format("{} is out of range; must be {}", text(value),
                        range_text(info.range, text)));
    return false;
  }

  bool choose(const FieldInfo& info, const std::vector<std::string_view>& names,
              std::size_t& index) {
    const json* found = scalar(info);
    if (found == nullptr) {
      return false;
    }
    if (!found->is_string()) {
      wrong_type(info, *found, fmt::format("one of {}", fmt::join(names, ", ")));
      return false;
    }
    const auto name = found->get<std::string>();
    const auto match = std::find(names.begin(), names.end(), name);
    if (match == names.end()) {
      const std::string nearest = nearest_name(name, {names.begin(), names.end()});
      problem(path_of(info.name),
              fmt::format("\"{}\" is unknown; {}must be one of {}", name,
                          nearest.empty() ? "" : fmt::format("did you mean \"{}\"? ", nearest),
                          fmt::join(names, ", ")));
      return false;
    }
    index = static_cast<std::size_t>(match - names.begin());
    return true;
  }

  template <class Quantity, class Parser>
  void quantity(const FieldInfo& info, Quantity& value, Parser parse, std::string_view wanted) {
    const json* found = scalar(info);
    if (found == nullptr) {
      return;
    }
    if (!found->is_string()) {
      wrong_type(info, *found, fmt::format("{}, with its unit", wanted));
      return;
    }
    try {
      const Quantity parsed = parse(found->get<std::string>());
      double base_units = 0;
      if constexpr (requires { parsed.per_second(); }) {
        base_units = static_cast<double>(parsed.per_second());
      } else {
        base_units = static_cast<double>(parsed.count());
      }
      if (in_range(info, base_units, quantity_text<Quantity>)) {
        value = parsed;
      }
    } catch (const std::invalid_argument& error) {
      problem(path_of(info.name), error.what());
    }
  }

  void read_object(const json& node, const std::string& path,
                   const std::function<void(FieldVisitor&)>& visit) {
    if (!node.is_object()) {
      problems_.push_back(fmt::format("{}: is {}; must be an object", path, type_phrase(node)));
      return;
    }
    JsonReader(node, path, problems_, constants_).read_all(visit);
  }

  const json& node_;
  std::string path_;
  std::vector<std::string>& problems_;
  std::vector<ConstantUse>& constants_;
  std::set<std::string> known_;
  std::vector<std::string> missing_;
  std::map<std::string, std::string> docs_;
  std::size_t problems_at_start_ = 0;
  bool fields_are_known_ = true;  // false when a variant's kind could not be read
};

/// Walks a field list without a config; subclasses say what a field becomes.
class Describer : public FieldVisitor {
 public:
  void integer(const FieldInfo& info, std::int64_t& /*value*/) override {
    leaf(info, "integer", range_text(info.range, plain_number));
  }
  void real(const FieldInfo& info, double& /*value*/) override {
    leaf(info, "number", range_text(info.range, plain_number));
  }
  void boolean(const FieldInfo& info, bool& /*value*/) override { leaf(info, "true or false", ""); }
  void text(const FieldInfo& info, std::string& /*value*/) override { leaf(info, "text", ""); }
  void choice(const FieldInfo& info, const std::vector<std::string_view>& names,
              std::size_t& /*index*/) override {
    leaf(info, "choice", fmt::format("{}", fmt::join(names, ", ")));
  }
  void duration(const FieldInfo& info, SimDuration& /*value*/) override {
    leaf(info, "duration", range_text(info.range, quantity_text<SimDuration>));
  }
  void bytes(const FieldInfo& info, Bytes& /*value*/) override {
    leaf(info, "size", range_text(info.range, quantity_text<Bytes>));
  }
  void rate(const FieldInfo& info, Rate& /*value*/) override {
    leaf(info, "data rate", range_text(info.range, quantity_text<Rate>));
  }
  void flop_rate(const FieldInfo& info, FlopRate& /*value*/) override {
    leaf(info, "compute rate", range_text(info.range, quantity_text<FlopRate>));
  }
  void integers(const FieldInfo& info, std::vector<std::int64_t>& /*values*/) override {
    leaf(info, "list of integers", range_text(info.range, plain_number));
  }
  void require(bool /*holds*/, std::string_view /*field*/,
               const std::string& /*message*/) override {}

 protected:
  virtual void leaf(const FieldInfo& info, std::string_view type, const std::string& range) = 0;
};

class TextDescriber final : public Describer {
 public:
  TextDescriber(std::string path, std::vector<FieldDescription>& fields)
      : path_(std::move(path)), fields_(fields) {}

  void object(const FieldInfo& info, const std::function<void(FieldVisitor&)>& visit) override {
    leaf(info, "object", "");
    TextDescriber inner(fmt::format("{}/{}", path_, info.name), fields_);
    visit(inner);
  }
  void list(const FieldInfo& info, const ListAccess& access) override {
    leaf(info, "list", range_text(info.range, plain_number));
    TextDescriber inner(fmt::format("{}/{}/*", path_, info.name), fields_);
    access.visit_example(inner);
  }
  void variant(const FieldInfo& info, const std::vector<std::string_view>& names,
               std::size_t& index,
               const std::function<void(std::size_t, FieldVisitor&)>& visit) override {
    choice(info, names, index);
    for (std::size_t i = 0; i < names.size(); ++i) {
      TextDescriber inner(fmt::format("{}[{}={}]", path_, info.name, names[i]), fields_);
      visit(i, inner);
    }
  }

 private:
  void leaf(const FieldInfo& info, std::string_view type, const std::string& range) override {
    fields_.push_back({fmt::format("{}/{}", path_, info.name), std::string(type), range, info.kind,
                       std::string(info.doc)});
  }

  std::string path_;
  std::vector<FieldDescription>& fields_;
};

class SchemaDescriber final : public Describer {
 public:
  json finish() && {
    json schema{{"type", "object"}, {"properties", properties_}, {"required", required_}};
    if (!kinds_.empty()) {
      schema["allOf"] = kinds_;
    }
    return schema;
  }

  static json closed(json schema) {
    schema["properties"]["comment"] = {{"type", "string"}};
    schema["unevaluatedProperties"] = false;
    return schema;
  }

  void object(const FieldInfo& info, const std::function<void(FieldVisitor&)>& visit) override {
    SchemaDescriber inner;
    visit(inner);
    add(info, closed(std::move(inner).finish()));
  }
  void list(const FieldInfo& info, const ListAccess& access) override {
    SchemaDescriber inner;
    access.visit_example(inner);
    add(info, {{"type", "array"}, {"items", closed(std::move(inner).finish())}});
  }
  void choice(const FieldInfo& info, const std::vector<std::string_view>& names,
              std::size_t& /*index*/) override {
    add(info, {{"enum", std::vector<std::string>(names.begin(), names.end())}});
  }
  void variant(const FieldInfo& info, const std::vector<std::string_view>& names,
               std::size_t& index,
               const std::function<void(std::size_t, FieldVisitor&)>& visit) override {
    choice(info, names, index);
    for (std::size_t i = 0; i < names.size(); ++i) {
      SchemaDescriber inner;
      visit(i, inner);
      kinds_.push_back(
          {{"if", {{"properties", {{std::string(info.name), {{"const", names[i]}}}}}}},
           {"then", std::move(inner).finish()}});
    }
  }

 private:
  void leaf(const FieldInfo& info, std::string_view type, const std::string& /*range*/) override {
    add(info, sourced(info, value_schema(info, type)));
  }

  static json value_schema(const FieldInfo& info, std::string_view type) {
    if (type == "true or false") {
      return {{"type", "boolean"}};
    }
    if (type == "integer" || type == "number") {
      json schema{{"type", type}};
      if (info.range.lowest > std::numeric_limits<double>::lowest()) {
        schema["minimum"] = info.range.lowest;
      }
      if (info.range.highest < std::numeric_limits<double>::max()) {
        schema["maximum"] = info.range.highest;
      }
      return schema;
    }
    if (type == "list of integers") {
      return {{"type", "array"}, {"items", {{"type", "integer"}}}};
    }
    json schema{{"type", "string"}};
    if (type == "duration") {
      schema["pattern"] = "^[0-9]+(\\.[0-9]+)?(ps|ns|us|ms|s|min|h)$";
    } else if (type == "size") {
      schema["pattern"] = "^[0-9]+(\\.[0-9]+)?([KMGT]i?)?B$";
    } else if (type == "data rate") {
      schema["pattern"] = "^[0-9]+(\\.[0-9]+)?([KMGT]i?)?B/s$";
    } else if (type == "compute rate") {
      schema["pattern"] = "^[0-9]+(\\.[0-9]+)?[KMGTP]?FLOP/s$";
    }
    return schema;
  }

  static json sourced(const FieldInfo& info, const json& value) {
    const json with_source{{"type", "object"},
                           {"properties",
                            {{"value", value},
                             {"source", {{"enum", kSources}}},
                             {"citation", {{"type", "string"}, {"minLength", 1}}}}},
                           {"required", {"value", "source", "citation"}},
                           {"additionalProperties", false}};
    return info.kind == FieldKind::constant ? with_source
                                            : json{{"anyOf", {value, with_source}}};
  }

  void add(const FieldInfo& info, json schema) {
    schema["description"] = info.doc;
    properties_[std::string(info.name)] = std::move(schema);
    required_.push_back(info.name);
  }

  json properties_ = json::object();
  json required_ = json::array();
  json kinds_ = json::array();
};

}  // namespace

std::vector<ConstantUse> read_fields(const json& config, const FieldLister& fields) {
  std::vector<std::string> problems;
  std::vector<ConstantUse> constants;
  JsonReader(config, "", problems, constants).read_all(fields);
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
  return constants;
}

json schema_of(const FieldLister& fields, std::string_view title) {
  SchemaDescriber describer;
  fields(describer);
  json schema = SchemaDescriber::closed(std::move(describer).finish());
  schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  schema["title"] = title;
  return schema;
}

std::vector<FieldDescription> describe_fields(const FieldLister& fields) {
  std::vector<FieldDescription> descriptions;
  TextDescriber describer("", descriptions);
  fields(describer);
  return descriptions;
}

}  // namespace nearkv
