// Named random streams that give the same numbers on every machine and compiler.
//
// A stream is made from a seed and a path ("traces/synthetic/layer/3/head/7"). Two paths are two
// independent streams, so that a new consumer of randomness never shifts the numbers of another.
// Everything here is integer arithmetic or IEEE + - * / on double in a fixed order: no libm call
// and no std:: distribution, whose results the standard leaves to the library.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace nearkv {

/// Natural logarithm from + - * / only; at most 2 ulp from the exact value, the same bits
/// everywhere. Throws std::invalid_argument unless x is finite and > 0.
double portable_log(double x);

/// e^x from + - * / only; at most 2 ulp from the exact value, the same bits everywhere.
/// Returns 0 below -708. Throws std::invalid_argument above 709 or for NaN.
double portable_exp(double x);

/// FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv). `state` continues an earlier hash:
/// fnv1a64("b", fnv1a64("a")) == fnv1a64("ab").
constexpr std::uint64_t fnv1a64(std::string_view text,
                                std::uint64_t state = 0xcbf29ce484222325ULL) {
  for (const char c : text) {
    state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  return state;
}

/// One step of splitmix64 (Steele, Lea, Flood, OOPSLA 2014; Vigna's splitmix64.c).
constexpr std::uint64_t splitmix64(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15ULL;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// xoshiro256++ 1.0 (Blackman, Vigna, ACM TOMS 2021). The state must not be all zero.
struct Xoshiro256pp {
  std::array<std::uint64_t, 4> state;

  constexpr std::uint64_t next() {
    const std::uint64_t result = rotate_left(state[0] + state[3], 23) + state[0];
    const std::uint64_t t = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = rotate_left(state[3], 45);
    return result;
  }

 private:
  static constexpr std::uint64_t rotate_left(std::uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
  }
};

/// One named stream. It is deliberately no UniformRandomBitGenerator: it does not fit into std::
/// distributions.
class Rng {
 public:
  /// `path` names the stream; parts are separated by '/'. Throws std::invalid_argument if empty.
  Rng(std::uint64_t seed, std::string_view path);

  /// 64 uniform bits.
  std::uint64_t next() { return generator_.next(); }

  /// Uniform in [0, 1), a multiple of 2^-53.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

  /// Uniform in 0 .. n - 1 without bias. Throws std::invalid_argument if n is 0.
  std::uint64_t below(std::uint64_t n);

  /// Standard normal, by the ziggurat of 256 layers (Marsaglia, Tsang, J. Stat. Softw. 2000) with
  /// 53 bits below each layer; the tail beyond 3.65 sigma is sampled exactly (Marsaglia 1964), it
  /// is not cut.
  double normal();

  /// out.size() successive normal() draws, each rounded to float; the same numbers as a loop.
  void normals(std::span<float> out);

  /// The stream `path/name` of the same seed: Rng{s, "a"}.child("b") equals Rng{s, "a/b"}, however
  /// many numbers this stream has given. Throws std::invalid_argument if `name` is empty.
  [[nodiscard]] Rng child(std::string_view name) const;

 private:
  struct PathHash {
    std::uint64_t value;
  };
  Rng(std::uint64_t seed, PathHash path);

  std::uint64_t seed_;
  std::uint64_t path_hash_;
  Xoshiro256pp generator_;
};

}  // namespace nearkv
