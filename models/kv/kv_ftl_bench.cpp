// Speed of the KV FTL: pages appended and places looked up a second.
#include <cstdint>

#include <benchmark/benchmark.h>

#include "models/kv/kv_ftl.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

KvFtlConfig config() {
  return {.plane_order = 5,  // CPDW
          .sharing = KvBlockSharing::own_blocks,
          .reclaim_below = 0.1,
          .reclaim_until = 0.2,
          .least_worn_first = true,
          .bad_blocks = {.factory_share = 0, .grown_per_erase = 0, .pe_cycles = 1'000'000}};
}

const kernels::PageGeometry& pages() {
  static const kernels::PageGeometry of_opt(
      {.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
  return of_opt;
}

/// With a table of all pages, or counts only.
KvFtl drive(bool with_table) {
  return KvFtl(config(),
               {.flash = {.channels = 8,
                          .ways_per_channel = 8,
                          .dies_per_way = 1,
                          .planes_per_die = 4,
                          .blocks_per_plane = 256,
                          .pages_per_block = 1024},
                .layout = {.channels_per_group = 4, .stream_skew = 61},
                .tracks_page_indices = with_table},
               1, "csd/0/ftl");
}

constexpr KvTaskShape kTask{
    .sequences = 16, .layers = 8, .kv_heads = 40, .max_tokens = 2048, .channel_copy = true};

void set_rate(benchmark::State& state, std::int64_t pages) {
  state.counters["pages/s"] =
      benchmark::Counter(static_cast<double>(pages), benchmark::Counter::kIsRate);
}

/// Prefill of a task, then its end and reclaim.
void kv_ftl_append(benchmark::State& state) {
  KvFtl ftl = drive(true);
  KvOperations operations;
  for ([[maybe_unused]] auto iteration : state) {
    const KvFtl::TaskId task = ftl.open_task(kTask, pages());
    for (int layer = 0; layer < kTask.layers; ++layer) {
      operations.clear();
      ftl.append_layer(task, layer, kTask.max_tokens, &operations);
    }
    ftl.finish(task);
    ftl.reclaim_one(nullptr);
  }
  set_rate(state, ftl.counters().programs);
}

/// The same for a task that is never redirected.
void kv_ftl_append_counts(benchmark::State& state) {
  KvFtl ftl = drive(false);
  for ([[maybe_unused]] auto iteration : state) {
    const KvFtl::TaskId task = ftl.open_task(kTask, pages());
    for (int layer = 0; layer < kTask.layers; ++layer) {
      ftl.append_layer(task, layer, kTask.max_tokens, nullptr);
    }
    ftl.finish(task);
    ftl.reclaim_one(nullptr);
  }
  set_rate(state, ftl.counters().programs);
}

/// Decode: one token more for every head of every layer.
void kv_ftl_decode_token(benchmark::State& state) {
  KvFtl ftl = drive(true);
  KvOperations operations;
  std::int64_t tokens = 0;
  KvFtl::TaskId task = ftl.open_task(kTask, pages());
  int context = 0;
  for ([[maybe_unused]] auto iteration : state) {
    if (context == kTask.max_tokens) {
      state.PauseTiming();
      ftl.finish(task);
      ftl.reclaim_one(nullptr);
      task = ftl.open_task(kTask, pages());
      context = 0;
      state.ResumeTiming();
    }
    operations.clear();
    for (int layer = 0; layer < kTask.layers; ++layer) {
      ftl.append_layer(task, layer, 1, &operations);
    }
    ++context;
    tokens += kTask.heads();
  }
  state.counters["head tokens/s"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}

void kv_ftl_place(benchmark::State& state) {
  KvFtl ftl = drive(true);
  const KvFtl::TaskId task = ftl.open_task(kTask, pages());
  for (int layer = 0; layer < kTask.layers; ++layer) {
    ftl.append_layer(task, layer, kTask.max_tokens, nullptr);
  }
  std::int64_t pages = 0;
  int head = 0;
  for ([[maybe_unused]] auto iteration : state) {
    const KvHead at{.sequence = head / kTask.kv_heads % kTask.sequences,
                    .layer = head / (kTask.kv_heads * kTask.sequences) % kTask.layers,
                    .head = head % kTask.kv_heads};
    for (int page = 0; page < 128; ++page) {
      const PhysicalPage found = ftl.page_of(task, at, KvStream::key_tokens, page);
      benchmark::DoNotOptimize(ftl.place_of(found, ArrayUnit::plane));
    }
    pages += 128;
    ++head;
  }
  set_rate(state, pages);
}

BENCHMARK(kv_ftl_append);
BENCHMARK(kv_ftl_append_counts);
BENCHMARK(kv_ftl_decode_token);
BENCHMARK(kv_ftl_place);

}  // namespace
