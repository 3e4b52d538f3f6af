// Readers and describers of field lists.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr std::array<std::string_view, 6> kSources{"datasheet", "measured", "paper",
                                                   "fit",       "assumed",  "override"};
constexpr double kLowestInt = std::numeric_limits<int>::min();
constexpr double kHighestInt = std::numeric_limits<int>::max();

std::string type_phrase(const json& node) {
  return node.is_null() ? "null" : fmt::format("{} ({})", printable(node.dump()), node.type_name());
}

/// "Decoder layers." as "Decoder layers", to go into a sentence.
std::string_view without_full_stop(std::string_view doc) {
  return doc.ends_with('.') ? doc.substr(0, doc.size() - 1) : doc;
}

/// Formats a limit of a range in the text form of the field.
using LimitText = std::function<std::string(double)>;

/// The limits of the type int are no news to anybody, unless they are the ones exceeded.
std::string range_text(const Range& range, const LimitText& text) {
  const bool has_lowest =
      range.lowest > std::numeric_limits<double>::lowest() && range.lowest != kLowestInt;
  const bool has_highest =
      range.highest < std::numeric_limits<double>::max() && range.highest != kHighestInt;
  if (has_lowest && has_highest) {
    return range.lowest == range.highest
               ? text(range.lowest)
               : fmt::format("{} to {}", text(range.lowest), text(range.highest));
  }
  if (has_lowest) {
    return fmt::format("at least {}", text(range.lowest));
  }
  return has_highest ? fmt::format("at most {}", text(range.highest)) : "";
}

std::string plain_number(double value) { return fmt::format("{}", value); }
template <class Quantity>
std::string quantity_text(double value) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const bool fits = value < static_cast<double>(kMost);  // which is 2^63, one more than kMost
  return format_exact(Quantity{fits ? static_cast<std::int64_t>(value) : kMost});
}

class JsonReader final : public FieldVisitor {
 public:
  JsonReader(const json& node, std::string path, std::vector<std::string>& problems,
             std::vector<ConstantUse>& constants)
      : node_(node), path_(std::move(path)), problems_(problems), constants_(constants) {}

  void integer(const FieldInfo& info, std::int64_t& value) override {
    if (const json* found = scalar(info)) {
      whole_number(info, path_of(info.name), *found, value);
    }
  }

  void real(const FieldInfo& info, double& value) override {
    if (const json* found = scalar(info)) {
      if (!found->is_number()) {
        wrong_type(info, *found, "a number");
      } else if (in_range(info, path_of(info.name), found->get<double>(), plain_number)) {
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
        wrong_type(info, *found, "a string in double quotes");
      } else {
        value = found->get<std::string>();
      }
    }
  }

