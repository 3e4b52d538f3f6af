// What a sweep costs beside its points: planning, and starting, keying and journalling each.
#include <chrono>
#include <cstddef>
#include <numeric>
#include <vector>

#include <benchmark/benchmark.h>
#include <nlohmann/json.hpp>

#include "sim/app/sweep/sweep_run.hpp"
#include "sim/app/sweep/test_sweep.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace {

using nlohmann::json;

json range(int from, int to) { return {{"from", from}, {"to", to}, {"step", 1}}; }

/// A million points, of which a condition is asked and, for every thousandth, the config.
void sweep_plan_million(benchmark::State& state) {
  const std::vector<json> axes{{{"path", "/csd/0/flash/channels"}, {"range", range(1, 50)}},
                               {{"path", "/workload/batch"}, {"range", range(1, 200)}},
                               {{"path", "/workload/prompt_tokens"}, {"range", range(1, 100)}}};
  std::size_t points = 0;
  for ([[maybe_unused]] auto iteration : state) {
    const SweepPlan plan = test_sweep::plan_of(axes, {{"skip", {"channels * batch > 9990"}}});
    points = plan.size();
    for (std::size_t i = 0; i < points; i += 1000) {
      benchmark::DoNotOptimize(plan.config(i));
    }
  }
  state.counters["points"] = static_cast<double>(points);
}
BENCHMARK(sweep_plan_million)->Unit(benchmark::kSecond)->Iterations(1);

SweepPlan plan_of_batches() {
  return test_sweep::plan_of({{{"path", "/workload/batch"}, {"range", range(1, 1000)}}});
}

/// Makes the configs of points.
void sweep_config(benchmark::State& state) {
  const SweepPlan plan = plan_of_batches();
  std::size_t point = 0;
  for ([[maybe_unused]] auto iteration : state) {
    benchmark::DoNotOptimize(plan.config(point++ % plan.size()));
  }
}
BENCHMARK(sweep_config)->Unit(benchmark::kMicrosecond);

/// Names the results of points.
void sweep_key(benchmark::State& state) {
  const SweepPlan plan = plan_of_batches();
  std::size_t point = 0;
  for ([[maybe_unused]] auto iteration : state) {
    benchmark::DoNotOptimize(plan.key(point++ % plan.size()));
  }
}
BENCHMARK(sweep_key)->Unit(benchmark::kMicrosecond);

/// Points whose batch is out of range, less what reading and refusing their configs takes by
/// itself: what starting, keying and journalling adds to the time of a point.
void sweep_overhead_of_a_point(benchmark::State& state) {
  constexpr std::size_t kPoints = 1000;
  constexpr int kFirstRefused = 100'000;
  json batches = json::array({1});
  for (std::size_t i = 0; i < kPoints; ++i) {
    batches.push_back(kFirstRefused + static_cast<int>(i));
  }
  batches.push_back(2);
  const SweepPlan plan = test_sweep::plan_of({{{"path", "/workload/batch"}, {"values", batches}}});
  std::vector<std::size_t> points(kPoints);
  std::iota(points.begin(), points.end(), 1);
  double seconds = 0;
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto since = [&](std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(now() - start).count();
  };
  for ([[maybe_unused]] auto iteration : state) {
    const TestFolder folder;
    ResultStore journal(folder.path() / "journal.sqlite");
    begin_journal(journal, plan);
    const auto start = now();
    const SweepCounts counts =
        run_points(plan, points, journal,
                   {.jobs = static_cast<int>(state.range(0)), .cache = folder.path() / "cache"});
    seconds += since(start);
    if (counts.ran != kPoints || journal.statuses().at("refused") != kPoints) {
      state.SkipWithError("the points were to be refused");
    }
  }
  const json config = plan.config(1);
  const auto start = now();
  for (std::size_t i = 0; i < kPoints; ++i) {
    benchmark::DoNotOptimize(run_sweep_point(config));
  }
  const double work = since(start) / kPoints;
  const double runs = static_cast<double>(state.iterations()) * kPoints;
  state.counters["added_ms_a_point"] =
      1e3 * (seconds / runs - work / static_cast<double>(state.range(0)));
}
BENCHMARK(sweep_overhead_of_a_point)
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(3);

}  // namespace

}  // namespace nearkv
