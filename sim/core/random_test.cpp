#include "sim/core/random.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

using namespace nearkv;

TEST_CASE("random: hash, seeding and generator equal their published sequences") {
  // Vectors of the FNV reference code.
  CHECK(fnv1a64("") == 0xcbf29ce484222325ULL);
  CHECK(fnv1a64("a") == 0xaf63dc4c8601ec8cULL);
  CHECK(fnv1a64("foobar") == 0x85944171f73967e8ULL);
  CHECK(fnv1a64("bar", fnv1a64("foo")) == fnv1a64("foobar"));

  // splitmix64.c, seed 1234567.
  std::uint64_t state = 1234567;
  for (const std::uint64_t expected :
       {6457827717110365317ULL, 3203168211198807973ULL, 9817491932198370423ULL,
        4593380528125082431ULL, 16408922859458223821ULL}) {
    CHECK(splitmix64(state) == expected);
  }

  // xoshiro256plusplus.c, state {1, 2, 3, 4}.
  Xoshiro256pp generator{{1, 2, 3, 4}};
  for (const std::uint64_t expected :
       {41943041ULL, 58720359ULL, 3588806011781223ULL, 3591011842654386ULL, 9228616714210784205ULL,
        9973669472204895162ULL, 14011001112246962877ULL, 12406186145184390807ULL,
        15849039046786891736ULL, 10450023813501588000ULL}) {
    CHECK(generator.next() == expected);
  }
}

TEST_CASE("random: streams are pinned, a change of any number changes every result") {
  Rng rng{42, "golden"};
  const std::array<std::uint64_t, 4> words{rng.next(), rng.next(), rng.next(), rng.next()};
  CHECK(words == std::array<std::uint64_t, 4>{0xd2c0ea490584feccULL, 0x99ee76c77bc63034ULL,
                                              0xfb6640872b8b298aULL, 0xea9285b044202c4aULL});
  Rng uniforms{42, "golden/uniform"};
  CHECK(uniforms.uniform() == 0x1.20a5e12ff112ep-1);
  Rng dice{42, "golden/below"};
  const std::array<std::uint64_t, 6> rolls{dice.below(6), dice.below(6), dice.below(6),
                                           dice.below(6), dice.below(6), dice.below(6)};
  CHECK(rolls == std::array<std::uint64_t, 6>{4, 3, 2, 3, 2, 2});
  Rng normals{42, "golden/normal"};
  // Bit by bit: hexadecimal constants, not approximations.
  CHECK(normals.normal() == -0x1.8fa2ca90c0168p-2);
  CHECK(normals.normal() == 0x1.bba68179d63dap-1);
  CHECK(normals.normal() == -0x1.087dd8185b813p+0);
  // A digest over many draws reaches the wedges and the tail of the ziggurat.
  std::uint64_t digest = 0;
  for (int i = 0; i < 1000000; ++i) {
    const double value = normals.normal() * 0x1.0p40;
    digest = digest * 31 + static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
  }
  CHECK(digest == 0xd1a8d47206a738cbULL);
}

TEST_CASE("random: a stream depends on its seed and its path alone") {
  Rng parent{7, "a"};
  Rng early = parent.child("b");
  parent.next();
  Rng late = parent.child("b");
  Rng direct{7, "a/b"};
  for (int i = 0; i < 16; ++i) {
    const std::uint64_t expected = direct.next();
    CHECK(early.next() == expected);
    CHECK(late.next() == expected);
  }
  CHECK(Rng{7, "a"}.next() != Rng{8, "a"}.next());
  CHECK(Rng{7, "a"}.next() != Rng{7, "b"}.next());
  CHECK(Rng{7, "a/b/c"}.next() == Rng{7, "a"}.child("b/c").next());
}

