#include "models/systems/recompute_plan.hpp"

#include <algorithm>
#include <utility>

#include "models/kv/paged_kv.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// What two steps of one class have in common: how many sequences each pass has.
std::vector<std::int64_t> outline(const std::vector<RepeatedPass>& passes) {
  std::vector<std::int64_t> outline;
  for (const RepeatedPass& pass : passes) {
    outline.push_back(-pass.times);  // marks where a pass begins
    for (const SequenceBatch& piece : pass.batch.prefill) {
      outline.push_back(piece.sequences);
    }
  }
  return outline;
}

}  // namespace

RecomputePlan::RecomputePlan(const Batch& batch, const RecomputeOptions& options)
    : batch_(batch), options_(options) {
  check(fits(options, batch.longest_context()), "a sequence whose KV does not fit VRAM");
  number_classes();
}

bool RecomputePlan::fits(const RecomputeOptions& options, std::int64_t tokens) {
  return kv_blocks(tokens, options.block_tokens, options.attention_window) <= options.blocks;
}

std::int64_t RecomputePlan::blocks_for(std::int64_t tokens) const {
  return kv_blocks(tokens, options_.block_tokens, options_.attention_window);
}

bool RecomputePlan::all_fit(int step) const {
  std::int64_t blocks = 0;
  for (const SequenceBatch& group : batch_.at_step(step)) {
    blocks += group.sequences * blocks_for(group.context);
  }
  return blocks <= options_.blocks;
}

std::int64_t RecomputePlan::set_aside(int step) const {
  if (all_fit(step)) {
    return options_.blocks;
  }
  std::int64_t longest = 0;
  for (const SequenceBatch& group : batch_.at_step(step)) {
    longest = std::max(longest, group.context);
  }
  return blocks_for(longest);
}

RecomputePlan::Counts RecomputePlan::residents(int step) const {
  const std::vector<SequenceGroup>& groups = batch_.groups();
  std::int64_t free = all_fit(step) ? options_.blocks : options_.blocks - set_aside(step);
  Counts counts(groups.size());
  for (std::size_t i = groups.size(); i-- > 0;) {  // the longest prompts come first in a batch
    if (!Batch::is_active(groups[i], step)) {
      continue;
    }
    const std::int64_t each = blocks_for(groups[i].context_of(step));
    counts[i] = std::min<std::int64_t>(groups[i].sequences, free / each);
    free -= counts[i] * each;
    if (counts[i] < groups[i].sequences) {
      break;
    }
  }
  return counts;
}

std::vector<std::int64_t> RecomputePlan::kept(int step) const {
  Counts counts = residents(step);
  if (step > 0) {  // prefill leaves what the first step keeps
    const Counts before = residents(step - 1);
    for (std::size_t i = 0; i < counts.size(); ++i) {
      counts[i] = std::min(counts[i], before[i]);
    }
  }
  return counts;
}

std::vector<std::int64_t> RecomputePlan::recomputed(int step) const {
  Counts counts = kept(step);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const SequenceGroup& group = batch_.groups()[i];
    counts[i] = Batch::is_active(group, step) ? group.sequences - counts[i] : 0;
  }
  return counts;
}

std::vector<RepeatedPass> RecomputePlan::prefill() const {
  Counts sequences;
  std::vector<std::int64_t> contexts;
  for (const SequenceGroup& group : batch_.groups()) {
    sequences.push_back(group.sequences);
    contexts.push_back(group.prompt_tokens);
  }
  const bool decodes = batch_.decode_steps() > 0;
  return passes(sequences, contexts, decodes ? set_aside(0) : options_.blocks);
}

PassBatch RecomputePlan::decode(int step) const {
  const Counts counts = kept(step);
  PassBatch batch;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    batch.decode_sequences += counts[i];
    batch.decode_context +=
        counts[i] * keys_seen(batch_.groups()[i].context_of(step), options_.attention_window);
  }
  return batch;
}

std::vector<RepeatedPass> RecomputePlan::recompute(int step) const {
  std::vector<std::int64_t> contexts;
  for (const SequenceGroup& group : batch_.groups()) {
    contexts.push_back(group.context_of(step));
  }
  return passes(recomputed(step), contexts, set_aside(step));
}

std::vector<RepeatedPass> RecomputePlan::passes(const Counts& sequences,
                                                const std::vector<std::int64_t>& contexts,
                                                std::int64_t blocks) const {
  std::vector<RepeatedPass> passes;
  PassBatch open;
  std::int64_t tokens_left = options_.max_batched_tokens;
  std::int64_t blocks_left = blocks;
  const auto close = [&] {
    if (!open.prefill.empty()) {
      passes.push_back({std::exchange(open, {}), 1});
    }
    tokens_left = options_.max_batched_tokens;
    blocks_left = blocks;
  };
  for (std::size_t i = sequences.size(); i-- > 0;) {
    const std::int64_t context = contexts[i];
    const std::int64_t each = blocks_for(context);
    std::int64_t left = sequences[i];
    if (left > 0 && context > options_.max_batched_tokens) {
      close();
      add_pieces(passes, context, std::exchange(left, 0));
    }
    while (left > 0) {
      const std::int64_t most = std::min(tokens_left / context, blocks_left / each);
      if (most == 0) {
        close();
        continue;
      }
      if (open.prefill.empty() && left >= most) {  // full passes of this group alone
        passes.push_back({{.prefill = {{most, context, context}}}, left / most});
        left %= most;
        continue;
      }
      const std::int64_t taken = std::min(left, most);
      open.prefill.push_back({taken, context, context});
      tokens_left -= taken * context;
      blocks_left -= taken * each;
      left -= taken;
    }
  }
  close();
  return passes;
}

void RecomputePlan::add_pieces(std::vector<RepeatedPass>& passes, std::int64_t context,
                               std::int64_t sequences) const {
  for (std::int64_t done = 0; done < context;) {
    const std::int64_t tokens = std::min(options_.max_batched_tokens, context - done);
    done += tokens;
    passes.push_back(
        {{.prefill = {{1, tokens, done}}, .last_piece_goes_on = done < context}, sequences});
  }
}

void RecomputePlan::number_classes() {
  std::pair<Counts, std::vector<std::int64_t>> before;
  for (int step = 0; step < batch_.decode_steps(); ++step) {
    std::pair<Counts, std::vector<std::int64_t>> now{kept(step), outline(recompute(step))};
    const bool is_new = step == 0 || now != before;
    classes_.push_back(step == 0 ? 0 : classes_.back() + (is_new ? 1 : 0));
    before = std::move(now);
  }
}

}  // namespace nearkv
