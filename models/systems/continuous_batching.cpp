// A server with continuous batching and a paged KV cache in VRAM: vLLM (Kwon et al., SOSP 2023; its
// engine up to version 0.6) as its users run it. Each iteration the scheduler
// (continuous_batching_scheduler.hpp) chooses what is computed, swapped blocks move over PCIe,
// and one pass of the model gives each sequence in it a token.
//
// VRAM: of memory_utilization x its capacity, what is not held by CUDA context, weights, the
// workspace of max_batched_tokens and the logits of max_sequences is cut into blocks, equally many
// on every GPU. Swap space is pinned host memory.
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "models/systems/continuous_batching_scheduler.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/fault_injector.hpp"
#include "models/systems/forward_pass.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/paged_vram.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/recording.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

class ContinuousBatchingSystem final : public ServingSystem {
 public:
  void fields(FieldVisitor& v) override;
  void require_parts(FieldVisitor& v, const DesignPoint& point) const override;
  void place(RunContext& run) override;
  std::vector<RequestTimes> serve(RunContext& run, const std::vector<Request>& requests) override;
  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& point) const override;
  void report(const DesignPoint& point, Metrics& metrics) const override;

 private:
  void swap(RunContext& run, const Iteration& iteration);
  void copy_blocks(RunContext& run, Machine::CopyDirection direction, std::int64_t blocks);
  void require_someone_served(const std::vector<Request>& requests) const;

  AttentionKernel attention_kernel_ = AttentionKernel::fused;
  PagedVramConfig vram_;
  double watermark_ = 0;  // share of the blocks
  SchedulerOptions options_{};
  Bytes swap_space_{};
  SimDuration scheduling_overhead_{};
  SimDuration swap_copy_overhead_{};

  PagedVram placed_{};
  std::optional<ContinuousScheduler> scheduler_;
  std::int64_t exceed_batch_ = 0;  // requests that were turned away
  std::int64_t exceed_kv_ = 0;
  double running_seconds_ = 0;  // running sequences x time
  double busy_seconds_ = 0;     // time with iterations
};

void ContinuousBatchingSystem::fields(FieldVisitor& v) {
  constexpr int kMost = 1 << 20;  // not a constant: a limit of the input
  v.one_of("attention_kernel", attention_kernel_, {"fused", "unfused"},
           "GPU attention: fused, or scores, softmax and values as kernels over a whole matrix");
  vram_.fields(v);
  v.parameter("watermark", watermark_,
              "share of the KV blocks that a new or returning sequence must leave free", {0, 1});
  v.parameter("max_sequences", options_.max_sequences, "sequences that run at a time", {1, kMost});
  v.parameter("chunked_prefill", options_.chunked_prefill,
              "prefill in pieces that fill up iterations of decoding sequences, instead of whole "
              "prompts in iterations of their own");
  v.one_of("preemption", options_.preemption, {"recompute", "swap"},
           "what happens to the KV of a sequence that has to make room: it is computed again "
           "later, or moves to host memory and back");
  v.parameter("swap_space", swap_space_, "pinned host memory for swapped KV, for each GPU",
              range_of(0_B, 65536_GiB));
  v.constant("scheduling_overhead", scheduling_overhead_,
             "host time between two iterations in which the GPUs wait", range_of(0_ps, 10s));
  v.constant("swap_copy_overhead", swap_copy_overhead_,
             "time that each copy of a swapped block adds to its transfer: K and V of each layer "
             "are copied apart",
             range_of(0_ps, 1s));
  v.require([this] { return vram_.max_batched_tokens >= options_.max_sequences; },
            "max_batched_tokens",
            fmt::format("is {}; must be at least max_sequences, {}, as each running sequence "
                        "decodes a token in an iteration",
                        vram_.max_batched_tokens, options_.max_sequences));
}

void ContinuousBatchingSystem::require_parts(FieldVisitor& v, const DesignPoint& point) const {
  const auto pinned = [&] { return swap_space_ * point.parallelism.gpus(); };
  v.require(
      [&] { return pinned() <= point.host.dram - point.host.reserved; }, "system/swap_space",
      fmt::format("is {} for each GPU; must fit into host memory, {} of which {} are reserved",
                  format_exact(swap_space_), format_exact(point.host.dram),
                  format_exact(point.host.reserved)));
  // Of other workloads the requests that are too long are turned away.
  v.require(
      !point.workload.is_fixed() || options_.chunked_prefill ||
          point.workload.longest_context() <= vram_.max_batched_tokens,
      "system/max_batched_tokens",
      fmt::format("is {}; must be at least the longest context, {}, without chunked_prefill, as a "
                  "preempted sequence is prefilled again in one iteration",
                  vram_.max_batched_tokens, point.workload.longest_context()));
}

