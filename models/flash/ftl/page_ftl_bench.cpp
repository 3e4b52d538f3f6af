// Speed of the block-device FTL: look-ups, reads and writes of mapped pages a second.
#include <cstdint>

#include <benchmark/benchmark.h>

#include "models/flash/ftl/page_ftl.hpp"
#include "models/flash/ftl/precondition.hpp"
#include "models/flash/ftl/test_ftl.hpp"
#include "models/flash/ftl/write_buffer.hpp"

using namespace nearkv;

namespace {

/// 8 channels x 4 ways x 2 planes, 16 KiB pages: 34 GB, 2.1 million pages.
constexpr FtlGeometry kGeometry{.channels = 8,
                                .ways_per_channel = 4,
                                .dies_per_way = 1,
                                .planes_per_die = 2,
                                .blocks_per_plane = 128,
                                .pages_per_block = 256};

FtlConfig config(bool ideal) {
  FtlConfig config = test_ftl::plain_config();
  config.overprovisioning_ratio = 0.07;
  config.mapping.ideal = ideal;
  config.mapping.cache_capacity = 2_MiB;  // a quarter of the table
  config.mapping.journal_pages = 128;
  config.collection.threshold = 0.02;
  config.collection.hard_threshold = 0.005;
  return config;
}

PageFtl filled(bool ideal, FillPattern pattern) {
  PageFtl ftl(config(ideal), kGeometry, 16_KiB, 1, "ssd/ftl");
  precondition(ftl, {.fill = 1, .pattern = pattern, .steady_tolerance = 0.05, .rounds_at_most = 3},
               Rng(1, "bench/precondition"));
  return ftl;
}

void set_rate(benchmark::State& state, double pages) {
  state.counters["pages/s"] = benchmark::Counter(pages, benchmark::Counter::kIsRate);
}

void ftl_look_up(benchmark::State& state) {
  const PageFtl ftl = filled(true, FillPattern::sequential);
  Rng rng(2, "bench");
  const auto pages = static_cast<std::uint64_t>(ftl.logical_pages());
  std::int64_t count = 0;
  for ([[maybe_unused]] auto iteration : state) {
    benchmark::DoNotOptimize(ftl.physical_of(static_cast<LogicalPage>(rng.below(pages))));
    ++count;
  }
  set_rate(state, static_cast<double>(count));
}

void ftl_read(benchmark::State& state, bool ideal) {
  PageFtl ftl = filled(ideal, FillPattern::sequential);
  Rng rng(2, "bench");
  FlashOperations operations;
  const auto pages = static_cast<std::uint64_t>(ftl.logical_pages());
  std::int64_t count = 0;
  for ([[maybe_unused]] auto iteration : state) {
    operations.clear();
    ftl.read(static_cast<LogicalPage>(rng.below(pages)), &operations);
    ++count;
  }
  set_rate(state, static_cast<double>(count));
}

void ftl_write_sequential(benchmark::State& state) {
  PageFtl ftl = filled(true, FillPattern::sequential);
  FlashOperations operations;
  std::int64_t count = 0;
  for ([[maybe_unused]] auto iteration : state) {
    operations.clear();
    ftl.write(static_cast<LogicalPage>(count % ftl.logical_pages()), &operations);
    ++count;
  }
  set_rate(state, static_cast<double>(count));
}

/// In the steady state; pages the host wrote, and all pages programmed.
void ftl_write_random(benchmark::State& state, bool ideal) {
  PageFtl ftl = filled(ideal, FillPattern::random);
  Rng rng(2, "bench");
  FlashOperations operations;
  const auto pages = static_cast<std::uint64_t>(ftl.logical_pages());
  const PageFtl::Counters before = ftl.counters();
  for ([[maybe_unused]] auto iteration : state) {
    operations.clear();
    ftl.write(static_cast<LogicalPage>(rng.below(pages)), &operations);
  }
  const PageFtl::Counters& after = ftl.counters();
  const auto host = static_cast<double>(after.host_programs - before.host_programs);
  const auto moved = static_cast<double>(after.collected_pages - before.collected_pages);
  const auto mapping = static_cast<double>(after.mapping_programs - before.mapping_programs);
  set_rate(state, host);
  state.counters["programs/s"] =
      benchmark::Counter(host + moved + mapping, benchmark::Counter::kIsRate);
  state.counters["WAF"] = (host + moved + mapping) / host;
}

void ftl_precondition(benchmark::State& state, FillPattern pattern) {
  std::int64_t programs = 0;
  for ([[maybe_unused]] auto iteration : state) {
    const PageFtl ftl = filled(true, pattern);
    programs += ftl.counters().host_programs + ftl.counters().collected_pages;
  }
  set_rate(state, static_cast<double>(programs));
}

void ftl_write_buffer(benchmark::State& state) {
  WriteBuffer buffer({.capacity = 64_MiB, .flush_order = FlushOrder::fifo, .flush_above = 0.5},
                     16_KiB);
  Rng rng(2, "bench");
  std::int64_t count = 0;
  for ([[maybe_unused]] auto iteration : state) {
    const auto page = static_cast<LogicalPage>(rng.below(1 << 20));
    buffer.put(page, 1);
    if (buffer.wants_flush()) {
      buffer.end_flush(buffer.begin_flush()->slot);
    }
    ++count;
  }
  set_rate(state, static_cast<double>(count));
}

BENCHMARK(ftl_look_up);
BENCHMARK_CAPTURE(ftl_read, ideal, true);
BENCHMARK_CAPTURE(ftl_read, cached, false);
BENCHMARK(ftl_write_sequential);
// Fixed counts, as Google Benchmark would precondition a drive for every trial.
constexpr int kRandomWrites = 500'000;
BENCHMARK_CAPTURE(ftl_write_random, ideal, true)->Iterations(kRandomWrites);
BENCHMARK_CAPTURE(ftl_write_random, cached, false)->Iterations(kRandomWrites);
BENCHMARK_CAPTURE(ftl_precondition, sequential, FillPattern::sequential)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(ftl_precondition, random, FillPattern::random)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(ftl_write_buffer);

}  // namespace
