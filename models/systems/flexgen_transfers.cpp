// FlexGenSchedule: K and V on their way between GPU and host, and the driver thread that moves
// them.
#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_schedule.hpp"

namespace nearkv {

// -- Slots --------------------------------------------------------------------------------------

std::vector<SequenceBatch> FlexGenSchedule::active(const FlexGenSlot& slot) const {
  const Batch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].all;
  return slot.step == FlexGenSlot::kPrefill ? batch.prompts() : batch.at_step(slot.step);
}

std::vector<int> FlexGenSchedule::active_batches(int step) const {
  std::vector<int> batches;
  for (std::size_t k = 0; k < gpu_batches_.size(); ++k) {
    if (step == FlexGenSlot::kPrefill || gpu_batches_[k].all.active_sequences(step) > 0) {
      batches.push_back(static_cast<int>(k));
    }
  }
  return batches;
}

/// The slot behind it in this step or the next one.
std::optional<FlexGenSlot> FlexGenSchedule::next_slot(const RunContext& run,
                                                      const FlexGenSlot& slot) const {
  const std::vector<int> now = active_batches(slot.step);
  const auto next = std::find(now.begin(), now.end(), slot.gpu_batch) + 1;
  if (next != now.end()) {
    return FlexGenSlot{slot.layer, *next, slot.step};
  }
  if (slot.layer + 1 < run.point.model.layers) {
    return FlexGenSlot{slot.layer + 1, now.front(), slot.step};
  }
  if (slot.step + 1 < run.batch->decode_steps()) {
    return FlexGenSlot{0, active_batches(slot.step + 1).front(), slot.step + 1};
  }
  return std::nullopt;
}

/// Tokens of the part's active sequences before the step's own.
std::int64_t FlexGenSchedule::cached_tokens(const std::optional<Batch>& part, int step) const {
  return part ? part->context_tokens(step) - part->active_sequences(step) : 0;
}

std::int64_t FlexGenSchedule::new_tokens(const std::optional<Batch>& part, int step) const {
  if (!part) {
    return 0;
  }
  return step == FlexGenSlot::kPrefill ? part->prompt_tokens() : part->active_sequences(step);
}

bool FlexGenSchedule::needs_load(const FlexGenSlot& slot) const {
  const auto& cache = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].cache;
  return cached_tokens(cache[Home::cpu], slot.step) > 0 ||
         cached_tokens(cache[Home::disk], slot.step) > 0;
}

bool FlexGenSchedule::needs_store(const FlexGenSlot& slot) const {
  const auto& cache = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].cache;
  return new_tokens(cache[Home::cpu], slot.step) > 0 ||
         new_tokens(cache[Home::disk], slot.step) > 0;
}

// -- Cache --------------------------------------------------------------------------------------

void FlexGenSchedule::touch(RunContext& run, const MemorySpan& span, Access access) {
  Completion touched;
  run.machine.host_storage().touch_memory(run.machine.engine().now(), span, access, touched);
  run.machine.engine().wait(touched);
}

/// K and V on the CPU are copied one after the other by the driver thread and its team: into pinned
/// memory, from where a DMA takes each to the GPU, or into the FP32 workspace.
void FlexGenSchedule::post_load(RunContext& run, const FlexGenSlot& slot) {
  if (!needs_load(slot)) {
    return;
  }
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  if (cached_tokens(batch.cache[Home::disk], slot.step) > 0) {
    const auto destination = policy_.cpu_attention ? FlexGenDiskCache::Destination::host
                                                   : FlexGenDiskCache::Destination::gpu;
    loader_->post([this, &run, slot,
                   destination] { disk_cache_->load(cache_context(run), slot, destination); },
                  new_job(loads_));
  }
  const std::int64_t on_cpu = cached_tokens(batch.cache[Home::cpu], slot.step);
  if (on_cpu == 0) {
    return;
  }
  const ScopedPhase phase(run.machine, kKvWait);
  const Bytes token = cache_context(run).token;
  for_each_host_span(slot, Access::read,
                     [&](MemoryObject memory, Bytes offset, int sequences, int first, int count) {
                       const Bytes row = token * sequences;
                       touch(run, {memory, offset + row * first, row * count}, Access::read);
                     });
  const Bytes read = token * on_cpu / 2;  // K, or V
  const Bytes workspace = cpu_workspace(run.model.shape(), on_cpu);
  if (policy_.cpu_attention) {
    touch(run, {*attention_workspace_, Bytes{}, workspace}, Access::write);
  }
  const Bytes written = policy_.cpu_attention ? workspace / 2 : read;
  for (int tensor = 0; tensor < kKAndV; ++tensor) {
    work_on_host(run, kernel_issue(run) * kCallsOfACopy + run.point.host.framework.team_start +
                          host_copy_time(run.point.host, read, written));
    if (!policy_.cpu_attention) {
      cpu_loader_->post(
          [&run, slot, read] {
            run.model.copy(Machine::CopyDirection::host_to_gpu, slot.layer, read,
                           ParallelModel::HostMemoryKind::pinned);
          },
          new_job(loads_));
    }
  }
}

