// Speed of a computational storage drive: pages a second of attend batches, end to end through the
// event loop, every page simulated.
#include <cstddef>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include "models/csd/csd.hpp"
#include "models/csd/test_csd.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

using namespace std::chrono_literals;

constexpr int kKvHeads = 40;  // of OPT-13B
constexpr int kContext = 1536;

/// The size and speed of configs/platforms/csds/instinfer_emulated.json.
CsdConfig drive() {
  CsdConfig config = test_csd::round_config();
  FlashConfig& flash = config.flash;
  flash.channels = 8;
  flash.blocks_per_plane = flash.pages_per_block = 1024;
  flash.spare_size = 0_B;
  flash.mega_transfers = 1400;
  flash.t_read.lsb = 36us;
  flash.t_program.lsb = 185us;
  flash.read_command.bus = flash.program_command.bus = flash.erase_command.bus = 950ns;
  config.layout.stream_skew = 61;
  config.controller.cores = 4;
  config.dram.capacity = 64_GiB;
  config.engine.feed.heads_per_block = 64;
  config.engine.attention_kernels = 2;
  config.engine.gemv_rate = FlopRate{12'700'000'000};
  config.engine.softmax_latency = 164us;
  config.engine.filter_rate = 1850_MBps;
  config.engine.argtopk_rate = 285'000'000;
  return config;
}

const kernels::PageGeometry& geometry() {
  static const kernels::PageGeometry pages(
      {.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
  return pages;
}

std::vector<HeadReads> dense_patterns() { return {dense_reads(geometry(), {128, 1}, kContext)}; }

/// Page sets of the shape that SparF's selection gives, without its kernels: r channels in half of
/// the channel groups, k tokens in half of the token groups.
std::vector<HeadReads> sparf_patterns() {
  Rng rng(1, "models/csd/csd_bench");
  std::vector<HeadReads> patterns(256);
  for (HeadReads& reads : patterns) {
    const int chunks = geometry().flushed_channel_chunks(kContext);
    for (int group = 0; group < geometry().channel_groups(); ++group) {
      if (rng.below(2) == 0) {
        for (int chunk = 0; chunk < chunks; ++chunk) {
          reads.channel_pages.push_back(
              channel_stream_page(group, chunk, geometry().channel_groups()));
        }
      }
    }
    for (int page = 0; page < geometry().flushed_token_groups(kContext); ++page) {
      if (rng.below(2) == 0) {
        reads.key_pages.push_back(page);
      }
    }
    reads.value_pages = reads.key_pages;
    reads.estimate_flops = Flops{2 * kContext * 16};
    reads.attention_flops = Flops{4 * kContext / 8 * 128};
    reads.query_elements = 128;
    reads.score_elements = kContext;
  }
  return patterns;
}

/// How pages are read and fed.
enum Mode { blocks_recurrence, blocks_events, pages_events };

CsdConfig drive_of(Mode mode) {
  CsdConfig config = drive();
  if (mode != blocks_recurrence) {
    config.flash.policy = FlashPolicy::out_of_order;
  }
  if (mode == pages_events) {
    config.engine.feed = {.kind = FeedKind::pages,
                          .heads_per_block = 0,
                          .staging_buffers = 0,
                          .key_buffers = 48,
                          .value_buffers = 48,
                          .heads_in_flight = 64};
  }
  return config;
}

void attend_batches(benchmark::State& state, const std::vector<HeadReads>& patterns) {
  auto batch = std::make_shared<AttendBatch>();
  batch->segments.push_back({static_cast<int>(state.range(0)) * kKvHeads, patterns});
  batch->seal();
  EventLoop loop;
  Csd csd(loop, drive_of(static_cast<Mode>(state.range(1))), "csd/0", {.reuse = false, .seed = 1});
  SimTime now{};
  for ([[maybe_unused]] auto iteration : state) {
    Completion done;
    csd.submit_attend(now, batch, done);
    loop.run(kNever);
    loop.take_finished();
    now = done.at();
  }
  const double pages = static_cast<double>(csd.work().flash.pages_read);
  state.counters["pages/s"] = benchmark::Counter(pages, benchmark::Counter::kIsRate);
  // What the modelled drive reached, for a look at the workload.
  state.counters["GB/s"] = static_cast<double>(csd.bytes_read().count()) / to_seconds(now) / 1e9;
}

void attend_dense(benchmark::State& state) { attend_batches(state, dense_patterns()); }
void attend_sparf(benchmark::State& state) { attend_batches(state, sparf_patterns()); }
void modes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"batch", "mode"});
  for (const Mode mode : {blocks_recurrence, blocks_events, pages_events}) {
    benchmark->Args({64, mode});
  }
}
BENCHMARK(attend_dense)->Apply(modes)->Unit(benchmark::kMillisecond);
BENCHMARK(attend_sparf)->Apply(modes)->Unit(benchmark::kMillisecond);

}  // namespace
