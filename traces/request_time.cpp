#include "traces/request_time.hpp"

#include <charconv>
#include <chrono>
#include <cmath>
#include <system_error>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv::traces {

namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 62;

std::int64_t power_of_ten(int exponent) {
  std::int64_t power = 1;
  for (int i = 0; i < exponent; ++i) {
    power *= 10;
  }
  return power;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// A number with an exponent.
std::optional<std::int64_t> through_double(std::string_view number, std::int64_t unit) {
  double value = 0;
  const auto [rest, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  const double scaled = value * static_cast<double>(unit);
  if (error != std::errc{} || rest != number.data() + number.size() ||
      !(scaled >= 0 && scaled < static_cast<double>(kMost))) {
    return std::nullopt;
  }
  return std::llround(scaled);
}

/// Digits behind the point as a number of `places` digits, rounded to the nearest.
std::optional<std::int64_t> fraction_of(std::string_view digits, int places) {
  std::int64_t value = 0;
  int place = 0;
  for (const char c : digits) {
    if (!is_digit(c)) {
      return std::nullopt;
    }
    if (place < places) {
      value = value * 10 + (c - '0');
    } else if (place == places && c >= '5') {
      ++value;
    }
    ++place;
  }
  return place < places ? value * power_of_ten(places - place) : value;
}

/// Takes `digits` digits and the character behind them off the text.
std::optional<int> take(std::string_view& text, std::size_t digits, char behind) {
  if (text.size() <= digits || text[digits] != behind) {
    return std::nullopt;
  }
  int value = 0;
  for (const char c : text.substr(0, digits)) {
    if (!is_digit(c)) {
      return std::nullopt;
    }
    value = value * 10 + (c - '0');
  }
  text.remove_prefix(digits + 1);
  return value;
}

}  // namespace

std::optional<std::int64_t> nanoseconds_of(std::string_view number, int places) {
  const std::int64_t unit = power_of_ten(places);
  if (number.empty() || !is_digit(number.front())) {
    return std::nullopt;  // from_chars would take a sign, "inf" and "nan"
  }
  if (number.find_first_of("eE") != std::string_view::npos) {
    return through_double(number, unit);
  }
  const std::size_t point = number.find('.');
  const std::string_view whole_digits = number.substr(0, point);
  std::int64_t whole = 0;
  const char* const end = whole_digits.data() + whole_digits.size();
  const auto [rest, error] = std::from_chars(whole_digits.data(), end, whole);
  if (error != std::errc{} || rest != end || whole >= kMost / unit) {
    return std::nullopt;
  }
  const auto fraction = fraction_of(
      point == std::string_view::npos ? std::string_view{} : number.substr(point + 1), places);
  if (!fraction.has_value()) {
    return std::nullopt;
  }
  return whole * unit + *fraction;
}

std::optional<std::int64_t> nanoseconds_of_date(std::string_view text) {
  using std::chrono::year_month_day;
  for (const std::string_view zone : {"Z", "+00:00"}) {
    if (text.ends_with(zone)) {
      text.remove_suffix(zone.size());
      break;
    }
  }
  const auto year = take(text, 4, '-');
  const auto month = take(text, 2, '-');
  const auto day = take(text, 2, text.size() > 2 && text[2] == 'T' ? 'T' : ' ');
  const auto hour = take(text, 2, ':');
  const auto minute = take(text, 2, ':');
  if (!year || !month || !day || !hour || !minute) {
    return std::nullopt;
  }
  const year_month_day date{std::chrono::year{*year},
                            std::chrono::month{static_cast<unsigned>(*month)},
                            std::chrono::day{static_cast<unsigned>(*day)}};
  constexpr int kFirstYear = 1970;
  constexpr int kLastYear = 2100;  // 2^62 ns after 1970 is 2116
  constexpr std::size_t kLongestSecond = 3 + kPlacesOfSecond;
  constexpr std::int64_t kSecond = 1'000'000'000;
  const auto second = nanoseconds_of(text, kPlacesOfSecond);
  if (!date.ok() || *year < kFirstYear || *year > kLastYear || *hour > 23 || *minute > 59 ||
      text.size() > kLongestSecond || !second || *second >= 60 * kSecond) {
    return std::nullopt;
  }
  const std::int64_t days = std::chrono::sys_days{date}.time_since_epoch().count();
  return ((days * 24 + *hour) * 60 + *minute) * 60 * kSecond + *second;
}

std::string decimal_of(std::int64_t nanoseconds, int places) {
  check(nanoseconds >= 0, "a negative time of a request");
  const std::int64_t unit = power_of_ten(places);
  std::string text = fmt::format("{}.{:0{}}", nanoseconds / unit, nanoseconds % unit, places);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') {
    text.pop_back();
  }
  return text;
}

std::string date_of(std::int64_t nanoseconds) {
  const std::chrono::sys_time<std::chrono::nanoseconds> time{std::chrono::nanoseconds{nanoseconds}};
  const auto midnight = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date{midnight};
  const std::chrono::hh_mm_ss clock{time - midnight};
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:09}", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count(),
                     clock.subseconds().count());
}

}  // namespace nearkv::traces
