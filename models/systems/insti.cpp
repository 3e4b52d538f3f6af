// InstInfer / InstAttention (arXiv 2409.04992): the GPU does prefill and, in decode, the
// projections and the FFN; the CSDs keep the whole KV cache and compute decode attention. The host
// only submits commands. Heads are divided over the CSDs; q, k, v and outputs move peer to peer.
//
// Decode is sequential, layer by layer: GPU, upload, submission, attention, download, GPU. The
// paper describes no overlap of the GPU and the CSDs.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "models/csd/csd.hpp"
#include "models/kv/head_reads.hpp"
#include "models/kv/kv_layout.hpp"
#include "models/kv/recorded_reads.hpp"
#include "models/llm/operators.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/system.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// KV of a layer that may wait in VRAM for its way to the CSDs: one, while the next is computed.
constexpr int kLayersInFlight = 2;

class InstiSystem final : public BatchSystem {
 public:
  explicit InstiSystem(bool sparse) : sparse_(sparse) {}

  void fields(FieldVisitor& v) override {
    if (sparse_) {
      v.group("sparsity", sparsity_, "what SparF selects");
      v.group("kv_source", kv_source_, "heads that SparF selects from");
    }
  }

  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    v.require(!point.csd.empty(), "csd", "is empty; insti needs at least one CSD");
    if (point.csd.empty()) {
      return;
    }
    const CsdConfig& drive = point.csd.front();
    const auto row = point.model.values(point.model.head_dim);
    v.require(point.csd.size() == 1, "csd",
              fmt::format("has {} entries; insti divides heads over equal drives: write one entry "
                          "and its count",
                          point.csd.size()));
    v.require(drive.flash.page_size >= row, "csd/0/flash/page_size",
              fmt::format("{} is smaller than one token group; a page must hold at least one token "
                          "of a head, {}",
                          format_exact(drive.flash.page_size), format_exact(row)));
    constexpr int kElement = kernels::PageGeometry::element_bytes;
    v.require(drive.flash.page_size.count() % kElement == 0, "csd/0/flash/page_size",
              fmt::format("{} is no whole number of {}-byte values",
                          format_exact(drive.flash.page_size), kElement));
    v.require(point.model.bytes_per_value == kElement, "model/bytes_per_value",
              fmt::format("is {}; the CSDs' page layouts hold {}-byte values",
                          point.model.bytes_per_value, kElement));
    v.require([&] { return point.model.head_dim % drive.layout.channels_per_group == 0; },
              "csd/0/layout/channels_per_group",
              fmt::format("{} does not divide the model's head_dim {}",
                          drive.layout.channels_per_group, point.model.head_dim));
    v.require([&] { return point.model.kv_heads % drive.count == 0; }, "csd/0/count",
              fmt::format("{} drives cannot share {} KV heads evenly; choose a divisor",
                          drive.count, point.model.kv_heads));
    if (sparse_) {
      v.require(sparsity_.channels <= point.model.head_dim, "system/sparsity/channels",
                fmt::format("{} is more than the model's head_dim {}", sparsity_.channels,
                            point.model.head_dim));
      require_fitting_trace(v, point);
    }
  }

  void place(RunContext& run) override;
  void begin_batch(RunContext& run) override;
  void prefill(RunContext& run) override;
  void decode_step(RunContext& run, int step) override;
  void finish_batch(RunContext& run) override;

  /// A step leaves the drives idle unless it flushes groups.
  void warm_up(RunContext& run, int step) override {
    const int context = run.groups().front().context_of(step);
    if (is_flushing_ || flushes(geometry_of(run.point), context) != 0) {
      decode_step(run, step);
    }
  }

  [[nodiscard]] bool warms_up_exactly() const override { return true; }

  [[nodiscard]] StepKey step_key(const RunContext& run, int step) const override {
    const DesignPoint& point = run.point;
    const int context = run.groups().front().context_of(step);
    // What this step flushes goes on while later layers read, and what the step before flushed
    // while this one begins. Prefill leaves the drives idle.
    const kernels::PageGeometry geometry = geometry_of(point);
    const bool is_first = step == 0;
    const int flushed_before = is_first ? 0 : flushes(geometry, context - 1);
    const int step_class = flushed_before * kKindsOfFlush + flushes(geometry, context);
    // Dense attention depends on the token groups alone. SparF selects anew at every context, and
    // reads more where a chunk of channel-indexed pages has come to flash.
    if (!sparse_) {
      return {step_class, ceil_div(context, geometry.tokens_per_group())};
    }
    const int chunks = geometry.flushed_channel_chunks(context);
    return {chunks * kKindsOfFlush * kKindsOfFlush + step_class, context};
  }

  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& /*point*/) const override {
    if (!sparse_) {
      return {};
    }
    if (is_recorded()) {
      return {fmt::format(
          "SparF's pages come from the real selection on {}. Its layers and KV heads stand for "
          "those of the run in turn; a step takes the records of the nearest context with equally "
          "many full pages",
          origin_of(kv_source_.trace))};
    }
    return {fmt::format(
        "SparF's pages come from the real selection on {} synthetic heads (traces/synthetic_kv), "
        "not from captured tensors",
        kv_source_.synthetic.heads)};
  }

 private:
  /// One drive's share: a worker drives it, layer by layer.
  struct Drive {
    Csd* csd;
    NodeId node;
    Worker* worker;
    KvFtl::TaskId task;
  };
  /// Where one drive's part of a layer spent its time.
  struct LayerTimes {
    SimDuration upload{};
    SimDuration submission{};
    SimDuration attention{};
    SimDuration download{};
    SimTime end{};
  };

  [[nodiscard]] static kernels::PageGeometry geometry_of(const DesignPoint& point) {
    const CsdConfig& drive = point.csd.front();
    return kernels::PageGeometry({static_cast<int>(point.model.head_dim),
                                  static_cast<int>(drive.flash.page_size.count()),
                                  drive.layout.channels_per_group});
  }
  [[nodiscard]] bool is_recorded() const { return kv_source_.kind == KvSourceKind::trace; }
  [[nodiscard]] RecordedReads::Use trace_use(const DesignPoint& point) const {
    return {geometry_of(point), head_shape(point), sparsity_, point.workload.prompt_tokens + 1,
            point.workload.longest_context()};
  }
  void require_fitting_trace(FieldVisitor& v, const DesignPoint& point) const;
  [[nodiscard]] HeadShape head_shape(const DesignPoint& point) const {
    return {static_cast<int>(point.model.head_dim),
            static_cast<int>(point.model.heads / point.model.kv_heads)};
  }

  static constexpr int kKindsOfFlush = 4;
  /// Which groups the step fills: 1 token groups, 2 channel groups, 3 both, 0 none.
  [[nodiscard]] int flushes(const kernels::PageGeometry& geometry, int context) const {
    return (context % geometry.tokens_per_group() == 0 ? 1 : 0) +
           (sparse_ && context % geometry.tokens_per_channel_page() == 0 ? 2 : 0);
  }

  void store_layer(RunContext& run, Drive& drive, int layer);
  /// One batch, or one for each layer in turn.
  [[nodiscard]] std::vector<std::shared_ptr<const AttendBatch>> batches_at(const DesignPoint& point,
                                                                           int context) const;
  LayerTimes attend_layer(RunContext& run, Drive& drive,
                          const std::shared_ptr<const AttendBatch>& batch, int layer);
  void attend_on_all_drives(RunContext& run, const std::shared_ptr<const AttendBatch>& batch,
                            int layer);
  void flush_full_groups(RunContext& run, int layer, int context);
  void append_token(int layer, std::optional<SimTime> now);
  void append_skipped_tokens(std::int64_t layers, int context);

  bool sparse_;
  SparsityConfig sparsity_;
  KvSourceConfig kv_source_;

  std::vector<Drive> drives_;
  int appended_ = 0;          // tokens of every head of every layer that the FTLs know of
  int pairs_ = 0;             // (sequence, KV head) pairs of a layer on one drive
  bool is_flushing_ = false;  // the last step has left pages on their way to flash
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
}

