// Simulated time, sizes, rates, power and energy as types: a bare number converts to none of them.
//
// Time is integer picoseconds, sizes are integer bytes, rates are integer bytes (or FLOP) a
// second, power is integer microwatts, energy integer picojoules. Every division rounds up to the
// next picosecond: late, never early.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <limits>
#include <ratio>
#include <string>
#include <string_view>

#include "sim/core/check.hpp"

namespace nearkv {

__extension__ typedef __int128 Int128;  // a product of two 64-bit quantities

/// A span of simulated time: integer picoseconds, up to 106 days.
using SimDuration = std::chrono::duration<std::int64_t, std::pico>;

/// The simulated clock; only its types are used, the engine holds the time.
struct SimClock {
  using duration = SimDuration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<SimClock>;
  static constexpr bool is_steady = true;
};

/// A point of simulated time; SimTime{} is the start of the run.
using SimTime = SimClock::time_point;

/// The longest that is simulated, and the longest that anything takes: twice of it is still a
/// SimTime, so that a start before the end and a duration can be added.
inline constexpr SimDuration kLongestRun = std::chrono::hours(24 * 50);  // unit: hours, 50 days

/// Throws ConfigError: something of the run takes longer than kLongestRun.
[[noreturn]] void throw_too_long();

/// Of what begins at `at`.
constexpr void require_before_end(SimTime at) {
  if (at.time_since_epoch() > kLongestRun) [[unlikely]] {
    throw_too_long();
  }
}

inline constexpr SimTime kNever{SimDuration{std::numeric_limits<std::int64_t>::max()}};

[[nodiscard]] constexpr double to_seconds(SimDuration d) {
  return static_cast<double>(d.count()) / 1e12;
}
[[nodiscard]] constexpr double to_seconds(SimTime t) { return to_seconds(t.time_since_epoch()); }

/// An integer amount of something; the tag keeps bytes and FLOP apart.
template <class Tag>
class Amount {
 public:
  constexpr Amount() = default;
  explicit constexpr Amount(std::int64_t count) : count_(count) {}

  [[nodiscard]] constexpr std::int64_t count() const { return count_; }
  constexpr auto operator<=>(const Amount&) const = default;

  constexpr Amount& operator+=(Amount o) {
    count_ += o.count_;
    return *this;
  }
  constexpr Amount& operator-=(Amount o) {
    count_ -= o.count_;
    return *this;
  }
  friend constexpr Amount operator+(Amount a, Amount b) { return Amount{a.count_ + b.count_}; }
  friend constexpr Amount operator-(Amount a, Amount b) { return Amount{a.count_ - b.count_}; }
  friend constexpr Amount operator*(Amount a, std::int64_t n) { return Amount{a.count_ * n}; }
  friend constexpr Amount operator*(std::int64_t n, Amount a) { return a * n; }
  friend constexpr Amount operator/(Amount a, std::int64_t n) { return Amount{a.count_ / n}; }
  friend constexpr std::int64_t operator/(Amount a, Amount b) { return a.count_ / b.count_; }

 private:
  std::int64_t count_ = 0;
};

/// An amount a second, as an integer.
template <class Tag>
class AmountRate {
 public:
  constexpr AmountRate() = default;
  explicit constexpr AmountRate(std::int64_t per_second) : per_second_(per_second) {}

  [[nodiscard]] constexpr std::int64_t per_second() const { return per_second_; }
  constexpr auto operator<=>(const AmountRate&) const = default;
  friend constexpr AmountRate operator*(AmountRate r, std::int64_t n) {
    return AmountRate{r.per_second_ * n};
  }

