// FlexGen (Sheng et al., ICML 2023) with its whole policy space: the block schedule, and where
// weights, KV cache and activations live. What lives on disk is moved by a FlexGenDiskCache.
//
// A layer is two blocks, attention and feed-forward network (sep_layer), or one; the embeddings are
// blocks with weights of their own. With overlap, iteration (block j, GPU batch k) does at the same
// time, and then waits for all of
//   - load the weights of block j + 1, all of them, when k is the first GPU batch,
//   - load the cache of the next GPU batch, if it is of this block or k is the last one,
//   - store the cache of the GPU batch before,
//   - compute
// (generation_loop_overlap_multi_batch; with one GPU batch generation_loop_overlap_single_batch).
// Without overlap the driver thread goes from one to the next and waits for what it copies itself
// (generation_loop_normal); the GPU works in that order.
// What the code does, and the model with it:
// - One thread drives it all (config /host/framework): every block of a GPU batch costs it a task,
//   every kernel the time to issue it, so that small operators wait for the thread, not the GPU.
// - Weights on the CPU are pinned and are copied by DMA, or go the way of a cache on the CPU. Those
// on disk are files that were read
//   into memory-mapped arrays: copy threads move a tensor each through their relay buffers.
// - The cache on the CPU is not pinned: the driver thread, with a team of all cores, copies K into
//   pinned memory, from where a DMA fetches it, and then V. A prompt's K and V are transposed on
//   the GPU and stored by the copy threads, which touch that memory for the first time; a token's
//   are copied by the driver thread.
// - A cache on GPU and elsewhere is copied together in GPU memory before attention, unless the CPU
//   computes attention for the other part.
// - CPU attention (decode): the driver thread copies K and V into an FP32 workspace (those of files
//   come there by the copy threads), q, k and v go to the host, the output comes back.
// - Activations that are not at home on the GPU move before and after a layer, on the stream that
//   computes: they overlap with nothing.
// - Compressed weights are decompressed for every GPU batch, a compressed cache in every step.
// - Files are opened for every copy, one thread at a time (the interpreter's lock).
// - Scores over the vocabulary are computed for all tokens of a prompt (eager code only).
// Not as in FlexGen: the cache of the first layer is loaded during the last layer of the step
// before, not during the embedding; prompts of different lengths are not padded.
// The class is in five files: flexgen_placement (config, memory), flexgen_weights,
// flexgen_transfers (K and V), flexgen_computing and flexgen_schedule.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/systems/flexgen_cache.hpp"
#include "models/systems/flexgen_policy.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

