#include "kernels/half.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

#include <doctest/doctest.h>

using namespace nearkv::kernels;

namespace {

/// The value of a finite half straight from the definition of binary16.
double defined_value(std::uint32_t half) {
  const int exponent = static_cast<int>((half >> 10) & 31U);
  const double mantissa = half & 1023U;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024.0 + mantissa, exponent - 25);
  return (half & 0x8000U) != 0 ? -magnitude : magnitude;
}

std::uint16_t bits(std::uint32_t value) { return static_cast<std::uint16_t>(value); }

}  // namespace

TEST_CASE("half: every bit pattern has its defined value and comes back") {
  for (std::uint32_t half = 0; half < 0x10000U; ++half) {
    if ((half & 0x7c00U) == 0x7c00U) continue;
    const float value = half_to_float(bits(half));
    REQUIRE(static_cast<double>(value) == defined_value(half));
    REQUIRE(finite_half_to_float(bits(half)) == value);
    REQUIRE(float_to_half(value) == half);
  }
  CHECK(std::isinf(half_to_float(0x7c00)));
  CHECK(half_to_float(0xfc00) < 0.0F);
  CHECK(std::isnan(half_to_float(0x7e00)));
  CHECK(half_to_float(0x7bff) == half_max);
}

TEST_CASE("half: between two halves the nearer one wins, a tie goes to the even one") {
  for (std::uint32_t half = 0; half < 0x7bffU; ++half) {
    const double low = defined_value(half);
    const double high = defined_value(half + 1);
    // Exact in float: half-way points need one mantissa bit more than a half has.
    const auto middle = static_cast<float>((low + high) / 2.0);
    const std::uint32_t even = half + (half & 1U);
    REQUIRE(float_to_half(middle) == even);
    REQUIRE(float_to_half(std::nextafterf(middle, 0.0F)) == half);
    REQUIRE(float_to_half(std::nextafterf(middle, half_max)) == half + 1);
    REQUIRE(float_to_half(-middle) == (even | 0x8000U));
  }
}

TEST_CASE("half: overflow, zero signs and NaN") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(float_to_half(65519.996F) == 0x7bff);
  CHECK(float_to_half(65520.0F) == 0x7c00);
  CHECK(float_to_half(std::numeric_limits<float>::max()) == 0x7c00);
  CHECK(float_to_half(infinity) == 0x7c00);
  CHECK(float_to_half(-infinity) == 0xfc00);
  CHECK(float_to_half(0.0F) == 0);
  CHECK(float_to_half(-0.0F) == 0x8000);
  CHECK(float_to_half(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(std::isnan(half_to_float(float_to_half(std::numeric_limits<float>::quiet_NaN()))));
}
