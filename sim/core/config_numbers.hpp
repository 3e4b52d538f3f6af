// Numbers of configs: how each type of field writes its values, ranges and intervals.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "sim/core/fields.hpp"

namespace nearkv {

enum class NumberType { integer, real, duration, bytes, rate, flop_rate, power, energy };

/// The number in a field, in the field's base unit (fields.hpp, Range).
struct FieldNumber {
  NumberType type = NumberType::real;
  double value = 0;
  Range range{};                       // what the field allows
  std::optional<Range> interval = {};  // that holds the true value with a probability of 90 %
};

/// A number of base units as a config writes it. All but `real` is rounded to whole base units;
/// the value must be within the 64-bit integers then.
[[nodiscard]] nlohmann::json number_as_json(NumberType type, double base_units);

/// Reads what number_as_json writes, "50us" for a duration. Throws std::invalid_argument with one
/// line that says what would have been right.
[[nodiscard]] double number_from_json(NumberType type, const nlohmann::json& written);

/// SI units in a base unit (1e-12 of a duration), and the SI unit ("s"; "1" for a plain number).
[[nodiscard]] double si_units_of(NumberType type);
[[nodiscard]] std::string_view si_unit_name(NumberType type);

/// Formats a limit of a range in the text form of a field.
using LimitText = std::function<std::string(double)>;

/// Of numbers of a type: format_exact for quantities.
[[nodiscard]] LimitText limit_text_of(NumberType type);

/// "1us to 10ms", "at least 1"; empty where there is no limit. The limits of the type int are no
/// news to anybody.
[[nodiscard]] std::string range_text(const Range& range, const LimitText& text);

/// A plain number as the limit of a range.
[[nodiscard]] std::string plain_number(double value);

/// "\"abc\" (string)", to say what was found.
[[nodiscard]] std::string type_phrase(const nlohmann::json& node);

// -- The same by C++ type, for the reader of field lists --------------------------------------

/// Throws std::invalid_argument as number_from_json does; exact.
template <class Number>
[[nodiscard]] Number number_from(const nlohmann::json& written);
template <>
std::int64_t number_from(const nlohmann::json& written);
template <>
double number_from(const nlohmann::json& written);
template <>
SimDuration number_from(const nlohmann::json& written);
template <>
Bytes number_from(const nlohmann::json& written);
template <>
Rate number_from(const nlohmann::json& written);
template <>
FlopRate number_from(const nlohmann::json& written);
template <>
Power number_from(const nlohmann::json& written);
template <>
Energy number_from(const nlohmann::json& written);

template <class Number>
[[nodiscard]] double base_units(Number number) {
  if constexpr (requires { number.per_second(); }) {
    return static_cast<double>(number.per_second());
  } else if constexpr (requires { number.count(); }) {
    return static_cast<double>(number.count());
  } else {
    return static_cast<double>(number);
  }
}

template <class Number>
[[nodiscard]] constexpr NumberType number_type() {
  if constexpr (std::is_same_v<Number, std::int64_t>) {
    return NumberType::integer;
  } else if constexpr (std::is_same_v<Number, double>) {
    return NumberType::real;
  } else if constexpr (std::is_same_v<Number, SimDuration>) {
    return NumberType::duration;
  } else if constexpr (std::is_same_v<Number, Bytes>) {
    return NumberType::bytes;
  } else if constexpr (std::is_same_v<Number, Rate>) {
    return NumberType::rate;
  } else if constexpr (std::is_same_v<Number, FlopRate>) {
    return NumberType::flop_rate;
  } else if constexpr (std::is_same_v<Number, Power>) {
    return NumberType::power;
  } else {
    static_assert(std::is_same_v<Number, Energy>, "no such type of number");
    return NumberType::energy;
  }
}

}  // namespace nearkv