void ContinuousBatchingSystem::place(RunContext& run) {
  Machine& machine = run.machine;
  machine.declare_phase("gpu_compute", "GPU operators and what GPUs send each other");
  machine.declare_phase("kv_swap", "copies of KV blocks between VRAM and pinned host memory");
  machine.declare_phase("scheduling", "host work between iterations");
  machine.gauges().add({std::string(Machine::kKvAccess), "s", "swapping of KV blocks",
                        [&machine] { return to_seconds(machine.phase("kv_swap")); }});
  run.model.allocate_weights();
  placed_ = vram_.place(run.machine, run.model, attention_kernel_, options_.max_sequences);
  if (machine.has_host_storage()) {
    machine.host_storage().pin("swap space", swap_space_ * machine.gpu_count());
  }
  const auto watermark_blocks =
      static_cast<std::int64_t>(static_cast<double>(placed_.blocks) * watermark_);
  options_.max_batched_tokens = vram_.max_batched_tokens;
  scheduler_.emplace(options_, PagedKvOptions{.blocks = placed_.blocks,
                                              .swap_blocks = swap_space_ / placed_.largest_share(),
                                              .block_tokens = vram_.block_tokens,
                                              .watermark_blocks = watermark_blocks,
                                              .attention_window = run.point.model.attention_window,
                                              .block_size = placed_.block_size});
  exceed_batch_ = 0;
  exceed_kv_ = 0;
  running_seconds_ = 0;
  busy_seconds_ = 0;
}

std::vector<RequestTimes> ContinuousBatchingSystem::serve(RunContext& run,
                                                          const std::vector<Request>& requests) {
  Machine& machine = run.machine;
  Engine& engine = machine.engine();
  ForwardPass pass(machine, run.model, attention_kernel_);
  const SimTime begin = engine.now();
  const auto now = [&] { return SimTime{engine.now() - begin}; };
  std::vector<RequestTimes> times(requests.size());
  std::size_t arrived = 0;
  const auto admit_arrivals = [&] {
    for (; arrived < requests.size() && requests[arrived].arrival <= now(); ++arrived) {
      using Admission = ContinuousScheduler::Admission;
      const Admission admission =
          scheduler_->arrive(requests[arrived].prompt_tokens, requests[arrived].output_tokens);
      times[arrived] = {
          .arrival = requests[arrived].arrival, .first_token = kNever, .finished = kNever};
      exceed_batch_ += admission == Admission::exceeds_batch ? 1 : 0;
      exceed_kv_ += admission == Admission::exceeds_kv ? 1 : 0;
    }
  };
  while (true) {
    admit_arrivals();
    if (scheduler_->idle()) {
      if (arrived == requests.size()) {
        break;
      }
      const SimTime arrival = begin + requests[arrived].arrival.time_since_epoch();
      if (ActivityLog* log = engine.activity()) {
        log->explain("workload", "no request is there", engine.now(), arrival, Activity::waiting);
      }
      engine.wait_until(arrival);
      if (run.faults != nullptr) {
        run.faults->log().pause(now());
      }
      continue;
    }
    const SimTime start = now();
    if (run.recording != nullptr) {
      run.recording->begin_pass(engine);
    }
    const Iteration& iteration = scheduler_->plan();
    {
      const ScopedPhase phase(machine, "scheduling");
      machine.spend(scheduling_overhead_, "host/scheduler", "between two iterations");
    }
    for (const int sequence : iteration.started) {
      times[sequence].started = start;
    }
    swap(run, iteration);
    {
      const ScopedPhase phase(machine, "gpu_compute");
      pass.run(iteration.batch);
    }
    const double seconds = to_seconds(now() - start);
    busy_seconds_ += seconds;
    running_seconds_ += seconds * static_cast<double>(iteration.running);
    const ContinuousScheduler::Progress& progress = scheduler_->complete();
    for (const int sequence : progress.first_token) {
      times[sequence].first_token = now();
    }
    for (const int sequence : progress.finished) {
      times[sequence].finished = now();
    }
    if (run.faults != nullptr) {
      run.faults->log().tokens(now(), progress.tokens);
    }
    if (run.recording != nullptr) {
      run.recording->end_pass(engine);
      if (run.recording->is_done()) {
        return times;
      }
    }
  }
  if (run.recording != nullptr) {
    run.recording->require_done();
  }
  require_someone_served(requests);
  return times;
}

