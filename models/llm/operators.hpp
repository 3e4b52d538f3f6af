// The operators of a transformer on one GPU: how much each computes and moves.
//
// FLOPs are those of matrix products, 2 x m x n x k (a multiply and an add). Elementwise
// operators and norms count none: they do about one operation a byte and are bound by memory.
// Bytes are what a kernel reads from and writes to GPU memory when each operand passes once; bias
// and norm vectors (below 1/1000 of a weight matrix) are left out. Projections of one input are
// one joint GEMM (q, k, v; gate and up).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "models/llm/model_shape.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// What limits an operator differs by kind; a GPU has achieved rates for each.
/// strided: copies that transpose and passes over broadcast operands.
enum class OperatorKind { gemm, attention, norm, elementwise, softmax, strided };

/// Size of [m x k] x [k x n]; m is the number of tokens (those of one expert where a kernel does
/// the products of several). Zero for other kinds than gemm.
struct GemmSize {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

struct OperatorWork {
  std::string_view name;  // a literal: "qkv_projection"
  OperatorKind kind;
  Flops flops;
  Bytes bytes;  // read and written
  GemmSize size;
  int kernels;  // launches
};

/// Equal sequences that pass a layer together. Prefill: new_tokens = context = the prompt; a
/// decode step: new_tokens = 1 and `context` counts the new token.
struct SequenceBatch {
  std::int64_t sequences;   // the batch size
  std::int64_t new_tokens;  // a sequence
  std::int64_t context;     // keys that the last new token sees, itself included; >= new_tokens