void InstiSystem::begin_batch(RunContext& run) {
  const DesignPoint& point = run.point;
  const ModelShape& model = point.model;
  Machine& machine = run.machine;
  const std::int64_t batch = run.batch->sequences();
  const auto drive_count = static_cast<std::int64_t>(machine.csds().size());
  pairs_ = static_cast<int>(batch * model.kv_heads / drive_count);
  drives_.clear();
  appended_ = 0;
  is_flushing_ = false;
  const kernels::PageGeometry geometry = geometry_of(point);
  const int longest = run.batch->longest_context();
  const KvPageCounts pages = flushed_pages(geometry, longest, sparse_);
  const Bytes page = point.csd.front().flash.page_size;
  // Groups that are not full wait in the drive's DRAM, for every head of every layer.
  const Bytes token_buffer = page * 2;
  const Bytes channel_buffer = sparse_ ? page * geometry.channel_groups() : Bytes{};
  for (std::size_t i = 0; i < machine.csds().size(); ++i) {
    Csd& csd = *machine.csds()[i];
    const KvFtl::TaskId task =
        csd.open_task({.sequences = static_cast<int>(batch),
                       .layers = static_cast<int>(model.layers),
                       .kv_heads = static_cast<int>(model.kv_heads / drive_count),
                       .max_tokens = longest,
                       .channel_copy = sparse_},
                      geometry);
    csd.dram().allocate("token group buffers", token_buffer * pairs_ * model.layers);
    csd.dram().allocate("channel group buffers", channel_buffer * pairs_ * model.layers);
    // One arrives while the one before is programmed; a chunk is at least one pair's KV.
    const Bytes pair_kv = model.values(2 * model.head_dim) * run.groups().front().prompt_tokens;
    csd.dram().allocate("store chunks", std::max(csd.config().store_chunk, pair_kv) * 2);
    csd.dram().allocate("staging buffers", csd.config().staging_memory(pages.total(), pairs_));
    drives_.push_back({&csd, machine.csd_node(static_cast<int>(i)),
                       &machine.add_worker(fmt::format("csd/{}/driver", i), machine.host_node()),
                       task});
  }
  if (sparse_ && is_recorded()) {
    recorded_reads_.emplace(kv_source_.trace, trace_use(point));
  } else if (sparse_) {
    sparf_reads_.emplace(geometry, head_shape(point), sparsity_, kv_source_.synthetic,
                         static_cast<std::uint64_t>(point.simulation.seed), longest);
  }
}

