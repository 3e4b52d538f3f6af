// The times of request traces: decimal numbers and dates, as whole nanoseconds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nearkv::traces {

/// Decimal places that a nanosecond has in a second and in a millisecond.
inline constexpr int kPlacesOfSecond = 9;
inline constexpr int kPlacesOfMillisecond = 6;

/// Nanoseconds of a decimal number >= 0, rounded to the nearest; `places` is that of its unit. A
/// number with an exponent ("1e-05") goes through a double. Nothing for what is no such number or
/// is 2^62 or more.
[[nodiscard]] std::optional<std::int64_t> nanoseconds_of(std::string_view number, int places);

/// Nanoseconds since 1970 of "2023-11-16 18:17:03.9799600", with up to nine decimal places, and
/// perhaps with "Z" or "+00:00" behind. Nothing for what is no such date.
[[nodiscard]] std::optional<std::int64_t> nanoseconds_of_date(std::string_view text);

/// The shortest decimal number that nanoseconds_of() reads back.
[[nodiscard]] std::string decimal_of(std::int64_t nanoseconds, int places);
/// The date with nine decimal places.
[[nodiscard]] std::string date_of(std::int64_t nanoseconds);

}  // namespace nearkv::traces