 private:
  std::int64_t per_second_ = 0;
};

using Bytes = Amount<struct ByteTag>;
using Flops = Amount<struct FlopTag>;
using Rate = AmountRate<struct ByteTag>;      // bytes a second
using FlopRate = AmountRate<struct FlopTag>;  // floating-point operations a second
using Power = Amount<struct PowerTag>;        // microwatts
using Energy = Amount<struct EnergyTag>;      // picojoules, up to 9.2 MJ

[[nodiscard]] constexpr double to_watts(Power p) { return static_cast<double>(p.count()) / 1e6; }
[[nodiscard]] constexpr double to_joules(Energy e) { return static_cast<double>(e.count()) / 1e12; }

/// Scales a rate by a dimensionless factor >= 0 such as an efficiency; rounds down (late). Check
/// fails when the result is no rate.
template <class Tag>
[[nodiscard]] constexpr AmountRate<Tag> scaled(AmountRate<Tag> rate, double factor) {
  constexpr double kTwoTo63 = 9223372036854775808.0;
  const double product = static_cast<double>(rate.per_second()) * factor;
  check(product >= 0 && product < kTwoTo63, "a rate was scaled to what is no rate");
  return AmountRate<Tag>{static_cast<std::int64_t>(product)};
}

/// Time to move `amount` >= 0 at `rate` > 0, rounded up to 1 ps. Throws ConfigError above
/// kLongestRun.
template <class Tag>
[[nodiscard]] constexpr SimDuration time_for(Amount<Tag> amount, AmountRate<Tag> rate) {
  constexpr std::int64_t kPicosecondsPerSecond = 1'000'000'000'000;
  check(amount.count() >= 0 && rate.per_second() > 0, "a time for a negative amount or zero rate");
  const auto product = static_cast<Int128>(amount.count()) * kPicosecondsPerSecond;
  const auto divisor = static_cast<Int128>(rate.per_second());
  const Int128 picoseconds = (product + divisor - 1) / divisor;
  if (picoseconds > kLongestRun.count()) [[unlikely]] {
    throw_too_long();
  }
  return SimDuration{static_cast<std::int64_t>(picoseconds)};
}

/// Integer division that rounds up; b > 0, a >= 0.
[[nodiscard]] constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return a / b + (a % b == 0 ? 0 : 1);
}

inline namespace literals {
constexpr Bytes operator""_B(unsigned long long n) { return Bytes{static_cast<std::int64_t>(n)}; }
constexpr Bytes operator""_KiB(unsigned long long n) {
  return Bytes{static_cast<std::int64_t>(n) << 10};
}
constexpr Bytes operator""_MiB(unsigned long long n) {
  return Bytes{static_cast<std::int64_t>(n) << 20};
}
constexpr Bytes operator""_GiB(unsigned long long n) {
  return Bytes{static_cast<std::int64_t>(n) << 30};
}
constexpr SimDuration operator""_ps(unsigned long long n) {
  return SimDuration{static_cast<std::int64_t>(n)};
}
constexpr Rate operator""_MBps(unsigned long long n) {
  return Rate{static_cast<std::int64_t>(n) * 1'000'000};
}
constexpr Power operator""_W(unsigned long long n) {
  return Power{static_cast<std::int64_t>(n) * 1'000'000};
}
constexpr Energy operator""_uJ(unsigned long long n) {
  return Energy{static_cast<std::int64_t>(n) * 1'000'000};
}
}  // namespace literals

// Quantity strings of the configs: a decimal number and a unit without a space. Parsing is exact
// in decimal (no floating point); what is finer than the base unit is rounded up for durations
// and refused for all else. The parsers throw std::invalid_argument with one line that says
// what would have been right; the config reader puts the JSON path before it.

/// "50us"; units ps, ns, us, ms, s, min, h. Negative durations are refused.
[[nodiscard]] SimDuration parse_duration(std::string_view text);
/// "4KiB"; units B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024).
[[nodiscard]] Bytes parse_bytes(std::string_view text);
/// "1.4GB/s"; the units of parse_bytes followed by /s.
[[nodiscard]] Rate parse_rate(std::string_view text);
/// "12.7GFLOP/s"; units FLOP/s, KFLOP/s, MFLOP/s, GFLOP/s, TFLOP/s, PFLOP/s.
[[nodiscard]] FlopRate parse_flop_rate(std::string_view text);
/// "300W"; units uW, mW, W, kW.
[[nodiscard]] Power parse_power(std::string_view text);
/// "60uJ"; units pJ, nJ, uJ, mJ, J.
[[nodiscard]] Energy parse_energy(std::string_view text);

/// Shortest exact text that the parsers read back to the same value ("50us", "4KiB").
[[nodiscard]] std::string format_exact(SimDuration value);
[[nodiscard]] std::string format_exact(Bytes value);
[[nodiscard]] std::string format_exact(Rate value);
[[nodiscard]] std::string format_exact(FlopRate value);
[[nodiscard]] std::string format_exact(Power value);
[[nodiscard]] std::string format_exact(Energy value);

/// Text for people: four significant digits, no exponent ("1.342 GB", "7.66 GB/s", "18.3 ms").
[[nodiscard]] std::string format_short(SimDuration value);
[[nodiscard]] std::string format_short(Bytes value);
[[nodiscard]] std::string format_short(Rate value);
[[nodiscard]] std::string format_short(FlopRate value);

}  // namespace nearkv