/// Prefill, layer by layer: while the GPU computes a layer, the KV of the one before moves.
void InstiSystem::prefill(RunContext& run) {
  const DesignPoint& point = run.point;
  const ModelShape& model = point.model;
  Machine& machine = run.machine;
  const SequenceBatch prompt{run.batch->sequences(), run.groups().front().prompt_tokens,
                             run.groups().front().prompt_tokens};
  const Bytes layer_kv = model.kv_bytes_per_token_and_layer() * prompt.tokens();
  const ScopedAllocation workspace(machine.gpu().memory(), "prefill workspace",
                                   layer_workspace(model, prompt, AttentionKernel::fused).peak());
  const ScopedAllocation waiting_kv(machine.gpu().memory(), "KV on its way to the CSDs", layer_kv);

  const std::vector<OperatorWork> layer_work =
      layer_operators(model, prompt, AttentionKernel::fused);
  CreditPool layers_in_flight(machine.engine(), kLayersInFlight);
  std::vector<std::unique_ptr<Completion>> stored;
  machine.compute(std::vector{embedding(model, prompt.tokens())});
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    layers_in_flight.acquire();
    machine.compute(layer_work);
    auto remaining = std::make_shared<std::size_t>(drives_.size());
    for (Drive& drive : drives_) {
      stored.push_back(std::make_unique<Completion>());
      drive.worker->post(
          [this, &run, &drive, &layers_in_flight, remaining, layer] {
            store_layer(run, drive, static_cast<int>(layer));
            if (--*remaining == 0) {
              layers_in_flight.release();
            }
          },
          *stored.back());
    }
  }
  machine.compute(next_token(model, run.batch->sequences()));
  for (const auto& completion : stored) {
    machine.engine().wait(*completion);
  }
  appended_ = run.groups().front().prompt_tokens;
}

