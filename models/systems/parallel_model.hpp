// The model on the machine's GPUs: weights, operators and KV shares, divided by tensor and pipeline
// parallelism (parallelism.hpp).
//
// GPU i holds rank i mod T of stage i / T. The ranks of a stage do the same operators at the same
// time, each on its part (ModelShape::tensor_shard), and all-reduce the outputs of attention and of
// the feed-forward network, as Megatron-LM does (Shoeybi et al., arXiv 1909.08053). An all-reduce
// is a ring: each rank sends 2 (T - 1) / T of the data to the next one, in 2 (T - 1) steps that
// each take the latency of the link,
//     time = collective_overhead + 2 (T - 1) x latency + 2 (T - 1) / T x size / bandwidth.
// Between stages every rank sends 1 / T of the hidden states to its counterpart; the ranks there
// then gather the rest, which takes (T - 1) steps of a ring with 1 / T of the data each.
// With one GPU there is no communication, and no time for it.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/llm/operators.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/machine.hpp"
#include "sim/core/capacity.hpp"

namespace nearkv {

/// Memory held on several GPUs for as long as it lives.
class GpuAllocation {
 public:
  GpuAllocation() = default;
  void add(CapacityLedger& memory, std::string_view label, Bytes size) {
    parts_.emplace_back(memory, label, size);
  }

 private:
  std::deque<ScopedAllocation> parts_;
};

class ParallelModel {
 public:
  ParallelModel(Machine& machine, const DesignPoint& point);

  [[nodiscard]] const ModelShape& shape() const { return shape_; }
  /// What one rank computes and holds.
  [[nodiscard]] const ModelShape& rank_shape() const { return rank_shape_; }
  [[nodiscard]] int ranks() const { return ranks_; }
  [[nodiscard]] int stages() const { return stages_; }
  [[nodiscard]] int stage_of(std::int64_t layer) const;
  [[nodiscard]] std::int64_t layers_of(int stage) const;
  /// Index of a GPU of the machine.
  [[nodiscard]] int gpu_of(std::int64_t layer, int rank) const {
    return stage_of(layer) * ranks_ + rank;
  }

  // -- Memory.

  /// Weights that one GPU of a stage holds: its layers, the embeddings in the first and the LM head
  /// in the last stage.
  [[nodiscard]] Bytes weight_bytes(int stage) const;
  /// All weights in VRAM, as "weights". Throws Infeasible when they do not fit.
  void allocate_weights();
  /// `size` on each GPU of every stage.
  [[nodiscard]] GpuAllocation hold(std::string_view label, Bytes size_a_gpu);
  /// What a layer needs while the batch passes it, on each GPU.
  [[nodiscard]] GpuAllocation hold_workspace(std::string_view label,
                                             std::span<const SequenceBatch> batch,
                                             AttentionKernel kernel);
  /// The part of one rank of a layer's KV data; K and V heads are held twice or more often when
  /// there are more ranks than KV heads.
  [[nodiscard]] Bytes rank_share(Bytes kv) const;
  /// Free VRAM of the GPU that has least.
  [[nodiscard]] Bytes free_memory() const;

  // -- Work; inside an actor, each returns when it is done.

  // -- The host thread that issues kernels. It is the actor that calls: it issues the kernels of a
  // call while they run, and goes on when they are done; or it issues ahead, as a program without
  // synchronization does, and has a clock of its own, which may be before or behind the actor's.

  /// From now on each kernel takes the thread so long (Gpu::issue); zero: kernels are there when
  /// the GPU wants them.
  void set_kernel_issue(SimDuration time) { kernel_issue_ = time; }
  void begin_issuing_ahead() { issuer_ = machine_.engine().now(); }
  /// The thread waits for the GPU.
  void end_issuing_ahead();
  /// The thread is busy with something else.
  void keep_issuer_busy(SimDuration time);
  /// Until the thread has issued what came before, and is where the actor is.
  void wait_for_issuer();

  void embed(std::int64_t tokens);
  /// Brings the hidden states to the layer's stage, if they are not there: call it in the order of
  /// the layers, once before the first operators of each.
  void enter_layer(std::int64_t layer, std::int64_t tokens);
  void before_attention(std::int64_t layer, std::int64_t tokens,
                        AttentionKernel kernel = AttentionKernel::fused);
  void attention(std::int64_t layer, std::span<const SequenceBatch> batch, AttentionKernel kernel);
  void after_attention(std::int64_t layer, std::int64_t tokens);
  /// The two parts of after_attention().
  void attention_output(std::int64_t layer, std::int64_t tokens);
  void feed_forward_block(std::int64_t layer, std::int64_t tokens);
  /// enter_layer() and a layer up to its feed-forward block.
  void attention_block(std::int64_t layer, std::span<const SequenceBatch> batch,
                       AttentionKernel kernel);
  /// enter_layer() and a whole layer.
  void layer(std::int64_t layer, std::span<const SequenceBatch> batch, AttentionKernel kernel);
  void next_token(std::int64_t sequences);
  /// Operators of one rank (rank_shape()) on all ranks of a stage.
  void compute(int stage, std::span<const OperatorWork> operators);
  void all_reduce(int stage, Bytes size);

  /// What all_reduce() takes on an idle fabric, with every link divided equally.
  [[nodiscard]] SimDuration all_reduce_time(int stage, Bytes size) const;
  /// What the step from `stage` to the next one takes likewise.
  [[nodiscard]] SimDuration stage_step_time(int stage, std::int64_t tokens) const;

  // -- KV data.

  enum class HostMemoryKind { pinned, pageable };
  /// Copies a layer's KV data (of all ranks together) between host memory and its GPUs.
  void copy(Machine::CopyDirection direction, std::int64_t layer, Bytes kv, HostMemoryKind kind);

  /// KV heads [first, last) of a layer that a GPU computes with.
  struct Share {
    NodeId gpu;
    std::int64_t first_head;
    std::int64_t last_head;

    [[nodiscard]] std::int64_t heads() const { return last_head - first_head; }
  };
  /// Every KV head once, in order: of GPUs that hold the same head, the first one's.
  [[nodiscard]] std::vector<Share> shares(std::int64_t layer) const;

 private:
  struct RingStep {
    Bytes sent;  // by each rank, in all steps
    int steps;
  };
  [[nodiscard]] RingStep all_reduce_ring(Bytes size) const;
  [[nodiscard]] RingStep gather_ring(std::int64_t tokens) const;
  void run_ring(int stage, const RingStep& ring);
  [[nodiscard]] SimDuration ring_time(int stage, const RingStep& ring) const;
  [[nodiscard]] std::vector<Machine::Transfer> ring_transfers(int stage, Bytes sent) const;
  [[nodiscard]] std::vector<Machine::Transfer> stage_transfers(int stage,
                                                               std::int64_t tokens) const;
  void compute_and_sum(std::int64_t layer, std::span<const OperatorWork> before,
                       std::span<const OperatorWork> behind, std::int64_t tokens);
  void step_to_next_stage(int stage, std::int64_t tokens);

  Machine& machine_;
  ModelShape shape_;
  ModelShape rank_shape_;
  int ranks_;
  int stages_;
  SimDuration collective_overhead_;
  SimDuration kernel_issue_{};
  std::optional<SimTime> issuer_;  // where the thread is that issues ahead
};

}  // namespace nearkv
