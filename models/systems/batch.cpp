#include "models/systems/batch.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv {

Batch::Batch(const std::vector<SequenceGroup>& groups) {
  check(!groups.empty(), "a batch without sequences");
  std::map<std::pair<int, int>, int, std::greater<>> sequences_of;  // by prompt and output
  for (const SequenceGroup& group : groups) {
    check(group.sequences > 0 && group.prompt_tokens > 0 && group.output_tokens > 0,
          "a group without sequences, prompt or output");
    sequences_of[{group.prompt_tokens, group.output_tokens}] += group.sequences;
  }
  for (const auto& [lengths, sequences] : sequences_of) {
    const SequenceGroup& group =
        groups_.emplace_back(SequenceGroup{sequences, lengths.first, lengths.second});
    sequences_ += sequences;
    prompt_tokens_ += std::int64_t{sequences} * group.prompt_tokens;
    output_tokens_ += std::int64_t{sequences} * group.output_tokens;
    decode_steps_ = std::max(decode_steps_, group.decode_steps());
    longest_context_ = std::max(longest_context_, group.longest_context());
  }
}

std::vector<SequenceBatch> Batch::prompts() const {
  std::vector<SequenceBatch> prompts;
  for (const SequenceGroup& group : groups_) {
    prompts.push_back({group.sequences, group.prompt_tokens, group.prompt_tokens});
  }
  return prompts;
}

std::vector<SequenceBatch> Batch::at_step(int step) const {
  std::vector<SequenceBatch> active;
  for (const SequenceGroup& group : groups_) {
    if (is_active(group, step)) {
      active.push_back({group.sequences, 1, group.context_of(step)});
    }
  }
  return active;
}

std::int64_t Batch::active_sequences(int step) const {
  std::int64_t sequences = 0;
  for (const SequenceGroup& group : groups_) {
    sequences += is_active(group, step) ? group.sequences : 0;
  }
  return sequences;
}

std::int64_t Batch::context_tokens(int step) const {
  std::int64_t tokens = 0;
  for (const SequenceGroup& group : groups_) {
    tokens += is_active(group, step) ? std::int64_t{group.sequences} * group.context_of(step) : 0;
  }
  return tokens;
}

std::vector<int> even_parts(int whole, std::int64_t most) {
  check(whole > 0 && most > 0, "nothing to divide, or parts of nothing");
  const auto count = static_cast<int>(ceil_div(std::int64_t{whole}, most));
  std::vector<int> sizes(static_cast<std::size_t>(count), whole / count);
  for (int i = 0; i < whole % count; ++i) {
    ++sizes[static_cast<std::size_t>(i)];
  }
  return sizes;
}

}  // namespace nearkv
