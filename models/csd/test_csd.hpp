// What tests of the CSD share: a drive of round numbers, batches, and a loop around it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "models/csd/csd.hpp"
#include "sim/core/random.hpp"

namespace nearkv::test_csd {

using std::literals::chrono_literals::operator""ns;
using std::literals::chrono_literals::operator""us;
using std::literals::chrono_literals::operator""ms;

inline SimTime at(SimDuration since_start) { return SimTime{since_start}; }

inline std::int64_t ps(SimTime time) { return time.time_since_epoch().count(); }

inline SimDuration below(Rng& rng, std::int64_t n) {
  return SimDuration{static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(n)))};
}

inline constexpr SimTime kForever = kNever - 1_ps;  // a bound behind which events may still lie

inline int pick(Rng& rng, int n) {
  return static_cast<int>(rng.below(static_cast<std::uint64_t>(n)));
}

/// One channel of 32 units, one core, one kernel, one head a block; every stage has its own round
/// number. A page takes 1 us of commands, 40 us in the array, 3 us on the bus.
inline CsdConfig round_config() {
  CsdConfig config;
  config.count = 1;
  config.flash = {.channels = 1,
                  .chips_per_channel = 8,
                  .dies_per_chip = 1,
                  .planes_per_die = 4,
                  .blocks_per_plane = 16,
                  .pages_per_block = 64,
                  .page_size = 4_KiB,
                  .spare_size = 512_B,
                  .policy = FlashPolicy::first_gap,
                  .array_unit = ArrayUnit::plane,
                  .read_priority = false,
                  .cache_read = false,
                  .multi_plane = false,
                  .bus_width = 1,
                  .mega_transfers = 1536,
                  .transfer_step = 0_ps,
                  .bits_per_cell = 1,
                  .t_read = {40us, 40us, 40us},
                  .t_program = {200us, 200us, 200us},
                  .t_erase = 3ms,
                  .array_spread = 0,
                  .read_command = {1us, 0_ps, 0_ps},
                  .program_command = {1us, 0_ps, 0_ps},
                  .erase_command = {1us, 0_ps, 0_ps},
                  .read_retry = {},
                  .suspend = {}};
  config.layout = {.channels_per_group = 4, .stream_skew = 8};
  static_cast<NvmeQueueConfig&>(config.nvme) = {.queue_depth = 1024,
                                                .host_submit = 5us,
                                                .doorbell = 500ns,
                                                .command_fetch = 100ns,
                                                .completion = 900ns};
  config.controller.cores = 1;
  config.controller.completion_cost = 600ns;
  config.dram.capacity = 1_GiB;
  config.store_chunk = 1_MiB;
  config.kv_ftl = {.plane_order = 5,  // CPDW
                   .sharing = KvBlockSharing::own_blocks,
                   .reclaim_below = 0.1,
                   .reclaim_until = 0.2,
                   .least_worn_first = true,
                   .bad_blocks = {.factory_share = 0, .grown_per_erase = 0, .pe_cycles = 3000}};
  config.engine = {.feed = {.kind = FeedKind::blocks,
                            .heads_per_block = 1,
                            .staging_buffers = 1,
                            .key_buffers = 0,
                            .value_buffers = 0,
                            .heads_in_flight = 0},
                   .on_chip_memory = 2_MiB,
                   .attend_cost = 2us,
                   .attention_kernels = 1,
                   .gemv_units_per_kernel = 2,
                   .gemv_rate = FlopRate{500'000'000},  // 1 ns a FLOP and kernel
                   .softmax_latency = 10us,
                   .filter_rate = Rate{2'048'000'000},  // 2 us a page
                   .argtopk_rate = 1'000'000'000};      // 1 ns an element
  return config;
}
inline constexpr SimDuration kPage = 44us;  // of an idle drive
inline constexpr SimDuration kSlot = 4us;   // of the bus, a page

inline std::vector<int> ascending(int count) {
  std::vector<int> pages(static_cast<std::size_t>(count));
  std::iota(pages.begin(), pages.end(), 0);
  return pages;
}

inline HeadReads dense_head(int groups, std::int64_t flops) {
  HeadReads reads;
  reads.key_pages = ascending(groups);
  reads.value_pages = reads.key_pages;
  reads.attention_flops = Flops{flops};
  return reads;
}

inline std::shared_ptr<const AttendBatch> batch_of(std::vector<AttendBatch::Segment> segments) {
  auto batch = std::make_shared<AttendBatch>();
  batch->segments = std::move(segments);
  batch->seal();
  return batch;
}
inline std::shared_ptr<const AttendBatch> batch_of(int pairs, std::vector<HeadReads> patterns) {
  return batch_of({{pairs, std::move(patterns)}});
}

/// One segment, or two or three that each take a part of the pairs and of the patterns.
inline std::shared_ptr<const AttendBatch> in_segments(Rng& rng, int pairs,
                                                      const std::vector<HeadReads>& patterns) {
  std::vector<AttendBatch::Segment> segments;
  for (int left = pairs; left > 0; left -= segments.back().pairs) {
    const bool is_last = segments.size() == 2 || rng.below(2) == 0;
    const std::size_t first = segments.size() % patterns.size();
    segments.push_back({is_last ? left : 1 + pick(rng, left),
                        {patterns.begin() + static_cast<std::ptrdiff_t>(first), patterns.end()}});
  }
  return batch_of(std::move(segments));
}

inline std::int64_t pages_of(const AttendBatch& batch) {
  std::int64_t pages = 0;
  for (int pair = 0; pair < batch.pairs(); ++pair) {
    pages += batch.reads_of(pair).pages();
  }
  return pages;
}

/// A drive and a loop of its own; whoever drives it may first let time pass.
struct Drive {
  explicit Drive(const CsdConfig& config, bool reuse = false)
      : csd(loop, config, "csd/0", {.reuse = reuse, .seed = 1}) {}

  /// Handles all events up to `time`.
  void run_to(SimTime time) {
    while (loop.run(time)) {
      static_cast<void>(loop.take_finished());
    }
  }
  /// No event behind the one that finishes `done` is handled.
  void run_until(const Completion& done) {
    while (!done.done() && loop.run(kForever)) {
      static_cast<void>(loop.take_finished());
    }
  }
  SimTime finish(const Completion& done) {
    run_to(kForever);
    return done.at();
  }
  SimTime attend(SimTime now, const std::shared_ptr<const AttendBatch>& batch) {
    run_to(now);
    Completion done;
    csd.submit_attend(now, batch, done);
    return finish(done);
  }
  SimTime store(SimTime now, const PageBatch& batch) {
    run_to(now);
    Completion done;
    csd.submit_store(now, batch, &done);
    return finish(done);
  }

  EventLoop loop;
  Csd csd;
};

inline SimDuration attend_time(const CsdConfig& config,
                               const std::shared_ptr<const AttendBatch>& batch) {
  return Drive(config).attend(at(0ns), batch).time_since_epoch();
}

}  // namespace nearkv::test_csd
