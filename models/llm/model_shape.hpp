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

struct ModelShape {
  std::string name;
  std::int64_t layers = 0;
  std::int64_t hidden = 0;           // width of the residual stream
  std::int64_t heads = 0;            // query heads
  std::int64_t kv_heads = 0;         // heads of K and V; fewer than `heads` in GQA
  std::int64_t head_dim = 0;         // d_head
  std::int64_t attention_width = 0;  // heads x head_dim; the hidden size in most models
  std::int64_t ffn = 0;              // inner width of the feed-forward network
  bool gated_ffn = false;            // SwiGLU: two inner projections instead of one
  std::int64_t vocab = 0;
  std::int64_t max_positions = 0;      // longest context
  std::int64_t learned_positions = 0;  // rows of the learned position table; 0 means rotary
  bool tied_embeddings = false;        // the LM head is the embedding table
  bool biases = false;                 // of linear layers and norms (OPT), or none (Llama)
  std::int64_t bytes_per_value = 0;

  void fields(FieldVisitor& v);

  /// Width of all K heads together, and of all V heads.
  [[nodiscard]] std::int64_t kv_width() const { return kv_heads * head_dim; }
  /// Columns of the joint query, key and value projection.
  [[nodiscard]] std::int64_t qkv_width() const { return attention_width + 2 * kv_width(); }
  /// Columns of the first feed-forward projection: ffn, or twice that when it is gated.
  [[nodiscard]] std::int64_t ffn_in_width() const { return (gated_ffn ? 2 : 1) * ffn; }

  /// hidden x (qkv_width + attention_width + ffn_in_width + ffn), two norms, and biases.
  [[nodiscard]] std::int64_t parameters_per_layer() const;
  /// Embedding table, LM head unless it is tied, learned positions.
  [[nodiscard]] std::int64_t embedding_parameters() const;
  /// All layers, the embeddings and the final norm.
  [[nodiscard]] std::int64_t parameters() const;

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
  /// and vocabulary divided, the residual stream whole (Megatron-LM, arXiv 1909.08053). A rank
  /// keeps one KV head when there are fewer than ranks (the head is on several ranks), and the
  /// vocabulary is padded to equal parts. The shape itself for one rank; check fails where
  /// tensor_shard_problem has something to say.
  [[nodiscard]] ModelShape tensor_shard(std::int64_t ranks) const;
  /// Why the shape cannot be divided over `ranks`, with the numbers of ranks that can, for a
  /// config error; empty when it can.
  [[nodiscard]] std::string tensor_shard_problem(std::int64_t ranks) const;

  /// Size of `count` weights, activations or KV values.
  [[nodiscard]] Bytes values(std::int64_t count) const { return Bytes{count * bytes_per_value}; }
};

}  // namespace nearkv
