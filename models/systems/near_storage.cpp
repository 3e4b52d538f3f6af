// Near-storage attention with delayed write-back and a cooperative cache, as INF2 and HILOS
// describe them (Jang et al., arXiv 2502.09921, versions 1 and 2): KV on computational storage
// drives, dense decode attention there. Both techniques can be switched off; then it does what
// insti_dense does.
//
// Delayed write-back: new K and V stay in host memory until spill_tokens of each head are there, so
// that flash gets whole pages; then they move to the drives in the background. Meanwhile the host
// CPU multiplies the queries with the keys that it keeps, and sends these scores and the values of
// the same tokens with the attend commands, as HILOS does. What prefill leaves over whole pages
// stays in host memory, too. A spill that is not done when its layer is attended to next time is
// waited for.
//
// Cooperative cache: for a share alpha of the sequences the drives keep the inputs of the layers in
// place of K and V (half as many bytes with MHA). The GPUs read them back, recompute K and V and
// attend, while the drives attend for the other sequences. `balanced` chooses alpha so that reading
// all flash data takes as long as moving the inputs to the GPUs:
//     (1 - alpha + alpha i) / B_ssd = alpha i / B_pci,   i = bytes of inputs / bytes of K and V,
// which is alpha = 2 B_pci / (B_ssd + B_pci) with i = 1/2. B_ssd is what the drives' channels read
// in all, B_pci what all drives together bring to a GPU. With GQA inputs are larger than K and V
// (i >= 1): nothing to gain, alpha is 0.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "models/systems/csd_kv.hpp"
#include "models/systems/csd_step_keys.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/kv_division.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/near_storage_inputs.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/system.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"
#include "sim/core/servers.hpp"

namespace nearkv {

namespace {

struct WriteBackConfig {
  enum class Kind { none, delayed };
  Kind kind = Kind::none;
  int spill_tokens = 0;
  FlopRate host_score_rate{};

