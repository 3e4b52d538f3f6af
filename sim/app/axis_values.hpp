// Values of a figure's axis: numbers, quantities with a unit, or names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/core/fields.hpp"

namespace nearkv {

/// One or several values, each with its JSON type.
struct AxisValues {
  std::vector<nlohmann::json> values;

  [[nodiscard]] std::vector<std::string> texts() const;
  [[nodiscard]] bool contains(const std::string& text) const;
};

/// "64" for 64 and "50us" for "50us".
[[nodiscard]] std::string axis_text(const nlohmann::json& value);

/// Field lists know no list of numbers and strings. This replaces what is under "values" and
/// "quick" (not inside "point") by its JSON text, which axis_field() reads.
[[nodiscard]] nlohmann::json with_axis_values_as_text(const nlohmann::json& figure);
void axis_field(FieldVisitor& v, std::string_view name, AxisValues& values, std::string_view doc);

}  // namespace nearkv
