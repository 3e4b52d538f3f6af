#include "models/llm/model_shape.hpp"

#include <vector>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

// not a constant: limits of the input, far above any model, so that products stay below 2^63
constexpr struct {
  std::int64_t layers = 1 << 12;
  std::int64_t experts = 1 << 10;
  std::int64_t width = 1 << 18;
  std::int64_t inner_width = 1 << 20;
  std::int64_t tokens = 1 << 30;  // of a vocabulary, context or position table
  std::int64_t weight_bytes = std::int64_t{1} << 60;
} kMost;

Range one_to(std::int64_t highest) { return {1, static_cast<double>(highest)}; }
Range up_to(std::int64_t highest) { return {0, static_cast<double>(highest)}; }

/// What does not divide evenly over `ranks`, or empty.
std::string indivisible(const ModelShape& shape, std::int64_t ranks) {
  if (shape.heads % ranks != 0) {
    return fmt::format("{} query heads", shape.heads);
  }
  if (shape.kv_heads % ranks != 0 && ranks % shape.kv_heads != 0) {
    return fmt::format("{} KV heads", shape.kv_heads);
  }
  if (shape.ffn % ranks != 0) {
    return fmt::format("a feed-forward width of {}", shape.ffn);
  }
  return shape.shared_ffn % ranks != 0
             ? fmt::format("a shared expert's width of {}", shape.shared_ffn)
             : "";
}

}  // namespace

void ModelShape::fields(FieldVisitor& v) {
  v.parameter("name", name, "Name of the model in tables and records.");
  v.parameter("layers", layers, "Decoder layers.", one_to(kMost.layers));
  v.parameter("hidden", hidden, "Width of the residual stream.", one_to(kMost.width));
  attention_fields(v);
  network_fields(v);
  v.parameter("norms_per_layer", norms_per_layer,
              "Norms of the residual stream's width in a layer: 2; 1 when attention and "
              "feed-forward network share one normed input (GPT-J); 4 when their outputs are "
              "normed, too (Gemma 2).",
              {1, 4});
  v.parameter(
      "norm_biases", norm_biases,
      "Whether norms have a bias vector besides their scale (LayerNorm; RMSNorm has none).");
  v.one_of("biases", biases, {"none", "qkv", "attention", "ffn", "all"},
           "Linear layers with bias vectors: none (Llama), those of q, k and v (Qwen2), those and "
           "the output projection of attention, those of the feed-forward network (GPT-J) or all "
           "(OPT).");
  v.parameter("vocab", vocab, "Tokens of the vocabulary, rows of the embedding table.",
              one_to(kMost.tokens));
  v.parameter("embedding_width", embedding_width,
              "Columns of an embedding table that is narrower than the residual stream and "
              "projected to and from it (OPT-350M); 0 means the hidden size.",
              up_to(kMost.width));
  v.parameter("max_positions", max_positions, "Longest context in tokens.", one_to(kMost.tokens));
  v.parameter("learned_positions", learned_positions,
              "Rows of the learned position table; 0 means rotary positions.", up_to(kMost.tokens));
  v.parameter("final_norm", final_norm, "Whether a norm precedes the LM head.");
  v.parameter("tied_embeddings", tied_embeddings,
              "Whether the LM head shares the weights of the embedding table.");
  v.parameter("bytes_per_value", bytes_per_value,
              "Bytes of one weight, activation or KV value; 2 is FP16.", {1, 8});
  require_consistency(v);
}

void ModelShape::attention_fields(FieldVisitor& v) {
  v.parameter("heads", heads, "Query heads of a layer.", one_to(kMost.width));
  v.parameter("kv_heads", kv_heads, "Key and value heads of a layer; fewer than heads in GQA.",
              one_to(kMost.width));
  v.parameter("head_dim", head_dim, "Width of one head.", one_to(kMost.width));
  v.parameter("attention_width", attention_width,
              "Width of all query heads together, heads x head_dim; in most models the hidden "
              "size.",
              one_to(kMost.width));
  v.parameter("attention_window", attention_window,
              "Sliding window: newest tokens that a token sees, itself included; 0 means all.",
              up_to(kMost.tokens));
  v.parameter("qk_norms", qk_norms,
              "Whether each head of q and k is normed before attention (Qwen3).");
}

void ModelShape::network_fields(FieldVisitor& v) {
  v.parameter("ffn", ffn,
              "Inner width of the feed-forward network, or of one expert in a mixture of experts.",
              one_to(kMost.inner_width));
  v.parameter("gated_ffn", gated_ffn,
              "Whether the feed-forward network has a gate (SwiGLU): two inner projections.");
  v.parameter("experts", experts,
              "Experts of each layer (mixture of experts); 0 means one dense network.",
              up_to(kMost.experts));
  v.parameter("experts_per_token", experts_per_token,
              "Experts that the router picks for a token; 0 in a dense model.",
              up_to(kMost.experts));
  v.parameter("shared_ffn", shared_ffn,
              "Inner width of an expert that every token passes besides those picked, with a gate "
              "of its own (Qwen2-MoE); 0 means none.",
              up_to(kMost.inner_width));
}

