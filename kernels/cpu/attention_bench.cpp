// Decode attention of one head on the CPU. bytes_per_second counts what the kernel has to read:
// K and V rows for dense; for SparF the selected channels of K and the K and V rows of the selected
// tokens (not whole pages: those are the flash's traffic).
#include <algorithm>
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>

#include "kernels/api.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

constexpr int d_head = 128;
constexpr std::int64_t row_bytes = d_head * PageGeometry::element_bytes;

/// One cache for all runs: building it takes longer than reading it.
const KvPages& cache() {
  static const KvPages pages = testing::random_cache({d_head, 4096, 8}, 32768, 1);
  return pages;
}

SparfOptions one_eighth(int context) { return {d_head / 8, std::max(1, context / 8), 0}; }

std::int64_t sparf_bytes(int context) {
  const SparfOptions options = one_eighth(context);
  return std::int64_t{context} * options.r * PageGeometry::element_bytes +
         std::int64_t{2} * options.k * row_bytes;
}

void dense(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const KvPages& pages = cache();
  const std::vector<float> query = testing::random_queries(1, d_head, 2);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cpu::attend(pages, {query, context}, DenseOptions{}));
  }
  state.SetBytesProcessed(state.iterations() * 2 * context * row_bytes);
}

void sparf(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const KvPages& pages = cache();
  const std::vector<float> query = testing::random_queries(1, d_head, 2);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cpu::attend(pages, {query, context}, one_eighth(context)));
  }
  state.SetBytesProcessed(state.iterations() * sparf_bytes(context));
}

void sparf_select(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const KvPages& pages = cache();
  const std::vector<float> query = testing::random_queries(1, d_head, 2);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cpu::select(pages, {query, context}, one_eighth(context)));
  }
  state.SetBytesProcessed(state.iterations() * context * (d_head / 8) *
                          PageGeometry::element_bytes);
}

/// Bytes are those written to the page image: K twice, V once.
void append(benchmark::State& state) {
  const int tokens = static_cast<int>(state.range(0));
  const PageGeometry geometry({d_head, 4096, static_cast<int>(state.range(1))});
  const std::vector<float> row = testing::random_queries(1, d_head, 3);
  for (auto _ : state) {
    KvPages pages(geometry);
    pages.reserve(tokens);
    for (int token = 0; token < tokens; ++token)
      pages.append(row, row);
    benchmark::DoNotOptimize(pages);
  }
  state.SetBytesProcessed(state.iterations() * 3 * tokens * row_bytes);
}

}  // namespace

BENCHMARK(dense)->Arg(1024)->Arg(2048)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(sparf)->Arg(1024)->Arg(2048)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(sparf_select)->Arg(1024)->Arg(2048)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(append)
    ->Args({2048, 2})
    ->Args({2048, 8})
    ->ArgNames({"tokens", "channels_per_group"})
    ->Unit(benchmark::kMicrosecond);
