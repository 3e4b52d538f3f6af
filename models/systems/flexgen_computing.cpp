// FlexGenSchedule: what GPU and CPU compute in a slot, and activations that are not at home there.
#include <algorithm>

#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_schedule.hpp"

namespace nearkv {

namespace {

constexpr std::int64_t kFp32Bytes = 4;  // unit: bytes of an FP32 value

}  // namespace

// -- Computing ----------------------------------------------------------------------------------

void FlexGenSchedule::compute(RunContext& run, int step,
                              const std::function<void()>& operators) const {
  const ActivityScope shown(run.machine.engine(), ActivityLog::Scope::phase, kCompute);
  const SimTime begin = run.machine.engine().now();
  operators();
  if (step != FlexGenSlot::kPrefill) {
    run.machine.add_to_phase(kCompute, run.machine.engine().now() - begin);
  }
}

void FlexGenSchedule::compute_prefill(RunContext& run, const FlexGenSlot& slot) {
  compute(run, slot.step, [&] {
    if (separate_layers_) {
      run.model.attention_block(slot.layer, active(slot), attention_kernel_);
    } else {
      run.model.layer(slot.layer, active(slot), attention_kernel_);
    }
  });
  compress_new(run, slot);
}

void FlexGenSchedule::compute_decode(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const int stage = run.model.stage_of(slot.layer);
  const ModelShape& shape = run.model.shape();
  const auto rank_part = [&](Bytes token, std::int64_t tokens) {
    return run.model.rank_share(token * tokens);
  };
  const std::int64_t on_gpu = cached_tokens(batch.cache[Home::gpu], slot.step);
  std::vector<OperatorWork> operators;
  if (policy_.compress_cache) {
    const std::int64_t tokens = cached_tokens(batch.all, slot.step);
    operators = decompression(rank_part(stored_kv(shape, policy_, quantization_), tokens),
                              rank_part(shape.kv_bytes_per_token_and_layer(), tokens));
  } else if (on_gpu > 0 && needs_load(slot) && !policy_.cpu_attention) {
    operators = device_copy(rank_part(shape.kv_bytes_per_token_and_layer(), on_gpu));
  }
  compute(run, slot.step, [&] { run.model.compute(stage, operators); });
  decode_attention_layer(run, slot);
  compress_new(run, slot);
}

void FlexGenSchedule::decode_attention_layer(RunContext& run, const FlexGenSlot& slot) {
  if (policy_.cpu_attention) {
    attend_on_cpu(run, slot);
  } else {
    compute(run, slot.step, [&] {
      if (separate_layers_) {
        run.model.attention_block(slot.layer, active(slot), attention_kernel_);
      } else {
        run.model.layer(slot.layer, active(slot), attention_kernel_);
      }
    });
  }
}

void FlexGenSchedule::compute_after_attention(RunContext& run, std::int64_t layer,
                                              std::int64_t tokens) const {
  if (separate_layers_) {
    run.model.attention_output(layer, tokens);
  } else {
    run.model.after_attention(layer, tokens);
  }
}

void FlexGenSchedule::attend_on_cpu(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const std::int64_t sequences = batch.all.active_sequences(slot.step);
  compute(run, slot.step, [&] {
    run.model.enter_layer(slot.layer, sequences);
    run.model.before_attention(slot.layer, sequences, attention_kernel_);
    if (new_tokens(batch.cache[Home::gpu], slot.step) > 0) {
      run.model.attention(slot.layer, batch.cache[Home::gpu]->at_step(slot.step),
                          attention_kernel_);
    }
  });
  std::int64_t off_gpu = 0;
  std::int64_t context_tokens = 0;
  for (const Home home : {Home::cpu, Home::disk}) {
    if (const auto& part = batch.cache[home]) {
      off_gpu += part->active_sequences(slot.step);
      context_tokens += part->context_tokens(slot.step);
    }
  }
  if (off_gpu > 0) {
    const ScopedPhase phase(run.machine, kCpuAttention);
    const ModelShape& rank = run.model.rank_shape();
    const int stage = run.model.stage_of(slot.layer);
    const Bytes fp32 = Bytes{rank.attention_width * kFp32Bytes} * off_gpu;  // q, or the output
    const auto move = [&](Machine::CopyDirection direction, Bytes size) {
      copy_to_ranks(run, stage, direction, size, ParallelModel::HostMemoryKind::pageable);
    };
    move(Machine::CopyDirection::gpu_to_host, fp32 + rank.kv_bytes_per_token_and_layer() * off_gpu);
    run.machine.spend(cpu_attention_time(run.point.host, run.model.shape(), context_tokens),
                      "host/cpu_attention", "decode attention on the CPU");
    move(Machine::CopyDirection::host_to_gpu, fp32);
  }
  compute(run, slot.step, [&] { compute_after_attention(run, slot.layer, sequences); });
}

/// The new K and V: compressed, and copied to the cache as far as that is on the GPU. On their way
/// to the host eager code transposes them on the GPU too.
void FlexGenSchedule::compress_new(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const Bytes token = stored_kv(run.model.shape(), policy_, quantization_);
  const std::int64_t tokens = new_tokens(batch.all, slot.step);
  std::vector<OperatorWork> operators;
  if (policy_.compress_cache) {
    operators = compression(
        run.model.rank_share(token * tokens),
        run.model.rank_share(run.model.shape().kv_bytes_per_token_and_layer() * tokens));
  }
  const bool transposes =
      slot.step == FlexGenSlot::kPrefill && attention_kernel_ == AttentionKernel::eager;
  const std::vector<OperatorWork> copy =
      transposes ? transposed_copy(run.model.rank_share(token * tokens))
                 : device_copy(
                       run.model.rank_share(token * new_tokens(batch.cache[Home::gpu], slot.step)));
  operators.insert(operators.end(), copy.begin(), copy.end());
  compute(run, slot.step, [&] { run.model.compute(run.model.stage_of(slot.layer), operators); });
}

void FlexGenSchedule::move_activations(RunContext& run, const FlexGenSlot& slot,
                                       Machine::CopyDirection direction) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const auto k = static_cast<std::size_t>(slot.gpu_batch);
  const Bytes token = run.model.shape().hidden_bytes_per_token();
  const Bytes on_cpu = token * new_tokens(batch.activations[Home::cpu], slot.step);
  const Bytes on_disk = token * new_tokens(batch.activations[Home::disk], slot.step);
  if (on_cpu + on_disk == Bytes{}) {
    return;
  }
  const ScopedPhase phase(run.machine, kActivations);
  Engine& engine = run.machine.engine();
  HostStorage& storage = run.machine.host_storage();
  const bool to_gpu = direction == Machine::CopyDirection::host_to_gpu;
  const auto copy = [&] {
    copy_to_ranks(run, run.model.stage_of(slot.layer), direction, on_cpu + on_disk,
                  ParallelModel::HostMemoryKind::pinned);
  };
  if (!to_gpu) {
    copy();
  }
  if (on_cpu > Bytes{}) {
    touch(run, {activation_regions_[k].memory, Bytes{}, on_cpu},
          to_gpu ? Access::read : Access::write);
  }
  if (on_disk > Bytes{}) {
    const CopyThreads::Turn turn(*threads_, 1);
    threads_->open_file();
    Completion moved;
    const MemorySpan span{activation_files_[k], Bytes{}, on_disk};
    if (to_gpu) {
      storage.read_file(engine.now(), span, moved);
    } else {
      storage.write_file(engine.now(), span, moved);
    }
    engine.wait(moved);
  }
  if (to_gpu) {
    copy();
  }
}

}  // namespace nearkv
