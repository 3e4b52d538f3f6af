// Partial attention as a value.
#pragma once

#include <vector>

namespace nearkv::kernels {

/// Attention over a set of tokens as a value that merges with that of a disjoint set, on another
/// chunk, head shard or device: max = largest logit, sum = sum of e^(logit - max),
/// out = sum of e^(logit - max) V, d_head floats, not divided (the online softmax of Milakov and
/// Gimelshein 2018, as in FlashAttention). Logits are q.k / sqrt(d_head).
struct AttentionState {
  float max;
  float sum;
  std::vector<float> out;

  /// Of no token at all: the neutral element of merge (max -infinity, sum 0, out 0).
  static AttentionState neutral(int d_head);
};

/// Associative up to rounding, commutative to the bit, `neutral` neutral to the bit. Throws
/// std::invalid_argument if the sizes of out differ.
AttentionState merge(const AttentionState& a, const AttentionState& b);

/// The attention output out / sum. Throws std::invalid_argument if the state covers no token.
std::vector<float> finish(const AttentionState& state);

}  // namespace nearkv::kernels
