#include "models/llm/operators.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::int64_t kFlopsPerMultiplyAdd = 2;

OperatorWork gemm(const ModelShape& shape, std::string_view name, const GemmSize& size) {
  check(size.m > 0, "a GEMM without rows");
  return {.name = name,
          .kind = OperatorKind::gemm,
          .flops = Flops{kFlopsPerMultiplyAdd * size.m * size.n * size.k},
          .bytes = shape.values(size.k * size.n + size.m * size.k + size.m * size.n),
          .size = size,
          .kernels = 1};
}

/// An operator without a GEMM; `values` are read or written once each.
OperatorWork pass(const ModelShape& shape, std::string_view name, OperatorKind kind,
                  std::int64_t values, std::int64_t multiply_adds = 0) {
  check(values > 0, "an operator that moves nothing");
  return {.name = name,
          .kind = kind,
          .flops = Flops{kFlopsPerMultiplyAdd * multiply_adds},
          .bytes = shape.values(values),
          .size = {},
          .kernels = 1};
}

/// Adds a block's output to the residual stream: two operands and a result.
OperatorWork residual(const ModelShape& shape, std::string_view name, std::int64_t tokens) {
  return pass(shape, name, OperatorKind::elementwise, (2 + 1) * tokens * shape.hidden);
}

/// What attention over a batch reads, writes and multiplies, in values and multiply-adds.
struct AttentionWork {
  std::int64_t queries = 0;          // the outputs are as many
  std::int64_t keys = 0;             // the V values are as many
  std::int64_t scores = 0;           // of one score matrix: each new token, each key, all heads
  std::int64_t causal_products = 0;  // of one product (Q K or P V), without the masked pairs
  std::int64_t full_products = 0;    // with them

  AttentionWork(const ModelShape& shape, std::span<const SequenceBatch> groups) {
    check(!groups.empty(), "a batch without sequences");
    for (const SequenceBatch& group : groups) {
      add(shape, group);
    }
  }

 private:
  void add(const ModelShape& shape, const SequenceBatch& group) {
    check(group.sequences > 0 && group.new_tokens > 0 && group.context >= group.new_tokens,
          "a batch without tokens, or with less context than new tokens");
    const std::int64_t t = group.new_tokens;
    const std::int64_t width = group.sequences * shape.attention_width;
    queries += width * t;
    keys += group.sequences * group.context * shape.kv_width();
    scores += group.tokens() * shape.heads * group.context;
    causal_products += width * (t * (group.context - t) + t * (t + 1) / 2);
    full_products += width * t * group.context;
  }
};

void append(std::vector<OperatorWork>& all, const std::vector<OperatorWork>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

std::int64_t tokens_of(std::span<const SequenceBatch> groups) {
  std::int64_t tokens = 0;
  for (const SequenceBatch& group : groups) {
    tokens += group.tokens();
  }
  return tokens;
}

OperatorWork qkv_projection(const ModelShape& shape, std::int64_t tokens) {
  return gemm(shape, "qkv_projection", {tokens, shape.qkv_width(), shape.hidden});
}

OperatorWork output_projection(const ModelShape& shape, std::int64_t tokens) {
  return gemm(shape, "output_projection", {tokens, shape.hidden, shape.attention_width});
}

OperatorWork norm(const ModelShape& shape, std::int64_t tokens, std::string_view name) {
  return pass(shape, name, OperatorKind::norm, 2 * tokens * shape.hidden);
}

std::vector<OperatorWork> attention(const ModelShape& shape, std::span<const SequenceBatch> groups,
                                    AttentionKernel kernel) {
  const AttentionWork work(shape, groups);
  if (kernel == AttentionKernel::fused) {
    return {pass(shape, "attention", OperatorKind::attention, 2 * work.queries + 2 * work.keys,
                 2 * work.causal_products)};
  }
  const std::int64_t operands = work.queries + work.keys + work.scores;
  return {pass(shape, "attention_scores", OperatorKind::attention, operands, work.full_products),
          pass(shape, "attention_softmax", OperatorKind::elementwise, 2 * work.scores),
          pass(shape, "attention_values", OperatorKind::attention, operands, work.full_products)};
}

std::vector<OperatorWork> before_attention(const ModelShape& shape, std::int64_t tokens) {
  std::vector<OperatorWork> operators{norm(shape, tokens, "attention_norm"),
                                      qkv_projection(shape, tokens)};
  if (shape.learned_positions == 0) {
    const std::int64_t turned = tokens * (shape.attention_width + shape.kv_width());
    operators.push_back(pass(shape, "rotary", OperatorKind::elementwise, 2 * turned));
  }
  return operators;
}

std::vector<OperatorWork> after_attention(const ModelShape& shape, std::int64_t tokens) {
  const std::int64_t inner = shape.ffn_in_width();
  return {output_projection(shape, tokens),
          residual(shape, "attention_residual", tokens),
          norm(shape, tokens, "ffn_norm"),
          gemm(shape, "ffn_in", {tokens, inner, shape.hidden}),
          pass(shape, "ffn_activation", OperatorKind::elementwise, tokens * (inner + shape.ffn)),
          gemm(shape, "ffn_out", {tokens, shape.hidden, shape.ffn}),
          residual(shape, "ffn_residual", tokens)};
}

std::vector<OperatorWork> layer_operators(const ModelShape& shape,
                                          std::span<const SequenceBatch> groups,
                                          AttentionKernel kernel) {
  const std::int64_t tokens = tokens_of(groups);
  std::vector<OperatorWork> operators = before_attention(shape, tokens);
  append(operators, attention(shape, groups, kernel));
  append(operators, after_attention(shape, tokens));
  return operators;
}

OperatorWork embedding(const ModelShape& shape, std::int64_t tokens) {
  const std::int64_t rows_read = shape.learned_positions == 0 ? 1 : 2;
  return pass(shape, "embedding", OperatorKind::elementwise,
              (rows_read + 1) * tokens * shape.hidden);
}

std::vector<OperatorWork> next_token(const ModelShape& shape, std::int64_t sequences) {
  return {norm(shape, sequences, "final_norm"),
          gemm(shape, "lm_head", {sequences, shape.vocab, shape.hidden})};
}

Bytes LayerWorkspace::peak() const {
  const Bytes in_attention = qkv + scores + probabilities + attention_output;
  return hidden + block_input + std::max(in_attention, ffn_inner);
}

LayerWorkspace layer_workspace(const ModelShape& shape, std::span<const SequenceBatch> groups,
                               AttentionKernel kernel) {
  const std::int64_t tokens = tokens_of(groups);
  const bool fused = kernel == AttentionKernel::fused;
  const Bytes scores = shape.values(fused ? 0 : AttentionWork(shape, groups).scores);
  return {.hidden = shape.values(tokens * shape.hidden),
          .block_input = shape.values(tokens * shape.hidden),
          .qkv = shape.values(tokens * shape.qkv_width()),
          .scores = scores,
          .probabilities = scores,
          .attention_output = shape.values(tokens * shape.attention_width),
          .ffn_inner = shape.values(tokens * shape.ffn_in_width())};
}

Bytes logits_bytes(const ModelShape& shape, std::int64_t sequences) {
  return shape.values(sequences * shape.vocab);
}

}  // namespace nearkv
