#include "sim/app/axis_values.hpp"

#include <algorithm>
#include <array>

namespace nearkv {

using nlohmann::json;

std::string axis_text(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::vector<std::string> AxisValues::texts() const {
  std::vector<std::string> all;
  for (const json& value : values) {
    all.push_back(axis_text(value));
  }
  return all;
}

bool AxisValues::contains(const std::string& text) const {
  return std::any_of(values.begin(), values.end(),
                     [&text](const json& value) { return axis_text(value) == text; });
}

json with_axis_values_as_text(const json& figure) {
  constexpr std::array<std::string_view, 2> kAxisValueKeys{"values", "quick"};
  json copy = figure;
  for (auto& [key, value] : copy.items()) {
    const bool holds_axis_values =
        figure.is_object() &&
        std::find(kAxisValueKeys.begin(), kAxisValueKeys.end(), key) != kAxisValueKeys.end();
    if (holds_axis_values) {
      value = (value.is_array() ? value : json::array({value})).dump();
    } else if (value.is_structured() && key != "point") {
      value = with_axis_values_as_text(value);
    }
  }
  return copy;
}

void axis_field(FieldVisitor& v, std::string_view name, AxisValues& values, std::string_view doc) {
  std::string text;
  v.parameter(name, text, doc);
  const json list = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool is_list = list.is_array() && !list.empty() &&
                       std::all_of(list.begin(), list.end(),
                                   [](const json& x) { return x.is_number() || x.is_string(); });
  v.require(is_list, name, "must be a list of at least one number, quantity or name");
  values.values.clear();
  if (is_list) {
    values.values.assign(list.begin(), list.end());
  }
}

}  // namespace nearkv
