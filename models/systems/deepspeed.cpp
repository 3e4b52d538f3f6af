// DeepSpeed-MII with ZeRO-Inference as the paper's baseline uses it: weights in VRAM, the KV cache
// in pageable host memory. Each decode layer copies its KV to the GPU and the new token's K and V
// back; copies of pageable memory are synchronous, so nothing overlaps. When KV no longer fits
// host memory, the kernel swaps.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/llm/operators.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/layer_loop.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

namespace {

class DeepSpeedSystem final : public System {
 public:
  void fields(FieldVisitor& v) override {
    v.one_of("attention_kernel", attention_kernel_, {"fused", "unfused"},
             "GPU attention: fused, or scores, softmax and values as kernels over a whole matrix");
    v.constant("kv_footprint", kv_footprint_,
               "host memory that a layer's KV takes, and that a step touches, as a multiple of it",
               {1, 16});
  }

  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    v.require(!point.ssd.empty(), "ssd", "is empty; deepspeed swaps to an SSD");
  }

  void place(RunContext& run) override;
  void prefill(RunContext& run) override;
  void decode_step(RunContext& run, int context) override;
  void warm_up(RunContext& run, int context) override;

  [[nodiscard]] StepKey step_key(const DesignPoint& /*point*/, int context) const override {
    return {0, context};
  }

  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& /*point*/) const override {
    return {};
  }

 private:
  /// K and V of the whole batch for one token in one layer.
  [[nodiscard]] static Bytes row(const DesignPoint& point) {
    return point.model.kv_bytes_per_token_and_layer() * point.workload.batch;
  }
  /// Host memory of one layer's KV of `tokens` tokens.
  [[nodiscard]] Bytes footprint(const DesignPoint& point, int tokens) const {
    const Bytes kv = row(point) * tokens;
    return Bytes{static_cast<std::int64_t>(static_cast<double>(kv.count()) * kv_footprint_)};
  }
  /// What a step that attends over `context` tokens touches of a layer's region.
  [[nodiscard]] MemorySpan touched(const RunContext& run, std::int64_t layer, int context) const {
    return {regions_[layer], Bytes{}, footprint(run.point, context)};
  }
  void create_regions(RunContext& run);
  void touch(RunContext& run, std::int64_t layer, int context);
  void assume_touched(RunContext& run, std::int64_t layer, int context) {
    run.machine.host_storage().assume_used(touched(run, layer, context), Access::write);
    touched_context_ = std::max(touched_context_, context);
  }

  AttentionKernel attention_kernel_ = AttentionKernel::unfused;
  double kv_footprint_ = 0;

  std::vector<MemoryObject> regions_;  // by layer
  int touched_context_ = 0;            // some region was touched up to here
};

void DeepSpeedSystem::place(RunContext& run) {
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  machine.declare_phase("gpu_compute", "GPU operators");
  machine.declare_phase("kv_swap", "page faults on KV in host memory");
  machine.declare_phase("kv_copy", "copies of KV between pageable host memory and VRAM");
  machine.gauges().add({std::string(Machine::kKvAccess), "s", "KV faults and copies", [&machine] {
                          return to_seconds(machine.phase("kv_swap") + machine.phase("kv_copy"));
                        }});
  machine.gpu().memory().allocate("weights", point.model.weight_bytes());
  regions_.clear();
  create_regions(run);
}

void DeepSpeedSystem::create_regions(RunContext& run) {
  const Bytes size = footprint(run.point, run.point.workload.longest_context());
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    regions_.push_back(run.machine.host_storage().create_region(size));
  }
  touched_context_ = 0;
}

/// Page faults of a layer's KV. Appending makes a new tensor, so that all of it is written.
void DeepSpeedSystem::touch(RunContext& run, std::int64_t layer, int context) {
  const ScopedPhase phase(run.machine, "kv_swap");
  Completion touched_all;
  run.machine.host_storage().touch_memory(run.machine.engine().now(), touched(run, layer, context),
                                          Access::write, touched_all);
  run.machine.engine().wait(touched_all);
  touched_context_ = std::max(touched_context_, context);
}

void DeepSpeedSystem::prefill(RunContext& run) {
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  const SequenceBatch prompt{point.workload.batch, point.workload.prompt_tokens,
                             point.workload.prompt_tokens};
  const Bytes layer_kv = row(point) * point.workload.prompt_tokens;
  const ScopedAllocation workspace(machine.gpu().memory(), "prefill workspace",
                                   layer_workspace(point.model, prompt, attention_kernel_).peak());
  const ScopedAllocation kv(machine.gpu().memory(), "KV of one layer", layer_kv);
  const std::vector<OperatorWork> work = layer_operators(point.model, prompt, attention_kernel_);
  machine.compute(std::vector{embedding(point.model, prompt.tokens())});
  for (std::int64_t layer = 0; layer < point.model.layers; ++layer) {
    machine.compute(work);
    touch(run, layer, point.workload.prompt_tokens);
    machine.pageable_copy(Machine::CopyDirection::gpu_to_host, layer_kv);
  }
  machine.compute(next_token(point.model, point.workload.batch));
}

void DeepSpeedSystem::warm_up(RunContext& run, int context) {
  if (context < touched_context_) {
    // Back in time: later steps have touched what no step has touched now.
    for (const MemoryObject region : std::exchange(regions_, {})) {
      run.machine.host_storage().remove(region);
    }
    create_regions(run);
  }
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    assume_touched(run, layer, context);
  }
}

void DeepSpeedSystem::decode_step(RunContext& run, int context) {
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  const SequenceBatch token{point.workload.batch, 1, context};
  const ScopedAllocation workspace(machine.gpu().memory(), "decode workspace",
                                   layer_workspace(point.model, token, attention_kernel_).peak());
  const ScopedAllocation kv(machine.gpu().memory(), "KV of one layer", row(point) * context);
  const std::vector<OperatorWork> work = layer_operators(point.model, token, attention_kernel_);
  const auto compute = [&](std::span<const OperatorWork> operators) {
    const ScopedPhase phase(machine, "gpu_compute");
    machine.compute(operators);
  };

  const auto copy_kv = [&](Machine::CopyDirection direction, Bytes size) {
    const ScopedPhase phase(machine, "kv_copy");
    machine.pageable_copy(direction, size);
  };

  compute(std::vector{embedding(point.model, point.workload.batch)});
  LayerLoop(machine, point)
      .run(
          [&](std::int64_t layer) {
            touch(run, layer, context);
            copy_kv(Machine::CopyDirection::host_to_gpu, row(point) * (context - 1));
            compute(work);
            copy_kv(Machine::CopyDirection::gpu_to_host, row(point));
          },
          [&](std::int64_t layer) { assume_touched(run, layer, context); });
  compute(next_token(point.model, point.workload.batch));
}

}  // namespace

std::unique_ptr<System> make_deepspeed() { return std::make_unique<DeepSpeedSystem>(); }

}  // namespace nearkv
