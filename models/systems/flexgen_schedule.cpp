#include "models/systems/flexgen_schedule.hpp"

#include <algorithm>
#include <utility>

#include "models/systems/design_point.hpp"
#include "models/systems/layer_loop.hpp"

namespace nearkv {

// -- The block schedule -------------------------------------------------------------------------

void FlexGenSchedule::embed(RunContext& run, int step) {
  // With overlap the end of the step before has loaded these weights.
  if (!policy_.overlap || step == FlexGenSlot::kPrefill) {
    post_weights(run, input_block(run), step);
    wait_for_all(run);
  }
  if (policy_.overlap) {
    post_weights(run, 0, step);
  }
  for (const int k : active_batches(step)) {
    const FlexGenSlot slot{0, k, step};
    begin_task(run, step);
    compute(run, slot.step, [&] {
      decompress(run, input_block(run));
      run.model.embed(tokens_of(active(slot)));
    });
    move_activations(run, slot, Machine::CopyDirection::gpu_to_host);
  }
  wait_for_all(run);
}

void FlexGenSchedule::run_layer(RunContext& run, std::int64_t layer, int step) {
  const ActivityScope shown(run.machine.engine(), ActivityLog::Scope::layer, "layer", layer);
  run.machine.report_counters();
  if (!separate_layers_) {
    run_block(run, layer, step);
    return;
  }
  run_block(run, 2 * layer, step);
  run_block(run, 2 * layer + 1, step);
}

/// Whether the cache of a slot's successor is loaded while the slot's part in `block` is computed.
bool FlexGenSchedule::loads_next(std::int64_t block, const FlexGenSlot& slot,
                                 const FlexGenSlot& next) const {
  const bool is_in_this_layer = next.layer == slot.layer && next.step == slot.step;
  return separate_layers_ && attends(block) ? is_in_this_layer
         : separate_layers_                 ? !is_in_this_layer
                                            : true;
}

void FlexGenSchedule::begin_transfers(RunContext& run, std::int64_t block, const FlexGenSlot& slot,
                                      bool is_first) {
  if (is_first) {
    post_weights(run, block + 1 < layer_blocks(run) ? block + 1 : output_block(run), slot.step);
  }
  const std::optional<FlexGenSlot> next = next_slot(run, slot);
  const bool in_decode = slot.step != FlexGenSlot::kPrefill;
  if (in_decode && prefetches_cache() && next && loads_next(block, slot, *next)) {
    post_load(run, *next);
    // Of the next step: its part of this step was stored long ago.
    prefetched_step_ = next->step != slot.step ? std::optional(next->step) : prefetched_step_;
  }
  if (unstored_) {
    post_store(run, *std::exchange(unstored_, std::nullopt));
  }
}

void FlexGenSchedule::run_block(RunContext& run, std::int64_t block, int step) {
  const bool in_decode = step != FlexGenSlot::kPrefill;
  const std::vector<int> batches = active_batches(step);
  if (!policy_.overlap) {
    post_weights(run, block, step);
    wait_for_all(run);
  }
  for (const int k : batches) {
    const FlexGenSlot slot{layer_of(block), k, step};
    begin_task(run, step);
    if (policy_.overlap) {
      begin_transfers(run, block, slot, k == batches.front());
    } else if (in_decode && prefetches_cache() && attends(block)) {
      post_load(run, slot);
      wait_for_all(run);  // which the GPU does, while the driver issues what uses it
    }
    move_activations(run, slot, Machine::CopyDirection::host_to_gpu);
    compute_block(run, block, slot);
    move_activations(run, slot, Machine::CopyDirection::gpu_to_host);
    if (attends(block)) {
      unstored_ = slot;
    }
    if (!policy_.overlap && unstored_) {
      post_store(run, *std::exchange(unstored_, std::nullopt));
    }
    wait_for_all(run);
  }
}

void FlexGenSchedule::compute_block(RunContext& run, std::int64_t block, const FlexGenSlot& slot) {
  compute(run, slot.step, [&] { decompress(run, block); });
  if (attends(block)) {
    if (slot.step == FlexGenSlot::kPrefill) {
      compute_prefill(run, slot);
    } else {
      compute_decode(run, slot);
    }
  } else {
    compute(run, slot.step,
            [&] { run.model.feed_forward_block(slot.layer, tokens_of(active(slot))); });
  }
}

void FlexGenSchedule::next_tokens(RunContext& run, int step) {
  const std::int64_t last = run.point.model.layers - 1;
  if (!policy_.overlap) {
    post_weights(run, output_block(run), step);
    wait_for_all(run);
  } else {
    if (unstored_) {
      post_store(run, *std::exchange(unstored_, std::nullopt));
    }
    if (step + 1 < run.batch->decode_steps()) {
      post_weights(run, input_block(run), step);
    }
  }
  for (const int k : active_batches(step)) {
    const FlexGenSlot slot{last, k, step};
    begin_task(run, step);
    move_activations(run, slot, Machine::CopyDirection::host_to_gpu);
    compute(run, slot.step, [&] {
      decompress(run, output_block(run));
      run.model.next_token(rows_of_logits(active(slot)));
    });
  }
  wait_for_all(run);
}

/// generation_loop_normal synchronizes at the end of a step only.
void FlexGenSchedule::issue_ahead_without_overlap(RunContext& run) const {
  if (!policy_.overlap) {
    run.model.begin_issuing_ahead();
  }
}

void FlexGenSchedule::prefill(RunContext& run) {
  const int step = FlexGenSlot::kPrefill;
  const GpuAllocation buffers = hold_buffers(run, step);
  work_on_host(run, run.point.host.framework.first_pass);
  issue_ahead_without_overlap(run);
  embed(run, step);
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    run_layer(run, layer, step);
  }
  next_tokens(run, step);
  run.model.end_issuing_ahead();
}

