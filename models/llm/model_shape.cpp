#include "models/llm/model_shape.hpp"

#include <vector>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// What does not divide evenly over `ranks`, or empty.
std::string indivisible(const ModelShape& shape, std::int64_t ranks) {
  if (shape.heads % ranks != 0) {
    return fmt::format("{} query heads", shape.heads);
  }
  if (shape.kv_heads % ranks != 0 && ranks % shape.kv_heads != 0) {
    return fmt::format("{} KV heads", shape.kv_heads);
  }
  return shape.ffn % ranks != 0 ? fmt::format("a feed-forward width of {}", shape.ffn) : "";
}

}  // namespace

void ModelShape::fields(FieldVisitor& v) {
  const Range positive = at_least(1);
  v.parameter("name", name, "Name of the model in tables and records.");
  v.parameter("layers", layers, "Decoder layers.", positive);
  v.parameter("hidden", hidden, "Width of the residual stream.", positive);
  v.parameter("heads", heads, "Query heads of a layer.", positive);
  v.parameter("kv_heads", kv_heads, "Key and value heads of a layer; fewer than heads in GQA.",
              positive);
  v.parameter("head_dim", head_dim, "Width of one head.", positive);
  v.parameter("attention_width", attention_width,
              "Width of all query heads together, heads x head_dim; in most models the hidden "
              "size.",
              positive);
  v.parameter("ffn", ffn, "Inner width of the feed-forward network.", positive);
  v.parameter("gated_ffn", gated_ffn,
              "Whether the feed-forward network has a gate (SwiGLU): two inner projections.");
  v.parameter("vocab", vocab, "Tokens of the vocabulary, rows of the embedding table.", positive);
  v.parameter("max_positions", max_positions, "Longest context in tokens.", positive);
  v.parameter("learned_positions", learned_positions,
              "Rows of the learned position table; 0 means rotary positions.", at_least(0));
  v.parameter("tied_embeddings", tied_embeddings,
              "Whether the LM head shares the weights of the embedding table.");
  v.parameter("biases", biases,
              "Whether linear layers and norms have bias vectors (OPT) or none (Llama).");
  v.parameter("bytes_per_value", bytes_per_value,
              "Bytes of one weight, activation or KV value; 2 is FP16.", at_least(1));

  v.require(kv_heads > 0 && heads % kv_heads == 0, "kv_heads",
            fmt::format("{} does not divide heads ({}); each KV head serves equally many query "
                        "heads",
                        kv_heads, heads));
  v.require(
      heads * head_dim == attention_width, "attention_width",
      fmt::format("must be heads x head_dim = {} x {} = {}", heads, head_dim, heads * head_dim));
  v.require(learned_positions == 0 || learned_positions >= max_positions, "learned_positions",
            fmt::format("must be 0 (rotary) or at least max_positions ({})", max_positions));
}

std::int64_t ModelShape::parameters_per_layer() const {
  const std::int64_t matrices = hidden * (qkv_width() + attention_width + ffn_in_width() + ffn);
  const std::int64_t norms = 2 * hidden * (biases ? 2 : 1);
  // The output projection and the second feed-forward projection end in `hidden` columns.
  const std::int64_t bias_vectors = biases ? qkv_width() + ffn_in_width() + 2 * hidden : 0;
  return matrices + norms + bias_vectors;
}

std::int64_t ModelShape::embedding_parameters() const {
  return hidden * (vocab * (tied_embeddings ? 1 : 2) + learned_positions);
}

std::int64_t ModelShape::parameters() const {
  const std::int64_t final_norm = hidden * (biases ? 2 : 1);
  return layers * parameters_per_layer() + embedding_parameters() + final_norm;
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
  shard.vocab = ceil_div(vocab, ranks);
  return shard;
}

}  // namespace nearkv
