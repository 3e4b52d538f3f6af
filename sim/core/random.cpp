#include "sim/core/random.hpp"

#include <bit>
#include <stdexcept>

namespace nearkv {
namespace {

constexpr double ln2_high = 0x1.62e42fee00000p-1;  // 33 bits: k * ln2_high is exact
constexpr double ln2_low = 0x1.a39ef35793c76p-33;
constexpr int exponent_bias = 1023;
constexpr int mantissa_bits = 52;

constexpr double log_normal_number(double x) {
  auto bits = std::bit_cast<std::uint64_t>(x);
  int exponent = static_cast<int>(bits >> mantissa_bits) - exponent_bias;
  bits = (bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL;
  double mantissa = std::bit_cast<double>(bits);
  if (mantissa > 0x1.6a09e667f3bcdp+0) {  // sqrt(2): keeps the series argument below 0.172
    mantissa *= 0.5;
    ++exponent;
  }
  // log(m) = 2 artanh(s), s = (m - 1) / (m + 1); with f = m - 1 it is f - s * (f - 2 * series),
  // which keeps the leading term exact (the form of fdlibm's e_log.c).
  const double f = mantissa - 1.0;
  const double s = f / (2.0 + f);
  const double s2 = s * s;
  double series = 0.0;
  for (int n = 23; n >= 3; n -= 2) {
    series = (series + 1.0 / n) * s2;
  }
  const double e = exponent;
  const double tail = s * (f - 2.0 * series) - e * ln2_low;
  return e * ln2_high - (tail - f);
}

constexpr double exp_in_range(double x) {
  const double scaled = x * 0x1.71547652b82fep+0;
  const int k = static_cast<int>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  const double high = x - k * ln2_high;
  const double low = k * ln2_low;
  const double r = high - low;
  // Taylor series of e^r - 1 - r for |r| <= ln(2) / 2; the last term is below 2^-60.
  double series = 0.0;
  for (int n = 14; n >= 2; --n) {
    series = (series + 1.0) * r / n;
  }
  const double mantissa = 1.0 + (high - (low - r * series));
  // Two factors, so that results near the ends of the range stay normal numbers on the way.
  const int half = k / 2;
  const auto power = [](int p) {
    return std::bit_cast<double>(static_cast<std::uint64_t>(p + exponent_bias) << mantissa_bits);
  };
  return mantissa * power(half) * power(k - half);
}

constexpr double constexpr_sqrt(double x) {
  double root = x > 1.0 ? x : 1.0;
  for (int i = 0; i < 64; ++i) {
    root = 0.5 * (root + x / root);
  }
  return root;
}

constexpr int layers = 256;
// Where the tail begins and the area of each layer: the solution of Marsaglia and Tsang for 256.
constexpr double tail_start = 3.6541528853610088;
constexpr double layer_area = 0.00492867323399;

/// Layer i is the rectangle [0, x[i]] x [f[i], f[i + 1]] with f(x) = exp(-x^2 / 2); layer 0 is the
/// base strip, tail included, drawn as a rectangle of width x[0] = area / f(tail_start).
struct Ziggurat {
  std::array<double, layers + 1> x{};
  std::array<double, layers + 1> f{};

  constexpr Ziggurat() {
    f[1] = exp_in_range(-0.5 * tail_start * tail_start);
    x[0] = layer_area / f[1];
    x[1] = tail_start;
    f[0] = 0.0;
    for (std::size_t i = 2; i < layers; ++i) {
      f[i] = f[i - 1] + layer_area / x[i - 1];
      x[i] = constexpr_sqrt(-2.0 * log_normal_number(f[i]));
    }
    x[layers] = 0.0;
    f[layers] = 1.0;
  }
};

constexpr Ziggurat ziggurat;

/// Uniform in (0, 1]: a logarithm may be taken.
double uniform_above_zero(Xoshiro256pp& generator) {
  return static_cast<double>((generator.next() >> 11) + 1) * 0x1.0p-53;
}

double normal_tail(Xoshiro256pp& generator) {
  for (;;) {
    const double x = -log_normal_number(uniform_above_zero(generator)) / tail_start;
    const double y = -log_normal_number(uniform_above_zero(generator));
    if (y + y >= x * x) {
      return tail_start + x;
    }
  }
}

inline double draw_normal(Xoshiro256pp& generator) {
  for (;;) {
    // Disjoint bits choose the layer, the sign and the place in the layer.
    const std::uint64_t bits = generator.next();
    const std::size_t layer = bits & (layers - 1);
    const double sign = 1.0 - static_cast<double>((bits >> 7) & 2U);
    double x = static_cast<double>(bits >> 11) * 0x1.0p-53 * ziggurat.x[layer];
    if (x < ziggurat.x[layer + 1]) [[likely]] {
      return sign * x;
    }
    if (layer == 0) {
      return sign * normal_tail(generator);
    }
    const double low = ziggurat.f[layer];
    const double high = ziggurat.f[layer + 1];
    const double y = static_cast<double>(generator.next() >> 11) * 0x1.0p-53;
    if (low + y * (high - low) < exp_in_range(-0.5 * x * x)) {
      return sign * x;
    }
  }
}

std::uint64_t checked_path(std::string_view path, std::uint64_t state) {
  if (path.empty()) {
    throw std::invalid_argument("Rng: a random stream must have a name");
  }
  return fnv1a64(path, state);
}

Xoshiro256pp generator_for(std::uint64_t seed, std::uint64_t path_hash) {
  // Both inputs go through a bijective mixer before they meet, so that near seeds and near paths
  // (FNV-1a spreads the last character badly) do not give near states.
  const std::uint64_t mixed_seed = splitmix64(seed);
  std::uint64_t state = mixed_seed ^ path_hash;
  state = splitmix64(state);
  Xoshiro256pp generator{};
  for (std::uint64_t& word : generator.state) {
    word = splitmix64(state);
  }
  return generator;
}

}  // namespace

double portable_log(double x) {
  if (!(x > 0.0) || x > 0x1.fffffffffffffp+1023) {
    throw std::invalid_argument("portable_log: the argument must be finite and above 0");
  }
  if (x < 0x1.0p-1022) {  // subnormal: scale by 2^54 first
    return log_normal_number(x * 0x1.0p54) - 54.0 * ln2_high - 54.0 * ln2_low;
  }
  return log_normal_number(x);
}

double portable_exp(double x) {
  if (!(x <= 709.0)) {
    throw std::invalid_argument("portable_exp: the argument must be at most 709");
  }
  return x < -708.0 ? 0.0 : exp_in_range(x);
}

Rng::Rng(std::uint64_t seed, std::string_view path)
    : Rng(seed, PathHash{checked_path(path, fnv1a64(""))}) {}

Rng::Rng(std::uint64_t seed, PathHash path)
    : seed_(seed), path_hash_(path.value), generator_(generator_for(seed, path.value)) {}

std::uint64_t Rng::below(std::uint64_t n) {
  if (n == 0) {
    throw std::invalid_argument("Rng::below: n must be at least 1");
  }
  // 2^64 mod n: the draws below it would make small results more likely.
  const std::uint64_t unfair = (0 - n) % n;
  for (;;) {
    const std::uint64_t draw = next();
    if (draw >= unfair) {
      return draw % n;
    }
  }
}

double Rng::normal() { return draw_normal(generator_); }

void Rng::normals(std::span<float> out) {
  Xoshiro256pp generator = generator_;  // a local copy stays in registers
  for (float& value : out) {
    value = static_cast<float>(draw_normal(generator));
  }
  generator_ = generator;
}

Rng Rng::child(std::string_view name) const {
  const std::uint64_t with_separator = fnv1a64("/", path_hash_);
  return {seed_, PathHash{checked_path(name, with_separator)}};
}

}  // namespace nearkv
