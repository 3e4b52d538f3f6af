// How large an error may be: at most twice that of a plain kernel in the same precision, both
// against double (FlashAttention's rule). Takes any cache and queries, captured ones too.
#pragma once

#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/api.hpp"
#include "kernels/test_plain_attention.hpp"

namespace nearkv::kernels::testing {

/// Squared errors and values, summed over all heads of a case.
struct Errors {
  double plain = 0.0;
  double kernel = 0.0;
  double values = 0.0;

  void add(std::span<const float> output, const KvPages& pages, std::span<const float> query,
           int context) {
    const std::vector<float> exact =
        reference::attend(pages, {query, context}, DenseOptions{}).output;
    std::vector<int> tokens(static_cast<std::size_t>(context));
    std::iota(tokens.begin(), tokens.end(), 0);
    const std::vector<float> naive = plain_attention(pages, query, tokens);
    for (std::size_t c = 0; c < exact.size(); ++c) {
      const auto squared = [&](float x) {
        const double difference = static_cast<double>(x) - static_cast<double>(exact[c]);
        return difference * difference;
      };
      plain += squared(naive[c]);
      kernel += squared(output[c]);
      values += static_cast<double>(exact[c]) * static_cast<double>(exact[c]);
    }
  }
  /// ||output - exact|| is at most twice that of the plain kernel, or half a unit in the last place
  /// of float: the exact result is itself rounded to float here.
  [[nodiscard]] bool are_small() const {
    constexpr double half_unit = std::numeric_limits<float>::epsilon() / 2.0;
    return std::sqrt(kernel) <= 2.0 * std::sqrt(plain) + half_unit * std::sqrt(values);
  }
  [[nodiscard]] double relative() const { return std::sqrt(kernel / values); }
  [[nodiscard]] double relative_plain() const { return std::sqrt(plain / values); }
};

}  // namespace nearkv::kernels::testing