  void choice(const FieldInfo& info, const std::vector<std::string_view>& names,
              std::size_t& index) override {
    if (const json* found = scalar(info)) {
      static_cast<void>(choose(info, *found, names, index));
    }
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
  void power(const FieldInfo& info, Power& value) override {
    quantity(info, value, parse_power, "a power such as \"300W\"");
  }
  void energy(const FieldInfo& info, Energy& value) override {
    quantity(info, value, parse_energy, "an energy such as \"60uJ\"");
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
    const auto length = static_cast<double>(found->size());
    if (length < info.range.lowest || length > info.range.highest) {
      problem(path_of(info.name), fmt::format("has {} elements; must have {}", found->size(),
                                              range_text(info.range, plain_number)));
      return;
    }
    access.resize(found->size());
    for (std::size_t i = 0; i < found->size(); ++i) {
      read_object((*found)[i], fmt::format("{}/{}", path_of(info.name), i),
                  [&](FieldVisitor& v) { access.visit(i, v); });
    }
  }

  void integers(const FieldInfo& info, std::vector<std::int64_t>& values) override {
    const json* found = scalar(info);
    if (found == nullptr) {
      return;
    }
    if (!found->is_array()) {
      wrong_type(info, *found, "a list of whole numbers");
      return;
    }
    values.assign(found->size(), 0);
    for (std::size_t i = 0; i < found->size(); ++i) {
      whole_number(info, fmt::format("{}/{}", path_of(info.name), i), (*found)[i], values[i]);
    }
  }

  void variant(const FieldInfo& info, const std::vector<std::string_view>& names,
               std::size_t& index,
               const std::function<void(std::size_t, FieldVisitor&)>& visit) override {
    const json* found = member(info);
    if (found != nullptr && choose(info, *found, names, index)) {
      visit(index, *this);
    } else {
      fields_are_known_ = false;
    }
  }

  [[nodiscard]] bool checks_rules() const override {
    return problems_.size() == problems_at_start_ && missing_.empty();
  }

  void require(bool holds, std::string_view field, const std::string& message) override {
    if (!holds && checks_rules()) {
      problem(path_of(field), message);
    }
  }

  /// Reads one object with all its rules; reports unknown and missing keys.
  void read_all(const std::function<void(FieldVisitor&)>& visit) {
    problems_at_start_ = problems_.size();
    visit(*this);
    const std::set<std::string> explained =
        fields_are_known_ ? report_unknown_keys() : std::set<std::string>{};
    for (const std::string& name : missing_) {
      if (!explained.contains(name)) {
        problem(path_of(name), fmt::format("missing; add it ({})", docs_.at(name)));
      }
    }
  }

 private:
  /// Returns the missing names that an unknown key seems to be meant for.
  std::set<std::string> report_unknown_keys() {
    std::set<std::string> explained;
    std::vector<std::string> known;
    for (const auto& [name, doc] : docs_) {
      known.push_back(name);
    }
    for (const auto& [key, value] : node_.items()) {
      if (docs_.contains(key) || key == "comment") {
        continue;
      }
      // A missing name is the better guess than one that is there already.
      std::string nearest = nearest_name(key, missing_);
      nearest = nearest.empty() ? nearest_name(key, known) : nearest;
      explained.insert(nearest);
      problem(path_of(printable(key)),
              nearest.empty() ? fmt::format("unknown key; known here: {}", fmt::join(known, ", "))
                              : fmt::format("unknown key; did you mean \"{}\"?", nearest));
    }
    return explained;
  }

  std::string path_of(std::string_view name) const { return fmt::format("{}/{}", path_, name); }

  void problem(const std::string& path, const std::string& message) {
    problems_.push_back(path + ": " + message);
  }
  void wrong_type(const FieldInfo& info, const json& found, std::string_view wanted) {
    problem(path_of(info.name), fmt::format("is {}; must be {}", type_phrase(found), wanted));
  }

  const json* member(const FieldInfo& info) {
    const std::string name(info.name);
    check(docs_.emplace(name, without_full_stop(info.doc)).second,
          fmt::format("the field {} is listed twice", path_of(name)));
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
                          printable(found->dump()), fmt::join(kSources, ", ")));
      return nullptr;
    }
    return found;
  }

  const json* sourced(const FieldInfo& info, const json& object) {
    constexpr std::string_view kWanted =
        "a value with a source has \"value\", \"source\" and \"citation\"";
    const std::string path = path_of(info.name);
    const std::size_t problems_before = problems_.size();
    if (!object.contains("value") && !object.contains("source")) {
      wrong_type(info, object, fmt::format("a plain value; {}", kWanted));
      return nullptr;
    }
    for (const auto& [key, value] : object.items()) {
      if (key != "value" && key != "source" && key != "citation" && key != "comment") {
        problem(path + "/" + printable(key), fmt::format("unknown key; {}", kWanted));
      }
    }
    for (const char* key : {"value", "source", "citation"}) {
      if (!object.contains(key)) {
        problem(path + "/" + key, fmt::format("missing; {}", kWanted));
      }
    }
    const json& source = object.value("source", json("assumed"));
    if (!source.is_string() ||
        std::find(kSources.begin(), kSources.end(), source.get<std::string>()) == kSources.end()) {
      problem(path + "/source", fmt::format("is {}; must be one of {}", printable(source.dump()),
                                            fmt::join(kSources, ", ")));
    }
    const json& citation = object.value("citation", json("none"));
    if (!citation.is_string() || citation.get<std::string>().empty()) {
      problem(path + "/citation",
              fmt::format("is {}; must be a text that says where the value came from",
                          printable(citation.dump())));
    }
    if (problems_.size() != problems_before) {
      return nullptr;
    }
    const json& value = object["value"];
    constants_.push_back({path, value.is_string() ? value.get<std::string>() : value.dump(),
                          source.get<std::string>(), citation.get<std::string>()});
    return &value;
  }

  void whole_number(const FieldInfo& info, const std::string& path, const json& found,
                    std::int64_t& value) {
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!found.is_number_integer()) {
      problem(path, fmt::format("is {}; must be a whole number, without point or exponent",
                                type_phrase(found)));
    } else if (found.is_number_unsigned() && found.get<std::uint64_t>() > kMost) {
      problem(path, fmt::format("{} is out of range; must be at most {}", found.dump(), kMost));
    } else if (in_range(info, path, found.get<double>(), plain_number)) {
      value = found.get<std::int64_t>();
    }
  }

  bool in_range(const FieldInfo& info, const std::string& path, double value,
                const LimitText& text) {
    if (value >= info.range.lowest && value <= info.range.highest) {
      return true;
    }
    std::string limits = range_text(info.range, text);
    if (limits.empty() || (value > info.range.highest && info.range.highest == kHighestInt)) {
      limits = value > info.range.highest ? fmt::format("at most {}", text(info.range.highest))
                                          : fmt::format("at least {}", text(info.range.lowest));
    }
    problem(path, fmt::format("{} is out of range; must be {}", text(value), limits));
    return false;
  }

  /// Sets `index` to that of the name `found`; false after a problem.
  bool choose(const FieldInfo& info, const json& found, const std::vector<std::string_view>& names,
              std::size_t& index) {
    if (!found.is_string()) {
      wrong_type(info, found, fmt::format("one of {}", fmt::join(names, ", ")));
      return false;
    }
    const auto name = found.get<std::string>();
    const auto match = std::find(names.begin(), names.end(), name);
    if (match == names.end()) {
      const std::string nearest = nearest_name(name, {names.begin(), names.end()});
      problem(path_of(info.name),
              fmt::format("is {}; must be one of {}{}", in_quotes(name), fmt::join(names, ", "),
                          nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest)));
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
      if (in_range(info, path_of(info.name), base_units, quantity_text<Quantity>)) {
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
  std::vector<std::string> missing_;
  std::map<std::string, std::string> docs_;  // of the fields listed so far, by name
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
  void power(const FieldInfo& info, Power& /*value*/) override {
    leaf(info, "power", range_text(info.range, quantity_text<Power>));
  }
  void energy(const FieldInfo& info, Energy& /*value*/) override {
    leaf(info, "energy", range_text(info.range, quantity_text<Energy>));
  }
  void integers(const FieldInfo& info, std::vector<std::int64_t>& /*values*/) override {
    leaf(info, "list of integers", range_text(info.range, plain_number));
  }
  [[nodiscard]] bool checks_rules() const override { return false; }
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
    const std::string length = range_text(info.range, plain_number);
    leaf(info, "list", length.empty() ? "" : length + " elements");
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
    json schema{{"type", "array"}, {"items", closed(std::move(inner).finish())}};
    add_limits(schema, info.range, "minItems", "maxItems");
    add(info, std::move(schema));
  }
  void choice(const FieldInfo& info, const std::vector<std::string_view>& names,
              std::size_t& /*index*/) override {
    add(info, sourced(info, {{"enum", names}}));
  }
  void variant(const FieldInfo& info, const std::vector<std::string_view>& names,
               std::size_t& /*index*/,
               const std::function<void(std::size_t, FieldVisitor&)>& visit) override {
    const std::string name(info.name);
    add(info, {{"enum", names}});
    for (std::size_t i = 0; i < names.size(); ++i) {
      SchemaDescriber inner;
      visit(i, inner);
      kinds_.push_back(
          {{"if",
            {{"properties", {{name, {{"const", names[i]}}}}}, {"required", json::array({name})}}},
           {"then", std::move(inner).finish()}});
    }
  }

 private:
  void leaf(const FieldInfo& info, std::string_view type, const std::string& /*range*/) override {
    add(info, sourced(info, value_schema(info, type)));
  }

  /// Whole limits as integers: 1, not 1.0.
  static void add_limits(json& schema, const Range& range, const char* lowest,
                         const char* highest) {
    constexpr double kExactIntegers = 1LL << 53;
    const auto number = [](double value) {
      const bool is_whole = std::abs(value) <= kExactIntegers && std::trunc(value) == value;
      return is_whole ? json(static_cast<std::int64_t>(value)) : json(value);
    };
    if (range.lowest > std::numeric_limits<double>::lowest()) {
      schema[lowest] = number(range.lowest);
    }
    if (range.highest < std::numeric_limits<double>::max()) {
      schema[highest] = number(range.highest);
    }
  }

  static json value_schema(const FieldInfo& info, std::string_view type) {
    if (type == "true or false") {
      return {{"type", "boolean"}};
    }
    if (type == "integer" || type == "number") {
      json schema{{"type", type}};
      add_limits(schema, info.range, "minimum", "maximum");
      return schema;
    }
    if (type == "list of integers") {
      json element{{"type", "integer"}};
      add_limits(element, info.range, "minimum", "maximum");
      return {{"type", "array"}, {"items", std::move(element)}};
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
    } else if (type == "power") {
      schema["pattern"] = "^[0-9]+(\\.[0-9]+)?[umk]?W$";
    } else if (type == "energy") {
      schema["pattern"] = "^[0-9]+(\\.[0-9]+)?[pnum]?J$";
    }
    return schema;
  }

  static json sourced(const FieldInfo& info, const json& value) {
    const json with_source{{"type", "object"},
                           {"properties",
                            {{"value", value},
                             {"source", {{"enum", kSources}}},
                             {"citation", {{"type", "string"}, {"minLength", 1}}},
                             {"comment", {{"type", "string"}}}}},
                           {"required", {"value", "source", "citation"}},
                           {"additionalProperties", false}};
    return info.kind == FieldKind::constant ? with_source : json{{"anyOf", {value, with_source}}};
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
  if (!config.is_object()) {
    throw ConfigError(fmt::format("/: is {}; must be an object", type_phrase(config)));
  }
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