TEST_CASE("random: neighbouring streams are uncorrelated") {
  // Paths and seeds that differ in one character or bit: a correlation of n = 100000 pairs has
  // standard deviation 1 / sqrt(n) = 0.0032; five of them are allowed.
  constexpr int n = 100000;
  const auto correlation = [](Rng a, Rng b) {
    double sum = 0.0;
    for (int i = 0; i < n; ++i) {
      sum += (a.uniform() - 0.5) * (b.uniform() - 0.5);
    }
    return sum * 12.0 / n;
  };
  CHECK(std::abs(correlation({1, "head/1"}, {1, "head/2"})) < 0.016);
  CHECK(std::abs(correlation({1, "head/1"}, {2, "head/1"})) < 0.016);
  CHECK(std::abs(correlation({1, "head/1"}, {1, "head/1/k"})) < 0.016);

  // First words of 4096 numbered children: every bit is set in about half of them (sd 32).
  std::array<int, 64> ones{};
  const Rng root{0, "children"};
  for (int i = 0; i < 4096; ++i) {
    const std::uint64_t word = root.child(std::to_string(i)).next();
    for (std::size_t bit = 0; bit < 64; ++bit) {
      ones[bit] += static_cast<int>((word >> bit) & 1U);
    }
  }
  for (const int count : ones) {
    CHECK(std::abs(count - 2048) < 160);
  }
}

TEST_CASE("random: uniform is in [0, 1) with the moments of a uniform variable") {
  Rng rng{3, "uniform"};
  constexpr int n = 1000000;
  double sum = 0.0;
  double squares = 0.0;
  double least = 1.0;
  double most = 0.0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform();
    sum += u;
    squares += u * u;
    least = std::min(least, u);
    most = std::max(most, u);
  }
  CHECK(least >= 0.0);
  CHECK(most < 1.0);
  CHECK(sum / n == doctest::Approx(0.5).epsilon(0.002));
  CHECK(squares / n == doctest::Approx(1.0 / 3.0).epsilon(0.003));
}

TEST_CASE("random: below is uniform over exactly its range") {
  Rng rng{4, "below"};
  for (const std::uint64_t n : {1ULL, 2ULL, 6ULL, 1000ULL}) {
    constexpr int draws = 200000;
    std::vector<int> counts(n, 0);
    for (int i = 0; i < draws; ++i) {
      const std::uint64_t value = rng.below(n);
      REQUIRE(value < n);
      ++counts[value];
    }
    // Chi-square with n - 1 degrees of freedom: mean n - 1, sd sqrt(2 (n - 1)).
    const double expected = static_cast<double>(draws) / static_cast<double>(n);
    double chi_square = 0.0;
    for (const int count : counts) {
      chi_square += (count - expected) * (count - expected) / expected;
    }
    const double freedom = static_cast<double>(n - 1);
    CHECK(chi_square <= freedom + 4.0 * std::sqrt(2.0 * freedom) + 1e-12);
  }
  // A range just above 2^63: a plain modulo would put two thirds of the draws below 2^63 - 1.
  const std::uint64_t wide = (1ULL << 63) + (1ULL << 62);
  int low_half = 0;
  for (int i = 0; i < 10000; ++i) {
    low_half += rng.below(wide) < wide / 2 ? 1 : 0;
  }
  CHECK(std::abs(low_half - 5000) < 250);
}

