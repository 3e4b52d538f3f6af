// Speed of a computational storage drive: pages a second of attend batches, end to end through the
// event loop, every page simulated.
#include <cstddef>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include "models/csd/csd.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

using namespace std::chrono_literals;

constexpr int kKvHeads = 40;  // of OPT-13B
constexpr int kContext = 1536;

CsdConfig drive() {
  return {.count = 1,
          .flash = {.channels = 8,
                    .chips_per_channel = 8,
                    .dies_per_chip = 1,
                    .planes_per_die = 4,
                    .blocks_per_plane = 1024,
                    .pages_per_block = 1024,
                    .page_size = 4_KiB,
                    .spare_size = 0_B,
                    .policy = FlashPolicy::first_gap,
                    .array_unit = ArrayUnit::plane,
                    .read_priority = false,
                    .cache_read = false,
                    .multi_plane = false,
                    .bus_width = 1,
                    .mega_transfers = 1400,
                    .transfer_step = 0_ps,
                    .bits_per_cell = 1,
                    .t_read = {36us, 36us, 36us},
                    .t_program = {185us, 185us, 185us},
                    .t_erase = 3ms,
                    .array_spread = 0,
                    .read_command = {950ns, 0_ps, 0_ps},
                    .program_command = {950ns, 0_ps, 0_ps},
                    .erase_command = {950ns, 0_ps, 0_ps},
                    .read_retry = {},
                    .suspend = {}},
          .layout = {.channels_per_group = 4, .stream_skew = 61},
          .nvme = {.queue_depth = 65'535,
                   .host_submit = 5us,
                   .doorbell = 500ns,
                   .command_fetch = 100ns,
                   .completion = 1us},
          .controller = {.cores = 4, .attend_cost = 2us, .completion_cost = 500ns},
          .dram_capacity = 64_GiB,
          .store_chunk = 64_MiB,
          .engine = {.heads_per_block = 64,
                     .staging_buffers = 1,
                     .attention_kernels = 2,
                     .gemv_units_per_kernel = 2,
                     .gemv_rate = FlopRate{12'700'000'000},
                     .softmax_latency = 164us,
                     .filter_rate = 1850_MBps,
                     .argtopk_rate = 285'000'000}};
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

void attend_batches(benchmark::State& state, const std::vector<HeadReads>& patterns) {
  auto batch = std::make_shared<AttendBatch>();
  batch->pairs = static_cast<int>(state.range(0)) * kKvHeads;
  batch->patterns = patterns;
  batch->seal();
  EventLoop loop;
  Csd csd(loop, drive(), "csd/0", /*reuse=*/false);
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
BENCHMARK(attend_dense)->Arg(64)->Arg(256)->Unit(benchmark::kMillisecond);
BENCHMARK(attend_sparf)->Arg(64)->Arg(256)->Unit(benchmark::kMillisecond);

}  // namespace
