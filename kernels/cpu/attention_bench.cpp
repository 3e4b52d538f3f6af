// Decode attention on the CPU. bytes_per_second counts what the kernel has to read: K and V rows
// for dense; for SparF the selected channels of K and the K and V rows of the selected tokens (not
// whole pages: those are the flash's traffic).
//
// `batch_dense` over a KV cache well beyond the processor's caches is to be held against
// `stream_read` of as many bytes with as many threads in the same run.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "kernels/api.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/test_cache.hpp"
#include "kernels/workers.hpp"

using namespace nearkv::kernels;

namespace {

constexpr int d_head = 128;
constexpr std::int64_t row_bytes = d_head * PageGeometry::element_bytes;
constexpr std::int64_t cache_bytes = std::int64_t{512} << 20;  // KV of a batch

SparfOptions one_eighth(int context) { return {d_head / 8, std::max(1, context / 16), 0}; }

std::int64_t dense_bytes(std::int64_t context) { return 2 * context * row_bytes; }

std::int64_t sparf_bytes(int context) {
  const SparfOptions options = one_eighth(context);
  return std::int64_t{context} * options.r * PageGeometry::element_bytes +
         std::int64_t{2} * options.k * row_bytes;
}

/// Heads of one context, so many that they fill cache_bytes; rows repeat with a period, as what is
/// in them does not matter for speed.
struct Batch {
  std::vector<KvPages> heads;
  std::vector<float> queries;
  std::vector<AttentionCall> calls;

  Batch(int context, int queries_a_head, KeyCopies copies)
      : queries(testing::random_queries(queries_a_head, d_head, 2)) {
    const std::int64_t count = std::max<std::int64_t>(1, cache_bytes / dense_bytes(context));
    nearkv::Rng stream = testing::test_stream(1);
    std::vector<std::vector<float>> rows;
    for (int i = 0; i < 509; ++i)
      rows.push_back(testing::random_row(stream, d_head));
    for (std::int64_t head = 0; head < count; ++head) {
      KvPages& pages = heads.emplace_back(PageGeometry({d_head, 4096, 4}), copies);
      pages.reserve(context);
      for (int token = 0; token < context; ++token) {
        const std::size_t at = static_cast<std::size_t>(head * 31 + token);
        pages.append(rows[at % rows.size()], rows[(at * 7 + 3) % rows.size()]);
      }
    }
    for (const KvPages& pages : heads)
      calls.push_back({&pages, {queries, context}});
  }
};

/// Benchmarks of one shape follow each other: the batch is built once for them.
const Batch& batch_of(int context, int queries_a_head, KeyCopies copies) {
  struct Key {
    int context, queries;
    KeyCopies copies;
    bool operator==(const Key&) const = default;
  };
  // tidy allows mutable-global: benchmarks have no owner that could hold it
  static Key key{};
  // tidy allows mutable-global: as above
  static std::unique_ptr<Batch> batch;
  const Key wanted{context, queries_a_head, copies};
  if (batch == nullptr || !(key == wanted)) {
    batch.reset();
    batch = std::make_unique<Batch>(context, queries_a_head, copies);
    key = wanted;
  }
  return *batch;
}

void batch_dense(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const Batch& batch = batch_of(context, static_cast<int>(state.range(2)), KeyCopies::tokens);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        cpu::attend_batch(batch.calls, DenseOptions{}, static_cast<int>(state.range(1))));
  }
  const auto heads = static_cast<std::int64_t>(batch.heads.size());
  state.SetBytesProcessed(state.iterations() * heads * dense_bytes(context));
}

/// The same memory, in the same pieces, only read.
void stream_read(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const Batch& batch = batch_of(context, static_cast<int>(state.range(2)), KeyCopies::tokens);
  const auto words = static_cast<std::size_t>(context) * row_bytes / sizeof(std::uint64_t);
  for (auto _ : state) {
    std::vector<std::uint64_t> sums(2 * batch.heads.size());
    for_each_item(sums.size(), static_cast<int>(state.range(1)), [&](std::size_t i) {
      const KvPages& pages = batch.heads[i / 2];
      const std::uint16_t* first = i % 2 == 0 ? pages.k_row(0) : pages.v_row(0);
      sums[i] = cpu::read_words({reinterpret_cast<const std::uint64_t*>(first), words});
    });
    benchmark::DoNotOptimize(sums);
  }
  const auto heads = static_cast<std::int64_t>(batch.heads.size());
  state.SetBytesProcessed(state.iterations() * heads * dense_bytes(context));
}

void batch_sparf(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const Batch& batch = batch_of(context, 1, KeyCopies::tokens_and_channels);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        cpu::attend_batch(batch.calls, one_eighth(context), static_cast<int>(state.range(1))));
  }
  const auto heads = static_cast<std::int64_t>(batch.heads.size());
  state.SetBytesProcessed(state.iterations() * heads * sparf_bytes(context));
  state.counters["tokens"] = static_cast<double>(heads * context);
}

/// Dense attention on the very cache of batch_sparf.
void batch_dense_beside_sparf(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const Batch& batch = batch_of(context, 1, KeyCopies::tokens_and_channels);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        cpu::attend_batch(batch.calls, DenseOptions{}, static_cast<int>(state.range(1))));
  }
  const auto heads = static_cast<std::int64_t>(batch.heads.size());
  state.SetBytesProcessed(state.iterations() * heads * dense_bytes(context));
}

/// One head in the processor's caches.
template <typename Method>
void one_head(benchmark::State& state, Method method_at) {
  const int context = static_cast<int>(state.range(0));
  static const KvPages pages = testing::random_cache({d_head, 4096, 8}, 8192, 1);
  const std::vector<float> query = testing::random_queries(1, d_head, 2);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cpu::attend(pages, {query, context}, method_at(context)));
  }
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

/// Context, threads, queries a KV head.
void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"context", "threads", "queries"})->UseRealTime()->Unit(benchmark::kMillisecond);
  const auto all = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  for (const std::int64_t threads : {std::int64_t{1}, all}) {
    bench->Args({8192, threads, 1});
    if (all == 1) break;
  }
}

}  // namespace

BENCHMARK(stream_read)->Apply(shapes);
BENCHMARK(batch_dense)->Apply(shapes)->Args({8192, 2, 4});
BENCHMARK(batch_dense_beside_sparf)->Apply(shapes);
BENCHMARK(batch_sparf)->Apply(shapes);
BENCHMARK_CAPTURE(one_head, dense, [](int) { return DenseOptions{}; })
    ->Arg(1024)
    ->Arg(8192)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(one_head, sparf, one_eighth)->Arg(1024)->Arg(8192)->Unit(benchmark::kMicrosecond);
BENCHMARK(append)
    ->Args({2048, 2})
    ->Args({2048, 8})
    ->ArgNames({"tokens", "channels_per_group"})
    ->Unit(benchmark::kMicrosecond);