TEST_CASE("random: normal has the moments, the shape and the tails of a normal variable") {
  Rng rng{5, "normal"};
  constexpr int n = 4000000;
  constexpr int bins = 41;  // width 0.2 from -4.1 to 4.1
  std::array<int, bins> counts{};
  std::array<double, 4> moments{};
  std::array<int, 7> beyond{};  // draws with |x| above 0 .. 6 sigma
  double most = 0.0;
  for (int i = 0; i < n; ++i) {
    const double x = rng.normal();
    double power = 1.0;
    for (double& moment : moments) {
      power *= x;
      moment += power / n;
    }
    const int bin = static_cast<int>(std::floor((x + 4.1) / 0.2));
    if (bin >= 0 && bin < bins) {
      ++counts[static_cast<std::size_t>(bin)];
    }
    for (std::size_t sigma = 0; sigma < beyond.size(); ++sigma) {
      beyond[sigma] += std::abs(x) > static_cast<double>(sigma) ? 1 : 0;
    }
    most = std::max(most, std::abs(x));
  }
  // Standard errors: 0.0005, 0.0007, 0.0019, 0.0049.
  CHECK(std::abs(moments[0]) < 0.0025);
  CHECK(std::abs(moments[1] - 1.0) < 0.0035);
  CHECK(std::abs(moments[2]) < 0.01);
  CHECK(std::abs(moments[3] - 3.0) < 0.025);

  const auto cdf = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  double chi_square = 0.0;
  for (std::size_t bin = 0; bin < bins; ++bin) {
    const double left = -4.1 + 0.2 * static_cast<double>(bin);
    const double expected = n * (cdf(left + 0.2) - cdf(left));
    chi_square += (counts[bin] - expected) * (counts[bin] - expected) / expected;
  }
  CHECK(chi_square < bins + 4.0 * std::sqrt(2.0 * bins));

  // Two-sided tail probabilities; Poisson spread of four standard deviations.
  for (std::size_t sigma = 1; sigma < beyond.size(); ++sigma) {
    const double expected = n * std::erfc(static_cast<double>(sigma) / std::sqrt(2.0));
    CHECK(std::abs(beyond[sigma] - expected) < 4.0 * std::sqrt(expected) + 1.0);
  }
  CHECK(most > 4.8);  // nothing cuts the tail: P(all of 4e6 draws below 4.8) is 0.2 %
}

TEST_CASE("random: normals in bulk are the same numbers as one at a time") {
  Rng one{6, "bulk"};
  Rng bulk{6, "bulk"};
  std::vector<float> values(1000);
  bulk.normals(values);
  for (const float value : values) {
    CHECK(value == static_cast<float>(one.normal()));
  }
  CHECK(one.next() == bulk.next());
}

TEST_CASE("random: portable_log and portable_exp stay within 2 ulp") {
  Rng rng{8, "math"};
  const auto ulps = [](double value, double exact) {
    const double unit =
        std::nextafter(std::abs(exact), std::numeric_limits<double>::infinity()) - std::abs(exact);
    return std::abs(value - exact) / unit;
  };
  double log_error = 0.0;
  double exp_error = 0.0;
  for (int i = 0; i < 200000; ++i) {
    const double x = std::ldexp(1.0 + rng.uniform(), static_cast<int>(rng.below(2000)) - 1000);
    log_error = std::max(log_error, ulps(portable_log(x), std::log(x)));
    const double near_one = 0.5 + rng.uniform();
    log_error = std::max(log_error, ulps(portable_log(near_one), std::log(near_one)));
    const double y = (rng.uniform() - 0.5) * 1400.0;
    exp_error = std::max(exp_error, ulps(portable_exp(y), std::exp(y)));
  }
  CHECK(log_error <= 2.0);
  CHECK(exp_error <= 2.0);
  CHECK(portable_log(1.0) == 0.0);
  CHECK(portable_exp(0.0) == 1.0);
  CHECK(portable_exp(-1e300) == 0.0);
  CHECK(portable_log(5e-324) == doctest::Approx(std::log(5e-324)).epsilon(1e-14));
}

TEST_CASE("random: wrong arguments are refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS((Rng{1, ""}), std::invalid_argument);
  CHECK_THROWS_AS((void)(Rng{1, "a"}.child("")), std::invalid_argument);
  CHECK_THROWS_AS((Rng{1, "a"}.below(0)), std::invalid_argument);
  CHECK_THROWS_AS(portable_log(0.0), std::invalid_argument);
  CHECK_THROWS_AS(portable_log(-1.0), std::invalid_argument);
  CHECK_THROWS_AS(portable_log(infinity), std::invalid_argument);
  CHECK_THROWS_AS(portable_log(nan), std::invalid_argument);
  CHECK_THROWS_AS(portable_exp(710.0), std::invalid_argument);
  CHECK_THROWS_AS(portable_exp(nan), std::invalid_argument);
}
