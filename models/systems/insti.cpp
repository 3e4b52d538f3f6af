// InstInfer / InstAttention (arXiv 2409.04992): the GPU does prefill and, in decode, the
// projections and the FFN; the CSDs keep the whole KV cache and compute decode attention. The host
// only submits commands. Heads are divided over the CSDs; q, k, v and outputs move peer to peer.
//
// Decode is sequential, layer by layer: GPU, upload, submission, attention, download, GPU. The
// paper describes no overlap of the GPU and the CSDs. With gpu_csd_overlap = two_batches the batch
// is decoded in two halves, side by side: while the CSDs attend for one, the GPU computes the
// other. Both queue for the GPU and the drives, and each reads all weights. A half keeps the GPUs
// of a stage from the end of one layer's attention to the beginning of the next one's: one stream
// of kernels, queued together. A step ends when both halves are done.
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "models/kv/head_reads.hpp"
#include "models/kv/recorded_reads.hpp"
#include "models/systems/csd_kv.hpp"
#include "models/systems/csd_step_keys.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/kv_division.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/system.hpp"
#include "sim/core/check.hpp"
#include "sim/core/servers.hpp"

namespace nearkv {

namespace {

enum class GpuCsdOverlap { none, two_batches };
constexpr int kHalves = 2;

class InstiSystem final : public BatchSystem {
 public:
  explicit InstiSystem(bool sparse) : sparse_(sparse) {}

  void fields(FieldVisitor& v) override {
    kv_division_field(v, division_);
    prefill_tokens_field(v, prefill_tokens_);
    v.one_of("gpu_csd_overlap", overlap_, {"none", "two_batches"},
             "none: GPU and CSDs work in turn; two_batches: while the CSDs attend for one half of "
             "the batch, the GPU computes the other");
    if (sparse_) {
      v.group("sparsity", sparsity_, "what SparF selects");
      v.group("kv_source", kv_source_, "heads that SparF selects from");
    }
  }

  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    require_csds(v, point, "insti");
    if (sparse_ && !point.csd.empty()) {
      v.require(sparsity_.channels <= point.model.head_dim, "system/sparsity/channels",
                fmt::format("{} is more than the model's head_dim {}", sparsity_.channels,
                            point.model.head_dim));
      const std::int64_t longest = point.workload.longest_context();
      v.require(point.model.attended_tokens(longest) == longest, "model/attention_window",
                fmt::format("{} is less than the longest context, {}; SparF selects among all "
                            "tokens",
                            point.model.attention_window, longest));
      require_fitting_trace(v, point);
    }
  }

  void place(RunContext& run) override;
  void begin_batch(RunContext& run) override;
  void prefill(RunContext& run) override { kv_->prefill(run); }
  void decode_step(RunContext& run, int step) override;
  void finish_batch(RunContext& run) override { kv_->close(run); }

  Recovered recover(RunContext& run, const DataLoss& loss, int step) override {
    return kv_->recover(run, loss, step);
  }

  /// A step leaves the drives idle unless it flushes groups.
  void warm_up(RunContext& run, int step) override {
    if (kv_->is_filling() || kv_->fills_pages(step)) {
      decode_step(run, step);
    }
  }

  /// In a ragged batch some group flushes at nearly every step: then a step before the one before
  /// may matter.
  [[nodiscard]] bool warms_up_exactly() const override { return is_uniform_; }

  [[nodiscard]] StepKey step_key(const RunContext& /*run*/, int step) const override {
    return keys_[static_cast<std::size_t>(step)];
  }

  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& point) const override;

 private:
  /// Where the time of a half's step went.
  struct StepTimes {
    SimDuration gpu_compute{};
    AttendTimes attention{};
    SimTime end{};
  };

  [[nodiscard]] bool is_recorded() const { return kv_source_.kind == KvSourceKind::trace; }
  [[nodiscard]] RecordedReads::Use trace_use(const DesignPoint& point) const {
    return {csd_geometry(point), head_shape_of(point.model), sparsity_,
            point.workload.shortest_prompt() + 1, point.workload.longest_context()};
  }
  void require_fitting_trace(FieldVisitor& v, const DesignPoint& point) const;
  [[nodiscard]] GroupState state_at(const DesignPoint& point, int context) const;
  [[nodiscard]] std::vector<HeadReads> reads_at(int context, int kind) const;
  [[nodiscard]] CsdKv::Plan plan_for(const RunContext& run, int step, int lane) const;
  StepTimes decode_lane(RunContext& run, const CsdKv::Plan& plan);

  bool sparse_;
  KvDivision division_ = KvDivision::heads;
  int prefill_tokens_ = 0;
  GpuCsdOverlap overlap_ = GpuCsdOverlap::none;
  SparsityConfig sparsity_;
  KvSourceConfig kv_source_;

