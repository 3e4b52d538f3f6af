#include "models/systems/continuous_batching_scheduler.hpp"

#include <algorithm>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv {

ContinuousScheduler::ContinuousScheduler(const SchedulerOptions& options, const PagedKvOptions& kv)
    : options_(options), kv_(kv) {
  check(options.max_sequences > 0 && options.max_batched_tokens >= options.max_sequences,
        "an iteration that cannot decode all running sequences");
}

ContinuousScheduler::Admission ContinuousScheduler::arrive(std::int64_t prompt_tokens,
                                                           std::int64_t output_tokens) {
  check(prompt_tokens > 0 && output_tokens > 0, "a request without a prompt or an output");
  const int sequence = static_cast<int>(sequences_.size());
  sequences_.push_back({.prompt = prompt_tokens, .output = output_tokens});
  const std::int64_t longest = prompt_tokens + output_tokens - 1;
  if (!options_.chunked_prefill && longest > options_.max_batched_tokens) {
    return Admission::exceeds_batch;
  }
  if (!kv_.ever_fits(longest)) {
    return Admission::exceeds_kv;
  }
  waiting_.push_back(sequence);
  return Admission::accepted;
}

const Iteration& ContinuousScheduler::plan() {
  check(!planned_ && !idle(), "an iteration without sequences, or two at a time");
  planned_ = true;
  preempts_ = false;
  budget_ = options_.max_batched_tokens;
  iteration_ = {};
  decodes_.clear();
  prefills_.clear();
  if (!options_.chunked_prefill) {
    admit_waiting();
  }
  if (prefills_.empty()) {
    decode_running();
    prefill_running();
    return_swapped();
    if (options_.chunked_prefill) {
      admit_waiting();
    }
  }
  check(!decodes_.empty() || !prefills_.empty(), "sequences that nothing can be done for");
  iteration_.running = static_cast<std::int64_t>(running_.size());
  ++counters_.iterations;
  return iteration_;
}

void ContinuousScheduler::run(int sequence) {
  check(running_.empty() || running_.back() < sequence, "a sequence overtook another one");
  running_.push_back(sequence);
}

void ContinuousScheduler::admit_waiting() {
  const auto has_slot = [this] {
    return static_cast<std::int64_t>(running_.size()) < options_.max_sequences;
  };
  while (!preempts_ && swapped_.empty() && !waiting_.empty() && has_slot()) {
    const int sequence = waiting_.front();
    const std::int64_t tokens = sequences_[sequence].tokens();
    const bool fits = options_.chunked_prefill ? budget_ > 0 : tokens <= budget_;
    if (!fits || !kv_.can_admit(tokens)) {
      return;
    }
    waiting_.pop_front();
    kv_.admit(sequence, tokens);
    run(sequence);
    if (!std::exchange(sequences_[sequence].started, true)) {
      iteration_.started.push_back(sequence);
    }
    add_prefill(sequence);
  }
}

/// The next piece of a sequence's prefill, as far as the budget goes.
void ContinuousScheduler::add_prefill(int sequence) {
  const Sequence& found = sequences_[sequence];
  const std::int64_t tokens = std::min(found.tokens() - found.computed, budget_);
  if (tokens == 0) {
    return;
  }
  const std::int64_t context = found.computed + tokens;
  budget_ -= tokens;
  prefills_.emplace_back(sequence, tokens);
  check(!iteration_.batch.last_piece_goes_on, "a piece behind one that used up the budget");
  iteration_.batch.prefill.push_back({.sequences = 1, .new_tokens = tokens, .context = context});
  iteration_.batch.last_piece_goes_on = context < found.tokens();
}

void ContinuousScheduler::add_decode(int sequence) {
  const std::int64_t context = sequences_[sequence].tokens();
  kv_.grow(sequence, context);
  --budget_;
  decodes_.push_back(sequence);
  ++iteration_.batch.decode_sequences;
  iteration_.batch.decode_context += keys_seen(context, kv_.options().attention_window);
}

void ContinuousScheduler::decode_running() {
  // Preempted are the last ones, which are not yet in the iteration.
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const int sequence = running_[i];
    if (!sequences_[sequence].decodes) {
      continue;
    }
    while (i < running_.size() && !kv_.can_grow(sequence, sequences_[sequence].tokens())) {
      preempt_last();
    }
    if (i < running_.size()) {
      add_decode(sequence);
    }
  }
}

void ContinuousScheduler::prefill_running() {
  for (const int sequence : running_) {
    if (!sequences_[sequence].decodes) {
      add_prefill(sequence);
    }
  }
}

void ContinuousScheduler::return_swapped() {
  const auto has_slot = [this] {
    return budget_ > 0 && static_cast<std::int64_t>(running_.size()) < options_.max_sequences;
  };
  while (!preempts_ && !swapped_.empty() && has_slot()) {
    const int sequence = swapped_.front();
    if (!kv_.can_swap_in(sequence, sequences_[sequence].tokens())) {
      return;
    }
    swapped_.pop_front();
    const std::int64_t blocks = kv_.swap_in(sequence);
    iteration_.blocks_in += blocks;
    counters_.swapped_in_blocks += blocks;
    run(sequence);
    if (sequences_[sequence].decodes) {
      add_decode(sequence);
    } else {
      add_prefill(sequence);
    }
  }
}

void ContinuousScheduler::preempt_last() {
  const int sequence = running_.back();
  Sequence& found = sequences_[sequence];
  running_.pop_back();
  preempts_ = true;
  ++counters_.preemptions;
  if (options_.preemption == Preemption::recompute) {
    counters_.recomputed_tokens += found.computed;
    kv_.release(sequence);
    found.computed = 0;
    found.decodes = false;
    waiting_.push_front(sequence);
    return;
  }
  const std::int64_t blocks = kv_.swap_out(sequence);
  iteration_.blocks_out += blocks;
  counters_.swapped_out_blocks += blocks;
  swapped_.push_front(sequence);
}

const ContinuousScheduler::Progress& ContinuousScheduler::complete() {
  check(planned_, "an iteration is done that was not planned");
  planned_ = false;
  progress_.first_token.clear();
  progress_.finished.clear();
  progress_.tokens = 0;
  for (const auto& [sequence, tokens] : prefills_) {
    Sequence& found = sequences_[sequence];
    found.computed += tokens;
    if (found.computed == found.tokens()) {
      found.decodes = true;
      emit_token(sequence);
    }
  }
  for (const int sequence : decodes_) {
    ++sequences_[sequence].computed;
    emit_token(sequence);
  }
  if (!progress_.finished.empty()) {
    std::erase_if(running_, [this](int sequence) {
      return sequences_[sequence].generated == sequences_[sequence].output;
    });
  }
  return progress_;
}

void ContinuousScheduler::emit_token(int sequence) {
  Sequence& found = sequences_[sequence];
  ++found.generated;
  ++progress_.tokens;
  if (found.generated == 1) {
    progress_.first_token.push_back(sequence);
  }
  if (found.generated == found.output) {
    progress_.finished.push_back(sequence);
    kv_.release(sequence);
  }
}

}  // namespace nearkv
