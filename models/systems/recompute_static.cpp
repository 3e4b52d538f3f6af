// vLLM as the InstInfer paper's "recompute" must have used it: a static batch whose KV cache is in
// VRAM as far as it fits, and what does not fit is computed again in every decode step
// (recompute_plan.hpp). When all fits it is plain decoding on the GPU. A server of vLLM's users
// would let sequences wait instead: that is continuous_batching.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/forward_pass.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/paged_vram.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/recompute_plan.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

class RecomputeStaticSystem final : public BatchSystem {
 public:
  void fields(FieldVisitor& v) override {
    v.one_of("attention_kernel", attention_kernel_, {"fused", "unfused"},
             "GPU attention: fused, or scores, softmax and values as kernels over a whole matrix");
    vram_.fields(v);
    v.constant("scheduling_overhead", scheduling_overhead_,
               "host time before each pass in which the GPUs wait", range_of(0_ps, 10s));
  }
  void require_parts(FieldVisitor& /*v*/, const DesignPoint& /*point*/) const override {}

  void place(RunContext& run) override;
  void begin_batch(RunContext& run) override;
  void prefill(RunContext& run) override;
  void decode_step(RunContext& run, int step) override;
  void finish_batch(RunContext& run) override;
  /// Steps leave nothing behind that the plan does not know.
  void warm_up(RunContext& /*run*/, int /*step*/) override {}
  [[nodiscard]] bool warms_up_exactly() const override { return true; }
  [[nodiscard]] StepKey step_key(const RunContext& /*run*/, int step) const override {
    return plan_->key(step);
  }
  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& point) const override;
  void report(const DesignPoint& point, Metrics& metrics) const override;

 private:
  void pass(RunContext& run, const std::string& phase, const RepeatedPass& pass);

  AttentionKernel attention_kernel_ = AttentionKernel::fused;
  PagedVramConfig vram_;
  SimDuration scheduling_overhead_{};

  PagedVram placed_;
  std::optional<ForwardPass> model_;
  std::optional<RecomputePlan> plan_;  // of the batch at work
  std::int64_t decoded_ = 0;           // sequences x steps of all batches
  std::int64_t recomputed_ = 0;        // those of them that were recomputed
};

void RecomputeStaticSystem::place(RunContext& run) {
  Machine& machine = run.machine;
  machine.declare_phase("gpu_compute", "decoding with resident KV");
  machine.declare_phase("kv_recompute", "passes over whole contexts whose KV is not resident");
  machine.declare_phase("scheduling", "host work before passes");
  machine.gauges().add({std::string(Machine::kKvAccess), "s", "computing KV again",
                        [&machine] { return to_seconds(machine.phase("kv_recompute")); }});
  run.model.allocate_weights();
  placed_ = vram_.place(machine, run.model, attention_kernel_, run.point.workload.most_sequences());
  model_.emplace(machine, run.model, attention_kernel_);
  decoded_ = 0;
  recomputed_ = 0;
}

void RecomputeStaticSystem::begin_batch(RunContext& run) {
  const RecomputeOptions options{.blocks = placed_.blocks,
                                 .block_tokens = vram_.block_tokens,
                                 .max_batched_tokens = vram_.max_batched_tokens,
                                 .attention_window = run.point.model.attention_window};
  const int longest = run.batch->longest_context();
  if (!RecomputePlan::fits(options, longest)) {
    throw Infeasible(fmt::format(
        "VRAM: {} KV blocks of {} tokens are left, which a sequence of {} tokens does not fit; use "
        "more GPUs, system/memory_utilization or a system with KV outside of VRAM",
        options.blocks, options.block_tokens, longest));
  }
  plan_.emplace(*run.batch, options);
  for (int step = 0; step < run.batch->decode_steps(); ++step) {
    decoded_ += run.batch->active_sequences(step);
    for (const std::int64_t sequences : plan_->recomputed(step)) {
      recomputed_ += sequences;
    }
  }
}

void RecomputeStaticSystem::finish_batch(RunContext& /*run*/) { plan_.reset(); }

void RecomputeStaticSystem::pass(RunContext& run, const std::string& phase,
                                 const RepeatedPass& pass) {
  Machine& machine = run.machine;
  {
    const ScopedPhase scheduling(machine, "scheduling");
    machine.spend(scheduling_overhead_ * pass.times, "host/scheduler", "before passes");
  }
  const ScopedPhase computing(machine, phase);
  model_->run(pass.batch, pass.times);
}

void RecomputeStaticSystem::prefill(RunContext& run) {
  for (const RepeatedPass& one : plan_->prefill()) {
    pass(run, "gpu_compute", one);
  }
}

void RecomputeStaticSystem::decode_step(RunContext& run, int step) {
  if (const PassBatch resident = plan_->decode(step); resident.decode_sequences > 0) {
    pass(run, "gpu_compute", {resident, 1});
  }
  for (const RepeatedPass& one : plan_->recompute(step)) {
    pass(run, "kv_recompute", one);
  }
}

std::vector<std::string> RecomputeStaticSystem::notes(const DesignPoint& /*point*/) const {
  if (recomputed_ == 0) {
    return {};
  }
  return {
      "how the paper's \"recompute\" schedules is not published; here as many whole sequences as "
      "fit keep their KV in VRAM, and the others are recomputed in every step"};
}

void RecomputeStaticSystem::report(const DesignPoint& /*point*/, Metrics& metrics) const {
  metrics.add("recompute/kv_blocks", static_cast<double>(placed_.blocks), "1", "KV blocks in VRAM");
  metrics.add("recompute/share_of_tokens",
              decoded_ > 0 ? static_cast<double>(recomputed_) / static_cast<double>(decoded_) : 0,
              "1", "decoded tokens for which the sequence's whole KV was computed again");
}

}  // namespace

std::unique_ptr<System> make_recompute_static() {
  return std::make_unique<RecomputeStaticSystem>();
}

}  // namespace nearkv