/// Moves one layer's KV of the prompt to a drive, in chunks: a chunk is programmed while the next
/// one arrives. Returns when the last page is programmed.
void InstiSystem::store_layer(RunContext& run, Drive& drive, int layer) {
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  const int prompt = run.groups().front().prompt_tokens;
  const Bytes pair_kv = point.model.values(2 * point.model.head_dim) * prompt;
  const Bytes chunk = drive.csd->config().store_chunk;
  const int pairs_a_chunk = static_cast<int>(std::max<std::int64_t>(1, chunk / pair_kv));
  const KvPageCounts pages = flushed_pages(geometry_of(point), prompt, sparse_);

  drive.csd->append({drive.task, layer}, prompt, machine.engine().now());
  PageBatch store;
  store.spans = {{KvStream::key_tokens, 0, static_cast<int>(pages.key_tokens)},
                 {KvStream::value_tokens, 0, static_cast<int>(pages.value_tokens)}};
  if (sparse_) {
    store.spans.push_back({KvStream::key_channels, 0, static_cast<int>(pages.key_channels)});
  }
  std::unique_ptr<Completion> programmed;
  for (int pair = 0; pair < pairs_; pair += pairs_a_chunk) {
    store.first_pair = pair;
    store.pairs = std::min(pairs_a_chunk, pairs_ - pair);
    machine.transfer(machine.gpu_node(), drive.node, pair_kv * store.pairs);
    if (programmed) {
      machine.engine().wait(*programmed);
    }
    programmed = std::make_unique<Completion>();
    drive.csd->submit_store(machine.engine().now(), store, programmed.get(), {drive.task, layer});
  }
  machine.engine().wait(*programmed);
}

std::vector<std::shared_ptr<const AttendBatch>> InstiSystem::batches_at(const DesignPoint& point,
                                                                        int context) const {
  std::vector<std::shared_ptr<const AttendBatch>> batches;
  const auto add = [&](std::vector<HeadReads> patterns) {
    auto batch = std::make_shared<AttendBatch>();
    batch->segments.push_back({pairs_, std::move(patterns)});
    batch->seal();
    batches.push_back(std::move(batch));
  };
  if (recorded_reads_) {
    for (int layer = 0; layer < recorded_reads_->layers(context); ++layer) {
      add(recorded_reads_->at(context, layer));
    }
  } else if (sparse_) {
    add(sparf_reads_->at(context));
  } else {
    add({dense_reads(geometry_of(point), head_shape(point), context)});
  }
  return batches;
}

void InstiSystem::decode_step(RunContext& run, int step) {
  const int context = run.groups().front().context_of(step);
  const DesignPoint& point = run.point;
  const ModelShape& model = point.model;
  Machine& machine = run.machine;
  const std::int64_t batch = run.batch->sequences();
  const ScopedAllocation workspace(
      machine.gpu().memory(), "decode workspace",
      layer_workspace(model, {batch, 1, 1}, AttentionKernel::fused).peak());
  const std::vector<std::shared_ptr<const AttendBatch>> attends = batches_at(point, context);
  const std::vector<OperatorWork> before = before_attention(model, batch);
  const std::vector<OperatorWork> after = after_attention(model, batch);
  const auto compute = [&](std::span<const OperatorWork> operators) {
    const ScopedPhase phase(machine, "gpu_compute");
    machine.compute(operators);
  };

  append_skipped_tokens(model.layers, context - 1);
  compute(std::vector{embedding(model, batch)});
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    compute(before);
    if (appended_ < context) {
      append_token(static_cast<int>(layer), machine.engine().now());
    }
    attend_on_all_drives(run, attends[static_cast<std::size_t>(layer) % attends.size()],
                         static_cast<int>(layer));
    flush_full_groups(run, static_cast<int>(layer), context);
    compute(after);
  }
  compute(next_token(model, batch));
  appended_ = std::max(appended_, context);
  is_flushing_ = flushes(geometry_of(point), context) != 0;
}

/// One more token of every sequence and head of a layer; `now`: see Csd::append().
void InstiSystem::append_token(int layer, std::optional<SimTime> now) {
  for (const Drive& drive : drives_) {
    drive.csd->append({drive.task, layer}, 1, now);
  }
}

