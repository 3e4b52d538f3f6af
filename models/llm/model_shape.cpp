#include "models/llm/model_shape.hpp"

#include <fmt/format.h>

namespace nearkv {

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

}  // namespace nearkv
