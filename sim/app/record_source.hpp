// Where `nearkv record` gets q, K and V: captured tensors (traces/captured_kv.hpp) or synthetic
// heads (traces/synthetic_kv.hpp), head by head.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace nearkv {

/// One KV head of one layer with its query heads. Row-major.
struct RecordHead {
  int d_head = 0;
  int query_heads = 0;
  int first_position = 0;           // of the queries
  std::vector<float> keys;          // tokens x d_head
  std::vector<float> values;        // likewise
  std::vector<float> queries;       // positions x query_heads x d_head
  std::vector<float> prefill_mass;  // what the tokens of the prompt received in it; may be empty

  [[nodiscard]] std::span<const float> key(int token) const { return row(keys, token, 1); }
  [[nodiscard]] std::span<const float> value(int token) const { return row(values, token, 1); }
  /// Of the step that sees `context` tokens.
  [[nodiscard]] std::span<const float> queries_at(int context) const {
    return row(queries, context - 1 - first_position, query_heads);
  }

 private:
  [[nodiscard]] std::span<const float> row(const std::vector<float>& rows, int number,
                                           int heads) const {
    const auto size = static_cast<std::size_t>(heads) * d_head;
    return std::span(rows).subspan(static_cast<std::size_t>(number) * size, size);
  }
};

struct RecordSourceInfo {
  std::string kind;           // "captured" or "synthetic"
  std::string name;           // of the file
  std::string model;          // for people
  std::string hash;           // of the file, or of what the heads are generated from
  std::string text;           // that the model read; empty for synthetic heads
  std::vector<int> layers;    // numbers of the model
  std::vector<int> kv_heads;  // likewise; query heads when these are apart
  int d_head = 0;
  int query_heads = 0;  // that share a KV head
  int longest_context = 0;
  int first_context = 1;            // from which on there are queries
  int prompt_tokens = 0;            // before the first captured step; 0 of synthetic heads
  int prompt_tokens_with_mass = 0;  // whose prefill mass is known; 0: of none
};

class RecordSource {
 public:
  RecordSource() = default;
  RecordSource(const RecordSource&) = delete;
  RecordSource& operator=(const RecordSource&) = delete;
  virtual ~RecordSource() = default;

  [[nodiscard]] const RecordSourceInfo& info() const { return info_; }

  /// `layer` and `kv_head` count within info(). Queries from the step with `first_context` on, K
  /// and V of `tokens` tokens. May be called from several threads.
  [[nodiscard]] virtual RecordHead head(int layer, int kv_head, int first_context,
                                        int tokens) const = 0;

 protected:
  RecordSourceInfo info_;
};

/// As given on the command line. With query_heads_apart each query head gets a copy of its KV head
/// for itself, as multi-head attention has it: kv_heads then counts query heads.
struct RecordSourceOptions {
  std::string file;
  std::string layers;  // captured: "0,9"; synthetic: how many. Empty: all, 1
  int kv_heads = 0;    // of the source, the first so many; 0: all, 8
  // Of synthetic heads; 0 where not given.
  int context = 0;
  int d_head = 0;
  int query_heads = 0;
  std::int64_t seed = 1;
  bool query_heads_apart = false;
};

/// Throws ConfigError.
[[nodiscard]] std::unique_ptr<RecordSource> open_record_source(const RecordSourceOptions& options);

}  // namespace nearkv
