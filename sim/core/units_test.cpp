#include "sim/core/units.hpp"

#include <chrono>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

// A bare number is no quantity, and quantities of different kinds do not mix.
static_assert(!std::is_convertible_v<int, Bytes>);
static_assert(!std::is_convertible_v<std::int64_t, Bytes>);
static_assert(!std::is_convertible_v<std::int64_t, Rate>);
static_assert(!std::is_convertible_v<std::int64_t, FlopRate>);
static_assert(!std::is_convertible_v<int, SimDuration>);
static_assert(!std::is_convertible_v<double, SimDuration>);
static_assert(!std::is_convertible_v<SimDuration, SimTime>);
static_assert(!std::is_convertible_v<SimTime, SimDuration>);
static_assert(!std::is_constructible_v<Bytes, Flops>);
static_assert(!std::is_constructible_v<Power, Energy>);
static_assert(!std::is_convertible_v<int, Power>);
static_assert(!std::is_constructible_v<Rate, FlopRate>);
static_assert(!std::is_convertible_v<Bytes, std::int64_t>);
static_assert(!std::is_convertible_v<Rate, double>);
// What lies between whole picoseconds is not rounded silently.
static_assert(!std::is_convertible_v<std::chrono::duration<double>, SimDuration>);
static_assert(!std::is_convertible_v<std::chrono::duration<std::int64_t, std::femto>, SimDuration>);
static_assert(std::is_convertible_v<std::chrono::microseconds, SimDuration>);

template <class A, class B>
concept Adds = requires(A a, B b) {
  a + b;
};
template <class A, class B>
concept TakesTime = requires(A a, B b) {
  time_for(a, b);
};
static_assert(Adds<Bytes, Bytes> && !Adds<Bytes, Flops> && !Adds<Bytes, int>);
static_assert(TakesTime<Bytes, Rate> && TakesTime<Flops, FlopRate>);
static_assert(!TakesTime<Bytes, FlopRate> && !TakesTime<Flops, Rate> && !TakesTime<int, Rate>);

