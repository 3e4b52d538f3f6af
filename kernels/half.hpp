// IEEE 754 binary16 ("half", FP16) as bits, without hardware support: plain integer and float
// arithmetic that compilers vectorise and that gives the same bits on every machine.
#pragma once

#include <bit>
#include <cstdint>

namespace nearkv::kernels {

/// The largest finite half.
inline constexpr float half_max = 65504.0F;

/// Rounds to the nearest half, ties to even, as the conversion instructions do. |x| >= 65520 gives
/// infinity; NaN gives a NaN.
constexpr std::uint16_t float_to_half(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  // Normal halves: move the exponent bias from 127 to 15, then round away the low 13 bits to even;
  // a carry out of the mantissa raises the exponent, up to infinity, as it should.
  const std::uint32_t rebiased = magnitude - ((127U - 15U) << 23);
  std::uint32_t half = (rebiased + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
  // Subnormal halves: adding 0.5 lets the float adder round to multiples of 2^-24, to even.
  const float aligned = std::bit_cast<float>(magnitude < 0x38800000U ? magnitude : 0U) + 0.5F;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(aligned) - 0x3f000000U;
  half = magnitude < 0x38800000U ? subnormal : half;
  half = magnitude >= 0x47800000U ? 0x7c00U : half;  // 65536 and above, and infinity
  half = magnitude > 0x7f800000U ? 0x7e00U : half;   // NaN
  return static_cast<std::uint16_t>(half | sign);
}

/// Exact for every finite half, subnormals included. Page images hold finite halves only; for
/// infinity and NaN use half_to_float.
constexpr float finite_half_to_float(std::uint16_t half) {
  const std::uint32_t magnitude = (half & 0x7fffU) << 13;
  // The exponent field now counts from 2^-127 instead of 2^-15: one exact product mends it.
  const float value = std::bit_cast<float>(magnitude) * 0x1.0p112F;
  const std::uint32_t sign = (half & 0x8000U) << 16;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

/// Exact for every half.
constexpr float half_to_float(std::uint16_t half) {
  if ((half & 0x7c00U) != 0x7c00U) return finite_half_to_float(half);
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t mantissa = (half & 0x3ffU) << 13;
  return std::bit_cast<float>(sign | 0x7f800000U | mantissa);
}

}  // namespace nearkv::kernels
