#include "models/systems/prompt_pieces.hpp"

#include <algorithm>

#include "models/systems/parallel_model.hpp"

namespace nearkv {

PromptPieces::PromptPieces(const std::vector<SequenceBatch>& prompts, std::int64_t most_tokens)
    : tokens_(tokens_of(prompts)) {
  if (most_tokens == 0 || tokens_ <= most_tokens) {
    pieces_.push_back({prompts, 1});
    return;
  }
  const auto add = [this](const SequenceBatch& piece, std::int64_t times) {
    if (times > 0 && piece.tokens() > 0) {
      pieces_.push_back({{piece}, times});
    }
  };
  for (const SequenceBatch& group : prompts) {
    const std::int64_t length = group.new_tokens;
    if (length <= most_tokens) {
      const std::int64_t together = std::min(group.sequences, most_tokens / length);
      add({together, length, length}, group.sequences / together);
      add({group.sequences % together, length, length}, 1);
      continue;
    }
    for (std::int64_t done = 0; done < length; done += most_tokens) {
      const std::int64_t tokens = std::min(most_tokens, length - done);
      add({1, tokens, done + tokens}, group.sequences);
    }
  }
}

Bytes PromptPieces::workspace(const ModelShape& shape, AttentionKernel kernel) const {
  Bytes most{};
  for (const Piece& piece : pieces_) {
    const LayerWorkspace needs = layer_workspace(shape, piece.batch, kernel);
    most = std::max(most, needs.peak() - needs.hidden);
  }
  return shape.hidden_bytes_per_token() * tokens_ + most;
}

void PromptPieces::pass(ParallelModel& model, std::int64_t layer, AttentionKernel kernel) const {
  for (const Piece& piece : pieces_) {
    for (std::int64_t i = 0; i < piece.times; ++i) {
      model.layer(layer, piece.batch, kernel);
    }
  }
}

}  // namespace nearkv
