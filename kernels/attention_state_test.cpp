#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/exp.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

AttentionState random_state(nearkv::Rng& stream) {
  AttentionState state{
      static_cast<float>(10.0 * stream.normal()), static_cast<float>(1.0 + stream.uniform()), {}};
  state.out = testing::random_row(stream, 8);
  return state;
}

bool same_bits(const AttentionState& a, const AttentionState& b) {
  return a.max == b.max && a.sum == b.sum && a.out == b.out;
}

}  // namespace

TEST_CASE("attention state: merge is commutative and has a neutral element, to the bit") {
  nearkv::Rng stream = testing::test_stream(1);
  const AttentionState neutral = AttentionState::neutral(8);
  CHECK(same_bits(merge(neutral, neutral), neutral));
  for (int i = 0; i < 100; ++i) {
    const AttentionState a = random_state(stream);
    const AttentionState b = random_state(stream);
    CHECK(same_bits(merge(a, b), merge(b, a)));
    CHECK(same_bits(merge(a, neutral), a));
    CHECK(same_bits(merge(neutral, a), a));
  }
}

TEST_CASE("attention state: merge is associative up to rounding") {
  nearkv::Rng stream = testing::test_stream(2);
  for (int i = 0; i < 100; ++i) {
    const AttentionState a = random_state(stream);
    const AttentionState b = random_state(stream);
    const AttentionState c = random_state(stream);
    const AttentionState left = merge(merge(a, b), c);
    const AttentionState right = merge(a, merge(b, c));
    CHECK(left.max == right.max);
    CHECK(std::fabs(left.sum - right.sum) <= 1e-6F * left.sum);
    for (std::size_t j = 0; j < left.out.size(); ++j) {
      CHECK(std::fabs(left.out[j] - right.out[j]) <= 3e-6F);
    }
  }
}

TEST_CASE("attention state: merging single tokens is softmax") {
  // Logits 0 and ln 3, values 1 and 5: weights 1/4 and 3/4, output 4.
  const AttentionState first{0.0F, 1.0F, {1.0F}};
  const AttentionState second{std::log(3.0F), 1.0F, {5.0F}};
  CHECK(finish(merge(first, second))[0] == doctest::Approx(4.0).epsilon(1e-6));
  // A logit far below the other leaves no trace and no NaN.
  CHECK(finish(merge(first, {-1e30F, 1.0F, {7.0F}}))[0] == 1.0F);
}

TEST_CASE("attention state: errors") {
  CHECK_THROWS_AS(merge(AttentionState::neutral(4), AttentionState::neutral(5)),
                  std::invalid_argument);
  CHECK_THROWS_AS(finish(AttentionState::neutral(4)), std::invalid_argument);
  CHECK_THROWS_AS(AttentionState::neutral(0), std::invalid_argument);
}

TEST_CASE("exp_nonpositive: at most 2 ulp from the exact value") {
  CHECK(exp_nonpositive(0.0F) == 1.0F);
  CHECK(exp_nonpositive(-87.5F) == 0.0F);
  CHECK(exp_nonpositive(-std::numeric_limits<float>::infinity()) == 0.0F);
  double worst = 0.0;
  for (float x = -1e-6F; x > -87.0F; x = x * 1.0001F - 1e-5F) {
    const double exact = std::exp(static_cast<double>(x));
    const auto rounded = static_cast<float>(exact);
    const double ulp =
        static_cast<double>(std::nextafterf(rounded, 2.0F)) - static_cast<double>(rounded);
    worst = std::max(worst, std::fabs(static_cast<double>(exp_nonpositive(x)) - exact) / ulp);
  }
  CHECK(worst <= 2.0);
}
