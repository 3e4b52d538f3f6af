#include "sim/core/config_numbers.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr double kLowestInt = std::numeric_limits<int>::min();
constexpr double kHighestInt = std::numeric_limits<int>::max();

/// The text of a quantity; `wanted` says what it must be.
std::string quantity_of(const json& written, std::string_view wanted) {
  if (!written.is_string()) {
    throw std::invalid_argument(
        fmt::format("is {}; must be {}, with its unit", type_phrase(written), wanted));
  }
  return written.get<std::string>();
}

template <class Quantity>
std::string quantity_text(double value) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const bool fits = value < static_cast<double>(kMost);  // which is 2^63, one more than kMost
  return format_exact(Quantity{fits ? static_cast<std::int64_t>(value) : kMost});
}

std::int64_t whole(double base_units) {
  const double rounded = std::round(base_units);
  check(std::abs(rounded) < static_cast<double>(std::numeric_limits<std::int64_t>::max()),
        "a number does not fit 64 bits");
  return static_cast<std::int64_t>(rounded);
}

/// Calls `work` with a value-initialised number of the type.
template <class Work>
auto with_type(NumberType type, Work work) {
  switch (type) {
    case NumberType::integer:
      return work(std::int64_t{});
    case NumberType::real:
      return work(double{});
    case NumberType::duration:
      return work(SimDuration{});
    case NumberType::bytes:
      return work(Bytes{});
    case NumberType::rate:
      return work(Rate{});
    case NumberType::flop_rate:
      return work(FlopRate{});
    case NumberType::power:
      return work(Power{});
    case NumberType::energy:
      break;
  }
  return work(Energy{});
}

}  // namespace

std::string type_phrase(const json& node) {
  return node.is_null() ? "null" : fmt::format("{} ({})", printable(node.dump()), node.type_name());
}

std::string plain_number(double value) { return fmt::format("{}", value); }

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

LimitText limit_text_of(NumberType type) {
  return with_type(type, [](auto example) -> LimitText {
    using Number = decltype(example);
    if constexpr (std::is_arithmetic_v<Number>) {
      return plain_number;
    } else {
      return quantity_text<Number>;
    }
  });
}

json number_as_json(NumberType type, double base_units) {
  return with_type(type, [base_units](auto example) -> json {
    using Number = decltype(example);
    if constexpr (std::is_same_v<Number, double>) {
      return base_units;
    } else if constexpr (std::is_same_v<Number, std::int64_t>) {
      return whole(base_units);
    } else {
      return format_exact(Number{whole(base_units)});
    }
  });
}

double number_from_json(NumberType type, const json& written) {
  return with_type(type, [&written](auto example) {
    return nearkv::base_units(number_from<decltype(example)>(written));
  });
}

double si_units_of(NumberType type) {
  constexpr double kMicro = 1e-6;
  constexpr double kPico = 1e-12;
  switch (type) {
    case NumberType::duration:
    case NumberType::energy:
      return kPico;
    case NumberType::power:
      return kMicro;
    default:
      return 1;
  }
}

std::string_view si_unit_name(NumberType type) {
  switch (type) {
    case NumberType::integer:
    case NumberType::real:
      break;
    case NumberType::duration:
      return "s";
    case NumberType::bytes:
      return "B";
    case NumberType::rate:
      return "B/s";
    case NumberType::flop_rate:
      return "FLOP/s";
    case NumberType::power:
      return "W";
    case NumberType::energy:
      return "J";
  }
  return "1";
}

template <>
std::int64_t number_from(const json& written) {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!written.is_number_integer()) {
    throw std::invalid_argument(fmt::format(
        "is {}; must be a whole number, without point or exponent", type_phrase(written)));
  }
  if (written.is_number_unsigned() && written.get<std::uint64_t>() > kMost) {
    throw std::invalid_argument(
        fmt::format("{} is out of range; must be at most {}", written.dump(), kMost));
  }
  return written.get<std::int64_t>();
}
template <>
double number_from(const json& written) {
  if (!written.is_number()) {
    throw std::invalid_argument(fmt::format("is {}; must be a number", type_phrase(written)));
  }
  return written.get<double>();
}
template <>
SimDuration number_from(const json& written) {
  return parse_duration(quantity_of(written, "a duration such as \"50us\""));
}
template <>
Bytes number_from(const json& written) {
  return parse_bytes(quantity_of(written, "a size such as \"4KiB\""));
}
template <>
Rate number_from(const json& written) {
  return parse_rate(quantity_of(written, "a data rate such as \"1.4GB/s\""));
}
template <>
FlopRate number_from(const json& written) {
  return parse_flop_rate(quantity_of(written, "a compute rate such as \"12.7GFLOP/s\""));
}
template <>
Power number_from(const json& written) {
  return parse_power(quantity_of(written, "a power such as \"300W\""));
}
template <>
Energy number_from(const json& written) {
  return parse_energy(quantity_of(written, "an energy such as \"60uJ\""));
}

}  // namespace nearkv
