// What passes through the whole model together in one iteration of a server.
#pragma once

#include <cstdint>
#include <vector>

#include "models/llm/operators.hpp"

namespace nearkv {

/// Keys that a token sees which has `context` tokens, itself included; a window of 0 is all.
[[nodiscard]] constexpr std::int64_t keys_seen(std::int64_t context,
                                               std::int64_t attention_window) {
  return attention_window > 0 && attention_window < context ? attention_window : context;
}

/// A ragged batch of prompts (or pieces of them, or contexts that are computed again) and of
/// sequences that decode one token each.
struct PassBatch {
  std::vector<SequenceBatch> prefill{};  // equal pieces each
  std::int64_t decode_sequences = 0;
  std::int64_t decode_context = 0;  // sum of the keys that they see (ModelShape::attended_tokens)
  bool last_piece_goes_on = false;  // the last prefill piece ends inside a prompt: no token yet

  [[nodiscard]] std::int64_t tokens() const { return tokens_of(prefill) + decode_sequences; }
  /// Sequences that get a token.
  [[nodiscard]] std::int64_t sampled() const {
    std::int64_t sequences = decode_sequences - (last_piece_goes_on ? 1 : 0);
    for (const SequenceBatch& piece : prefill) {
      sequences += piece.sequences;
    }
    return sequences;
  }
};

}  // namespace nearkv