void FlexGenSchedule::decode_step(RunContext& run, int step) {
  const GpuAllocation buffers = hold_buffers(run, step);
  finish_foreign_prefetch(run, step);
  disk_cache_->move_contents_to(cache_context(run), step);
  if (policy_.overlap && prefetches_cache() && prefetched_step_ != step) {
    post_load(run, {0, active_batches(step).front(), step});
  }
  wait_for(run, loads_, kKvWait);
  issue_ahead_without_overlap(run);
  embed(run, step);
  LayerLoop(run.machine, run.point)
      .run([&](std::int64_t layer) { run_layer(run, layer, step); },
           [&](std::int64_t layer) { assume_layer(run, layer, step); });
  next_tokens(run, step);
  run.model.end_issuing_ahead();
  wait_for(run, stores_, kKvWait);
}

// -- What a sampled run leaves out --------------------------------------------------------------

void FlexGenSchedule::assume_moved(RunContext& run, const FlexGenSlot& slot, Access access) {
  const FlexGenCacheContext context = cache_context(run);
  if (access == Access::read) {
    disk_cache_->assume_loaded(context, slot);
  } else {
    disk_cache_->assume_stored(context, slot);
  }
  for_each_host_span(
      slot, access, [&](MemoryObject memory, Bytes offset, int sequences, int first, int count) {
        const Bytes row = context.token * sequences;
        run.machine.host_storage().assume_used({memory, offset + row * first, row * count}, access);
      });
}

/// The LM head of eager code looks at all tokens of a prompt, of which the last one's scores count.
std::int64_t FlexGenSchedule::rows_of_logits(std::span<const SequenceBatch> groups) const {
  std::int64_t sequences = 0;
  for (const SequenceBatch& group : groups) {
    sequences += group.sequences;
  }
  return attention_kernel_ == AttentionKernel::eager ? tokens_of(groups) : sequences;
}

/// In the order of run_layer.
void FlexGenSchedule::assume_layer(RunContext& run, std::int64_t layer, int step) {
  if (!separate_layers_) {
    assume_block(run, layer, step);
    return;
  }
  assume_block(run, 2 * layer, step);
  assume_block(run, 2 * layer + 1, step);
}

void FlexGenSchedule::assume_block(RunContext& run, std::int64_t block, int step) {
  if (!policy_.overlap) {
    assume_weights_loaded(run, block);
  } else {
    assume_weights_loaded(run, block + 1 < layer_blocks(run) ? block + 1 : output_block(run));
  }
  for (const int k : active_batches(step)) {
    const FlexGenSlot slot{layer_of(block), k, step};
    if (!policy_.overlap && attends(block)) {
      assume_moved(run, slot, Access::read);
      assume_moved(run, slot, Access::write);
    }
    if (!policy_.overlap) {
      continue;
    }
    const std::optional<FlexGenSlot> next = next_slot(run, slot);
    if (next && next->step == step && loads_next(block, slot, *next)) {
      assume_moved(run, *next, Access::read);
    }
    if (unstored_) {
      assume_moved(run, *std::exchange(unstored_, std::nullopt), Access::write);
    }
    if (attends(block)) {
      unstored_ = slot;
    }
  }
}

/// In the order of decode_step.
void FlexGenSchedule::assume_step(RunContext& run, int step) {
  if (policy_.overlap) {
    assume_moved(run, {0, active_batches(step).front(), step}, Access::read);
    assume_weights_loaded(run, 0);
  } else {
    assume_weights_loaded(run, input_block(run));
  }
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    assume_layer(run, layer, step);
  }
  if (policy_.overlap) {
    if (unstored_) {
      assume_moved(run, *std::exchange(unstored_, std::nullopt), Access::write);
    }
    assume_weights_loaded(run, input_block(run));
  } else {
    assume_weights_loaded(run, output_block(run));
  }
}

