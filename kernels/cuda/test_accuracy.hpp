// How large an error may be: at most twice that of a plain kernel in the same precision, both
// against double (FlashAttention's rule). Takes any cache and queries, captured ones too.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/api.hpp"
#include "kernels/half.hpp"

namespace nearkv::kernels::testing {

/// Dense attention of one query head as anyone would write it first: FP16 rows, floats, one pass
/// for the largest logit and one for the sums, in token order.
inline std::vector<float> plain_attention(const KvPages& pages, std::span<const float> query,
                                          int context) {
  const std::size_t d = query.size();
  const float scale = 1.0F / std::sqrt(static_cast<float>(d));
  std::vector<float> logits(static_cast<std::size_t>(context));
  for (int token = 0; token < context; ++token) {
    float sum = 0.0F;
    for (std::size_t c = 0; c < d; ++c) {
      sum += query[c] * half_to_float(pages.k_row(token)[c]);
    }
    logits[static_cast<std::size_t>(token)] = sum * scale;
  }
  const float max = *std::max_element(logits.begin(), logits.end());
  float sum = 0.0F;
  std::vector<float> out(d);
  for (int token = 0; token < context; ++token) {
    const float weight = std::exp(logits[static_cast<std::size_t>(token)] - max);
    sum += weight;
    for (std::size_t c = 0; c < d; ++c) {
      out[c] += weight * half_to_float(pages.v_row(token)[c]);
    }
  }
  for (float& x : out) {
    x /= sum;
  }
  return out;
}

/// Squared errors and values, summed over all heads of a case.
struct Errors {
  double plain = 0.0;
  double kernel = 0.0;
  double values = 0.0;

  void add(std::span<const float> output, const KvPages& pages, std::span<const float> query,
           int context) {
    const std::vector<float> exact =
        reference::attend(pages, {query, context}, DenseOptions{}).output;
    const std::vector<float> naive = plain_attention(pages, query, context);
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
