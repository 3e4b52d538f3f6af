// Captured tensors of a real model: q, K and V of some layers and KV heads, prompt and decode steps
// of one text. Written by traces/capture.py as .safetensors; a format of ours.
//
// Words. T = prompt_tokens + steps. Step s is the token at position prompt_tokens + s: it attends
// to itself and all before, a context of prompt_tokens + s + 1. H = captured KV heads,
// G = queries_per_kv_head. KV head h of the model has the query heads h G .. h G + G - 1.
// Everything is as the attention operator sees it: after rotary embeddings, and with queries scaled
// so that the logit of a query and a key is q . k / sqrt(d_head).
//
// Tensors, of each captured layer i (a number of the model); F16, or BF16 or F32 in FP16's range:
//     layer.i.k, layer.i.v   [H, T, d_head]
//     layer.i.q              [H G, steps, d_head]   of the decode steps
//     layer.i.prefill_mass   [H, prompt_tokens]     F32: attention probability that each prompt
//         token received, summed over all prompt queries and the G query heads (H2O, Zhang et al.,
//         NeurIPS 2023, accumulates it to find heavy hitters); a row sums to G prompt_tokens
//     layer.i.q_prompt       [H G, prompt_tokens, d_head]   optional: of all layers or none
// Heads are in the order of kv_heads in the metadata. Metadata are strings:
//     format "nearkv-captured-kv", version "1"; layers and kv_heads, ascending lists such as
//     "[0, 9]"; the numbers, texts of CaptureInfo by their names; and what else capture.py notes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "traces/safetensors.hpp"

namespace nearkv::traces {

struct CaptureInfo {
  std::string model;          // name, for people
  std::string model_licence;  // of the weights
  std::string architecture;   // Hugging Face's model_type: "llama", "opt"
  std::string text;           // name of the text
  std::string text_licence;
  std::string text_sha256;
  std::string decode;         // "text": the steps read on in the text; "greedy": what was generated
  std::vector<int> layers;    // captured ones, ascending, numbers of the model
  std::vector<int> kv_heads;  // the same; in each captured layer
  int model_layers = 0;       // all of the model
  int model_query_heads = 0;  // a layer
  int model_kv_heads = 0;     // a layer
  int d_head = 0;
  int prompt_tokens = 0;
  int steps = 0;

  [[nodiscard]] int queries_per_kv_head() const { return model_query_heads / model_kv_heads; }
  [[nodiscard]] int tokens() const { return prompt_tokens + steps; }
  /// Tokens that a step attends to.
  [[nodiscard]] int context(int step) const { return prompt_tokens + step + 1; }
};

/// One KV head of one layer and the query heads that share it. Row-major floats, all finite and in
/// the range of FP16; what was F16 in the file rounds to FP16 without a change.
class CapturedHead {
 public:
  /// d_head values of a token, 0 <= token < tokens().
  [[nodiscard]] std::span<const float> k(int token) const { return row(k_, token); }
  [[nodiscard]] std::span<const float> v(int token) const { return row(v_, token); }
  /// All of them: tokens() x d_head.
  [[nodiscard]] std::span<const float> k() const { return k_; }
  [[nodiscard]] std::span<const float> v() const { return v_; }
  /// queries_per_kv_head x d_head: the queries of a decode step, 0 <= step < steps.
  [[nodiscard]] std::span<const float> queries(int step) const {
    const std::size_t size = queries_per_kv_head_ * d_head_;
    return std::span(queries_).subspan(static_cast<std::size_t>(step) * size, size);
  }
  /// prompt_tokens values.
  [[nodiscard]] std::span<const float> prefill_mass() const { return prefill_mass_; }

 private:
  friend class CapturedKv;

  [[nodiscard]] std::span<const float> row(const std::vector<float>& rows, int token) const {
    return std::span(rows).subspan(static_cast<std::size_t>(token) * d_head_, d_head_);
  }

  std::size_t d_head_ = 0;
  std::size_t queries_per_kv_head_ = 0;
  std::vector<float> k_;
  std::vector<float> v_;
  std::vector<float> queries_;  // steps x queries_per_kv_head x d_head
  std::vector<float> prefill_mass_;
};

class CapturedKv {
 public:
  /// Reads the header and checks that every tensor is there and has the right shape. Throws
  /// ConfigError.
  explicit CapturedKv(const std::string& file);

  [[nodiscard]] const CaptureInfo& info() const { return info_; }
  /// All metadata of the file, as strings.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const {
    return file_.metadata();
  }

  /// Reads one head into memory. `layer` is one of info().layers, `kv_head` one of info().kv_heads
  /// (check()ed). Throws ConfigError for values that cannot be: not finite, out of FP16's range, a
  /// mass that does not add up. May be called from several threads.
  [[nodiscard]] CapturedHead head(int layer, int kv_head) const;

  /// Whether the queries of the prompt were captured too.
  [[nodiscard]] bool has_prompt_queries() const { return has_prompt_queries_; }
  /// Those of one head: queries_per_kv_head x prompt_tokens x d_head; check fails if there are
  /// none.
  [[nodiscard]] std::vector<float> prompt_queries(int layer, int kv_head) const;

  /// XXH3 of the file's bytes (sim/core/hash.hpp), to name the capture in what is made from it.
  [[nodiscard]] std::string content_hash() const { return file_.content_hash(); }

 private:
  [[nodiscard]] const std::string& text_of(const std::string& key) const;
  [[nodiscard]] int number_of(const std::string& key, int highest) const;
  [[nodiscard]] std::vector<int> list_of(const std::string& key, int end) const;
  void read_info();
  void check_tensors() const;
  /// Of `count` heads from `first` of a tensor whose first axis is heads.
  [[nodiscard]] std::vector<float> read_rows(const std::string& tensor, int first, int count) const;
  [[nodiscard]] std::vector<float> read_mass(int layer, int place) const;
  [[nodiscard]] int place_of_head(int layer, int kv_head) const;

  Safetensors file_;
  CaptureInfo info_;
  bool has_prompt_queries_ = false;
};

}  // namespace nearkv::traces