void FlexGenSchedule::warm_up(RunContext& run, int step) {
  wait_for(run, stores_, kKvWait);
  finish_foreign_prefetch(run, step);
  wait_for(run, loads_, kKvWait);
  disk_cache_->move_contents_to(cache_context(run), step + 1);
  disk_cache_->assume_history(cache_context(run), step);
  // As two steps: the first one evicts what was written long ago, the second leaves in memory what
  // a step has used last.
  assume_step(run, step);
  assume_step(run, step);
  const std::vector<int> next = active_batches(step + 1);
  if (policy_.overlap && prefetches_cache() && !next.empty()) {
    post_load(run, {0, next.front(), step + 1});
    prefetched_step_ = step + 1;
    for (const std::unique_ptr<Completion>& load : loads_) {
      run.machine.engine().wait(*load);
    }
  }
}

/// Windows that the step's tokens are the first to touch, of K of one layer.
std::int64_t FlexGenSchedule::new_windows(const RunContext& run, int step) const {
  const Bytes window = run.point.host.file_system.readahead_window;
  const Bytes token = stored_kv(run.model.shape(), policy_, quantization_);
  std::int64_t windows = 0;
  for (const GpuBatch& batch : gpu_batches_) {
    for (const Home home : {Home::cpu, Home::disk}) {
      if (!batch.cache[home]) {
        continue;
      }
      for (const SequenceGroup& group : batch.cache[home]->groups()) {
        const Bytes row = token * group.sequences / 2;
        const auto windows_of = [&](int tokens) {
          return ceil_div((row * tokens).count(), window.count());
        };
        const int context = group.context_of(step);
        windows +=
            Batch::is_active(group, step) ? windows_of(context) - windows_of(context - 1) : 0;
      }
    }
  }
  return windows;
}

/// The first step loads its own first slot too, the last one none for a step behind it; a step
/// behind which a group is done has less to do, and one that begins a window has more.
StepKey FlexGenSchedule::step_key(const RunContext& run, int step) const {
  const int is_first = step == 0 ? 1 : 0;
  const int is_last = step == run.batch->decode_steps() - 1 ? 2 : 0;
  int done = 0;
  for (const SequenceGroup& group : run.groups()) {
    done += Batch::is_active(group, step) ? 0 : 1;
  }
  const int ends = 2 * 2;  // kinds of first and last
  const auto groups = static_cast<int>(run.groups().size());
  // Of ragged batches hardly two steps would be alike.
  const auto windows = groups > 1 ? 0 : static_cast<int>(new_windows(run, step));
  return {is_first + is_last + ends * (done + (groups + 1) * windows), step};
}

// -- Results ------------------------------------------------------------------------------------

std::vector<std::string> FlexGenSchedule::notes(const DesignPoint& point) const {
  std::vector<std::string> notes;
  if (policy_kind_ == PolicyKind::fixed) {
    notes.push_back("policy as configured: " + nearkv::describe(configured_));
  } else if (policy_.block() > 0) {
    notes.push_back("policy found by FlexGen's cost model: " + nearkv::describe(policy_));
  }
  if (point.parallelism.gpus() > 1) {
    notes.emplace_back("FlexGen itself has no tensor parallelism; here its ranks share each layer");
  }
  return notes;
}

void FlexGenSchedule::report(const DesignPoint& /*point*/, Metrics& metrics) const {
  const auto add = [&](const char* name, int value, const char* doc) {
    metrics.add(std::string("policy/") + name, value, "1", doc);
  };
  add("gpu_batch_size", policy_.gpu_batch_size, "most sequences of a GPU batch");
  add("num_gpu_batches", policy_.num_gpu_batches, "most GPU batches of a block");
  add("weights_gpu", policy_.weights.gpu, "percent of the weights on the GPU");
  add("weights_cpu", policy_.weights.cpu, "percent of the weights in host memory");
  add("cache_gpu", policy_.cache.gpu, "percent of the KV cache on the GPU");
  add("cache_cpu", policy_.cache.cpu, "percent of the KV cache in host memory");
  add("activations_gpu", policy_.activations.gpu, "percent of the activations on the GPU");
  add("activations_cpu", policy_.activations.cpu, "percent of the activations in host memory");
  add("overlap", policy_.overlap ? 1 : 0, "1: transfers and computing overlap");
  add("cpu_attention", policy_.cpu_attention ? 1 : 0, "1: the CPU computes decode attention");
  add("compress_weight", policy_.compress_weight ? 1 : 0, "1: weights in 4 bits");
  add("compress_cache", policy_.compress_cache ? 1 : 0, "1: KV cache in 4 bits");
}

}  // namespace nearkv