/// A prompt's K and V are stored by the copy threads; a token's are copied by the driver thread.
void FlexGenSchedule::post_store(RunContext& run, const FlexGenSlot& slot) {
  if (!needs_store(slot)) {
    return;
  }
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const std::int64_t on_cpu = new_tokens(batch.cache[Home::cpu], slot.step);
  std::vector<std::function<void()>> parts;
  if (new_tokens(batch.cache[Home::disk], slot.step) > 0) {
    parts.emplace_back([this, &run, slot] { disk_cache_->store(cache_context(run), slot); });
  }
  if (on_cpu > 0 && slot.step == FlexGenSlot::kPrefill) {
    parts.emplace_back([this, &run, slot] { store_prompts_on_cpu(run, slot); });
  }
  if (!parts.empty()) {
    storer_->post([&run, parts = std::move(parts)] { run.machine.together(parts); },
                  new_job(stores_));
  }
  if (on_cpu > 0 && slot.step != FlexGenSlot::kPrefill) {
    const ScopedPhase phase(run.machine, kKvWait);
    work_on_host(run, kernel_issue(run) * kKAndV);
    run.model.copy(Machine::CopyDirection::gpu_to_host, slot.layer,
                   cache_context(run).token * on_cpu, ParallelModel::HostMemoryKind::pageable);
    touch_written(run, slot, 1);
  }
}

/// The memory is touched for the first time: all of the team take the page faults.
void FlexGenSchedule::store_prompts_on_cpu(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const Bytes size = cache_context(run).token * new_tokens(batch.cache[Home::cpu], slot.step);
  const CopyThreads::Turn turn(*threads_, kKAndV);
  for (int tensor = 0; tensor < kKAndV; ++tensor) {
    threads_->take_tensor();
  }
  run.model.copy(Machine::CopyDirection::gpu_to_host, slot.layer, size,
                 ParallelModel::HostMemoryKind::pinned);
  touch_written(run, slot, run.point.host.cores);
  run.machine.spend(
      run.point.host.framework.team_start + host_copy_time(run.point.host, size, size),
      "host/copy_team", "copies within host memory");
}

void FlexGenSchedule::touch_written(RunContext& run, const FlexGenSlot& slot, int threads) {
  const Bytes token = cache_context(run).token;
  std::deque<Completion> touched;
  const SimTime now = run.machine.engine().now();
  for_each_host_span(slot, Access::write,
                     [&](MemoryObject memory, Bytes offset, int sequences, int first, int count) {
                       const Bytes row = token * sequences;
                       const Bytes begin = offset + row * first;
                       const Bytes end = begin + row * count;
                       const Bytes part{ceil_div((row * count).count(), std::int64_t{threads})};
                       for (Bytes at = begin; at < end; at += part) {
                         run.machine.host_storage().touch_memory(
                             now, {memory, at, std::min(part, end - at)}, Access::write,
                             touched.emplace_back());
                       }
                     });
  for (Completion& completion : touched) {
    run.machine.engine().wait(completion);
  }
}

void FlexGenSchedule::work_on_host(RunContext& run, SimDuration time) {
  run.model.wait_for_issuer();
  run.model.keep_issuer_busy(time);
  run.model.wait_for_issuer();
}

SimDuration FlexGenSchedule::at_drivers_pace(SimDuration time) const {
  return SimDuration{std::llround(static_cast<double>(time.count()) * driver_factor_)};
}

SimDuration FlexGenSchedule::kernel_issue(const RunContext& run) const {
  return at_drivers_pace(run.point.host.framework.kernel_issue);
}

/// Before each block of a GPU batch.
void FlexGenSchedule::begin_task(RunContext& run, int step) const {
  compute(run, step,
          [&] { run.model.keep_issuer_busy(at_drivers_pace(run.point.host.framework.task)); });
}

void FlexGenSchedule::wait_for(RunContext& run, Jobs& jobs, const char* phase_name) {
  const ScopedPhase phase(run.machine, phase_name);
  for (const std::unique_ptr<Completion>& job : jobs) {
    run.machine.engine().wait(*job, "copies that were started");
  }
  jobs.clear();
}

Completion& FlexGenSchedule::new_job(Jobs& jobs) {
  return *jobs.emplace_back(std::make_unique<Completion>());
}

/// Without overlap nobody waits for the threads that store (generation_loop_normal does not
/// synchronize); here, the end of a decode step does.
void FlexGenSchedule::wait_for_all(RunContext& run) {
  if (policy_.overlap) {
    wait_for(run, stores_, kKvWait);
  }
  wait_for(run, loads_, kKvWait);
  if (weight_loader_ != nullptr) {
    wait_for(run, weight_loads_, kWeightWait);
  }
}

/// A prefetch for another step than `step` is waited for and thrown away.
void FlexGenSchedule::finish_foreign_prefetch(RunContext& run, int step) {
  if (prefetched_step_ != step) {
    wait_for(run, loads_, kKvWait);
    prefetched_step_.reset();
  }
}

}  // namespace nearkv