/// What steps that are not simulated leave in the drives' FTLs: the state only, in their order.
void InstiSystem::append_skipped_tokens(std::int64_t layers, int context) {
  for (; appended_ < context; ++appended_) {
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      append_token(static_cast<int>(layer), std::nullopt);
    }
  }
}

void InstiSystem::finish_batch(RunContext& run) {
  append_skipped_tokens(run.point.model.layers, run.batch->longest_context());
  for (const Drive& drive : drives_) {
    drive.csd->finish_task(drive.task, run.machine.engine().now());
  }
}

void InstiSystem::attend_on_all_drives(RunContext& run,
                                       const std::shared_ptr<const AttendBatch>& batch, int layer) {
  Machine& machine = run.machine;
  std::vector<LayerTimes> times(drives_.size());
  std::vector<Completion> done(drives_.size());
  for (std::size_t i = 0; i < drives_.size(); ++i) {
    drives_[i].worker->post([this, &run, &times, &batch, i,
                             layer] { times[i] = attend_layer(run, drives_[i], batch, layer); },
                            done[i]);
  }
  for (Completion& completion : done) {
    machine.engine().wait(completion);
  }
  // The driver waited for the drive that was last: its time is where the layer's time went.
  const LayerTimes& last =
      *std::max_element(times.begin(), times.end(),
                        [](const LayerTimes& a, const LayerTimes& b) { return a.end < b.end; });
  machine.add_to_phase("upload", last.upload);
  machine.add_to_phase("submission", last.submission);
  machine.add_to_phase("csd_attention", last.attention);
  machine.add_to_phase("download", last.download);
}

InstiSystem::LayerTimes InstiSystem::attend_layer(RunContext& run, Drive& drive,
                                                  const std::shared_ptr<const AttendBatch>& batch,
                                                  int layer) {
  Machine& machine = run.machine;
  Engine& engine = machine.engine();
  const ModelShape& model = run.point.model;
  const auto drive_count = static_cast<std::int64_t>(drives_.size());
  const std::int64_t sequences = run.batch->sequences();
  LayerTimes times;
  SimTime mark = engine.now();
  const auto lap = [&] {
    const SimTime begin = std::exchange(mark, engine.now());
    return mark - begin;
  };

  machine.transfer(machine.gpu_node(), drive.node,
                   model.qkv_bytes_per_token() * sequences / drive_count);
  times.upload = lap();
  const SimDuration submit = drive.csd->config().nvme.host_submit * pairs_;
  engine.wait_until(machine.submitter().issue(engine.now(), submit).done);
  times.submission = lap();
  Completion attended;
  drive.csd->submit_attend(engine.now(), batch, attended, {drive.task, layer});
  engine.wait(attended);
  times.attention = lap();
  machine.transfer(drive.node, machine.gpu_node(),
                   model.attention_output_bytes_per_token() * sequences / drive_count);
  times.download = lap();
  times.end = engine.now();
  return times;
}

/// Groups that this step has filled leave the drives' DRAM in the background.
void InstiSystem::flush_full_groups(RunContext& run, int layer, int context) {
  const kernels::PageGeometry geometry = geometry_of(run.point);
  const KvPageCounts before = flushed_pages(geometry, context - 1, sparse_);
  const KvPageCounts now = flushed_pages(geometry, context, sparse_);
  if (before.total() == now.total()) {
    return;
  }
  PageBatch store;
  store.pairs = pairs_;
  const auto add = [&](KvStream stream, std::int64_t first, std::int64_t last) {
    if (first < last) {
      store.spans.push_back({stream, static_cast<int>(first), static_cast<int>(last)});
    }
  };
  add(KvStream::key_tokens, before.key_tokens, now.key_tokens);
  add(KvStream::value_tokens, before.value_tokens, now.value_tokens);
  add(KvStream::key_channels, before.key_channels, now.key_channels);
  for (Drive& drive : drives_) {
    drive.csd->submit_store(run.machine.engine().now(), store, nullptr, {drive.task, layer});
  }
}

}  // namespace

std::unique_ptr<System> make_insti_dense() { return std::make_unique<InstiSystem>(false); }
std::unique_ptr<System> make_insti_sparf() { return std::make_unique<InstiSystem>(true); }

}  // namespace nearkv
