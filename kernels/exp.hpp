// The exponential of softmax: float, arguments at most 0, from + - * only, so that it vectorises
// and gives the same bits on every machine.
#pragma once

#include <bit>
#include <cstdint>

namespace nearkv::kernels {

/// e^x for x <= 0, at most 2 ulp from the exact value; 0 below -87 (the result would be subnormal)
/// and for -infinity. Cody-Waite reduction and the polynomial of Cephes' expf (Moshier).
inline float exp_nonpositive(float x) {
  const float clamped = x < -87.0F ? -87.0F : x;
  // Adding 1.5 * 2^23 rounds to an integer in the low mantissa bits.
  const float shifted = clamped * 1.44269504F + 0x1.8p23F;
  const float n = shifted - 0x1.8p23F;
  const float r = (clamped - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float mantissa = p * (r * r) + r + 1.0F;
  // Add n to the exponent; the low bits of `shifted` are n, its high bits shift out.
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) << 23;
  const float result = std::bit_cast<float>(std::bit_cast<std::uint32_t>(mantissa) + exponent);
  return x < -87.0F ? 0.0F : result;
}

}  // namespace nearkv::kernels