void ModelShape::require_consistency(FieldVisitor& v) const {
  v.require([this] { return heads % kv_heads == 0; }, "kv_heads",
            fmt::format("{} does not divide heads ({}); each KV head serves equally many query "
                        "heads",
                        kv_heads, heads));
  v.require(
      heads * head_dim == attention_width, "attention_width",
      fmt::format("must be heads x head_dim = {} x {} = {}", heads, head_dim, heads * head_dim));
  v.require(learned_positions == 0 || learned_positions >= max_positions, "learned_positions",
            fmt::format("must be 0 (rotary) or at least max_positions ({})", max_positions));
  v.require(experts_per_token <= experts && (experts_per_token > 0) == (experts > 0),
            "experts_per_token",
            experts > 0 ? fmt::format("must be 1 to experts ({})", experts)
                        : "must be 0 in a dense model (experts is 0)");
  v.require(shared_ffn == 0 || experts > 0, "shared_ffn",
            "must be 0 in a dense model (experts is 0)");
  v.require(norms_per_layer != 3, "norms_per_layer", "must be 1, 2 or 4");
  v.require([this] { return parameters() <= kMost.weight_bytes / bytes_per_value; }, "layers",
            "the weights are more than 1 EiB; one of the widths is not what it should be");
}

std::int64_t ModelShape::network_parameters(std::int64_t inner) const {
  const std::int64_t columns = ffn_columns(inner);
  const bool has_biases = biases == Biases::ffn || biases == Biases::all;
  return hidden * (columns + inner) + (has_biases ? columns + hidden : 0);
}

std::int64_t ModelShape::parameters_per_layer() const {
  const std::int64_t attention = hidden * (qkv_width() + attention_width);
  const bool has_output_bias = biases == Biases::attention || biases == Biases::all;
  const bool has_qkv_biases = biases == Biases::qkv || has_output_bias;
  const std::int64_t attention_biases =
      (has_qkv_biases ? qkv_width() : 0) + (has_output_bias ? hidden : 0);
  const std::int64_t head_norms = qk_norms ? 2 * head_dim : 0;  // one scale for all heads
  const std::int64_t norms = norms_per_layer * hidden * (norm_biases ? 2 : 1);
  std::int64_t network = parameters_per_expert();
  if (is_mixture()) {
    network = experts * parameters_per_expert() + experts * hidden;  // and the router
  }
  if (shared_ffn > 0) {
    network += network_parameters(shared_ffn) + hidden;  // and its gate
  }
  return attention + attention_biases + head_norms + norms + network;
}

std::int64_t ModelShape::projected_table_parameters() const {
  return vocab * embedding_columns() + (has_embedding_projection() ? hidden * embedding_width : 0);
}

std::int64_t ModelShape::input_parameters() const {
  return projected_table_parameters() + learned_positions * hidden;
}

std::int64_t ModelShape::output_parameters() const {
  const std::int64_t last_norm = final_norm ? hidden * (norm_biases ? 2 : 1) : 0;
  return projected_table_parameters() + last_norm;
}

std::int64_t ModelShape::parameters() const {
  const std::int64_t shared = tied_embeddings ? vocab * embedding_columns() : 0;
  return layers * parameters_per_layer() + input_parameters() + output_parameters() - shared;
}

std::int64_t ModelShape::active_parameters() const {
  return parameters() - layers * (experts - experts_per_token) * parameters_per_expert();
}

double ModelShape::expected_experts(std::int64_t tokens) const {
  check(is_mixture() && tokens >= 0, "experts asked of a dense model");
  const auto all = static_cast<double>(experts);
  // The power by squaring, which is the same on every machine.
  double missed = 1;
  double power = 1 - static_cast<double>(experts_per_token) / all;
  for (std::int64_t rest = tokens; rest > 0; rest /= 2) {
    missed *= rest % 2 == 1 ? power : 1;
    power *= power;
  }
  return all * (1 - missed);
}

std::string ModelShape::tensor_shard_problem(std::int64_t ranks) const {
  check(ranks > 0, "a tensor-parallel group without ranks");
  const std::string part = indivisible(*this, ranks);
  if (part.empty()) {
    return "";
  }
  std::vector<std::int64_t> possible;
  for (std::int64_t n = 1; n <= heads; ++n) {
    if (indivisible(*this, n).empty()) {
      possible.push_back(n);
    }
  }
  return fmt::format("{} ranks cannot share {} of {} evenly; possible: {}", ranks, part, name,
                     fmt::join(possible, ", "));
}

ModelShape ModelShape::tensor_shard(std::int64_t ranks) const {
  const std::string problem = tensor_shard_problem(ranks);
  check(problem.empty(), problem);
  ModelShape shard = *this;
  shard.heads = heads / ranks;
  shard.kv_heads = ranks > kv_heads ? 1 : kv_heads / ranks;
  shard.attention_width = shard.heads * head_dim;
  shard.ffn = ffn / ranks;
  shard.shared_ffn = shared_ffn / ranks;
  shard.vocab = ceil_div(vocab, ranks);
  return shard;
}

}  // namespace nearkv