static_assert(time_for(1_B, Rate{1'000'000'000}) == 1ns);
static_assert(1_KiB == 1024_B && 1_MiB == 1024_KiB && 1_GiB == 1024_MiB);
static_assert(to_watts(300_W) == 300 && to_joules(60_uJ) == 60e-6);
static_assert(3_MBps == Rate{3'000'000} && 5_ps * 1000 == 5ns);

/// The message of the exception that parsing `text` throws, or "" when it is read.
template <class Parser>
std::string refusal(Parser parse, const std::string& text) {
  try {
    static_cast<void>(parse(text));
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

std::string duration_refusal(const std::string& text) { return refusal(parse_duration, text); }

}  // namespace

TEST_CASE("units: quantity strings are read exactly") {
  CHECK(parse_duration("50us") == 50us);
  CHECK(parse_duration("0ps") == 0_ps);
  CHECK(parse_duration("1.5ns") == 1500_ps);
  CHECK(parse_duration("0.000001s") == 1us);
  CHECK(parse_duration("007ms") == 7ms);
  CHECK(parse_duration("2.50min") == 150s);
  CHECK(parse_duration("24h") == 86'400s);
  CHECK(parse_bytes("4KiB") == 4096_B);
  CHECK(parse_bytes("4KB") == 4000_B);
  CHECK(parse_bytes("1.5KiB") == 1536_B);
  CHECK(parse_bytes("2TiB") == 2048_GiB);
  CHECK(parse_rate("1.4GB/s") == Rate{1'400'000'000});
  CHECK(parse_rate("0.5GiB/s") == Rate{1 << 29});
  CHECK(parse_flop_rate("12.7GFLOP/s") == FlopRate{12'700'000'000});
  CHECK(parse_flop_rate("1PFLOP/s") == FlopRate{1'000'000'000'000'000});
  CHECK(parse_power("300W") == 300_W);
  CHECK(parse_power("0.035W") == Power{35'000});
  CHECK(parse_power("1.2kW") == 1200_W);
  CHECK(parse_energy("60uJ") == 60_uJ);
  CHECK(parse_energy("1.5nJ") == Energy{1500});
  CHECK(parse_energy("2J") == 2'000'000_uJ);
}

TEST_CASE("units: durations round up to 1 ps, sizes and rates refuse what is not whole") {
  CHECK(parse_duration("0.1ps") == 1_ps);
  CHECK(parse_duration("0.0000000000001s") == 1_ps);
  CHECK(parse_duration("1.0001ns") == 1001_ps);
  CHECK(parse_duration("1.000ns") == 1000_ps);
  CHECK(parse_duration("3.3333333333333s") == SimDuration{3'333'333'333'334});
  CHECK(refusal(parse_bytes, "1.5B") ==
        "\"1.5B\" is not a whole number of B; write a size such as \"4KiB\" (units: B, KB, MB, GB, "
        "TB, KiB, MiB, GiB, TiB)");
  CHECK(refusal(parse_bytes, "0.3KiB").starts_with("\"0.3KiB\" is not a whole number of B;"));
  CHECK(refusal(parse_rate, "0.0001KB/s").starts_with("\"0.0001KB/s\" is not a whole number of"));
  CHECK(refusal(parse_power, "0.1uW").starts_with("\"0.1uW\" is not a whole number of uW;"));
}

TEST_CASE("units: each refusal says what would have been right") {
  const std::string wanted =
      "; write a duration such as \"50us\" (units: ps, ns, us, ms, s, min, h)";
  CHECK(duration_refusal("") == "\"\" does not start with a number" + wanted);
  CHECK(duration_refusal("us") == "\"us\" does not start with a number" + wanted);
  CHECK(duration_refusal(".5us") == "\".5us\" does not start with a number" + wanted);
  CHECK(duration_refusal(" 5us") == "\" 5us\" does not start with a number" + wanted);
  CHECK(duration_refusal("+5us") == "\"+5us\" does not start with a number" + wanted);
  CHECK(duration_refusal("-") == "\"-\" does not start with a number" + wanted);
  CHECK(duration_refusal("-5us") == "\"-5us\" is negative" + wanted);
  CHECK(duration_refusal("5.us") == "\"5.us\" has no digit after the point" + wanted);
  CHECK(duration_refusal("5.") == "\"5.\" has no digit after the point" + wanted);
  CHECK(duration_refusal("50") == "\"50\" has no unit" + wanted);
  CHECK(duration_refusal("5 us") == "\"5 us\" has a space before the unit" + wanted);
  CHECK(duration_refusal("5us ") == "\"5us \" has the unknown unit \"us \"" + wanted);
  CHECK(duration_refusal("5US") == "\"5US\" has the unknown unit \"US\"" + wanted);
  CHECK(duration_refusal("1.5.2us") == "\"1.5.2us\" has the unknown unit \".2us\"" + wanted);
  CHECK(duration_refusal("1e3us") == "\"1e3us\" has the unknown unit \"e3us\"" + wanted);
  CHECK(duration_refusal("1,5us") == "\"1,5us\" has the unknown unit \",5us\"" + wanted);
  CHECK(duration_refusal("12345678901234567890123ps") ==
        "\"12345678901234567890123ps\" has too many digits" + wanted);
  CHECK(duration_refusal("9223372036854775808ps") ==
        "\"9223372036854775808ps\" is too large" + wanted);
  CHECK(duration_refusal("2563h") == "\"2563h\" is too large" + wanted);
  // A value of the user's stays on its line, and a long one is cut.
  CHECK(duration_refusal("5us\nx\x01") ==
        R"("5us\nx\x01" has the unknown unit "us\nx\x01")" + wanted);
  CHECK(duration_refusal(std::string(5000, 'x')).size() < 250);
  // The unit of another quantity.
  CHECK(refusal(parse_rate, "1.4GB") ==
        "\"1.4GB\" has the unknown unit \"GB\"; write a data rate such as \"1.4GB/s\" (units: B/s, "
        "KB/s, MB/s, GB/s, TB/s, KiB/s, MiB/s, GiB/s, TiB/s)");
  CHECK(refusal(parse_flop_rate, "1GFLOPS") ==
        "\"1GFLOPS\" has the unknown unit \"GFLOPS\"; write a compute rate such as "
        "\"12.7GFLOP/s\" (units: FLOP/s, KFLOP/s, MFLOP/s, GFLOP/s, TFLOP/s, PFLOP/s)");
  CHECK(
      refusal(parse_bytes, "4kB").starts_with("\"4kB\" has the unknown unit \"kB\"; write a size"));
  CHECK(refusal(parse_power, "300") ==
        "\"300\" has no unit; write a power such as \"300W\" (units: uW, mW, W, kW)");
  CHECK(
      refusal(parse_energy, "1kWh") ==
      "\"1kWh\" has the unknown unit \"kWh\"; write an energy such as \"60uJ\" (units: pJ, nJ, uJ, "
      "mJ, J)");
}

TEST_CASE("units: the shortest exact text reads back to the same value") {
  CHECK(format_exact(SimDuration{0}) == "0ps");
  CHECK(format_exact(SimDuration{50us}) == "50us");
  CHECK(format_exact(SimDuration{1500_ps}) == "1.5ns");
  CHECK(format_exact(SimDuration{60s}) == "60s");
  CHECK(format_exact(SimDuration{2h}) == "2h");
  CHECK(format_exact(SimDuration{-1500_ps}) == "-1500ps");
  CHECK(format_exact(4096_B) == "4KiB");
  CHECK(format_exact(4000_B) == "4KB");
  CHECK(format_exact(Rate{1'400'000'000}) == "1.4GB/s");
  CHECK(format_exact(FlopRate{12'700'000'000}) == "12.7GFLOP/s");
  CHECK(format_exact(12'000_W) == "12kW");
  CHECK(format_exact(Energy{62'500'000}) == "62.5uJ");
  CHECK(format_exact(SimDuration{kMost}) == "9223372036854775807ps");

  std::vector<std::int64_t> values{0, 1, 999, 1000, 1001, 1023, 1024, 1025, kMost, kMost - 1};
  Rng rng{7, "sim/core/units_test"};
  for (int i = 0; i < 20'000; ++i) {
    const auto bits = static_cast<std::int64_t>(rng.next() >> (1 + rng.below(63)));
    // Round values as well: these are the ones that people write.
    std::int64_t round = 1 + static_cast<std::int64_t>(rng.below(9999));
    for (std::uint64_t zeros = rng.below(14); zeros > 0; --zeros) {
      round *= 10;
    }
    values.push_back(bits);
    values.push_back(round);
    values.push_back((bits >> 40) << rng.below(40));
  }
  for (const std::int64_t value : values) {
    REQUIRE(parse_duration(format_exact(SimDuration{value})) == SimDuration{value});
    REQUIRE(parse_bytes(format_exact(Bytes{value})) == Bytes{value});
    REQUIRE(parse_rate(format_exact(Rate{value})) == Rate{value});
    REQUIRE(parse_flop_rate(format_exact(FlopRate{value})) == FlopRate{value});
    REQUIRE(parse_power(format_exact(Power{value})) == Power{value});
    REQUIRE(parse_energy(format_exact(Energy{value})) == Energy{value});
  }
}

TEST_CASE("units: text for people has four digits and no exponent") {
  CHECK(format_short(SimDuration{0}) == "0 ps");
  CHECK(format_short(SimDuration{18'300us}) == "18.3 ms");
  CHECK(format_short(SimDuration{999'990_ps}) == "1000 ns");
  CHECK(format_short(SimDuration{90min}) == "5400 s");
  CHECK(format_short(SimDuration{20'000s}) == "20000 s");
  CHECK(format_short(SimDuration{-5us}) == "-5 us");
  CHECK(format_short(Bytes{1'342'177'280}) == "1.342 GB");
  CHECK(format_short(Bytes{123'456'789'012'345'678}) == "123457 TB");
  CHECK(format_short(Rate{7'660'000'000}) == "7.66 GB/s");
  CHECK(format_short(FlopRate{154'800'000'000'000}) == "154.8 TFLOP/s");
}

TEST_CASE("units: time for an amount rounds up, against exact integer arithmetic") {
  CHECK(time_for(0_B, Rate{1}) == 0_ps);
  CHECK(time_for(1_B, Rate{1}) == 1s);
  CHECK(time_for(1_B, Rate{3'000'000'000'000}) == 1_ps);         // a third of one
  CHECK(time_for(4096_B, Rate{1'400'000'000}) == 2'925'715_ps);  // 2925714.28...
  CHECK(time_for(Flops{1'000}, FlopRate{1'000'000'000}) == 1us);
  Rng rng{7, "sim/core/units_test/time_for"};
  for (int i = 0; i < 20'000; ++i) {
    const auto amount = static_cast<std::int64_t>(rng.below(1ULL << 45));
    const auto rate = static_cast<std::int64_t>(1'000'000'000 + rng.below(1ULL << 42));
    const Int128 time = time_for(Bytes{amount}, Rate{rate}).count();
    const Int128 moved_times_1e12 = static_cast<Int128>(amount) * 1'000'000'000'000;
    REQUIRE(time * rate >= moved_times_1e12);       // never early
    REQUIRE((time - 1) * rate < moved_times_1e12);  // and less than 1 ps late
  }
  CHECK_THROWS_AS(static_cast<void>(time_for(1_B, Rate{0})), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(time_for(Bytes{-1}, Rate{1})), CheckFailure);
  CHECK(time_for(Bytes{4'320'000}, Rate{1}) == kLongestRun);
  CHECK_THROWS_WITH_AS(static_cast<void>(time_for(Bytes{4'320'001}, Rate{1})),
                       "the run takes more than 50 days of simulated time; use fewer or shorter "
                       "sequences, or look for a rate that is too low",
                       ConfigError);
}

TEST_CASE("units: scaling a rate rounds down and refuses what is no rate") {
  CHECK(scaled(Rate{1'000}, 0.5) == Rate{500});
  CHECK(scaled(Rate{1'000}, 0.0009) == Rate{0});
  CHECK(scaled(Rate{999}, 0.5) == Rate{499});
  CHECK(scaled(FlopRate{1'000'000'007}, 1.0) == FlopRate{1'000'000'007});
  CHECK_THROWS_AS(static_cast<void>(scaled(Rate{1}, -0.5)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(scaled(Rate{kMost}, 1.5)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(scaled(Rate{1}, std::numeric_limits<double>::quiet_NaN())),
                  CheckFailure);
}

TEST_CASE("units: arithmetic of amounts") {
  CHECK(3_KiB + 1_KiB == 4_KiB);
  CHECK(3_KiB - 1_KiB == 2_KiB);
  CHECK(2 * 3_KiB == 6_KiB);
  CHECK(6_KiB / 4 == 1536_B);
  CHECK(10_KiB / 4_KiB == 2);
  CHECK(Rate{5} * 3 == Rate{15});
  CHECK(1_KiB < 1025_B);
  Bytes sum{};
  sum += 5_B;
  sum -= 2_B;
  CHECK(sum == 3_B);
  CHECK(ceil_div(0, 3) == 0);
  CHECK(ceil_div(6, 3) == 2);
  CHECK(ceil_div(7, 3) == 3);
  CHECK(ceil_div(kMost, kMost - 1) == 2);
  CHECK(to_seconds(SimDuration{1500ms}) == 1.5);
  CHECK(to_seconds(SimTime{} + 2s) == 2.0);
}