class FlexGenSchedule : public BatchSystem {
 public:
  void fields(FieldVisitor& v) override;
  void require_parts(FieldVisitor& v, const DesignPoint& point) const override;
  void place(RunContext& run) override;
  [[nodiscard]] std::int64_t most_sequences() const override { return policy_.block(); }
  void begin_batch(RunContext& run) override;
  void prefill(RunContext& run) override;
  void decode_step(RunContext& run, int step) override;
  void finish_batch(RunContext& run) override;
  void warm_up(RunContext& run, int step) override;
  [[nodiscard]] StepKey step_key(const RunContext& run, int step) const override;
  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& point) const override;
  void report(const DesignPoint& point, Metrics& metrics) const override;

 protected:
  enum class PolicyKind { fixed, search };

  [[nodiscard]] virtual std::unique_ptr<FlexGenDiskCache> make_disk_cache(RunContext& run) = 0;
  /// What the search is told about the storage path.
  [[nodiscard]] virtual FlexGenRates storage_rates(RunContext& run) const = 0;
  /// Whether a slot's cache can be loaded before its layer's queries are known.
  [[nodiscard]] virtual bool prefetches_cache() const { return true; }
  /// Attention of decode, with what the disk cache holds already loaded if prefetches_cache().
  virtual void decode_attention_layer(RunContext& run, const FlexGenSlot& slot);
  /// VRAM for K and V of one GPU batch on their way, one rank.
  [[nodiscard]] virtual Bytes read_buffer(const RunContext& run, int gpu_batch, int step) const;

  [[nodiscard]] PolicyKind policy_kind() const { return policy_kind_; }
  /// Of a fixed policy.
  [[nodiscard]] const FlexGenPolicy& configured() const { return configured_; }
  /// Whether the policy has CPU attention, or may be found to have it.
  [[nodiscard]] bool tries_cpu_attention() const {
    return policy_kind_ == PolicyKind::fixed ? configured_.cpu_attention : search_.cpu_attention;
  }
  [[nodiscard]] AttentionKernel attention_kernel() const { return attention_kernel_; }
  [[nodiscard]] int copy_threads() const { return copy_thread_count_; }
  [[nodiscard]] FlexGenDiskCache& disk_cache() { return *disk_cache_; }
  [[nodiscard]] FlexGenCacheContext cache_context(RunContext& run) const;
  /// The sequences that the slot works on.
  [[nodiscard]] std::vector<SequenceBatch> active(const FlexGenSlot& slot) const;
  /// Counts the time as GPU operators of decode.
  void compute(RunContext& run, int step, const std::function<void()>& operators) const;
  /// On the GPU, what follows attention in its block.
  void compute_after_attention(RunContext& run, std::int64_t layer, std::int64_t tokens) const;

 private:
  // Phases of the driver thread.
  static constexpr const char* kCompute = "gpu_compute";
  static constexpr const char* kKvWait = "kv_wait";
  static constexpr const char* kWeightWait = "weight_wait";
  static constexpr const char* kActivations = "activation_move";
  static constexpr const char* kCpuAttention = "cpu_attention";

  static constexpr int kKAndV = 2;
  // not a constant: calls that general_copy makes, to allocate, to pin and to copy
  static constexpr int kCallsOfACopy = 3;

  struct GpuBatch {
    Batch all;
    PerHome<std::optional<Batch>> cache;
    PerHome<std::optional<Batch>> activations;
  };
  /// K and V, or activations, of one GPU batch in host memory, and where each group's lie.
  struct HostRegion {
    MemoryObject memory;
    std::vector<Bytes> offsets;  // by group
  };

  // -- Policy and memory.
  void choose_policy(RunContext& run);
  void allocate_weights(RunContext& run);
  void create_weight_files(RunContext& run);
  void hold_cache(RunContext& run);
  void create_host_regions(RunContext& run);
  [[nodiscard]] Bytes activation_buffers(const RunContext& run, int step) const;
  [[nodiscard]] Bytes workspace(const RunContext& run, int step) const;
  [[nodiscard]] Bytes cache_buffers(const RunContext& run, int step) const;
  [[nodiscard]] GpuAllocation hold_buffers(RunContext& run, int step);
  void forget_batch();

  // -- The driver thread.
  static void work_on_host(RunContext& run, SimDuration time);
  [[nodiscard]] SimDuration at_drivers_pace(SimDuration time) const;
  [[nodiscard]] SimDuration kernel_issue(const RunContext& run) const;
  [[nodiscard]] std::int64_t new_windows(const RunContext& run, int step) const;
  void begin_task(RunContext& run, int step) const;
  void issue_ahead_without_overlap(RunContext& run) const;

  // -- Blocks: those of the layers (an attention and a feed-forward block each, or one), the input
  // embedding, the output embedding.
  [[nodiscard]] std::int64_t layer_blocks(const RunContext& run) const;
  [[nodiscard]] std::int64_t layer_of(std::int64_t block) const;
  [[nodiscard]] bool attends(std::int64_t block) const;
  [[nodiscard]] bool feeds_forward(std::int64_t block) const;
  [[nodiscard]] std::int64_t input_block(const RunContext& run) const;
  [[nodiscard]] std::int64_t output_block(const RunContext& run) const;

  // -- Weights.
  [[nodiscard]] std::vector<const BlockWeights*> weights_of(const RunContext& run,
                                                            std::int64_t block) const;
  [[nodiscard]] Bytes weights_on_cpu(const RunContext& run, std::int64_t block) const;
  [[nodiscard]] std::vector<Bytes> weight_file_sizes(const RunContext& run,
                                                     std::int64_t block) const;
  void post_weights(RunContext& run, std::int64_t block, int step);
  void load_weights(RunContext& run, std::int64_t block);
  void relay_weights(RunContext& run, std::int64_t block, std::int64_t matrices);
  void assume_weights_loaded(RunContext& run, std::int64_t block);
  void decompress(RunContext& run, std::int64_t block);
  [[nodiscard]] int stage_of_block(const RunContext& run, std::int64_t block) const;
  void copy_to_ranks(RunContext& run, int stage, Machine::CopyDirection direction, Bytes of_rank,
                     ParallelModel::HostMemoryKind kind);

  // -- Cache.
  [[nodiscard]] std::vector<int> active_batches(int step) const;
  [[nodiscard]] std::optional<FlexGenSlot> next_slot(const RunContext& run,
                                                     const FlexGenSlot& slot) const;
  void post_load(RunContext& run, const FlexGenSlot& slot);
  void post_store(RunContext& run, const FlexGenSlot& slot);
  void store_prompts_on_cpu(RunContext& run, const FlexGenSlot& slot);
  void touch_written(RunContext& run, const FlexGenSlot& slot, int threads);
  void touch(RunContext& run, const MemorySpan& span, Access access);
  template <class Visit>
  void for_each_host_span(const FlexGenSlot& slot, Access access, Visit visit) const;
  [[nodiscard]] std::int64_t cached_tokens(const std::optional<Batch>& part, int step) const;
  [[nodiscard]] std::int64_t new_tokens(const std::optional<Batch>& part, int step) const;
  [[nodiscard]] bool needs_load(const FlexGenSlot& slot) const;
  [[nodiscard]] bool needs_store(const FlexGenSlot& slot) const;
  void finish_foreign_prefetch(RunContext& run, int step);

  // -- Computing.
  void compute_block(RunContext& run, std::int64_t block, const FlexGenSlot& slot);
  [[nodiscard]] std::int64_t rows_of_logits(std::span<const SequenceBatch> groups) const;
  void compute_prefill(RunContext& run, const FlexGenSlot& slot);
  void compute_decode(RunContext& run, const FlexGenSlot& slot);
  void attend_on_cpu(RunContext& run, const FlexGenSlot& slot);
  void compress_new(RunContext& run, const FlexGenSlot& slot);
  void move_activations(RunContext& run, const FlexGenSlot& slot, Machine::CopyDirection direction);
  void embed(RunContext& run, int step);
  void next_tokens(RunContext& run, int step);
  void run_layer(RunContext& run, std::int64_t layer, int step);
  void run_block(RunContext& run, std::int64_t block, int step);
  void begin_transfers(RunContext& run, std::int64_t block, const FlexGenSlot& slot, bool is_first);
  [[nodiscard]] bool loads_next(std::int64_t block, const FlexGenSlot& slot,
                                const FlexGenSlot& next) const;
  void assume_moved(RunContext& run, const FlexGenSlot& slot, Access access);
  void assume_layer(RunContext& run, std::int64_t layer, int step);
  void assume_block(RunContext& run, std::int64_t block, int step);
  void assume_step(RunContext& run, int step);
  using Jobs = std::vector<std::unique_ptr<Completion>>;
  static void wait_for(RunContext& run, Jobs& jobs, const char* phase);
  [[nodiscard]] static Completion& new_job(Jobs& jobs);
  void wait_for_all(RunContext& run);

  AttentionKernel attention_kernel_ = AttentionKernel::eager;
  bool separate_layers_ = true;
  bool pin_weights_ = true;
  int copy_thread_count_ = 0;
  Bytes relay_buffer_{};
  GroupQuantization quantization_;
  PolicyKind policy_kind_ = PolicyKind::fixed;
  FlexGenPolicy configured_;
  FlexGenSearch search_;

  FlexGenPolicy policy_;
  WeightPlacement weights_;                              // of one rank
  std::vector<std::vector<MemoryObject>> weight_files_;  // by block
  std::unique_ptr<FlexGenDiskCache> disk_cache_;
  std::unique_ptr<CopyThreads> threads_;
  Worker* loader_ = nullptr;      // of what is on disk
  Worker* cpu_loader_ = nullptr;  // the DMA of what is on the CPU
  Worker* storer_ = nullptr;
  Worker* weight_loader_ = nullptr;

  std::vector<GpuBatch> gpu_batches_;
  std::vector<std::vector<HostRegion>> cache_regions_;  // by layer, GPU batch
  std::vector<HostRegion> activation_regions_;          // by GPU batch
  std::vector<MemoryObject> activation_files_;          // by GPU batch
  std::optional<MemoryObject> attention_workspace_;

  double driver_factor_ = 1;  // on the driver thread's times

  Jobs loads_;                           // of the next slot
  Jobs stores_;                          // of slots before
  Jobs weight_loads_;                    // of the next block
  std::optional<int> prefetched_step_;   // its first slot is on its way
  std::optional<FlexGenSlot> unstored_;  // computed last
};

template <class Visit>
void FlexGenSchedule::for_each_host_span(const FlexGenSlot& slot, Access access,
                                         Visit visit) const {
  const auto& part = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].cache[Home::cpu];
  if (!part) {
    return;
  }
  const HostRegion& region = cache_regions_[static_cast<std::size_t>(slot.layer)]
                                           [static_cast<std::size_t>(slot.gpu_batch)];
  const auto& groups = part->groups();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const bool in_prefill = slot.step == FlexGenSlot::kPrefill;
    if (!in_prefill && !Batch::is_active(groups[i], slot.step)) {
      continue;
    }
    const int before = in_prefill ? 0 : groups[i].context_of(slot.step) - 1;
    const int written = in_prefill ? groups[i].prompt_tokens : 1;
    visit(region.memory, region.offsets[i], groups[i].sequences,
          access == Access::read ? 0 : before, access == Access::read ? before : written);
  }
}

}  // namespace nearkv
