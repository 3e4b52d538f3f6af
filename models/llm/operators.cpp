#include "models/llm/operators.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::int64_t kFlopsPerMultiplyAdd = 2;

/// `count` of FLOPs or bytes of one kernel. Beyond 2^63 no memory holds what it works on.
std::int64_t countable(Int128 count, std::string_view name) {
  check(count >= 0, "a kernel that does less than nothing");
  if (count > std::numeric_limits<std::int64_t>::max()) {
    throw Infeasible(fmt::format(
        "{}: one kernel of {:.3g} bytes or FLOPs; make the batch or its contexts smaller", name,
        static_cast<double>(count)));
  }
  return static_cast<std::int64_t>(count);
}

/// `values` are read or written once each.
OperatorWork launch(const ModelShape& shape, std::string_view name, OperatorKind kind,
                    Int128 values, Int128 multiply_adds) {
  check(values > 0, "an operator that moves nothing");
  return {.name = name,
          .kind = kind,
          .flops = Flops{countable(kFlopsPerMultiplyAdd * multiply_adds, name)},
          .bytes = Bytes{countable(shape.bytes_per_value * values, name)},
          .size = {},
          .kernels = 1};
}

OperatorWork gemm(const ModelShape& shape, std::string_view name, const GemmSize& size) {
  check(size.m > 0, "a GEMM without rows");
  const Int128 m = size.m;
  OperatorWork work = launch(shape, name, OperatorKind::gemm,
                             size.k * size.n + m * size.k + m * size.n, m * size.n * size.k);
  work.size = size;
  return work;
}

/// An operator without a GEMM.
OperatorWork pass(const ModelShape& shape, std::string_view name, OperatorKind kind,
                  Int128 values) {
  return launch(shape, name, kind, values, 0);
}

/// Adds a block's output to the residual stream: two operands and a result.
OperatorWork residual(const ModelShape& shape, std::string_view name, std::int64_t tokens) {
  return pass(shape, name, OperatorKind::elementwise, (2 + 1) * tokens * shape.hidden);
}

// not a constant: the number of norms of a layer whose blocks have normed outputs
bool norms_outputs(const ModelShape& shape) { return shape.norms_per_layer == 4; }

/// What attention over a batch reads, writes and multiplies, in values and multiply-adds.
struct AttentionWork {
  Int128 queries = 0;          // the outputs are as many
  Int128 new_keys = 0;         // of the new tokens; the V values are as many
  bool in_decode = true;       // one new token a sequence
  Int128 keys = 0;             // the V values are as many
  Int128 scores = 0;           // of one score matrix: each new token, each key, all heads
  Int128 causal_products = 0;  // of one product (Q K or P V), without the masked pairs
  Int128 full_products = 0;    // with them

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
    const std::int64_t earlier = group.context - t;
    // The first new tokens see all before them, the others their window only.
    const std::int64_t window = shape.attended_tokens(group.context);
    const std::int64_t full = std::clamp<std::int64_t>(window - earlier, 0, t);
    const std::int64_t pairs = full * earlier + full * (full + 1) / 2 + (t - full) * window;
    const std::int64_t seen = std::min(group.context, window + t - 1);
    const Int128 width = group.sequences * shape.attention_width;
    queries += width * t;
    new_keys += Int128{group.tokens()} * shape.kv_width();
    in_decode = in_decode && t == 1;
    keys += Int128{group.sequences} * seen * shape.kv_width();
    scores += Int128{group.tokens()} * shape.heads * seen;
    causal_products += width * pairs;
    full_products += width * t * seen;
  }
};