  void fields(FieldVisitor& v) {
    auto chosen = static_cast<std::size_t>(kind);
    v.variant(
        {"kind", "none: new K and V wait in the drives' group buffers; delayed: in host memory"},
        {"none", "delayed"}, chosen, [this](std::size_t which, FieldVisitor& inner) {
          if (which == 0) {
            return;
          }
          inner.parameter("spill_tokens", spill_tokens,
                          "tokens of a head that move to the drives together; whole pages",
                          {1, 1 << 20});
          inner.constant("host_score_rate", host_score_rate,
                         "rate at which all host cores together compute attention scores",
                         range_of(FlopRate{1}, FlopRate{1'000'000'000'000'000}));
        });
    kind = static_cast<Kind>(chosen);
  }
};

struct CooperativeCacheConfig {
  enum class Kind { none, share, balanced };
  Kind kind = Kind::none;
  double share = 0;

  void fields(FieldVisitor& v) {
    auto chosen = static_cast<std::size_t>(kind);
    v.variant({"kind",
               "none; share: of the sequences that keep layer inputs in place of K and V; "
               "balanced: the share at which flash and PCIe take equally long"},
              {"none", "share", "balanced"}, chosen,
              [this](std::size_t which, FieldVisitor& inner) {
                if (which == 1) {
                  inner.parameter("share", share, "share of the sequences", {0, 1});
                }
              });
    kind = static_cast<Kind>(chosen);
  }
};

class NearStorageSystem final : public BatchSystem {
 public:
  void fields(FieldVisitor& v) override {
    kv_division_field(v, division_);
    prefill_tokens_field(v, prefill_tokens_);
    v.group("write_back", write_back_, "delayed write-back of new K and V");
    v.group("cooperative_cache", cache_, "sequences that keep layer inputs in place of K and V");
  }

  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    require_csds(v, point, "near_storage_writeback");
    if (point.csd.empty() || !is_delayed()) {
      return;
    }
    const Bytes page = point.csd.front().flash.page_size;
    const Bytes row = point.model.values(point.model.head_dim);
    const std::int64_t group = row > Bytes{} ? page / row : 0;  // 0: reported above
    v.require([&] { return group > 0 && spill_tokens() % group == 0; },
              "system/write_back/spill_tokens",
              fmt::format("{} tokens do not fill whole flash pages; choose a multiple of the {} "
                          "tokens of a head that a page holds",
                          spill_tokens(), group));
  }

  void place(RunContext& run) override;
  void begin_batch(RunContext& run) override;
  void prefill(RunContext& run) override { kv_->prefill(run); }
  void decode_step(RunContext& run, int step) override;
  void finish_batch(RunContext& run) override {
    kv_->close(run);
    host_->release_all(kHostBuffers);
  }
  Recovered recover(RunContext& run, const DataLoss& loss, int step) override {
    return kv_->recover(run, loss, step);
  }
  void warm_up(RunContext& run, int step) override {
    if (kv_->is_filling() || kv_->fills_pages(step)) {
      decode_step(run, step);
    }
  }
  [[nodiscard]] bool warms_up_exactly() const override { return is_uniform_; }
  [[nodiscard]] StepKey step_key(const RunContext& /*run*/, int step) const override {
    return keys_[static_cast<std::size_t>(step)];
  }
  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& point) const override;
  void report(const DesignPoint& point, Metrics& metrics) const override;

 private:
  static constexpr const char* kHostBuffers = "KV that is not written back yet";

  [[nodiscard]] bool is_delayed() const {
    return write_back_.kind == WriteBackConfig::Kind::delayed;
  }
  [[nodiscard]] int spill_tokens() const { return is_delayed() ? write_back_.spill_tokens : 0; }
  [[nodiscard]] double share_of_inputs(RunContext& run) const;
  [[nodiscard]] GroupState state_at(const SequenceGroup& group, int context) const;
  [[nodiscard]] int recent_tokens(const SequenceGroup& group, int context) const;
  void weigh_tokens(RunContext& run);
  void send(RunContext& run, CsdKv::Drive& drive, const CsdKv::Plan& plan, int layer,
            AttendTimes& times);
  void attend_on_gpus(RunContext& run, int layer);

  KvDivision division_ = KvDivision::heads;
  int prefill_tokens_ = 0;
  WriteBackConfig write_back_;
  CooperativeCacheConfig cache_;

  std::optional<CsdKv> kv_;
  std::optional<InputLoader> inputs_;
  std::optional<CapacityLedger> host_;
  FifoServers host_scores_{1};
  double share_ = 0;  // alpha
  // What a token adds to a step, roughly: decides which steps of a sampled run are taken as alike.
  std::int64_t weight_on_flash_ = 0;
  std::int64_t weight_that_waits_ = 0;
  bool is_uniform_ = true;
  std::vector<StepKey> keys_;
};

// -- Placement ----------------------------------------------------------------------------------

/// Bytes a second that all drives together read, and that they bring to a GPU.
struct CacheRates {
  double flash = 0;
  double pcie = 0;
};

double flash_rate(const FlashConfig& flash) {
  const auto bits = flash.page_size.count();
  const SimDuration bus = flash.transfer_time((flash.page_size + flash.spare_size).count()) +
                          flash.command_time(PageOp::read, 1);
  const SimDuration unit = flash.array_time(PageOp::read, 0) + bus;
  const double channel =
      std::min(static_cast<double>(bits) / to_seconds(bus),
               static_cast<double>(bits) * flash.units_per_channel() / to_seconds(unit));
  return channel * flash.channels;
}

/// The slower one of the ways when peers are refused.
double rate_to_gpus(const Machine& machine, int drives, int gpus) {
  const PcieFabric& fabric = machine.fabric();
  const auto flows = [&](bool from_drives, bool to_gpus) {
    std::vector<PcieFabric::Ends> ends;
    for (int gpu = 0; gpu < (to_gpus ? gpus : 1); ++gpu) {
      for (int drive = 0; drive < (from_drives ? drives : 1); ++drive) {
        ends.push_back({from_drives ? fmt::format("csd/{}", drive) : "host",
                        to_gpus ? fmt::format("gpu/{}", gpu) : "host"});
      }
    }
    double sum = 0;
    for (const PcieFabric::Path& path : fabric.shared_paths(ends)) {
      sum += static_cast<double>(path.bandwidth.per_second());
    }
    return to_gpus ? sum / gpus : sum;
  };
  if (fabric.is_direct(machine.csd_node(0), machine.gpu_node(0))) {
    return flows(true, true);
  }
  return std::min(flows(true, false), flows(false, true));
}

double NearStorageSystem::share_of_inputs(RunContext& run) const {
  if (cache_.kind != CooperativeCacheConfig::Kind::balanced) {
    return cache_.kind == CooperativeCacheConfig::Kind::share ? cache_.share : 0;
  }
  const ModelShape& model = run.point.model;
  const double inputs = static_cast<double>(model.hidden) /
                        static_cast<double>(2 * model.kv_width());  // a byte of K and V
  if (inputs >= 1) {
    return 0;
  }
  const CsdConfig& drive = run.point.csd.front();
  const CacheRates rates{flash_rate(drive.flash) * drive.count,
                         rate_to_gpus(run.machine, drive.count, run.point.parallelism.tensor)};
  return std::min(1.0, rates.pcie / (inputs * rates.flash + (1 - inputs) * rates.pcie));
}

void NearStorageSystem::place(RunContext& run) {
  Machine& machine = run.machine;
  machine.declare_phase("gpu_compute", "GPU operators");
  machine.declare_phase("input_load", "GPUs wait for layer inputs from the CSDs");
  machine.declare_phase("upload", "q, or q, k and v, from VRAM to the CSDs and host memory");
  machine.declare_phase("recent_tokens", "scores on the host, scores and V to the CSDs");
  machine.declare_phase("submission", "the host thread submits attend commands");
  machine.declare_phase("csd_attention", "commands, flash reads and attention in the CSDs");
  machine.declare_phase("download", "attention outputs from the CSDs to VRAM");
  machine.gauges().add(
      {std::string(Machine::kKvAccess), "s", "KV pages and layer inputs on their way from flash",
       [csd = machine.csds().front().get()] { return to_seconds(csd->work().reading); }});
  run.model.allocate_weights();
  inputs_.reset();
  kv_.emplace(run, CsdKv::Options{.division = division_,
                                  .channel_copy = false,
                                  .lanes = 1,
                                  .spill_tokens = spill_tokens(),
                                  .prefill_tokens = prefill_tokens_});
  share_ = share_of_inputs(run);
  if (share_ > 0) {
    inputs_.emplace(run, *kv_);
  }
  host_scores_ = FifoServers(1);
  weigh_tokens(run);
  host_.emplace("host DRAM", run.point.host.dram - run.point.host.reserved);
}

/// Picoseconds that a token of a head on each drive takes from flash, or from host memory.
void NearStorageSystem::weigh_tokens(RunContext& run) {
  const CsdConfig& drive = run.point.csd.front();
  const auto seconds = [](double amount, double rate) { return amount / rate; };
  const auto row = static_cast<double>(kv_->row_bytes().count());
  const double on_flash = seconds(2 * row, flash_rate(drive.flash));
  const auto link =
      static_cast<double>(run.machine.fabric().path("host", "csd/0").bandwidth.per_second());
  const std::int64_t queries = run.point.model.heads / run.point.model.kv_heads;
  double waits = seconds(row, link);
  if (is_delayed()) {
    const auto multiply_adds = static_cast<double>(queries * run.point.model.head_dim);
    waits += drive.count * seconds(2 * multiply_adds,
                                   static_cast<double>(write_back_.host_score_rate.per_second()));
  }
  constexpr double kPicoseconds = 1e12;  // unit: a second's
  weight_on_flash_ = std::llround(on_flash * kPicoseconds);
  weight_that_waits_ = std::llround(waits * kPicoseconds);
}

/// Of each group so many sequences keep inputs that the sum over all groups so far comes nearest.
void NearStorageSystem::begin_batch(RunContext& run) {
  std::vector<CsdKv::Part> parts;
  std::int64_t sequences = 0;
  std::int64_t with_inputs = 0;
  Bytes buffers{};
  for (const SequenceGroup& group : run.groups()) {
    sequences += group.sequences;
    const auto wanted = std::llround(share_ * static_cast<double>(sequences)) - with_inputs;
    const auto inputs = static_cast<int>(std::clamp<std::int64_t>(wanted, 0, group.sequences));
    with_inputs += inputs;
    const std::pair<int, bool> kinds[] = {{group.sequences - inputs, false}, {inputs, true}};
    for (const auto& [count, inputs_only] : kinds) {
      if (count > 0) {
        CsdKv::Part& part = parts.emplace_back(CsdKv::Part{group, 0, inputs_only});
        part.group.sequences = count;
        // One buffer fills while the one before is written back.
        buffers += kv_->token_bytes(part) * (2 * std::int64_t{spill_tokens()} * count) *
                   run.point.model.layers;
      }
    }
  }
  host_->allocate(kHostBuffers, buffers);
  kv_->open(std::move(parts));
  is_uniform_ = run.batch->is_uniform();
  keys_ = csd_step_keys(
      *run.batch, [&](const SequenceGroup& group, int context) { return state_at(group, context); },
      run.point.simulation.most_sampled_steps);
}

/// Tokens at a context that the drives do not have when they attend.
int NearStorageSystem::recent_tokens(const SequenceGroup& group, int context) const {
  return is_delayed() ? context - kv_->drive_tokens(group, context - 1) : 0;
}

GroupState NearStorageSystem::state_at(const SequenceGroup& group, int context) const {
  GroupState state;
  const CsdKv::Part part{group};
  state.filled =
      kv_->pages_at(part, context).total() > kv_->pages_at(part, context - 1).total() ? 1 : 0;
  // Tokens that wait and inputs that fill no page move too: then no two contexts are equal.
  const bool is_even =
      kv_->model().attended_tokens(context) == context && !is_delayed() && !inputs_;
  state.size = is_even ? ceil_div(context, kv_->tokens_a_page()) : context;
  if (is_delayed() && is_uniform_) {
    // The time goes up and down with the tokens that wait. The last digit keeps contexts apart.
    const std::int64_t recent = recent_tokens(group, context);
    const std::int64_t weight = (context - recent) * weight_on_flash_ + recent * weight_that_waits_;
    state.size = weight * (spill_tokens() + 1) + recent;
  }
  return state;
}

// -- Decode -------------------------------------------------------------------------------------

void NearStorageSystem::decode_step(RunContext& run, int step) {
  Machine& machine = run.machine;
  ParallelModel& model = run.model;
  Engine& engine = machine.engine();
  const ModelShape& shape = run.point.model;
  kv_->skip_to(step);
  const CsdKv::Plan plan = kv_->plan(step, 0, 1, [&](const CsdKv::Part& part, int /*kind*/) {
    const int context = part.group.context_of(step);
    return std::vector{kv_->dense_reads_at(context, context - recent_tokens(part.group, context))};
  });
  Bytes layer_inputs{};
  if (inputs_) {
    inputs_->begin_step(run, step);
    layer_inputs = shape.hidden_bytes_per_token() * inputs_->old_tokens();
  }
  const bool loads = inputs_ && inputs_->has_work();
  const std::int64_t sequences = plan.sequences + (loads ? inputs_->sequences() : 0);
  const GpuAllocation workspace = model.hold_workspace(
      "decode workspace", std::vector<SequenceBatch>{{sequences, 1, 1}}, AttentionKernel::fused);
  const GpuAllocation arriving = model.hold("layer inputs from the CSDs", layer_inputs * 2);
  const GpuAllocation recomputed = model.hold(
      "recomputed K and V",
      loads ? model.rank_share(shape.kv_bytes_per_token_and_layer() * inputs_->old_tokens())
            : Bytes{});

  CsdKv::Hooks hooks;
  if (is_delayed()) {
    hooks.send = [&](CsdKv::Drive& drive, const CsdKv::Plan& of, int layer, AttendTimes& times) {
      send(run, drive, of, layer, times);
    };
  }
  if (loads) {
    hooks.attended = [&](CsdKv::Drive& drive, int layer) { inputs_->start(run, drive, layer + 1); };
    for (CsdKv::Drive& drive : kv_->drives()) {
      inputs_->start(run, drive, 0);
    }
  }
  const auto compute = [&](const auto& operators) {
    const ScopedPhase phase(machine, "gpu_compute");
    operators();
  };

  compute([&] { model.embed(sequences); });
  for (int layer = 0; layer < static_cast<int>(shape.layers); ++layer) {
    const ActivityScope shown(engine, ActivityLog::Scope::layer, "layer", layer);
    machine.report_counters();
    compute([&] {
      model.enter_layer(layer, sequences);
      model.before_attention(layer, sequences);
    });
    kv_->append_token(run, step, 0, layer);
    const auto attention = kv_->start_attention(run, plan, layer, hooks);
    if (loads) {
      for (std::size_t i = 0; i < kv_->drives().size(); ++i) {
        if (!attention->posted[i]) {
          inputs_->start(run, kv_->drives()[i], layer + 1);
        }
      }
      {
        const ScopedPhase phase(machine, "input_load");
        inputs_->wait(run, layer);
      }
      compute([&] { attend_on_gpus(run, layer); });
      inputs_->release(layer);
    }
    const SimTime gpus_done = engine.now();
    const AttendTimes times = kv_->finish_attention(run, *attention).last(engine.now() - gpus_done);
    machine.add_to_phase("upload", times.upload);
    machine.add_to_phase("recent_tokens", times.recent_tokens);
    machine.add_to_phase("submission", times.submission);
    machine.add_to_phase("csd_attention", times.attention);
    machine.add_to_phase("download", times.download);
    kv_->flush(run, step, 0, layer);
    compute([&] { model.after_attention(layer, sequences); });
  }
  compute([&] { model.next_token(sequences); });
  kv_->step_done(step);
}

/// q goes to the drive, q, k and v to the host; then the host's scores and V follow.
void NearStorageSystem::send(RunContext& run, CsdKv::Drive& drive, const CsdKv::Plan& plan,
                             int layer, AttendTimes& times) {
  Machine& machine = run.machine;
  Engine& engine = machine.engine();
  const SimTime begin = engine.now();
  const auto from_gpus = CsdKv::Direction::from_gpus;
  std::vector<Machine::Transfer> transfers =
      kv_->transfers(run, drive, plan, layer, kv_->query_bytes(), from_gpus, drive.node);
  const std::vector<Machine::Transfer> to_host =
      kv_->transfers(run, drive, plan, layer, kv_->query_bytes() + kv_->row_bytes() * 2, from_gpus,
                     machine.host_node());
  transfers.insert(transfers.end(), to_host.begin(), to_host.end());
  {
    const ActivityScope shown(engine, ActivityLog::Scope::phase, "upload");
    machine.transfer_together(transfers);
  }
  const ActivityScope shown(engine, ActivityLog::Scope::phase, "recent_tokens");
  const SimTime sent = engine.now();
  times.upload = sent - begin;

  std::int64_t recent = 0;  // tokens of all pairs
  for (const std::size_t part : plan.parts) {
    const SequenceGroup& group = kv_->parts()[part].group;
    recent +=
        std::int64_t{drive.held[part].pairs()} * recent_tokens(group, group.context_of(plan.step));
  }
  const ModelShape& model = run.point.model;
  const std::int64_t queries = model.heads / model.kv_heads;
  const Flops scores{2 * recent * queries * model.head_dim};
  machine.wait_for(host_scores_.issue(engine.now(), time_for(scores, write_back_.host_score_rate)),
                   "host/scores", "scores of tokens in host memory");
  machine.transfer(machine.host_node(), drive.node,
                   model.values(recent * queries) + kv_->row_bytes() * recent);
  times.recent_tokens = engine.now() - sent;
}

/// K and V of the old tokens from their inputs, then attention; each rank for its heads.
void NearStorageSystem::attend_on_gpus(RunContext& run, int layer) {
  const ModelShape& shape = run.model.rank_shape();
  const std::int64_t tokens = inputs_->old_tokens();
  if (tokens > 0) {
    std::vector<OperatorWork> operators = kv_projection(shape, tokens);
    run.model.compute(run.model.stage_of(layer), operators);
  }
  run.model.attention(layer, inputs_->groups(), AttentionKernel::fused);
}

// -- Output -------------------------------------------------------------------------------------

std::vector<std::string> NearStorageSystem::notes(const DesignPoint& point) const {
  constexpr double kPercent = 100;  // unit: of a whole
  std::vector<std::string> notes;
  if (cache_.kind == CooperativeCacheConfig::Kind::balanced) {
    notes.push_back(
        share_ > 0
            ? fmt::format("cooperative cache: {:.1f} % of the sequences keep layer inputs, where "
                          "flash and PCIe take equally long",
                          share_ * kPercent)
            : std::string("cooperative cache: none, since layer inputs are no smaller than the K "
                          "and V of this model"));
  }
  if (point.csd.empty()) {
    return notes;
  }
  const int idle = point.csd.front().count - static_cast<int>(point.model.kv_heads);
  if (division_ == KvDivision::heads && idle > 0) {
    notes.push_back(
        fmt::format("{} of {} CSDs hold no KV: the model has {} KV heads (system/division = "
                    "sequences uses all)",
                    idle, point.csd.front().count, point.model.kv_heads));
  }
  return notes;
}

void NearStorageSystem::report(const DesignPoint& /*point*/, Metrics& metrics) const {
  metrics.add("cooperative_cache/share", share_, "1",
              "share of the sequences that keep layer inputs in place of K and V");
  if (is_delayed()) {
    metrics.add("high_water/write-back buffers", static_cast<double>(host_->high_water().count()),
                "B", "most host memory that new K, V and inputs took");
  }
}

}  // namespace

std::unique_ptr<System> make_near_storage_writeback() {
  return std::make_unique<NearStorageSystem>();
}

}  // namespace nearkv
