// Speed of `nearkv replay`: requests a second of the whole command but for its output, and lines a
// second of the readers.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <unistd.h>

#include "sim/app/replay_run.hpp"
#include "sim/app/replay_workload.hpp"
#include "sim/core/config.hpp"
#include "traces/block_trace.hpp"
#include "traces/fio_log.hpp"

using namespace nearkv;

namespace {

/// Random reads of 16 KiB at depth 256 with statistics, configs and their errors included.
void replay_workload(benchmark::State& state, const char* workload,
                     const std::vector<std::string>& overrides) {
  ReplayOptions options;
  options.input = (shipped_configs() / "workloads" / workload).string();
  options.device = "nearkv:platforms/ssds/samsung_980_pro_2tb.json";
  options.overrides = overrides;
  std::int64_t requests = 0;
  double iops = 0;
  for ([[maybe_unused]] auto iteration : state) {
    const ReplayResult result = run_replay(options);
    requests += result.stats.requests();
    iops = result.record.outcome.metrics.at("read/iops");
  }
  state.counters["IO/s"] =
      benchmark::Counter(static_cast<double>(requests), benchmark::Counter::kIsRate);
  state.counters["modelled_IOPS"] = iops;
}
BENCHMARK_CAPTURE(replay_workload, random_read_16k, "random_read_16k.json", {})
    ->Unit(benchmark::kMillisecond);
// Without a list of four memory pages to be fetched for each request.
BENCHMARK_CAPTURE(replay_workload, random_read_16k_no_prp, "random_read_16k.json",
                  {"nvme/data_pointers=none"})
    ->Unit(benchmark::kMillisecond);

/// What a replay adds to each request of a drive: the generator and the statistics.
void generate_and_count(benchmark::State& state, std::size_t pattern) {
  ReplayWorkload workload;
  workload.name = "bench";
  workload.pattern = {pattern, 0.99, 0.1, 0.9};
  workload.sizes = {{16_KiB, 1}};
  workload.alignment = 16_KiB;
  workload.reads = 1;
  workload.working_set = {WorkingSet::bytes, 4_GiB, 0};
  workload.length = {WorkloadLength::requests, INT64_MAX, {}};
  WorkloadRequests requests(workload, 4_GiB);
  ReplayStats stats;
  traces::BlockRecord record;
  for ([[maybe_unused]] auto iteration : state) {
    requests.next(record);
    stats.add(ReplayStats::id_of(record.kind, record.size), SimTime{},
              SimTime{SimDuration{60'000'000 + record.first.count() / 100}});
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK_CAPTURE(generate_and_count, random, WorkloadPattern::random);
BENCHMARK_CAPTURE(generate_and_count, zipf, WorkloadPattern::zipf);

template <class Reader>
void read_trace(benchmark::State& state, const std::string& text) {
  const std::string file =
      (std::filesystem::temp_directory_path() / fmt::format("nearkv_bench_{}", getpid())).string();
  std::ofstream(file, std::ios::binary) << text;
  std::int64_t lines = 0;
  for ([[maybe_unused]] auto iteration : state) {
    Reader reader(file, {"", Bytes{std::int64_t{1} << 41}});
    for (traces::BlockRecord record; reader.next(record);) {
      benchmark::DoNotOptimize(record);
    }
    lines += reader.requests();
  }
  std::remove(file.c_str());
  state.counters["lines/s"] =
      benchmark::Counter(static_cast<double>(lines), benchmark::Counter::kIsRate);
}

constexpr int kLines = 500'000;

void read_block_trace(benchmark::State& state) {
  std::string text;
  for (int i = 0; i < kLines; ++i) {
    text += fmt::format("{} 4 {} 16 {}\n", 938513000 + i * 157LL, (i * 264719034LL) % (1LL << 31),
                        i % 2);
  }
  read_trace<traces::BlockTraceReader>(state, text);
}
void read_fio_log(benchmark::State& state) {
  std::string text = "fio version 3 iolog\n0 /dev/nvme0n1 add\n0 /dev/nvme0n1 open\n";
  for (int i = 0; i < kLines; ++i) {
    text += fmt::format("{} /dev/nvme0n1 {} {} 16384\n", 9385 + i / 2,
                        i % 2 == 0 ? "read" : "write", (i * 16384LL) % (1LL << 40));
  }
  read_trace<traces::FioLogReader>(state, text);
}
BENCHMARK(read_block_trace)->Unit(benchmark::kMillisecond);
BENCHMARK(read_fio_log)->Unit(benchmark::kMillisecond);

}  // namespace
