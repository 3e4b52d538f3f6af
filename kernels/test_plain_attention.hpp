// What error is due to the precision, and what to a kernel: for tests of accuracy.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kernels/api.hpp"
#include "kernels/half.hpp"

namespace nearkv::kernels::testing {

/// Attention as anyone would first write it: FP16 input, every sum a float in plain order.
inline std::vector<float> plain_attention(const KvPages& pages, std::span<const float> query,
                                          const std::vector<int>& tokens) {
  std::vector<float> weights;
  const float root = std::sqrt(static_cast<float>(query.size()));
  for (const int token : tokens) {
    float logit = 0.0F;
    for (std::size_t c = 0; c < query.size(); ++c) {
      logit += query[c] * half_to_float(pages.k_row(token)[c]);
    }
    weights.push_back(logit / root);
  }
  const float max = *std::max_element(weights.begin(), weights.end());
  float sum = 0.0F;
  for (float& weight : weights) {
    weight = std::exp(weight - max);
    sum += weight;
  }
  std::vector<float> output(query.size(), 0.0F);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    for (std::size_t c = 0; c < query.size(); ++c) {
      output[c] += weights[i] / sum * half_to_float(pages.v_row(tokens[i])[c]);
    }
  }
  return output;
}

/// SparF or SparQ in the same way, for channels and tokens that are given: alpha and the mean of V
/// are plain float sums too.
inline std::vector<float> plain_selected_attention(const KvPages& pages,
                                                   std::span<const float> query, int context,
                                                   const HeadSelection& selection) {
  float all = 0.0F;
  float selected = 0.0F;
  for (const float q : query) {
    all += std::fabs(q);
  }
  for (const int channel : selection.channels) {
    selected += std::fabs(query[static_cast<std::size_t>(channel)]);
  }
  const float ratio = all > 0.0F ? selected / all : 1.0F;
  const float root = std::sqrt(static_cast<float>(query.size()) * ratio);
  std::vector<float> weights;
  std::vector<float> v_bar(query.size(), 0.0F);
  for (int token = 0; token < context; ++token) {
    float score = 0.0F;
    for (const int channel : selection.channels) {
      const auto c = static_cast<std::size_t>(channel);
      score += query[c] * half_to_float(pages.k_row(token)[c]);
    }
    weights.push_back(score / root);
    for (std::size_t c = 0; c < query.size(); ++c) {
      v_bar[c] += half_to_float(pages.v_row(token)[c]);
    }
  }
  const float max = *std::max_element(weights.begin(), weights.end());
  float sum = 0.0F;
  for (float& weight : weights) {
    weight = std::exp(weight - max);
    sum += weight;
  }
  float alpha = 0.0F;
  for (const int token : selection.tokens) {
    alpha += weights[static_cast<std::size_t>(token)] / sum;
  }
  std::vector<float> output = plain_attention(pages, query, selection.tokens);
  for (std::size_t c = 0; c < output.size(); ++c) {
    output[c] = alpha * output[c] + (1.0F - alpha) * (v_bar[c] / static_cast<float>(context));
  }
  return output;
}

inline double largest_error(std::span<const float> values, std::span<const float> exact) {
  double largest = 0.0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    largest = std::max(largest,
                       std::fabs(static_cast<double>(values[i]) - static_cast<double>(exact[i])));
  }
  return largest;
}

/// Errors of a kernel and of the plain implementation against double, the largest of some calls.
class ErrorAccount {
 public:
  using Attend = AttentionResult (*)(const KvPages&, const AttentionRequest&, const Method&);

  /// One query head. False, and nothing is counted, if the kernel selects other tokens than the
  /// reference: scores within rounding of each other may change places.
  bool add(const KvPages& pages, std::span<const float> query, int context, const Method& method,
           Attend attend) {
    const AttentionRequest request{.queries = query, .context = context, .want_selection = true};
    const AttentionResult result = attend(pages, request, method);
    const AttentionResult exact = reference::attend(pages, request, method);
    if (result.heads != exact.heads) return false;
    const HeadSelection& selection = exact.heads[0];
    const std::vector<float> plain =
        select_options(method) != nullptr
            ? plain_selected_attention(pages, query, context, selection)
            : plain_attention(pages, query, selection.tokens);
    error_ = std::max(error_, largest_error(result.output, exact.output));
    plain_error_ = std::max(plain_error_, largest_error(plain, exact.output));
    for (const float value : exact.output) {
      magnitude_ = std::max(magnitude_, std::fabs(static_cast<double>(value)));
    }
    ++calls_;
    return true;
  }

  /// Both are compared as floats: a rounding of the result is nobody's error.
  [[nodiscard]] bool is_within_twice() const {
    return calls_ > 0 && error_ <= 2.0 * plain_error_ + magnitude_ * 0x1.0p-24;
  }
  [[nodiscard]] double error() const { return error_; }
  [[nodiscard]] double plain_error() const { return plain_error_; }
  [[nodiscard]] int calls() const { return calls_; }

 private:
  double error_ = 0.0;
  double plain_error_ = 0.0;
  double magnitude_ = 0.0;
  int calls_ = 0;
};

}  // namespace nearkv::kernels::testing
