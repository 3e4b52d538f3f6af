// Which sequences of a batch keep their KV in VRAM in each decode step, and which are recomputed:
// the policy of recompute_static. Pure: no time, no machine.
//
// A batch whose KV fits keeps all of it. Else the blocks of one sequence, the longest, are set
// aside for recomputation, and of the others as many as fit stay resident: those with the shortest
// contexts. A resident sequence that no longer fits is given up for good, unless others end: then
// it is recomputed once more, and stays. The order of the contexts never changes, because all of
// them grow by a token a step.
//
// Recomputation is prefill over the whole context of a step, the new token's included, so that it
// gives the next token too. Passes are filled in the order of the contexts up to max_batched_tokens
// and up to the blocks set aside; a context that exceeds max_batched_tokens passes in pieces.
#pragma once

#include <cstdint>
#include <vector>

#include "models/systems/batch.hpp"
#include "models/systems/pass_batch.hpp"
#include "models/systems/step_sampler.hpp"

namespace nearkv {

struct RecomputeOptions {
  std::int64_t blocks;              // in VRAM
  std::int64_t block_tokens;        // of a block
  std::int64_t max_batched_tokens;  // prefill tokens of a pass
  std::int64_t attention_window;    // newest tokens that a token sees; 0 means all
};

/// Equal passes, one after another.
struct RepeatedPass {
  PassBatch batch;
  std::int64_t times;
};

class RecomputePlan {
 public:
  /// `batch` must outlive the plan; its longest context must fit the blocks (check).
  RecomputePlan(const Batch& batch, const RecomputeOptions& options);

  /// Whether a sequence of so many tokens fits alone.
  [[nodiscard]] static bool fits(const RecomputeOptions& options, std::int64_t tokens);

  /// Sequences of each group whose KV is in VRAM when decode step `step` begins and stays.
  [[nodiscard]] std::vector<std::int64_t> kept(int step) const;
  /// The others that still generate.
  [[nodiscard]] std::vector<std::int64_t> recomputed(int step) const;

  [[nodiscard]] std::vector<RepeatedPass> prefill() const;
  /// One token of each kept sequence; no sequences if none is kept.
  [[nodiscard]] PassBatch decode(int step) const;
  [[nodiscard]] std::vector<RepeatedPass> recompute(int step) const;

  /// Steps of one class follow one another and differ by their contexts only.
  [[nodiscard]] StepKey key(int step) const { return {classes_[step], step}; }

 private:
  using Counts = std::vector<std::int64_t>;  // by group of the batch

  [[nodiscard]] std::int64_t blocks_for(std::int64_t tokens) const;
  [[nodiscard]] bool all_fit(int step) const;
  /// Blocks in which sequences are recomputed; all of them if none needs to be.
  [[nodiscard]] std::int64_t set_aside(int step) const;
  [[nodiscard]] Counts residents(int step) const;
  [[nodiscard]] std::vector<RepeatedPass> passes(const Counts& sequences,
                                                 const std::vector<std::int64_t>& contexts,
                                                 std::int64_t blocks) const;
  void add_pieces(std::vector<RepeatedPass>& passes, std::int64_t context,
                  std::int64_t sequences) const;
  void number_classes();

  const Batch& batch_;
  RecomputeOptions options_;
  std::vector<int> classes_;  // by step
};

}  // namespace nearkv
