// DeepSpeed-MII with ZeRO-Inference as the paper's baseline uses it: weights in VRAM, the KV cache
// in pageable host memory. Each decode layer copies its KV to the GPU and the new token's K and V
// back; copies of pageable memory are synchronous, so nothing overlaps. When KV no longer fits
// host memory, the kernel swaps.
//
// What ZeRO-Inference's own models do (transformers fork tjruwase/transformers, branch
// kvcache-offload-cpu): attention = cpu. K and V lie in host memory as FP32; a decode layer sends q
// and the new K and V there, the CPU attends (cpu_attention_time), the output goes back. Weights
// may be offloaded: weights = host copies each layer's from pageable memory before it computes;
// weights = nvme reads them from the SSDs, past the page cache, one layer ahead, and copies them
// from pinned memory. Embeddings stay in VRAM.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/llm/operators.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_policy.hpp"
#include "models/systems/layer_loop.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

namespace {

enum class AttentionPlace { gpu, cpu };
enum class LayerWeights { vram, host, nvme };

constexpr int kFp32OfFp16 = 2;        // not a constant: FP32 bytes of an FP16 value's
constexpr int kLayersOnTheirWay = 2;  // one computes, one arrives

class DeepSpeedSystem final : public BatchSystem {
 public:
  void fields(FieldVisitor& v) override {
    v.one_of("attention_kernel", attention_kernel_, {"fused", "unfused"},
             "GPU attention: fused, or scores, softmax and values as kernels over a whole matrix");
    v.constant("kv_footprint", kv_footprint_,
               "host memory that a layer's KV takes, and that a step touches, as a multiple of it",
               {1, 16});
    v.one_of("attention", attention_, {"gpu", "cpu"},
             "gpu: decode copies K and V there; cpu: the CPU attends over them, as FP32");
    v.one_of("weights", weights_, {"vram", "host", "nvme"},
             "where the layers' weights live: VRAM, pageable host memory, or the SSDs");
    v.require(attention_ == AttentionPlace::gpu || kv_footprint_ >= kFp32OfFp16, "kv_footprint",
              "must be at least 2; for attention on the CPU, K and V are FP32");
  }

  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    v.require(!point.ssd.empty(), "ssd", "is empty; deepspeed swaps to an SSD");
  }

  void place(RunContext& run) override;
  void begin_batch(RunContext& run) override;
  void prefill(RunContext& run) override;
  void decode_step(RunContext& run, int step) override;
  void warm_up(RunContext& run, int step) override;
  void finish_batch(RunContext& run) override { remove_regions(run); }

  /// Between the steps at which sequences end, a step is like the one before it.
  [[nodiscard]] StepKey step_key(const RunContext& run, int step) const override {
    return {static_cast<int>(run.batch->at_step(step).size()), step};
  }

  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& /*point*/) const override {
    return {};
  }

 private:
  /// K and V of one token of each of a group's sequences, in one layer.
  [[nodiscard]] static Bytes row(const RunContext& run, const SequenceGroup& group) {
    return run.point.model.kv_bytes_per_token_and_layer() * group.sequences;
  }
  /// Host memory of one layer's KV of `tokens` tokens a sequence.
  [[nodiscard]] Bytes footprint(const RunContext& run, const SequenceGroup& group,
                                int tokens) const {
    const Bytes kv = row(run, group) * tokens;
    return Bytes{static_cast<std::int64_t>(static_cast<double>(kv.count()) * kv_footprint_)};
  }
  /// What is touched of a layer's regions when the sequences have `tokens_of(group)` tokens.
  template <class TokensOf>
  [[nodiscard]] std::vector<MemorySpan> spans(const RunContext& run, std::int64_t layer,
                                              TokensOf tokens_of) const;
  [[nodiscard]] std::vector<MemorySpan> touched_by(const RunContext& run, std::int64_t layer,
                                                   int step) const;
  void place_weights(RunContext& run);
  void load_weights(RunContext& run, std::int64_t layer);
  SimTime read_weights(RunContext& run, std::int64_t layer) const;
  void attend_on_cpu(RunContext& run, std::int64_t layer, int step);
  void create_regions(RunContext& run);
  void remove_regions(RunContext& run);
  void touch(RunContext& run, const std::vector<MemorySpan>& touched);
  void assume_touched(RunContext& run, std::int64_t layer, int step);

  AttentionKernel attention_kernel_ = AttentionKernel::unfused;
  double kv_footprint_ = 0;
  AttentionPlace attention_ = AttentionPlace::gpu;
  LayerWeights weights_ = LayerWeights::vram;

  /// A layer's weights on their way from the SSDs.
  struct Arriving {
    std::int64_t layer;
    std::optional<SimTime> at;  // nothing: it is waited for as long as the one before was
  };
  std::optional<MemoryObject> weights_off_gpu_;  // of all layers
  std::optional<Arriving> arriving_;
  SimDuration last_wait_{};
  std::vector<MemoryObject> regions_;  // layer by layer, in it group by group
  int touched_step_ = 0;               // some region was touched up to this step
};

