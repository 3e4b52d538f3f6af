// The shape of a transformer: what a run must know of a model to count its bytes and operations.
//
// A shape is data (configs/models/*.json); everything here is arithmetic on it. Weights, KV cache
// and activations share one width, bytes_per_value (2 for FP16).
#pragma once

#include <cstdint>
#include <string>

#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Which linear layers have bias vectors: those of q, k and v (Qwen2), also the output projection
/// of attention, those of the feed-forward network (GPT-J), or all (OPT).
enum class Biases { none, qkv, attention, ffn, all };

/// Members start as the plainest decoder: dense, full attention, two norms, no biases.
struct ModelShape {
  std::string name;
  std::int64_t layers = 0;
  std::int64_t hidden = 0;             // width of the residual stream
  std::int64_t heads = 0;              // query heads
  std::int64_t kv_heads = 0;           // heads of K and V; fewer than `heads` in GQA
  std::int64_t head_dim = 0;           // d_head
  std::int64_t attention_width = 0;    // heads x head_dim; the hidden size in most models
  std::int64_t attention_window = 0;   // newest tokens that a token sees; 0 means all
  bool qk_norms = false;               // each head of q and k is normed (Qwen3)
  std::int64_t ffn = 0;                // inner width of the feed-forward network or of one expert
  bool gated_ffn = false;              // SwiGLU: two inner projections instead of one
  std::int64_t experts = 0;            // of each layer (MoE); 0 means a dense network
  std::int64_t experts_per_token = 0;  // that the router picks
  std::int64_t shared_ffn = 0;         // inner width of the expert of all tokens; 0 means none
  std::int64_t norms_per_layer = 2;    // 1: attention and FFN in parallel; 4: outputs normed, too
  bool norm_biases = false;            // LayerNorm; an RMSNorm has a scale only
  Biases biases = Biases::none;
  std::int64_t vocab = 0;
  std::int64_t embedding_width = 0;    // of a narrower embedding table (OPT-350M); 0 means hidden
  std::int64_t max_positions = 0;      // longest context
  std::int64_t learned_positions = 0;  // rows of the learned position table; 0 means rotary
  bool final_norm = true;              // before the LM head
  bool tied_embeddings = false;        // the LM head is the embedding table
  std::int64_t bytes_per_value = 0;

  void fields(FieldVisitor& v);

  /// Width of all K heads together, and of all V heads.
  [[nodiscard]] std::int64_t kv_width() const { return kv_heads * head_dim; }
  /// Columns of the joint query, key and value projection.
  [[nodiscard]] std::int64_t qkv_width() const { return attention_width + 2 * kv_width(); }
  /// Columns of the first projection of a feed-forward network `inner` wide: twice that when gated.
  [[nodiscard]] std::int64_t ffn_columns(std::int64_t inner) const {
    return (gated_ffn ? 2 : 1) * inner;
  }
  /// Those of the network, or of one expert.
  [[nodiscard]] std::int64_t ffn_in_width() const { return ffn_columns(ffn); }
  [[nodiscard]] bool is_mixture() const { return experts > 0; }
  [[nodiscard]] bool has_embedding_projection() const { return embedding_width > 0; }
  /// Columns of the embedding table.
  [[nodiscard]] std::int64_t embedding_columns() const {
    return has_embedding_projection() ? embedding_width : hidden;
  }

  /// Weights and biases of the feed-forward network, or of one expert: hidden x (ffn_in_width +
  /// ffn) weights.
  [[nodiscard]] std::int64_t parameters_per_expert() const { return network_parameters(ffn); }
  /// hidden x (qkv_width + attention_width) weights of attention, the network or router and
  /// experts, norms, and biases.
  [[nodiscard]] std::int64_t parameters_per_layer() const;
  /// What precedes the first layer: embedding table, projection of a narrower one, learned
  /// positions.
  [[nodiscard]] std::int64_t input_parameters() const;
  /// What follows the last layer: final norm, projection to a narrower table, and the LM head,
  /// which counts here also when it is tied.
  [[nodiscard]] std::int64_t output_parameters() const;
  /// All layers, input and output; a tied LM head once.
  [[nodiscard]] std::int64_t parameters() const;
  /// Those that take part in one token: all but the experts that its router does not pick.
  [[nodiscard]] std::int64_t active_parameters() const;

  /// Expected number of different experts of a layer that `tokens` tokens need when each picks
  /// experts_per_token different ones, all choices being equally likely: E (1 - (1 - k/E)^T). An
  /// expert is missed by a token with probability 1 - k/E, by T tokens with its T-th power;
  /// expectations add up (the occupancy problem: Feller, An Introduction to Probability Theory and
  /// Its Applications, vol. 1, IV.2). Routers trained with a load-balancing loss come near to equal
  /// choices over many tokens (Fedus et al., Switch Transformers, arXiv 2101.03961, section 2.2).
  [[nodiscard]] double expected_experts(std::int64_t tokens) const;

  /// Keys that a token sees which has `context` tokens, itself included: at most the window.
  [[nodiscard]] std::int64_t attended_tokens(std::int64_t context) const {
    return attention_window > 0 && attention_window < context ? attention_window : context;
  }

  [[nodiscard]] Bytes weight_bytes_per_layer() const { return values(parameters_per_layer()); }
  [[nodiscard]] Bytes weight_bytes() const { return values(parameters()); }

  /// K and V of one token in one layer: 2 x kv_heads x head_dim values.
  [[nodiscard]] Bytes kv_bytes_per_token_and_layer() const { return values(2 * kv_width()); }
  /// K and V of one token in all layers.
  [[nodiscard]] Bytes kv_bytes_per_token() const { return kv_bytes_per_token_and_layer() * layers; }

  /// q, k and v of one token in one layer: what goes to an attention unit outside the GPU.
  [[nodiscard]] Bytes qkv_bytes_per_token() const { return values(qkv_width()); }
  /// The attention output of one token in one layer: what comes back.
  [[nodiscard]] Bytes attention_output_bytes_per_token() const { return values(attention_width); }
  /// The residual stream of one token.
  [[nodiscard]] Bytes hidden_bytes_per_token() const { return values(hidden); }

  /// The shape of one of `ranks` tensor-parallel ranks: query heads, KV heads, feed-forward width
  /// and vocabulary divided, the residual stream,
  /// the norms and the router whole (Megatron-LM, arXiv 1909.08053). A rank
  /// keeps one KV head when there are fewer than ranks (the head is on several ranks), and the
  /// vocabulary is padded to equal parts. The shape itself for one rank; check fails where
  /// tensor_shard_problem has something to say.
  [[nodiscard]] ModelShape tensor_shard(std::int64_t ranks) const;
  /// Why the shape cannot be divided over `ranks`, with the numbers of ranks that can, for a
  /// config error; empty when it can.
  [[nodiscard]] std::string tensor_shard_problem(std::int64_t ranks) const;

  /// Size of `count` weights, activations or KV values.
  [[nodiscard]] Bytes values(std::int64_t count) const { return Bytes{count * bytes_per_value}; }

 private:
  void attention_fields(FieldVisitor& v);
  void network_fields(FieldVisitor& v);
  void require_consistency(FieldVisitor& v) const;
  /// Weights and biases of a feed-forward network `inner` wide.
  [[nodiscard]] std::int64_t network_parameters(std::int64_t inner) const;
  /// Embedding table or LM head with the projection of a narrower one.
  [[nodiscard]] std::int64_t projected_table_parameters() const;
};

}  // namespace nearkv
