#include "kernels/cuda/decode_attention.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/cuda/test_device_cache.hpp"

using namespace nearkv::kernels;
using testing::DeviceArray;
using testing::DeviceBatch;

namespace {

bool there_is_no_device() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) {
    return false;
  }
  MESSAGE("no CUDA device: not run");
  return true;
}

struct Case {
  PageGeometrySpec geometry;
  std::vector<int> contexts;
  int kv_heads;
  int queries;

  [[nodiscard]] cuda::BatchShape shape() const {
    return {.sequences = static_cast<int>(contexts.size()),
            .kv_heads = kv_heads,
            .queries_per_kv_head = queries,
            .longest_context = *std::max_element(contexts.begin(), contexts.end())};
  }
  [[nodiscard]] std::vector<KvPages> caches() const {
    std::vector<KvPages> caches;
    unsigned seed = 100;
    for (const int context : contexts) {
      for (int head = 0; head < kv_heads; ++head) {
        caches.push_back(testing::random_cache(geometry, context, seed++));
      }
    }
    return caches;
  }
};

const std::vector<Case> kCases{
    {{128, 4096, 4}, {1}, 1, 1},
    {{128, 4096, 4}, {3000}, 2, 1},
    {{128, 4096, 8}, {17, 16, 1500, 255}, 3, 1},
    {{128, 16384, 2}, {100, 2047}, 1, 4},
    {{64, 4096, 4}, {1, 33, 2048}, 3, 3},
    {{64, 4096, 2}, {999}, 1, 8},
    {{64, 16384, 8}, {5000, 129}, 2, 5},
    {{80, 4096, 8}, {25, 26, 1, 1000}, 2, 1},
    {{80, 4096, 4}, {777}, 2, 2},
    {{80, 16384, 8}, {103, 3001}, 1, 7},
};

std::span<const float> query_of(const DeviceBatch& batch, std::size_t head, int d_head) {
  const auto d = static_cast<std::size_t>(d_head);
  return std::span(batch.queries).subspan(head * d, d);
}

/// Largest difference, by the largest value of the row.
double difference(std::span<const float> values, const std::vector<float>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max<double>(largest, std::fabs(values[i] - expected[i]));
  }
  return largest;
}

}  // namespace

TEST_CASE("cuda attention: dense equals the reference, batch of ragged contexts, MHA and GQA") {
  if (there_is_no_device()) {
    return;
  }
  for (const Case& c : kCases) {
    CAPTURE(c.geometry.d_head);
    CAPTURE(c.queries);
    const std::vector<KvPages> caches = c.caches();
    const DeviceBatch batch(caches, c.contexts, c.shape());
    cuda::DecodeAttention attention(PageGeometry(c.geometry), c.shape());
    attention.dense(c.shape(), batch.tensors(), nullptr);
    testing::cuda_check(cudaDeviceSynchronize());
    const std::vector<float> output = batch.output();
    const std::vector<float> max = batch.max();
    const std::vector<float> sum = batch.sum();
    const auto d = static_cast<std::size_t>(c.geometry.d_head);
    for (std::size_t head = 0; head < c.shape().query_heads(); ++head) {
      const std::size_t kv = head / static_cast<std::size_t>(c.queries);
      const int context = c.contexts[kv / static_cast<std::size_t>(c.kv_heads)];
      const AttentionResult exact = reference::dense_attention(
          caches[kv], {query_of(batch, head, c.geometry.d_head), context}, {});
      CAPTURE(head);
      CAPTURE(context);
      // A sum of `context` products of floats: the plain kernel's own error is of this size.
      REQUIRE(difference(std::span(output).subspan(head * d, d), exact.output) < 3e-6);
      REQUIRE(max[head] == doctest::Approx(exact.states[0].max).epsilon(1e-5));
      REQUIRE(sum[head] == doctest::Approx(exact.states[0].sum).epsilon(1e-4));
    }
  }
}

