// Speed of the event-driven flash array: page reads a second, by policy.
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>

#include "models/flash/flash_engine.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

using namespace std::chrono_literals;

constexpr int kHeads = 64;  // read together
constexpr int kPagesPerHead = 256;
constexpr std::uint32_t kPageBytes = 16384;

FlashConfig drive(FlashPolicy policy, bool cache_read, int planes) {
  return {.channels = 8,
          .chips_per_channel = 8,
          .dies_per_chip = 1,
          .planes_per_die = planes,
          .blocks_per_plane = 1024,
          .pages_per_block = 256,
          .page_size = 16_KiB,
          .spare_size = 0_B,
          .policy = policy,
          .array_unit = ArrayUnit::die,
          .read_priority = policy > FlashPolicy::first_gap,
          .cache_read = cache_read,
          .multi_plane = planes > 1,
          .bus_width = 1,
          .mega_transfers = 1400,
          .transfer_step = 0_ps,
          .bits_per_cell = 1,
          .t_read = {50us, 50us, 50us},
          .t_program = {500us, 500us, 500us},
          .t_erase = 3ms,
          .array_spread = 0,
          .read_command = {290ns, 650ns, 20ns},
          .program_command = {361ns, 816ns, 0ns},
          .erase_command = {220ns, 700ns, 0ns},
          .read_retry = {},
          .suspend = {}};
}

/// Token groups striped over channels, then dies, then planes; each head selects about half of the
/// pages of its own 256, with no pattern. A head's pages follow those of the head before.
std::vector<PageCommand> selected(const FlashConfig& config) {
  Rng rng(1, "models/flash/flash_engine_bench");
  std::vector<PageCommand> reads;
  for (int head = 0; head < kHeads; ++head) {
    const int first = head * kPagesPerHead;
    for (int page = first; page < first + kPagesPerHead; ++page) {
      if (rng.below(2) == 0) {
        const int die = page / config.channels;
        const int plane = die / config.chips_per_channel;
        PageCommand read;
        read.tag = reads.size();
        read.channel = static_cast<std::uint16_t>(page % config.channels);
        read.chip = static_cast<std::uint16_t>(die % config.chips_per_channel);
        read.plane = static_cast<std::uint16_t>(plane % config.planes_per_die);
        read.page = static_cast<std::uint32_t>(plane / config.planes_per_die);
        read.bytes = kPageBytes;
        reads.push_back(read);
      }
    }
  }
  return reads;
}

struct Last final : PageSink {
  SimTime at{};
  std::uint64_t tags = 0;
  void page_done(std::uint64_t tag, SimTime when) override {
    at = when;
    tags += tag;
  }
};

/// One batch after another: the next is asked for when the last page has arrived.
void flash_engine_attend(benchmark::State& state, FlashPolicy policy, bool cache_read, int planes) {
  const FlashConfig config = drive(policy, cache_read, planes);
  const std::vector<PageCommand> reads = selected(config);
  FlashEngine engine(config, Rng(1, "retries"));
  Last last;
  for ([[maybe_unused]] auto iteration : state) {
    for (const PageCommand& read : reads) {
      engine.add(read);
    }
    engine.start(last.at);
    engine.process(kNever, last);
  }
  benchmark::DoNotOptimize(last.tags);
  const auto pages = static_cast<double>(engine.counters().pages_read);
  state.counters["pages/s"] = benchmark::Counter(pages, benchmark::Counter::kIsRate);
  // What the modelled drive reached, for a look at the workload.
  state.counters["GB/s"] = pages * kPageBytes / to_seconds(last.at) / 1e9;
}

BENCHMARK_CAPTURE(flash_engine_attend, fifo, FlashPolicy::fifo, false, 1);
BENCHMARK_CAPTURE(flash_engine_attend, first_gap, FlashPolicy::first_gap, false, 1);
BENCHMARK_CAPTURE(flash_engine_attend, data_out_first, FlashPolicy::data_out_first, false, 1);
BENCHMARK_CAPTURE(flash_engine_attend, out_of_order, FlashPolicy::out_of_order, false, 1);
BENCHMARK_CAPTURE(flash_engine_attend, out_of_order_cache, FlashPolicy::out_of_order, true, 1);
BENCHMARK_CAPTURE(flash_engine_attend, out_of_order_4_planes, FlashPolicy::out_of_order, false, 4);

}  // namespace
