// Prefill in pieces: prompts that pass a layer one piece after another, so that only the hidden
// states of the whole batch are in VRAM at a time, and of one piece what a layer needs besides.
// Without it a layer's workspace grows with batch x prompt, and prompts of 1 M tokens fit no GPU.
//
// A piece is as many whole prompts of equal length as `most_tokens` allow, or, of a longer prompt,
// so many of its tokens; these attend over the ones before, whose K and V are in VRAM until the
// layer is done.
#pragma once

#include <cstdint>
#include <vector>

#include "models/llm/operators.hpp"

namespace nearkv {

class ParallelModel;

class PromptPieces {
 public:
  /// most_tokens 0: all prompts are one piece.
  PromptPieces(const std::vector<SequenceBatch>& prompts, std::int64_t most_tokens);

  struct Piece {
    std::vector<SequenceBatch> batch;
    std::int64_t times;  // equal ones
  };
  [[nodiscard]] const std::vector<Piece>& pieces() const { return pieces_; }

  /// GPU memory while they pass a layer.
  [[nodiscard]] Bytes workspace(const ModelShape& shape, AttentionKernel kernel) const;
  /// Inside an actor: returns when all have passed the layer.
  void pass(ParallelModel& model, std::int64_t layer, AttentionKernel kernel) const;

 private:
  std::vector<Piece> pieces_;
  std::int64_t tokens_ = 0;  // of all
};

}  // namespace nearkv
