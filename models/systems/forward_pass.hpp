// Passes of ragged batches through the whole model on the machine's GPUs: what a server computes in
// one iteration. All layers of a stage take the same time, so that one is simulated and the others
// are like it; and of a layer, all but attention depends on the number of tokens alone, so that it
// is simulated once for each number. Such work advances time and gauges by what was found, which is
// exact: nothing else uses the GPUs and their links meanwhile.
//
// Prefill pieces and decoding sequences share the projections, and have an attention kernel each.
//
// Of S pipeline stages, S micro-batches are at work at a time, each with 1 / S of the decoding
// sequences (and of their contexts) and every S-th prefill piece. They follow one another without
// gaps, those of the next pass behind them, so that a pass takes
//     max(most of any stage: its time for all micro-batches,
//         most of any micro-batch: its time in all stages),
// hops between stages counted with the stage before.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "models/llm/operators.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/pass_batch.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

class ForwardPass {
 public:
  ForwardPass(Machine& machine, ParallelModel& model, AttentionKernel kernel);

  /// Does the same pass `times` times, one after another. Inside an actor; returns when it is done.
  void run(const PassBatch& batch, std::int64_t times = 1);

  /// Attention of `sequences` decoding sequences that see `context` keys together moves and
  /// computes what this batch does: two groups with contexts that differ by one.
  [[nodiscard]] static std::vector<SequenceBatch> decode_groups(std::int64_t sequences,
                                                                std::int64_t context);

 private:
  enum class Part { embedding, layer_but_attention, stage_step, next_token };
  /// Of a gauge of the machine, by its index.
  struct Increment {
    std::size_t gauge;
    double value;
  };
  struct Cost {
    SimDuration time{};
    std::vector<Increment> increments;
  };

  [[nodiscard]] std::vector<PassBatch> micro_batches(const PassBatch& batch) const;
  /// Time of a micro-batch in a stage.
  SimDuration stage_time(int stage, const PassBatch& batch, std::int64_t times);
  SimDuration attention(int stage, std::span<const SequenceBatch> groups, std::int64_t times);
  /// Takes the part `times` times: simulates it if it is new, and leaves the rest to run().
  SimDuration take(Part part, int stage, std::int64_t amount, std::int64_t times);
  void simulate(Part part, int stage, std::int64_t amount);
  [[nodiscard]] std::int64_t first_layer(int stage) const;

  /// Tells the activity log what the rest of a pass consists of, that is not simulated.
  void explain_rest(SimDuration rest);

  Machine& machine_;
  ParallelModel& model_;
  AttentionKernel kernel_;
  std::map<std::tuple<Part, int, std::int64_t>, Cost> costs_;  // by part, stage, tokens
  std::vector<double> pending_;  // increments of all gauges by what this pass did not simulate
  /// Likewise its time, by what it is.
  struct NotSimulated {
    std::string_view what;
    SimDuration time;
  };
  std::vector<NotSimulated> not_simulated_;
};

}  // namespace nearkv
