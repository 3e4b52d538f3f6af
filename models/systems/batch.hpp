// Sequences that are prefilled together and decoded in lock step, each with its own lengths.
#pragma once

#include <cstdint>
#include <vector>

#include "models/llm/operators.hpp"

namespace nearkv {

/// Sequences of equal lengths.
struct SequenceGroup {
  int sequences = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;  // the first of them comes from prefill

  auto operator<=>(const SequenceGroup&) const = default;

  [[nodiscard]] int decode_steps() const { return output_tokens - 1; }
  /// Tokens that decode step `step` (from 0) attends over, its own included.
  [[nodiscard]] int context_of(int step) const { return prompt_tokens + 1 + step; }
  [[nodiscard]] int longest_context() const { return prompt_tokens + decode_steps(); }
};

/// Equal sequences are one group, so that a batch of equal requests is the same however it was put
/// together. Groups are ordered by prompt, then by output, the longest first.
class Batch {
 public:
  /// check()s that there is a group and that each has a sequence, a prompt and an output.
  explicit Batch(const std::vector<SequenceGroup>& groups);

  [[nodiscard]] const std::vector<SequenceGroup>& groups() const { return groups_; }
  [[nodiscard]] bool is_uniform() const { return groups_.size() == 1; }
  [[nodiscard]] std::int64_t sequences() const { return sequences_; }
  /// Until the last sequence is done; 0 when none generates more than one token.
  [[nodiscard]] int decode_steps() const { return decode_steps_; }
  [[nodiscard]] int longest_context() const { return longest_context_; }
  /// Tokens of all sequences.
  [[nodiscard]] std::int64_t prompt_tokens() const { return prompt_tokens_; }
  [[nodiscard]] std::int64_t output_tokens() const { return output_tokens_; }
  /// Tokens of K and V when every sequence is done: the last one generated has none.
  [[nodiscard]] std::int64_t final_kv_tokens() const {
    return prompt_tokens_ + output_tokens_ - sequences_;
  }

  /// What prefill processes: a group each.
  [[nodiscard]] std::vector<SequenceBatch> prompts() const;

  [[nodiscard]] static bool is_active(const SequenceGroup& group, int step) {
    return step < group.decode_steps();
  }
  /// What decode step `step` (from 0) processes: the groups that still generate.
  [[nodiscard]] std::vector<SequenceBatch> at_step(int step) const;
  [[nodiscard]] std::int64_t active_sequences(int step) const;
  /// Sum of the active sequences' contexts.
  [[nodiscard]] std::int64_t context_tokens(int step) const;

  auto operator<=>(const Batch&) const = default;

 private:
  std::vector<SequenceGroup> groups_;
  std::int64_t sequences_ = 0;
  std::int64_t prompt_tokens_ = 0;
  std::int64_t output_tokens_ = 0;
  int decode_steps_ = 0;
  int longest_context_ = 0;
};

/// Sizes of as few parts of `whole` > 0 as their limit `most` > 0 allows; the larger ones first, by
/// one at most.
[[nodiscard]] std::vector<int> even_parts(int whole, std::int64_t most);

}  // namespace nearkv