void DeepSpeedSystem::place(RunContext& run) {
  Machine& machine = run.machine;
  machine.declare_phase("gpu_compute", "GPU operators");
  machine.declare_phase("kv_swap", "page faults on KV in host memory");
  machine.declare_phase("kv_copy", "copies of KV between pageable host memory and VRAM");
  const bool on_cpu = attention_ == AttentionPlace::cpu;
  if (on_cpu) {
    machine.declare_phase("cpu_attention", "decode attention on the CPU");
  }
  machine.gauges().add(
      {std::string(Machine::kKvAccess), "s",
       on_cpu ? "KV faults and copies, attention on the CPU" : "KV faults and copies",
       [&machine, on_cpu] {
         const SimDuration attending = on_cpu ? machine.phase("cpu_attention") : SimDuration{};
         return to_seconds(machine.phase("kv_swap") + machine.phase("kv_copy") + attending);
       }});
  place_weights(run);
  regions_.clear();
}

void DeepSpeedSystem::place_weights(RunContext& run) {
  ParallelModel& model = run.model;
  if (weights_ == LayerWeights::vram) {
    model.allocate_weights();
    return;
  }
  run.machine.declare_phase("weight_copy", "weights of layers on their way to VRAM");
  const Bytes layer = model.rank_shape().weight_bytes_per_layer();
  for (int stage = 0; stage < model.stages(); ++stage) {
    const Bytes embeddings = model.weight_bytes(stage) - layer * model.layers_of(stage);
    for (int rank = 0; rank < model.ranks(); ++rank) {
      run.machine.gpu(stage * model.ranks() + rank)
          .memory()
          .allocate("embeddings and weights on their way", embeddings + layer * kLayersOnTheirWay);
    }
  }
  const ModelShape& shape = run.point.model;
  const Bytes all = shape.weight_bytes_per_layer() * shape.layers;
  HostStorage& storage = run.machine.host_storage();
  weights_off_gpu_ = weights_ == LayerWeights::host ? storage.create_region(all)
                                                    : storage.create_file("weights", all);
  if (weights_ == LayerWeights::host) {
    storage.assume_used({*weights_off_gpu_, Bytes{}, all}, Access::write);
  }
}

/// When the layer's weights, read from `now` on, are in host memory.
SimTime DeepSpeedSystem::read_weights(RunContext& run, std::int64_t layer) const {
  Machine& machine = run.machine;
  const Bytes size = run.point.model.weight_bytes_per_layer();
  const Bytes command = run.point.host.memory_extent;
  const SimTime now = machine.engine().now();
  SimTime done = now;
  for (Bytes at{}; at < size; at += command) {
    const Bytes address = machine.host_storage().address_of(*weights_off_gpu_, size * layer + at);
    done = std::max(done, machine.ssds().read(now, address, std::min(command, size - at)).done);
  }
  return done;
}