  std::optional<CsdKv> kv_;
  std::vector<std::unique_ptr<CreditPool>> turns_;  // on the GPUs, by stage
  bool is_uniform_ = true;
  std::vector<StepKey> keys_;              // of the batch
  std::optional<SparfReads> sparf_reads_;  // one of the two, for SparF
  std::optional<RecordedReads> recorded_reads_;
};

/// Reads the trace, to find out before the run what is wrong with it.
void InstiSystem::require_fitting_trace(FieldVisitor& v, const DesignPoint& point) const {
  if (!is_recorded() || !v.checks_rules()) {
    return;
  }
  try {
    const RecordedReads reads(kv_source_.trace, trace_use(point));
  } catch (const TraceMismatch& mismatch) {
    v.require(false, mismatch.path(), mismatch.what());
  } catch (const ConfigError& wrong) {
    v.require(false, "system/kv_source/trace", wrong.what());
  }
}

std::vector<std::string> InstiSystem::notes(const DesignPoint& point) const {
  std::vector<std::string> notes;
  const std::int64_t heads = point.model.kv_heads;
  const int drives = point.csd.empty() ? 0 : point.csd.front().count;
  if (division_ == KvDivision::heads && drives > heads) {
    notes.push_back(fmt::format(
        "{} of {} CSDs hold nothing: the model has {} KV heads (system/division = sequences uses "
        "all)",
        drives - heads, drives, heads));
  }
  if (sparse_ && is_recorded()) {
    notes.push_back(fmt::format(
        "SparF's pages come from the real selection on {}. Its layers and KV heads stand for "
        "those of the run in turn; a step takes the records of the nearest context with equally "
        "many full pages",
        origin_of(kv_source_.trace)));
  } else if (sparse_) {
    notes.push_back(fmt::format(
        "SparF's pages come from the real selection on {} synthetic heads (traces/synthetic_kv), "
        "not from captured tensors",
        kv_source_.synthetic.heads));
  }
  return notes;
}

void InstiSystem::place(RunContext& run) {
  Machine& machine = run.machine;
  machine.declare_phase("gpu_compute", "GPU operators");
  machine.declare_phase("upload", "q, k and v from VRAM to the CSDs");
  machine.declare_phase("submission", "the host thread submits attend commands");
  machine.declare_phase("csd_attention", "commands, flash reads and attention in the CSDs");
  machine.declare_phase("download", "attention outputs from the CSDs to VRAM");

  machine.gauges().add(
      {std::string(Machine::kKvAccess), "s", "KV pages on their way from flash",
       [csd = machine.csds().front().get()] { return to_seconds(csd->work().reading); }});

  run.model.allocate_weights();
  const DesignPoint& point = run.point;
  kv_.emplace(run, CsdKv::Options{.division = division_,
                                  .channel_copy = sparse_,
                                  .lanes = overlap_ == GpuCsdOverlap::two_batches ? kHalves : 1,
                                  .spill_tokens = 0,
                                  .prefill_tokens = prefill_tokens_});
  turns_.clear();
  for (int stage = 0; stage < run.model.stages(); ++stage) {
    turns_.push_back(std::make_unique<CreditPool>(machine.engine(),
                                                  fmt::format("the GPUs of stage {}", stage), 1));
  }
  recorded_reads_.reset();
  sparf_reads_.reset();
  if (sparse_ && is_recorded()) {
    recorded_reads_.emplace(kv_source_.trace, trace_use(point));
  } else if (sparse_) {
    sparf_reads_.emplace(csd_geometry(point), head_shape_of(point.model), sparsity_,
                         kv_source_.synthetic, static_cast<std::uint64_t>(point.simulation.seed),
                         point.workload.longest_context());
  }
}

void InstiSystem::begin_batch(RunContext& run) {
  std::vector<CsdKv::Part> parts;
  int larger_half = 0;  // of a group that does not divide evenly
  for (const SequenceGroup& group : run.groups()) {
    if (overlap_ == GpuCsdOverlap::none) {
      parts.push_back({group});
      continue;
    }
    for (int half = 0; half < kHalves; ++half) {
      CsdKv::Part part{group, half};
      part.group.sequences =
          group.sequences / kHalves + (half == larger_half ? group.sequences % kHalves : 0);
      if (part.group.sequences > 0) {
        parts.push_back(part);
      }
    }
    larger_half = (larger_half + group.sequences) % kHalves;
  }
  kv_->open(std::move(parts));
  is_uniform_ = run.batch->is_uniform();
  keys_ = csd_step_keys(
      *run.batch,
      [&](const SequenceGroup& /*group*/, int context) { return state_at(run.point, context); },
      run.point.simulation.most_sampled_steps);
}