void append(std::vector<OperatorWork>& all, const std::vector<OperatorWork>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

/// Copies and passes around the three operators of unfused attention. A copy reads and writes.
std::vector<OperatorWork> eager_attention(const ModelShape& shape, const AttentionWork& work,
                                          const std::vector<OperatorWork>& plain) {
  const auto copy = [&shape](std::string_view name, Int128 values) {
    return pass(shape, name, OperatorKind::strided, 2 * values);
  };
  std::vector<OperatorWork> operators{
      pass(shape, "query_scaling", OperatorKind::elementwise, 2 * work.queries)};
  if (work.in_decode) {
    append(operators,
           {copy("key_insertion", work.new_keys), copy("value_insertion", work.new_keys)});
  } else {
    append(operators,
           {copy("query_transposition", work.queries), copy("key_transposition", work.new_keys),
            copy("value_transposition", work.new_keys)});
  }
  append(operators, {plain[0], copy("attention_mask", work.scores), plain[1], plain[2]});
  if (!work.in_decode) {
    operators.push_back(copy("output_transposition", work.queries));
  }
  return operators;
}

/// Names of the three operators of a feed-forward network.
struct NetworkNames {
  std::string_view in;
  std::string_view activation;
  std::string_view out;
};
constexpr NetworkNames kDense{"ffn_in", "ffn_activation", "ffn_out"};
constexpr NetworkNames kExperts{"experts_in", "experts_activation", "experts_out"};
constexpr NetworkNames kShared{"shared_in", "shared_activation", "shared_out"};

OperatorWork activation(const ModelShape& shape, std::string_view name, std::int64_t inner,
                        std::int64_t rows) {
  return pass(shape, name, OperatorKind::elementwise,
              Int128{rows} * (shape.ffn_columns(inner) + inner));
}

/// One feed-forward network, `inner` wide, of all tokens.
std::vector<OperatorWork> network(const ModelShape& shape, const NetworkNames& names,
                                  std::int64_t inner, std::int64_t tokens) {
  return {gemm(shape, names.in, {tokens, shape.ffn_columns(inner), shape.hidden}),
          activation(shape, names.activation, inner, tokens),
          gemm(shape, names.out, {tokens, shape.hidden, inner})};
}

/// A GEMM of each picked expert, in one kernel.
OperatorWork grouped_gemm(const ModelShape& shape, std::string_view name, std::int64_t tokens,
                          const GemmSize& of_expert) {
  const double experts = shape.expected_experts(tokens);
  const Int128 rows = Int128{tokens} * shape.experts_per_token;
  const std::int64_t columns = of_expert.n + of_expert.k;
  const Int128 products = Int128{of_expert.n} * of_expert.k;
  const auto weights = static_cast<Int128>(std::round(experts * static_cast<double>(products)));
  OperatorWork work =
      launch(shape, name, OperatorKind::gemm, weights + rows * columns, rows * products);
  work.size = of_expert;
  work.size.m = static_cast<std::int64_t>(std::round(static_cast<double>(rows) / experts));
  return work;
}

std::vector<OperatorWork> picked_experts(const ModelShape& shape, std::int64_t tokens) {
  return {grouped_gemm(shape, kExperts.in, tokens, {0, shape.ffn_in_width(), shape.hidden}),
          activation(shape, kExperts.activation, shape.ffn, tokens * shape.experts_per_token),
          grouped_gemm(shape, kExperts.out, tokens, {0, shape.hidden, shape.ffn})};
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
    return {launch(shape, "attention", OperatorKind::attention, 2 * work.queries + 2 * work.keys,
                   2 * work.causal_products)};
  }
  const Int128 operands = work.queries + work.keys + work.scores;
  const std::vector<OperatorWork> plain{
      launch(shape, "attention_scores", OperatorKind::attention, operands, work.full_products),
      pass(shape, "attention_softmax", OperatorKind::softmax, 2 * work.scores),
      launch(shape, "attention_values", OperatorKind::attention, operands, work.full_products)};
  return kernel == AttentionKernel::eager ? eager_attention(shape, work, plain) : plain;
}

std::vector<OperatorWork> before_attention(const ModelShape& shape, std::int64_t tokens,
                                           AttentionKernel kernel) {
  std::vector<OperatorWork> operators{norm(shape, tokens, "attention_norm")};
  if (kernel == AttentionKernel::eager) {
    const GemmSize key{tokens, shape.kv_width(), shape.hidden};
    append(operators,
           {gemm(shape, "query_projection", {tokens, shape.attention_width, shape.hidden}),
            gemm(shape, "key_projection", key), gemm(shape, "value_projection", key)});
  } else {
    operators.push_back(qkv_projection(shape, tokens));
  }
  const std::int64_t q_and_k = tokens * (shape.attention_width + shape.kv_width());
  if (shape.qk_norms) {
    operators.push_back(pass(shape, "qk_norm", OperatorKind::norm, 2 * q_and_k));
  }
  if (shape.learned_positions == 0) {
    operators.push_back(pass(shape, "rotary", OperatorKind::elementwise, 2 * q_and_k));
  }
  return operators;
}

std::vector<OperatorWork> kv_projection(const ModelShape& shape, std::int64_t tokens) {
  std::vector<OperatorWork> operators{
      gemm(shape, "kv_projection", {tokens, 2 * shape.kv_width(), shape.hidden})};
  const Int128 keys = Int128{tokens} * shape.kv_width();
  if (shape.qk_norms) {
    operators.push_back(pass(shape, "k_norm", OperatorKind::norm, 2 * keys));
  }
  if (shape.learned_positions == 0) {
    operators.push_back(pass(shape, "k_rotary", OperatorKind::elementwise, 2 * keys));
  }
  return operators;
}

