// Speed of the NVMe front end alone: reads of 4 KiB on a drive that answers at once, 256
// outstanding, commands a second.
#include <cstdint>

#include <benchmark/benchmark.h>

#include "models/ssd/nvme_front_end.hpp"
#include "models/ssd/test_nvme.hpp"

using namespace nearkv;

namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kCommands = 200'000;
constexpr std::int64_t kDepth = 256;

/// Drive and host: each completion submits the next command, the queue pairs in turn.
class Loop final : public NvmeTarget, public BlockHost {
 public:
  explicit Loop(const NvmeConfig& config)
      : queues_(config.queue_pairs()), front_end_(config, small_link()) {}

  SimTime run() {
    while (left_ > kCommands - kDepth) {
      submit(SimTime{});
    }
    SimTime last{};
    for (SimTime at{}; (at = front_end_.next_event()) != kNever; last = at) {
      front_end_.process_one(at, *this, *this);
    }
    return last;
  }

 private:
  void submit(SimTime now) {
    if (left_-- > 0) {
      front_end_.submit(
          now, {0, 0_B, 4_KiB, BlockOp::read, static_cast<std::uint16_t>(left_ % queues_)});
    }
  }
  void command_arrived(NvmeSlot slot, SimTime at) override {
    front_end_.send_data(slot, at, 4_KiB);
    front_end_.complete(slot, at);
  }
  void data_arrived(NvmeSlot, SimTime) override {}
  void completed(std::uint64_t, SimTime, SimTime at) override { submit(at); }

  std::int64_t left_ = kCommands;
  int queues_;
  NvmeFrontEnd front_end_;
};

void measure(benchmark::State& state, const NvmeConfig& config) {
  SimTime last{};
  for ([[maybe_unused]] auto iteration : state) {
    last = Loop(config).run();
  }
  state.counters["commands/s"] = benchmark::Counter(
      static_cast<double>(state.iterations() * kCommands), benchmark::Counter::kIsRate);
  state.counters["modelled_IOPS"] = static_cast<double>(kCommands) / to_seconds(last);
}

void nvme_one_queue(benchmark::State& state) { measure(state, plain_nvme(512)); }

void nvme_weighted_queues_with_interrupts(benchmark::State& state) {
  NvmeConfig config = plain_nvme(32);
  config.queue_groups = {{.queues = 4, .priority = NvmePriority::high},
                         {.queues = 8, .priority = NvmePriority::medium},
                         {.queues = 52, .priority = NvmePriority::low}};
  config.arbitration = NvmeArbitration::weighted_round_robin;
  config.high_weight = 8;
  config.medium_weight = 4;
  config.notice = CompletionNotice::interrupt;
  config.aggregation_threshold = 8;
  config.aggregation_time = 10us;
  config.host_submit = 100ns;
  config.host_complete = 100ns;
  measure(state, config);
}

BENCHMARK(nvme_one_queue)->Unit(benchmark::kMillisecond);
BENCHMARK(nvme_weighted_queues_with_interrupts)->Unit(benchmark::kMillisecond);

}  // namespace