void DeepSpeedSystem::load_weights(RunContext& run, std::int64_t layer) {
  if (weights_ == LayerWeights::vram) {
    return;
  }
  Machine& machine = run.machine;
  const ScopedPhase phase(machine, "weight_copy");
  const Bytes size = run.point.model.weight_bytes_per_layer();
  if (weights_ == LayerWeights::host) {
    Completion touched;
    machine.host_storage().touch_memory(
        machine.engine().now(), {*weights_off_gpu_, size * layer, size}, Access::read, touched);
    machine.engine().wait(touched);
    run.model.copy(Machine::CopyDirection::host_to_gpu, layer, size,
                   ParallelModel::HostMemoryKind::pageable);
    return;
  }
  if (!arriving_ || arriving_->layer != layer) {
    arriving_ = {layer, read_weights(run, layer)};
  }
  const SimTime now = machine.engine().now();
  const SimTime arrival = std::max(now, arriving_->at.value_or(now + last_wait_));
  last_wait_ = arrival - now;
  machine.wait_for({now, arrival}, "ssd", "weights on their way");
  arriving_.reset();
  if (layer + 1 < run.point.model.layers) {
    arriving_ = {layer + 1, read_weights(run, layer + 1)};
  }
  run.model.copy(Machine::CopyDirection::host_to_gpu, layer, size,
                 ParallelModel::HostMemoryKind::pinned);
}

void DeepSpeedSystem::begin_batch(RunContext& run) { create_regions(run); }

void DeepSpeedSystem::create_regions(RunContext& run) {
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    for (const SequenceGroup& group : run.groups()) {
      regions_.push_back(
          run.machine.host_storage().create_region(footprint(run, group, group.longest_context())));
    }
  }
  touched_step_ = 0;
}

void DeepSpeedSystem::remove_regions(RunContext& run) {
  for (const MemoryObject region : std::exchange(regions_, {})) {
    run.machine.host_storage().remove(region);
  }
}

template <class TokensOf>
std::vector<MemorySpan> DeepSpeedSystem::spans(const RunContext& run, std::int64_t layer,
                                               TokensOf tokens_of) const {
  std::vector<MemorySpan> spans;
  std::size_t region = static_cast<std::size_t>(layer) * run.groups().size();
  for (const SequenceGroup& group : run.groups()) {
    if (const int tokens = tokens_of(group); tokens > 0) {
      spans.push_back({regions_[region], Bytes{}, footprint(run, group, tokens)});
    }
    ++region;
  }
  return spans;
}

/// Appending makes a new tensor, so that a step writes all of the KV that it attends over.
std::vector<MemorySpan> DeepSpeedSystem::touched_by(const RunContext& run, std::int64_t layer,
                                                    int step) const {
  return spans(run, layer, [step](const SequenceGroup& group) {
    return Batch::is_active(group, step) ? group.context_of(step) : 0;
  });
}

/// Page faults of a layer's KV.
void DeepSpeedSystem::touch(RunContext& run, const std::vector<MemorySpan>& touched) {
  const ScopedPhase phase(run.machine, "kv_swap");
  for (const MemorySpan& span : touched) {
    Completion touched_all;
    run.machine.host_storage().touch_memory(run.machine.engine().now(), span, Access::write,
                                            touched_all);
    run.machine.engine().wait(touched_all);
  }
}

void DeepSpeedSystem::assume_touched(RunContext& run, std::int64_t layer, int step) {
  for (const MemorySpan& span : touched_by(run, layer, step)) {
    run.machine.host_storage().assume_used(span, Access::write);
  }
  touched_step_ = std::max(touched_step_, step);
}

void DeepSpeedSystem::prefill(RunContext& run) {
  ParallelModel& model = run.model;
  const std::vector<SequenceBatch> prompts = run.batch->prompts();
  const Bytes layer_kv =
      run.point.model.kv_bytes_per_token_and_layer() * run.batch->prompt_tokens();
  const GpuAllocation workspace =
      model.hold_workspace("prefill workspace", prompts, attention_kernel_);
  const GpuAllocation kv = model.hold("KV of one layer", model.rank_share(layer_kv));
  model.embed(run.batch->prompt_tokens());
  const int copies = attention_ == AttentionPlace::cpu ? kFp32OfFp16 : 1;
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    load_weights(run, layer);
    model.layer(layer, prompts, attention_kernel_);
    touch(run, spans(run, layer, [](const SequenceGroup& group) { return group.prompt_tokens; }));
    model.copy(Machine::CopyDirection::gpu_to_host, layer, layer_kv * copies,
               ParallelModel::HostMemoryKind::pageable);
  }
  model.next_token(run.batch->sequences());
}