/// Dense attention depends on the token groups alone. SparF selects anew at every context, and
/// reads more where a chunk of channel-indexed pages has come to flash.
GroupState InstiSystem::state_at(const DesignPoint& point, int context) const {
  const kernels::PageGeometry geometry = csd_geometry(point);
  const int groups_filled = context % geometry.tokens_per_group() == 0 ? 1 : 0;
  if (point.model.attended_tokens(context) < context) {  // pages leave the window, too
    return {{}, context, groups_filled};
  }
  if (!sparse_) {
    return {{}, ceil_div(context, geometry.tokens_per_group()), groups_filled};
  }
  const int chunks_filled = context % geometry.tokens_per_channel_page() == 0 ? 1 : 0;
  return {{geometry.flushed_channel_chunks(context)}, context, groups_filled + 2 * chunks_filled};
}

std::vector<HeadReads> InstiSystem::reads_at(int context, int kind) const {
  if (recorded_reads_) {
    return recorded_reads_->at(context, kind % recorded_reads_->layers(context));
  }
  if (sparse_) {
    return sparf_reads_->at(context);
  }
  return {kv_->dense_reads_at(context, context)};
}

CsdKv::Plan InstiSystem::plan_for(const RunContext& run, int step, int lane) const {
  int kinds = 1;
  if (recorded_reads_) {
    for (const SequenceGroup& group : run.groups()) {
      if (Batch::is_active(group, step)) {
        kinds = std::max(kinds, recorded_reads_->layers(group.context_of(step)));
      }
    }
  }
  return kv_->plan(step, lane, kinds, [&](const CsdKv::Part& part, int kind) {
    return reads_at(part.group.context_of(step), kind);
  });
}

void InstiSystem::decode_step(RunContext& run, int step) {
  kv_->skip_to(step);
  std::vector<CsdKv::Plan> plans;
  for (int lane = 0; lane < (overlap_ == GpuCsdOverlap::none ? 1 : kHalves); ++lane) {
    CsdKv::Plan plan = plan_for(run, step, lane);
    if (plan.sequences > 0) {
      plans.push_back(std::move(plan));
    }
  }
  std::vector<StepTimes> times(plans.size());
  std::vector<std::function<void()>> halves;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    halves.emplace_back([&, i] { times[i] = decode_lane(run, plans[i]); });
  }
  run.machine.together(halves);
  kv_->step_done(step);
  // The step took as long as the half that was last: its time is where the step's time went.
  const StepTimes& last =
      *std::max_element(times.begin(), times.end(),
                        [](const StepTimes& a, const StepTimes& b) { return a.end < b.end; });
  run.machine.add_to_phase("gpu_compute", last.gpu_compute);
  run.machine.add_to_phase("upload", last.attention.upload);
  run.machine.add_to_phase("submission", last.attention.submission);
  run.machine.add_to_phase("csd_attention", last.attention.attention);
  run.machine.add_to_phase("download", last.attention.download);
}

InstiSystem::StepTimes InstiSystem::decode_lane(RunContext& run, const CsdKv::Plan& plan) {
  ParallelModel& model = run.model;
  Engine& engine = run.machine.engine();
  const std::int64_t sequences = plan.sequences;
  const std::vector<SequenceBatch> tokens{{sequences, 1, 1}};
  const GpuAllocation workspace =
      model.hold_workspace("decode workspace", tokens, AttentionKernel::fused);
  StepTimes times;
  const auto compute = [&](const auto& operators) {
    const ActivityScope shown(engine, ActivityLog::Scope::phase, "gpu_compute");
    const SimTime begin = engine.now();
    operators();
    times.gpu_compute += engine.now() - begin;
  };
  const auto turn_at = [&](std::int64_t layer) -> CreditPool& {
    return *turns_[static_cast<std::size_t>(model.stage_of(layer))];
  };
  const std::int64_t layers = run.point.model.layers;
  compute([&] {
    turn_at(0).acquire();
    model.embed(sequences);
    model.before_attention(0, sequences);
    turn_at(0).release();
  });
  for (int layer = 0; layer < static_cast<int>(layers); ++layer) {
    const ActivityScope shown(engine, ActivityLog::Scope::layer, "layer", layer);
    run.machine.report_counters();
    kv_->append_token(run, plan.step, plan.lane, layer);
    const auto attention = kv_->start_attention(run, plan, layer, {});
    times.attention += kv_->finish_attention(run, *attention);
    kv_->flush(run, plan.step, plan.lane, layer);
    compute([&] {
      turn_at(layer).acquire();
      model.after_attention(layer, sequences);
      const std::int64_t next = layer + 1;
      if (next == layers) {
        model.next_token(sequences);
        turn_at(layer).release();
        return;
      }
      const bool moves = model.stage_of(next) != model.stage_of(layer);
      if (moves) {
        turn_at(layer).release();
        model.enter_layer(next, sequences);
        turn_at(next).acquire();
      }
      model.before_attention(next, sequences);
      turn_at(next).release();
    });
  }
  times.end = engine.now();
  return times;
}

}  // namespace

std::unique_ptr<System> make_insti_dense() { return std::make_unique<InstiSystem>(false); }
std::unique_ptr<System> make_insti_sparf() { return std::make_unique<InstiSystem>(true); }

}  // namespace nearkv
