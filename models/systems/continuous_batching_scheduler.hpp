// Which sequences a continuous-batching server computes in its next iteration: vLLM's scheduler
// (Kwon et al., SOSP 2023; vLLM 0.5, vllm/core/scheduler.py) as far as time depends on it. No
// clock: plan() says what the next iteration computes, complete() that it was computed.
//
// Sequences are numbered in the order of their arrival and stay in it: all that run arrived before
// all that are swapped out, and these before all that wait. When a running sequence needs a block
// and none is free, the last arrived one is preempted: its blocks are freed and it waits again, its
// prompt and what it generated to be prefilled anew (recompute), or its blocks move to host memory
// until there is room (swap).
//
// Without chunked prefill an iteration prefills whole waiting sequences if it can, else all running
// ones decode a token; while any is swapped out, none is admitted. With chunked prefill every
// running sequence decodes first, and prefill tokens fill the rest of max_batched_tokens, of the
// last prompt in pieces. Nobody returns or is admitted in an iteration that preempts. In two points
// this is stricter than vLLM 0.5 with chunked prefill, which admits waiting sequences even then and
// past swapped ones; vLLM 1 does not.
//
// A sequence of p prompt and n output tokens gets its first token from prefill and needs KV for
// p + n - 1. One whose KV would not fit even alone, or whose tokens could not be prefilled again in
// one iteration without chunks, is turned away when it arrives; vLLM would find out on the way.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "models/kv/paged_kv.hpp"
#include "models/systems/pass_batch.hpp"

namespace nearkv {

enum class Preemption { recompute, swap };

struct SchedulerOptions {
  std::int64_t max_sequences;       // that run at a time
  std::int64_t max_batched_tokens;  // new tokens of an iteration; at least max_sequences
  bool chunked_prefill;
  Preemption preemption;
};

/// What an iteration computes, after the blocks that it moves.
struct Iteration {
  PassBatch batch;
  std::vector<int> started;    // sequences whose prefill begins for the first time
  std::int64_t running = 0;    // sequences with KV in VRAM
  std::int64_t blocks_in = 0;  // swapped in
  std::int64_t blocks_out = 0;
};

class ContinuousScheduler {
 public:
  ContinuousScheduler(const SchedulerOptions& options, const PagedKvOptions& kv);

  enum class Admission { accepted, exceeds_batch, exceeds_kv };
  /// The next request arrives; it gets the next number, from 0, also when it is turned away.
  Admission arrive(std::int64_t prompt_tokens, std::int64_t output_tokens);

  /// Nothing to do until another request arrives.
  [[nodiscard]] bool idle() const {
    return running_.empty() && swapped_.empty() && waiting_.empty();
  }

  /// The next iteration. Throws OutOfCapacity when swap space is full, where vLLM aborts.
  const Iteration& plan();

  /// Sequences by number, ascending within prefilled and within decoded ones.
  struct Progress {
    std::vector<int> first_token;  // got their first token
    std::vector<int> finished;     // got their last one
    std::int64_t tokens = 0;       // that came out
  };
  /// The planned iteration is done.
  const Progress& complete();

  struct Counters {
    std::int64_t iterations = 0;
    std::int64_t preemptions = 0;
    std::int64_t recomputed_tokens = 0;  // whose KV was thrown away
    std::int64_t swapped_out_blocks = 0;
    std::int64_t swapped_in_blocks = 0;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }
  [[nodiscard]] const PagedKv& kv() const { return kv_; }

 private:
  struct Sequence {
    std::int64_t prompt;
    std::int64_t output;         // tokens to generate
    std::int64_t generated = 0;  // tokens so far
    std::int64_t computed = 0;   // tokens with KV
    bool decodes = false;        // else it is prefilled
    bool started = false;        // it was prefilled, at least in part

    [[nodiscard]] std::int64_t tokens() const { return prompt + generated; }
  };

  void admit_waiting();
  void return_swapped();
  void decode_running();
  void prefill_running();
  void add_prefill(int sequence);
  void add_decode(int sequence);
  void preempt_last();
  void run(int sequence);
  void emit_token(int sequence);

  SchedulerOptions options_;
  PagedKv kv_;
  std::vector<Sequence> sequences_;
  std::vector<int> running_;
  std::deque<int> swapped_;
  std::deque<int> waiting_;

  // Of the planned iteration.
  bool planned_ = false;
  bool preempts_ = false;
  std::int64_t budget_ = 0;  // new tokens that still fit
  Iteration iteration_;
  std::vector<int> decodes_;
  std::vector<std::pair<int, std::int64_t>> prefills_;  // sequence, new tokens

  Progress progress_;
  Counters counters_;
};

}  // namespace nearkv
