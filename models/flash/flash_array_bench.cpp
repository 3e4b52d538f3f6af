// Speed of the flash array: page reads a second, in both orders of the buses.
#include <cstddef>
#include <vector>

#include <benchmark/benchmark.h>

#include "models/flash/flash_array.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

using namespace std::chrono_literals;

constexpr int kHeads = 64;          // read together
constexpr int kPagesPerHead = 128;  // K and V of 1024 tokens

FlashArrayConfig drive(BusOrder order) {
  return {.channels = 8,
          .units_per_channel = 32,
          .page_size = 4_KiB,
          .transfer = time_for(4_KiB, 1400_MBps),
          .bus_order = order,
          .cache_read = false,
          .t_command = 950ns,
          .t_program_command = 950ns,
          .t_erase_command = 950ns,
          .t_read = 36us,
          .t_program = 185us,
          .t_erase = 3ms};
}

struct Read {
  SimDuration after;  // the first read
  int channel;
  int unit;
};

/// All pages of each head, striped over channels and then units, all asked for at once.
std::vector<Read> striped(const FlashArrayConfig& config) {
  std::vector<Read> reads;
  for (int i = 0; i < kHeads * kPagesPerHead; ++i) {
    reads.push_back({0_ps, i % config.channels, i / config.channels % config.units_per_channel});
  }
  return reads;
}

/// Every head selects about half of its pages; heads follow each other 2 us apart.
std::vector<Read> selected(const FlashArrayConfig& config) {
  Rng rng(1, "models/flash/flash_array_bench");
  std::vector<Read> reads;
  for (int head = 0; head < 2 * kHeads; ++head) {
    const auto first = static_cast<int>(rng.below(1024));
    for (int page = first; page < first + kPagesPerHead; ++page) {
      if (rng.below(2) == 0) {
        reads.push_back({head * SimDuration{2us}, page % config.channels,
                         page / config.channels % config.units_per_channel});
      }
    }
  }
  return reads;
}

/// One block of heads after another: the next is asked for when the last page has arrived.
void read_blocks(benchmark::State& state, const FlashArrayConfig& config,
                 const std::vector<Read>& reads) {
  FlashArray flash(config);
  SimTime start{};
  for ([[maybe_unused]] auto iteration : state) {
    SimTime last = start;
    for (const Read& read : reads) {
      last = std::max(last, flash.read(start + read.after, read.channel, read.unit).done);
    }
    start = last;
  }
  const double pages = static_cast<double>(flash.counters().pages_read);
  state.counters["pages/s"] = benchmark::Counter(pages, benchmark::Counter::kIsRate);
  // What the modelled drive reached, for a look at the workload.
  state.counters["GB/s"] =
      pages * static_cast<double>(config.page_size.count()) / to_seconds(start) / 1e9;
}

void flash_striped(benchmark::State& state, BusOrder order) {
  const FlashArrayConfig config = drive(order);
  read_blocks(state, config, striped(config));
}
void flash_selected(benchmark::State& state, BusOrder order) {
  const FlashArrayConfig config = drive(order);
  read_blocks(state, config, selected(config));
}
BENCHMARK_CAPTURE(flash_striped, fifo, BusOrder::fifo);
BENCHMARK_CAPTURE(flash_striped, first_gap, BusOrder::first_gap);
BENCHMARK_CAPTURE(flash_selected, fifo, BusOrder::fifo);
BENCHMARK_CAPTURE(flash_selected, first_gap, BusOrder::first_gap);

}  // namespace