  [[nodiscard]] std::int64_t tokens() const { return sequences * new_tokens; }
};
/// New tokens of all groups of a ragged batch.
[[nodiscard]] std::int64_t tokens_of(std::span<const SequenceBatch> groups);

/// fused: one kernel, scores stay on the chip, masked pairs are skipped (FlashAttention).
/// unfused: scores, softmax and weighted values as three kernels over a whole score matrix.
/// eager: the same as an eager program without fused kernels writes it (FlexGen's mha and mha_gen):
/// q, k and v are GEMMs of their own, queries are scaled, a mask is laid over the scores, and
/// tensors are transposed (prefill) or the new K and V are inserted (decode) by copies.
enum class AttentionKernel { fused, unfused, eager };
inline constexpr std::array<std::string_view, 3> kAttentionKernelNames{"fused", "unfused", "eager"};

/// [tokens x hidden] x [hidden x qkv_width].
[[nodiscard]] OperatorWork qkv_projection(const ModelShape& shape, std::int64_t tokens);
/// [tokens x attention_width] x [attention_width x hidden].
[[nodiscard]] OperatorWork output_projection(const ModelShape& shape, std::int64_t tokens);
/// Reads and writes the residual stream once. `name` is a literal.
[[nodiscard]] OperatorWork norm(const ModelShape& shape, std::int64_t tokens,
                                std::string_view name);

/// The feed-forward network without its norm and residual: two projections and an activation. In a
/// mixture of experts (MoE): router, top-k choice, the same three operators over the experts, each
/// one grouped kernel that reads the weights of the expected number of different experts
/// (ModelShape::expected_experts), a weighted sum, and the shared expert if there is one.
[[nodiscard]] std::vector<OperatorWork> feed_forward(const ModelShape& shape, std::int64_t tokens);

/// Causal attention of the new tokens over their context, all heads of one layer.
/// With b sequences, t new tokens, context s, H heads of d: fused 4 b H d pairs FLOPs, where
/// pairs = t (s - t) + t (t + 1) / 2, and bytes of q, K, V and output; unfused 4 b H d t s FLOPs
/// in two kernels, and b H t s scores written, read, written and read; eager reads and writes them
/// once more, and copies q, K and V of the new tokens. With a sliding window of w,
/// token i sees min(i, w) keys, and min(s, w + t - 1) take the place of s keys.
/// A ragged batch has one SequenceBatch for each group of equal sequences: each kernel is still
/// launched once and does the sum of the groups' work, without padding. At least one group.
[[nodiscard]] std::vector<OperatorWork> attention(const ModelShape& shape,
                                                  std::span<const SequenceBatch> groups,
                                                  AttentionKernel kernel);
[[nodiscard]] inline std::vector<OperatorWork> attention(const ModelShape& shape,
                                                         const SequenceBatch& batch,
                                                         AttentionKernel kernel) {
  return attention(shape, std::span(&batch, 1), kernel);
}

/// What a layer does before attention: norm, q, k, v, and norms of q and k and rotary positions if
/// the model has them.
[[nodiscard]] std::vector<OperatorWork> before_attention(
    const ModelShape& shape, std::int64_t tokens, AttentionKernel kernel = AttentionKernel::fused);
/// K and V of tokens from the layer's normed input, which was kept instead of them: the part of
/// before_attention() that q has no share in, without the norm.
[[nodiscard]] std::vector<OperatorWork> kv_projection(const ModelShape& shape, std::int64_t tokens);
/// What follows attention in its block: output projection and residual, with a norm of the output
/// (norms_per_layer 4).
[[nodiscard]] std::vector<OperatorWork> attention_output(const ModelShape& shape,
                                                         std::int64_t tokens);
/// The block behind it: norm (unless there is but one a layer), feed-forward network, residual.
[[nodiscard]] std::vector<OperatorWork> feed_forward_block(const ModelShape& shape,
                                                           std::int64_t tokens);
/// attention_output() and feed_forward_block().
[[nodiscard]] std::vector<OperatorWork> after_attention(const ModelShape& shape,
                                                        std::int64_t tokens);
/// A whole layer on the GPU; a ragged batch as in attention().
[[nodiscard]] std::vector<OperatorWork> layer_operators(const ModelShape& shape,
                                                        std::span<const SequenceBatch> groups,
                                                        AttentionKernel kernel);
[[nodiscard]] inline std::vector<OperatorWork> layer_operators(const ModelShape& shape,
                                                               const SequenceBatch& batch,
                                                               AttentionKernel kernel) {
  return layer_operators(shape, std::span(&batch, 1), kernel);
}

/// Embedding and position lookup of the new tokens, and the projection of a narrower table.
[[nodiscard]] OperatorWork embedding(const ModelShape& shape, std::int64_t tokens);
/// Final norm, projection to a narrower table and LM head, for the last token of each sequence
/// only.
[[nodiscard]] std::vector<OperatorWork> next_token(const ModelShape& shape, std::int64_t sequences);

/// GPU memory that one layer needs beside weights and KV cache while a batch passes it.
struct LayerWorkspace {
  Bytes hidden;            // the residual stream
  Bytes block_input;       // its normed copy, later the block's output
  Bytes qkv;               // q, k, v of the new tokens
  Bytes scores;            // one score matrix of all heads; none when fused
  Bytes probabilities;     // softmax's output beside its input; none when fused
  Bytes attention_output;  // before the output projection
  Bytes ffn_inner;         // first projection's output; the activation works in place
  Bytes expert_outputs;    // of each token and expert, before their sum; none when dense

  /// Largest sum held at a time: attention and feed-forward network do not overlap.
  [[nodiscard]] Bytes peak() const;
};
/// Of a ragged batch: the sums over its groups.
[[nodiscard]] LayerWorkspace layer_workspace(const ModelShape& shape,
                                             std::span<const SequenceBatch> groups,
                                             AttentionKernel kernel);
[[nodiscard]] inline LayerWorkspace layer_workspace(const ModelShape& shape,
                                                    const SequenceBatch& batch,
                                                    AttentionKernel kernel) {
  return layer_workspace(shape, std::span(&batch, 1), kernel);
}
/// Scores over the vocabulary for the last token of each sequence.
[[nodiscard]] Bytes logits_bytes(const ModelShape& shape, std::int64_t sequences);

}  // namespace nearkv
