#include "kernels/attention_state.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/exp.hpp"

namespace nearkv::kernels {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// e^(from - to) for from <= to; 1 when they are equal, even both -infinity.
float rescale(float from, float to) { return from == to ? 1.0F : exp_nonpositive(from - to); }

}  // namespace

AttentionState AttentionState::neutral(int d_head) {
  if (d_head < 1) {
    throw std::invalid_argument("AttentionState: d_head is " + std::to_string(d_head) +
                                "; must be at least 1");
  }
  return {minus_infinity, 0.0F, std::vector<float>(static_cast<std::size_t>(d_head), 0.0F)};
}

AttentionState merge(const AttentionState& a, const AttentionState& b) {
  if (a.out.size() != b.out.size()) {
    throw std::invalid_argument("AttentionState: cannot merge out of " +
                                std::to_string(a.out.size()) + " and " +
                                std::to_string(b.out.size()) + " values");
  }
  AttentionState merged{std::max(a.max, b.max), 0.0F, std::vector<float>(a.out.size())};
  const float scale_a = rescale(a.max, merged.max);
  const float scale_b = rescale(b.max, merged.max);
  merged.sum = a.sum * scale_a + b.sum * scale_b;
  for (std::size_t c = 0; c < merged.out.size(); ++c) {
    merged.out[c] = a.out[c] * scale_a + b.out[c] * scale_b;
  }
  return merged;
}

std::vector<float> finish(const AttentionState& state) {
  if (!(state.sum > 0.0F)) {
    throw std::invalid_argument("AttentionState: no token was attended to, there is no output");
  }
  std::vector<float> output(state.out.size());
  for (std::size_t c = 0; c < output.size(); ++c) {
    output[c] = state.out[c] / state.sum;
  }
  return output;
}

}  // namespace nearkv::kernels