std::vector<OperatorWork> feed_forward(const ModelShape& shape, std::int64_t tokens) {
  if (!shape.is_mixture()) {
    return network(shape, kDense, shape.ffn, tokens);
  }
  std::vector<OperatorWork> operators{gemm(shape, "router", {tokens, shape.experts, shape.hidden}),
                                      pass(shape, "router_choice", OperatorKind::elementwise,
                                           tokens * (shape.experts + shape.experts_per_token))};
  append(operators, picked_experts(shape, tokens));
  // The sum weighted by the router: each picked expert's output in, one out.
  operators.push_back(pass(shape, "experts_sum", OperatorKind::elementwise,
                           Int128{tokens} * (shape.experts_per_token + 1) * shape.hidden));
  if (shape.shared_ffn > 0) {
    operators.push_back(gemm(shape, "shared_gate", {tokens, 1, shape.hidden}));
    append(operators, network(shape, kShared, shape.shared_ffn, tokens));
    operators.push_back(residual(shape, "shared_sum", tokens));
  }
  return operators;
}

std::vector<OperatorWork> attention_output(const ModelShape& shape, std::int64_t tokens) {
  std::vector<OperatorWork> operators{output_projection(shape, tokens)};
  if (norms_outputs(shape)) {
    operators.push_back(norm(shape, tokens, "attention_output_norm"));
  }
  operators.push_back(residual(shape, "attention_residual", tokens));
  return operators;
}

std::vector<OperatorWork> feed_forward_block(const ModelShape& shape, std::int64_t tokens) {
  std::vector<OperatorWork> operators;
  if (shape.norms_per_layer > 1) {
    operators.push_back(norm(shape, tokens, "ffn_norm"));
  }
  append(operators, feed_forward(shape, tokens));
  if (norms_outputs(shape)) {
    operators.push_back(norm(shape, tokens, "ffn_output_norm"));
  }
  operators.push_back(residual(shape, "ffn_residual", tokens));
  return operators;
}

std::vector<OperatorWork> after_attention(const ModelShape& shape, std::int64_t tokens) {
  std::vector<OperatorWork> operators = attention_output(shape, tokens);
  append(operators, feed_forward_block(shape, tokens));
  return operators;
}

std::vector<OperatorWork> layer_operators(const ModelShape& shape,
                                          std::span<const SequenceBatch> groups,
                                          AttentionKernel kernel) {
  const std::int64_t tokens = tokens_of(groups);
  std::vector<OperatorWork> operators = before_attention(shape, tokens, kernel);
  append(operators, attention(shape, groups, kernel));
  append(operators, after_attention(shape, tokens));
  return operators;
}

OperatorWork embedding(const ModelShape& shape, std::int64_t tokens) {
  const Int128 rows = tokens;
  const Int128 positions = shape.learned_positions == 0 ? 0 : rows * shape.hidden;
  if (!shape.has_embedding_projection()) {
    return pass(shape, "embedding", OperatorKind::elementwise, 2 * rows * shape.hidden + positions);
  }
  OperatorWork work = gemm(shape, "embedding", {tokens, shape.hidden, shape.embedding_width});
  work.bytes += Bytes{countable(shape.bytes_per_value * (rows * shape.embedding_width + positions),
                                "embedding")};  // the lookup; the GEMM reads its result
  return work;
}

std::vector<OperatorWork> next_token(const ModelShape& shape, std::int64_t sequences) {
  std::vector<OperatorWork> operators;
  if (shape.final_norm) {
    operators.push_back(norm(shape, sequences, "final_norm"));
  }
  if (shape.has_embedding_projection()) {
    operators.push_back(
        gemm(shape, "output_width", {sequences, shape.embedding_width, shape.hidden}));
  }
  operators.push_back(gemm(shape, "lm_head", {sequences, shape.vocab, shape.embedding_columns()}));
  return operators;
}

Bytes LayerWorkspace::peak() const {
  const Bytes in_attention = qkv + scores + probabilities + attention_output;
  return hidden + block_input + std::max(in_attention, ffn_inner + expert_outputs);
}

LayerWorkspace layer_workspace(const ModelShape& shape, std::span<const SequenceBatch> groups,
                               AttentionKernel kernel) {
  const Int128 tokens = tokens_of(groups);
  const Int128 scores = kernel == AttentionKernel::fused ? 0 : AttentionWork(shape, groups).scores;
  const std::int64_t networks = shape.is_mixture() ? shape.experts_per_token : 1;
  const Int128 inner = networks * shape.ffn_in_width() + shape.ffn_columns(shape.shared_ffn);
  const Int128 picked = shape.experts_per_token;
  // An eighth of the range each, so that their sum is in range.
  const auto size = [&shape](Int128 values) {
    return Bytes{countable(8 * shape.bytes_per_value * values, "workspace") / 8};
  };
  return {.hidden = size(tokens * shape.hidden),
          .block_input = size(tokens * shape.hidden),
          .qkv = size(tokens * shape.qkv_width()),
          .scores = size(scores),
          .probabilities = size(scores),
          .attention_output = size(tokens * shape.attention_width),
          .ffn_inner = size(tokens * inner),
          .expert_outputs = size(tokens * picked * shape.hidden)};
}

Bytes logits_bytes(const ModelShape& shape, std::int64_t sequences) {
  return shape.values(sequences * shape.vocab);
}

}  // namespace nearkv