TEST_CASE("cuda attention: SparF selects the tokens of the CPU to the bit") {
  if (there_is_no_device()) {
    return;
  }
  for (const Case& c : kCases) {
    const std::vector<KvPages> caches = c.caches();
    const DeviceBatch batch(caches, c.contexts, c.shape());
    cuda::DecodeAttention attention(PageGeometry(c.geometry), c.shape());
    for (const SparfOptions options :
         {SparfOptions{16, 64, 8}, SparfOptions{1, 1, 0}, SparfOptions{c.geometry.d_head, 300, 300},
          SparfOptions{8, 100'000, 10}}) {
      const auto stride = static_cast<std::size_t>(std::min(options.k, c.shape().longest_context));
      DeviceArray<std::int32_t> selected(
          std::vector<std::int32_t>(c.shape().query_heads() * stride, -1));
      attention.sparf(c.shape(), batch.tensors(), options, selected.data(), nullptr);
      testing::cuda_check(cudaDeviceSynchronize());
      const std::vector<float> output = batch.output();
      const std::vector<std::int32_t> tokens = selected.values();
      const auto d = static_cast<std::size_t>(c.geometry.d_head);
      for (std::size_t head = 0; head < c.shape().query_heads(); ++head) {
        const std::size_t kv = head / static_cast<std::size_t>(c.queries);
        const int context = c.contexts[kv / static_cast<std::size_t>(c.kv_heads)];
        const AttentionRequest request{query_of(batch, head, c.geometry.d_head), context, true};
        if (options.local_window > context) {
          continue;
        }
        const AttentionResult expected = cpu::sparf_attention(caches[kv], request, options);
        CAPTURE(c.geometry.d_head);
        CAPTURE(context);
        CAPTURE(head);
        CAPTURE(options.k);
        const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(head * stride);
        const std::vector<int>& wanted = expected.heads[0].tokens;
        REQUIRE(std::equal(wanted.begin(), wanted.end(), first));
        REQUIRE(difference(std::span(output).subspan(head * d, d), expected.output) < 5e-6);
      }
    }
  }
}

TEST_CASE("cuda attention: a context whose scores exceed shared memory, and ties") {
  if (there_is_no_device()) {
    return;
  }
  const PageGeometrySpec geometry{64, 4096, 4};
  const int context = 70'000;
  KvPages pages{PageGeometry(geometry)};
  nearkv::Rng stream = testing::test_stream(5);
  std::vector<float> row(64);
  for (int token = 0; token < context; ++token) {  // few different values: many equal scores
    for (float& x : row) {
      x = static_cast<float>(stream.below(2));
    }
    pages.append(row, row);
  }
  const std::vector<KvPages> caches{pages};
  const cuda::BatchShape shape{1, 1, 1, context};
  const DeviceBatch batch(caches, {context}, shape);
  cuda::DecodeAttention attention(PageGeometry(geometry), shape);
  const SparfOptions options{4, 5000, 16};
  DeviceArray<std::int32_t> selected(std::vector<std::int32_t>(5000, -1));
  attention.sparf(shape, batch.tensors(), options, selected.data(), nullptr);
  testing::cuda_check(cudaDeviceSynchronize());
  const AttentionResult expected =
      cpu::sparf_attention(pages, {batch.queries, context, true}, options);
  const std::vector<std::int32_t> tokens = selected.values();
  CHECK(std::equal(tokens.begin(), tokens.end(), expected.heads[0].tokens.begin()));
}

TEST_CASE("cuda attention: a captured graph gives the same bytes again and again") {
  if (there_is_no_device()) {
    return;
  }
  const Case c{{128, 4096, 4}, {3000, 70, 1400}, 2, 1};
  const std::vector<KvPages> caches = c.caches();
  const DeviceBatch batch(caches, c.contexts, c.shape());
  cuda::DecodeAttention attention(PageGeometry(c.geometry), c.shape());
  cudaStream_t stream = nullptr;
  testing::cuda_check(cudaStreamCreate(&stream));
  for (const bool sparse : {false, true}) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t launch = nullptr;
    testing::cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    if (sparse) {
      attention.sparf(c.shape(), batch.tensors(), {16, 64, 4}, nullptr, stream);
    } else {
      attention.dense(c.shape(), batch.tensors(), stream);
    }
    testing::cuda_check(cudaStreamEndCapture(stream, &graph));
    testing::cuda_check(cudaGraphInstantiate(&launch, graph, 0));
    std::vector<float> first;
    for (int run = 0; run < 20; ++run) {
      testing::cuda_check(cudaGraphLaunch(launch, stream));
      testing::cuda_check(cudaStreamSynchronize(stream));
      const std::vector<float> output = batch.output();
      if (run == 0) {
        first = output;
      }
      REQUIRE(output == first);
    }
    cudaGraphExecDestroy(launch);
    cudaGraphDestroy(graph);
  }
  cudaStreamDestroy(stream);
}

TEST_CASE("cuda attention: arguments that make no sense are refused") {
  if (there_is_no_device()) {
    return;
  }
  const Case c{{128, 4096, 4}, {100}, 1, 1};
  const DeviceBatch batch(c.caches(), c.contexts, c.shape());
  cuda::DecodeAttention attention(PageGeometry(c.geometry), c.shape());
  const auto refuses = [&](const SparfOptions& options) {
    CHECK_THROWS_AS(attention.sparf(c.shape(), batch.tensors(), options, nullptr, nullptr),
                    std::invalid_argument);
  };
  refuses({0, 10, 0});
  refuses({129, 10, 0});
  refuses({16, 0, 0});
  refuses({16, 10, 11});
  cuda::BatchShape larger = c.shape();
  larger.longest_context = 101;
  CHECK_THROWS_AS(attention.dense(larger, batch.tensors(), nullptr), std::invalid_argument);
  CHECK_THROWS_AS(cuda::DecodeAttention(PageGeometry({96, 4096, 4}), c.shape()),
                  std::invalid_argument);
}