void DeepSpeedSystem::warm_up(RunContext& run, int step) {
  if (step < touched_step_) {
    // Back in time: later steps have touched what no step has touched now.
    remove_regions(run);
    create_regions(run);
  }
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    assume_touched(run, layer, step);
  }
}

void DeepSpeedSystem::decode_step(RunContext& run, int step) {
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  ParallelModel& model = run.model;
  const std::vector<SequenceBatch> tokens = run.batch->at_step(step);
  const std::int64_t sequences = run.batch->active_sequences(step);
  const Bytes row = point.model.kv_bytes_per_token_and_layer();
  const Bytes new_kv = row * sequences;
  const Bytes old_kv = row * run.batch->context_tokens(step) - new_kv;
  const GpuAllocation workspace =
      model.hold_workspace("decode workspace", tokens, attention_kernel_);
  const GpuAllocation kv = model.hold("KV of one layer", model.rank_share(old_kv + new_kv));
  const auto compute = [&](const auto& operators) {
    const ScopedPhase phase(machine, "gpu_compute");
    operators();
  };
  const auto copy_kv = [&](Machine::CopyDirection direction, std::int64_t layer, Bytes size) {
    const ScopedPhase phase(machine, "kv_copy");
    model.copy(direction, layer, size, ParallelModel::HostMemoryKind::pageable);
  };

  compute([&] { model.embed(sequences); });
  LayerLoop(machine, point)
      .run(
          [&](std::int64_t layer) {
            const ActivityScope shown(machine.engine(), ActivityLog::Scope::layer, "layer", layer);
            machine.report_counters();
            load_weights(run, layer);
            touch(run, touched_by(run, layer, step));
            touched_step_ = std::max(touched_step_, step);
            if (attention_ == AttentionPlace::cpu) {
              attend_on_cpu(run, layer, step);
              return;
            }
            copy_kv(Machine::CopyDirection::host_to_gpu, layer, old_kv);
            compute([&] { model.layer(layer, tokens, attention_kernel_); });
            copy_kv(Machine::CopyDirection::gpu_to_host, layer, new_kv);
          },
          [&](std::int64_t layer) {
            assume_touched(run, layer, step);
            if (weights_ == LayerWeights::nvme) {
              arriving_ = {layer + 1, std::nullopt};
            }
          });
  compute([&] { model.next_token(sequences); });
}

/// A layer whose K and V stay in host memory.
void DeepSpeedSystem::attend_on_cpu(RunContext& run, std::int64_t layer, int step) {
  Machine& machine = run.machine;
  ParallelModel& model = run.model;
  const ModelShape& shape = run.point.model;
  const std::int64_t sequences = run.batch->active_sequences(step);
  const auto copy = [&](Machine::CopyDirection direction, Bytes size) {
    const ScopedPhase phase(machine, "kv_copy");
    model.copy(direction, layer, size, ParallelModel::HostMemoryKind::pageable);
  };
  const Bytes heads = shape.values(shape.attention_width) * sequences;  // q, or the output
  {
    const ScopedPhase phase(machine, "gpu_compute");
    model.enter_layer(layer, sequences);
    model.before_attention(layer, sequences, attention_kernel_);
  }
  copy(Machine::CopyDirection::gpu_to_host,
       (shape.kv_bytes_per_token_and_layer() * sequences + heads) * kFp32OfFp16);
  {
    const ScopedPhase phase(machine, "cpu_attention");
    machine.spend(cpu_attention_time(run.point.host, shape, run.batch->context_tokens(step)),
                  "host/cpu_attention", "decode attention on the CPU");
  }
  copy(Machine::CopyDirection::host_to_gpu, heads);
  const ScopedPhase phase(machine, "gpu_compute");
  model.after_attention(layer, sequences);
}

}  // namespace

std::unique_ptr<System> make_deepspeed() { return std::make_unique<DeepSpeedSystem>(); }

}  // namespace nearkv
