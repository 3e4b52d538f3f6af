#include "sim/core/units.hpp"

#include <array>
#include <cmath>
#include <span>
#include <stdexcept>

#include <fmt/format.h>

namespace nearkv {

namespace {

struct Unit {
  std::string_view name;
  std::int64_t factor;  // base units in one of this unit
};

constexpr std::array kDurationUnits{
    Unit{"ps", 1},
    Unit{"ns", 1'000},
    Unit{"us", 1'000'000},
    Unit{"ms", 1'000'000'000},
    Unit{"s", 1'000'000'000'000},
    Unit{"min", 60'000'000'000'000},
    Unit{"h", 3'600'000'000'000'000},
};
constexpr std::array kByteUnits{
    Unit{"B", 1},
    Unit{"KB", 1'000},
    Unit{"MB", 1'000'000},
    Unit{"GB", 1'000'000'000},
    Unit{"TB", 1'000'000'000'000},
    Unit{"KiB", 1LL << 10},
    Unit{"MiB", 1LL << 20},
    Unit{"GiB", 1LL << 30},
    Unit{"TiB", 1LL << 40},
};
constexpr std::array kRateUnits{
    Unit{"B/s", 1},
    Unit{"KB/s", 1'000},
    Unit{"MB/s", 1'000'000},
    Unit{"GB/s", 1'000'000'000},
    Unit{"TB/s", 1'000'000'000'000},
    Unit{"KiB/s", 1LL << 10},
    Unit{"MiB/s", 1LL << 20},
    Unit{"GiB/s", 1LL << 30},
    Unit{"TiB/s", 1LL << 40},
};
constexpr std::array kFlopRateUnits{
    Unit{"FLOP/s", 1},
    Unit{"KFLOP/s", 1'000},
    Unit{"MFLOP/s", 1'000'000},
    Unit{"GFLOP/s", 1'000'000'000},
    Unit{"TFLOP/s", 1'000'000'000'000},
    Unit{"PFLOP/s", 1'000'000'000'000'000},
};
constexpr std::array kPowerUnits{
    Unit{"uW", 1},
    Unit{"mW", 1'000},
    Unit{"W", 1'000'000},
    Unit{"kW", 1'000'000'000},
};
constexpr std::array kEnergyUnits{
    Unit{"pJ", 1},
    Unit{"nJ", 1'000},
    Unit{"uJ", 1'000'000},
    Unit{"mJ", 1'000'000'000},
    Unit{"J", 1'000'000'000'000},
};

enum class Rounding { up, refuse };

struct QuantityKind {
  std::string_view noun;     // "a duration"
  std::string_view example;  // "50us"
  std::span<const Unit> units;
  Rounding rounding;
};

constexpr QuantityKind kDuration{"a duration", "50us", kDurationUnits, Rounding::up};
constexpr QuantityKind kBytes{"a size", "4KiB", kByteUnits, Rounding::refuse};
constexpr QuantityKind kRate{"a data rate", "1.4GB/s", kRateUnits, Rounding::refuse};
constexpr QuantityKind kFlopRate{"a compute rate", "12.7GFLOP/s", kFlopRateUnits, Rounding::refuse};
constexpr QuantityKind kPower{"a power", "300W", kPowerUnits, Rounding::refuse};
constexpr QuantityKind kEnergy{"an energy", "60uJ", kEnergyUnits, Rounding::refuse};

std::string unit_names(const QuantityKind& kind) {
  std::string names;
  for (const Unit& unit : kind.units) {
    names += (names.empty() ? "" : ", ");
    names += unit.name;
  }
  return names;
}

[[noreturn]] void refuse(const QuantityKind& kind, std::string_view text, std::string_view why) {
  throw std::invalid_argument(fmt::format("{} {}; write {} such as \"{}\" (units: {})",
                                          in_quotes(text), why, kind.noun, kind.example,
                                          unit_names(kind)));
}

/// A decimal number as mantissa / 10^decimals, and the text behind it.
struct Decimal {
  Int128 mantissa = 0;
  int decimals = 0;
  std::string_view rest;
};

Decimal split_decimal(const QuantityKind& kind, std::string_view text) {
  constexpr int kMostDigits = 22;  // times the largest unit it still is below 2^127
  Decimal number;
  bool in_fraction = false;
  int digits = 0;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '.' && !in_fraction && digits > 0) {
      in_fraction = true;
      continue;
    }
    if (c < '0' || c > '9') {
      break;
    }
    if (++digits > kMostDigits) {
      refuse(kind, text, "has too many digits");
    }
    number.mantissa = number.mantissa * 10 + (c - '0');
    number.decimals += in_fraction ? 1 : 0;
  }
  if (digits == 0) {
    const bool is_negative = text.size() > 1 && text[0] == '-' && text[1] >= '0' && text[1] <= '9';
    refuse(kind, text, is_negative ? "is negative" : "does not start with a number");
  }
  if (text[i - 1] == '.') {
    refuse(kind, text, "has no digit after the point");
  }
  number.rest = text.substr(i);
  return number;
}

std::int64_t parse_quantity(const QuantityKind& kind, std::string_view text) {
  const Decimal number = split_decimal(kind, text);
  if (number.rest.empty()) {
    refuse(kind, text, "has no unit");
  }
  if (number.rest.front() == ' ') {
    refuse(kind, text, "has a space before the unit");
  }
  const Unit* found = nullptr;
  for (const Unit& unit : kind.units) {
    if (unit.name == number.rest) {
      found = &unit;
    }
  }
  if (found == nullptr) {
    refuse(kind, text, fmt::format("has the unknown unit {}", in_quotes(number.rest)));
  }
  Int128 divisor = 1;
  for (int i = 0; i < number.decimals; ++i) {
    divisor *= 10;
  }
  const Int128 product = number.mantissa * found->factor;
  if (product % divisor != 0 && kind.rounding == Rounding::refuse) {
    refuse(kind, text, fmt::format("is not a whole number of {}", kind.units.front().name));
  }
  const Int128 value = (product + divisor - 1) / divisor;
  if (value > std::numeric_limits<std::int64_t>::max()) {
    refuse(kind, text, "is too large");
  }
  return static_cast<std::int64_t>(value);
}

/// The unit whose text is shortest: at most `kMostDecimals` decimals, all of them exact.
std::string format_quantity(const QuantityKind& kind, std::int64_t value) {
  constexpr int kMostDecimals = 3;
  if (value <= 0) {  // the parsers read no negative quantity, but a message may show one
    return fmt::format("{}{}", value, kind.units.front().name);
  }
  std::string best = fmt::format("{}{}", value, kind.units.front().name);
  for (const Unit& unit : kind.units) {
    std::int64_t scale = 1;
    for (int decimals = 0; decimals <= kMostDecimals; ++decimals, scale *= 10) {
      const Int128 scaled = static_cast<Int128>(value) * scale;
      if (scaled % unit.factor != 0) {
        continue;
      }
      const auto digits = static_cast<std::int64_t>(scaled / unit.factor);
      std::string text = fmt::format("{}", digits / scale);
      if (decimals > 0) {
        text += fmt::format(".{:0{}}", digits % scale, decimals);
      }
      text += unit.name;
      if (text.size() < best.size()) {
        best = text;
      }
      break;
    }
  }
  return best;
}

std::string format_scaled(double value, std::span<const Unit> units) {
  const Unit* chosen = &units.front();
  for (const Unit& unit : units) {
    if (std::abs(value) >= static_cast<double>(unit.factor)) {
      chosen = &unit;
    }
  }
  constexpr double kFourDigits = 1000;
  const double number = value / static_cast<double>(chosen->factor);
  return std::abs(number) < kFourDigits ? fmt::format("{:.4g} {}", number, chosen->name)
                                        : fmt::format("{:.0f} {}", number, chosen->name);
}

// Only powers of 1000 for people, and no minutes or hours.
constexpr std::size_t kDecimalByteUnits = 5;
constexpr std::size_t kDurationUnitsUpToSeconds = 5;

}  // namespace

void throw_too_long() {
  throw ConfigError(
      "the run takes more than 50 days of simulated time; use fewer or shorter sequences, or look "
      "for a rate that is too low");
}

SimDuration parse_duration(std::string_view text) {
  return SimDuration{parse_quantity(kDuration, text)};
}
Bytes parse_bytes(std::string_view text) { return Bytes{parse_quantity(kBytes, text)}; }
Rate parse_rate(std::string_view text) { return Rate{parse_quantity(kRate, text)}; }
FlopRate parse_flop_rate(std::string_view text) {
  return FlopRate{parse_quantity(kFlopRate, text)};
}
Power parse_power(std::string_view text) { return Power{parse_quantity(kPower, text)}; }
Energy parse_energy(std::string_view text) { return Energy{parse_quantity(kEnergy, text)}; }

std::string format_exact(SimDuration value) { return format_quantity(kDuration, value.count()); }
std::string format_exact(Bytes value) { return format_quantity(kBytes, value.count()); }
std::string format_exact(Rate value) { return format_quantity(kRate, value.per_second()); }
std::string format_exact(FlopRate value) { return format_quantity(kFlopRate, value.per_second()); }
std::string format_exact(Power value) { return format_quantity(kPower, value.count()); }
std::string format_exact(Energy value) { return format_quantity(kEnergy, value.count()); }

std::string format_short(SimDuration value) {
  return format_scaled(static_cast<double>(value.count()),
                       std::span{kDurationUnits}.first(kDurationUnitsUpToSeconds));
}
std::string format_short(Bytes value) {
  return format_scaled(static_cast<double>(value.count()),
                       std::span{kByteUnits}.first(kDecimalByteUnits));
}
std::string format_short(Rate value) {
  return format_scaled(static_cast<double>(value.per_second()),
                       std::span{kRateUnits}.first(kDecimalByteUnits));
}
std::string format_short(FlopRate value) {
  return format_scaled(static_cast<double>(value.per_second()), kFlopRateUnits);
}

}  // namespace nearkv