/// Copies run before the pass, on its stream: first what comes back, then what goes.
void ContinuousBatchingSystem::swap(RunContext& run, const Iteration& iteration) {
  if (iteration.blocks_in + iteration.blocks_out > 0) {
    const ScopedPhase phase(run.machine, "kv_swap");
    copy_blocks(run, Machine::CopyDirection::host_to_gpu, iteration.blocks_in);
    copy_blocks(run, Machine::CopyDirection::gpu_to_host, iteration.blocks_out);
  }
}

void ContinuousBatchingSystem::copy_blocks(RunContext& run, Machine::CopyDirection direction,
                                           std::int64_t blocks) {
  if (blocks == 0) {
    return;
  }
  std::vector<std::function<void()>> copies;
  for (int gpu = 0; gpu < run.machine.gpu_count(); ++gpu) {
    copies.emplace_back([&, gpu] {
      const int stage = gpu / run.model.ranks();
      const SimDuration overhead = swap_copy_overhead_ * (2 * run.model.layers_of(stage) * blocks);
      run.machine.spend(overhead, "host/swap_copies", "overhead of copies of KV blocks");
      run.machine.pinned_copy(direction, blocks * placed_.block_share(stage), gpu);
    });
  }
  run.machine.together(copies);
}

/// Requests that are turned away are counted; when there are no others, nothing was simulated.
void ContinuousBatchingSystem::require_someone_served(const std::vector<Request>& requests) const {
  if (exceed_batch_ + exceed_kv_ < static_cast<std::int64_t>(requests.size())) {
    return;
  }
  int longest = 0;
  for (const Request& request : requests) {
    longest = std::max(longest, request.prompt_tokens + request.output_tokens - 1);
  }
  throw Infeasible(
      fmt::format("VRAM: no request can be served; {} KV blocks of {} tokens are left, {} of them "
                  "as watermark, "
                  "and {} tokens fit an iteration, but contexts reach {} tokens; use more GPUs, "
                  "system/memory_utilization or a system with KV outside of VRAM",
                  placed_.blocks, vram_.block_tokens, scheduler_->kv().options().watermark_blocks,
                  vram_.max_batched_tokens, longest));
}

std::vector<std::string> ContinuousBatchingSystem::notes(const DesignPoint& point) const {
  std::vector<std::string> notes;
  if (exceed_kv_ > 0) {
    notes.push_back(fmt::format(
        "{} requests were turned away: their KV does not fit VRAM even alone", exceed_kv_));
  }
  if (exceed_batch_ > 0) {
    notes.push_back(
        fmt::format("{} requests were turned away: they exceed max_batched_tokens, {}, and "
                    "chunked_prefill is off",
                    exceed_batch_, vram_.max_batched_tokens));
  }
  if (point.parallelism.pipeline > 1) {
    notes.emplace_back("pipeline stages are kept busy by as many micro-batches, without gaps");
  }
  return notes;
}

void ContinuousBatchingSystem::report(const DesignPoint& /*point*/, Metrics& metrics) const {
  const ContinuousScheduler::Counters& counters = scheduler_->counters();
  const PagedKv& kv = scheduler_->kv();
  const auto add = [&metrics](const char* name, auto value, const char* unit, const char* doc) {
    metrics.add(name, static_cast<double>(value), unit, doc);
  };
  const auto bytes = [this](std::int64_t blocks) { return (blocks * placed_.block_size).count(); };
  add("batching/iterations", counters.iterations, "1", "passes of the model");
  add("batching/mean_running_sequences", busy_seconds_ > 0 ? running_seconds_ / busy_seconds_ : 0,
      "1", "sequences with KV in VRAM, mean over the time with iterations");
  add("batching/preemptions", counters.preemptions, "1", "sequences that had to make room");
  add("batching/recomputed_tokens", counters.recomputed_tokens, "1",
      "tokens whose KV was thrown away and computed again");
  add("swap/out", bytes(counters.swapped_out_blocks), "B", "KV blocks moved to host memory");
  add("swap/in", bytes(counters.swapped_in_blocks), "B", "KV blocks moved back");
  add("batching/kv_blocks", kv.options().blocks, "1", "KV blocks in VRAM");
  add("batching/kv_high_water",
      static_cast<double>(kv.high_water()) / static_cast<double>(kv.options().blocks), "1",
      "most KV blocks in use, as a share of all");
  add("swap/high_water", bytes(kv.swap_high_water()), "B", "most swapped KV in host memory");
}

}  // namespace

std::unique_ptr<System> make_continuous_batching() {
  return std::make_unique<ContinuousBatchingSystem>();
}

}  // namespace nearkv
