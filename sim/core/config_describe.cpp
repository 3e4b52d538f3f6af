// Describers of field lists: JSON schema and reference text.
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "sim/core/config.hpp"
#include "sim/core/config_numbers.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

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
    leaf(info, "duration", range_text(info.range, limit_text_of(number_type<SimDuration>())));
  }
  void bytes(const FieldInfo& info, Bytes& /*value*/) override {
    leaf(info, "size", range_text(info.range, limit_text_of(number_type<Bytes>())));
  }
  void rate(const FieldInfo& info, Rate& /*value*/) override {
    leaf(info, "data rate", range_text(info.range, limit_text_of(number_type<Rate>())));
  }
  void flop_rate(const FieldInfo& info, FlopRate& /*value*/) override {
    leaf(info, "compute rate", range_text(info.range, limit_text_of(number_type<FlopRate>())));
  }
  void power(const FieldInfo& info, Power& /*value*/) override {
    leaf(info, "power", range_text(info.range, limit_text_of(number_type<Power>())));
  }
  void energy(const FieldInfo& info, Energy& /*value*/) override {
    leaf(info, "energy", range_text(info.range, limit_text_of(number_type<Energy>())));
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
    add(info, sourced(info, {{"enum", names}}, Interval::refused));
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
    const bool is_number = type != "true or false" && type != "text" && type != "list of integers";
    add(info,
        sourced(info, value_schema(info, type), is_number ? Interval::allowed : Interval::refused));
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

  enum class Interval { allowed, refused };

  static json sourced(const FieldInfo& info, const json& value, Interval interval) {
    json with_source{{"type", "object"},
                     {"properties",
                      {{"value", value},
                       {"source", {{"enum", kConstantSources}}},
                       {"citation", {{"type", "string"}, {"minLength", 1}}},
                       {"comment", {{"type", "string"}}}}},
                     {"required", {"value", "source", "citation"}},
                     {"additionalProperties", false}};
    if (interval == Interval::allowed) {
      with_source["properties"]["interval"] = {
          {"type", "array"},
          {"items", value},
          {"minItems", 2},
          {"maxItems", 2},
          {"description", "holds the true value with a probability of 90 %"}};
    }
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
