#include "kernels/cuda/decode_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/check_finite.hpp"
#include "kernels/cuda/test_accuracy.hpp"
#include "kernels/cuda/test_device_cache.hpp"

using namespace nearkv::kernels;
using testing::DeviceArray;
using testing::DeviceBatch;

namespace {

bool there_is_no_device() {
  if (cuda::is_available()) {
    return false;
  }
  MESSAGE("no CUDA device: not run");
  return true;
}

void synchronize() { cuda::require(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

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

/// Largest difference, and none of a value that is not finite.
double difference(std::span<const float> values, const std::vector<float>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double here = std::fabs(static_cast<double>(values[i]) - expected[i]);
    largest = here <= largest ? largest : here;  // NaN stays
  }
  return largest;
}

/// The query heads of a batch: their cache, context and query.
struct Head {
  std::size_t index;
  std::size_t kv;
  int context;
  std::span<const float> query;
};
template <typename Body>
void for_each_head(const Case& c, const DeviceBatch& batch, Body body) {
  for (std::size_t head = 0; head < c.shape().query_heads(); ++head) {
    const std::size_t kv = head / static_cast<std::size_t>(c.queries);
    const int context = c.contexts[kv / static_cast<std::size_t>(c.kv_heads)];
    CAPTURE(c.geometry.d_head);
    CAPTURE(head);
    CAPTURE(context);
    body(Head{head, kv, context, query_of(batch, head, c.geometry.d_head)});
  }
}

}  // namespace

TEST_CASE("cuda attention: dense is as exact as a plain FP32 kernel, ragged batches, MHA and GQA") {
  if (there_is_no_device()) {
    return;
  }
  for (const Case& c : kCases) {
    const std::vector<KvPages> caches = c.caches();
    const DeviceBatch batch(caches, c.contexts, c.shape());
    cuda::DecodeAttention attention(PageGeometry(c.geometry), c.shape());
    attention.attend(c.shape(), batch.tensors(), DenseOptions{}, nullptr);
    synchronize();
    const std::vector<float> output = batch.output();
    testing::Errors errors;
    for_each_head(c, batch, [&](const Head& head) {
      const auto d = static_cast<std::size_t>(c.geometry.d_head);
      errors.add(std::span(output).subspan(head.index * d, d), caches[head.kv], head.query,
                 head.context);
      const AttentionResult exact =
          reference::attend(caches[head.kv], {head.query, head.context}, DenseOptions{});
      const AttentionState state = batch.state(head.index);
      REQUIRE(state.max == doctest::Approx(exact.states[0].max).epsilon(1e-6));
      REQUIRE(state.sum == doctest::Approx(exact.states[0].sum).epsilon(1e-5));
      REQUIRE(difference(finish(state), exact.output) < 3e-6);
    });
    CAPTURE(c.geometry.d_head);
    CAPTURE(c.queries);
    MESSAGE("error ", errors.relative(), ", of the plain kernel ", errors.relative_plain());
    CHECK(errors.are_small());
  }
}

TEST_CASE("cuda attention: tiny, large and not FP16-valued queries are as exact") {
  if (there_is_no_device()) {
    return;
  }
  unsigned seed = 500;
  for (const float size : {1.0F, 1e-4F, 20.0F}) {
    for (const int heads : {1, 3}) {  // both kernels
      CAPTURE(size);
      CAPTURE(heads);
      const KvPages pages = testing::random_cache({128, 4096, 4}, 1500, ++seed);
      nearkv::Rng stream = testing::test_stream(++seed);
      std::vector<float> queries = testing::random_row(stream, 128 * heads);
      for (float& x : queries) {
        x *= size;
      }
      const AttentionResult result = cuda::attend(pages, {queries, 1500}, DenseOptions{});
      testing::Errors errors;
      for (std::size_t head = 0; head < result.alpha.size(); ++head) {
        errors.add(std::span(result.output).subspan(head * 128, 128), pages,
                   std::span(queries).subspan(head * 128, 128), 1500);
      }
      CAPTURE(errors.relative());
      CAPTURE(errors.relative_plain());
      CHECK(errors.are_small());
    }
  }
}

TEST_CASE("cuda attention: SparQ and SparF select channels and tokens of the CPU to the bit") {
  if (there_is_no_device()) {
    return;
  }
  for (const Case& c : kCases) {
    const std::vector<KvPages> caches = c.caches();
    const DeviceBatch batch(caches, c.contexts, c.shape());
    cuda::DecodeAttention attention(PageGeometry(c.geometry), c.shape());
    for (const SelectOptions options : {SelectOptions{16, 64, 8}, SelectOptions{1, 1, 0},
                                        SelectOptions{c.geometry.d_head, 300, 300},
                                        SelectOptions{8, 100'000, 10}, SelectOptions{40, 50, 0}}) {
      const auto stride = static_cast<std::size_t>(std::min(options.k, c.shape().longest_context));
      DeviceArray<std::int32_t> selected(
          std::vector<std::int32_t>(c.shape().query_heads() * stride, -1));
      cuda::BatchTensors tensors = batch.tensors();
      tensors.tokens = selected.data();
      const Method method =
          options.k == 64 ? Method{SparqOptions{options}} : Method{SparfOptions{options}};
      attention.attend(c.shape(), tensors, method, nullptr);
      synchronize();
      const std::vector<float> output = batch.output();
      const std::vector<float> alpha = batch.alpha();
      const std::vector<std::int32_t> tokens = selected.values();
      const std::vector<std::int32_t> channels = batch.channels();
      const auto d = static_cast<std::size_t>(c.geometry.d_head);
      for_each_head(c, batch, [&](const Head& head) {
        if (options.local_window > head.context) {
          return;
        }
        CAPTURE(options.k);
        const AttentionResult expected =
            cpu::attend(caches[head.kv], {head.query, head.context, true}, method);
        const auto at = [](const auto& values, std::size_t place) {
          return values.begin() + static_cast<std::ptrdiff_t>(place);
        };
        const HeadSelection& wanted = expected.heads[0];
        REQUIRE(std::equal(wanted.tokens.begin(), wanted.tokens.end(),
                           at(tokens, head.index * stride)));
        REQUIRE(std::equal(wanted.channels.begin(), wanted.channels.end(),
                           at(channels, head.index * d)));
        REQUIRE(alpha[head.index] == doctest::Approx(expected.alpha[0]).epsilon(1e-5));
        REQUIRE(difference(std::span(output).subspan(head.index * d, d), expected.output) < 5e-6);
        REQUIRE(difference(finish(batch.state(head.index)), finish(expected.states[0])) < 5e-6);
      });
    }
  }
}

TEST_CASE("cuda attention: windows, sinks and a first token on ragged batches") {
  if (there_is_no_device()) {
    return;
  }
  for (const Case& c : kCases) {
    const std::vector<KvPages> caches = c.caches();
    const DeviceBatch batch(caches, c.contexts, c.shape());
    cuda::DecodeAttention attention(PageGeometry(c.geometry), c.shape());
    for (const Method& method :
         {Method{StreamingOptions{4, 60}}, Method{WindowOptions{1}}, Method{WindowOptions{1000}},
          Method{StreamingOptions{2'000'000'000, 2'000'000'000}}, Method{DenseOptions{20}}}) {
      const int least = *std::min_element(c.contexts.begin(), c.contexts.end());
      if (std::holds_alternative<DenseOptions>(method) && least <= 20) {
        continue;
      }
      attention.attend(c.shape(), batch.tensors(), method, nullptr);
      synchronize();
      const std::vector<float> output = batch.output();
      for_each_head(c, batch, [&](const Head& head) {
        CAPTURE(name_of(method));
        const auto d = static_cast<std::size_t>(c.geometry.d_head);
        const AttentionResult exact =
            reference::attend(caches[head.kv], {head.query, head.context}, method);
        REQUIRE(difference(std::span(output).subspan(head.index * d, d), exact.output) < 3e-6);
        REQUIRE(batch.state(head.index).sum == doctest::Approx(exact.states[0].sum).epsilon(1e-5));
      });
    }
  }
}

TEST_CASE("cuda attention: H2O on the device keeps what H2oHistory keeps, step after step") {
  if (there_is_no_device()) {
    return;
  }
  constexpr int prompt = 90;
  constexpr int steps = 40;
  const H2oOptions options{300, 20};  // more than 256: several rounds of the eviction
  const int stride = options.heavy + options.recent + 1;
  constexpr int longest = prompt + steps + 400;
  for (const int d : {64, 128}) {
    const KvPages pages = testing::random_cache({d, 4096, 4}, longest, 41);
    const std::vector<float> mass(longest - steps, 0.5F);
    H2oHistory history(options, mass);
    const std::vector<int> kept(history.tokens().begin(), history.tokens().end());
    std::vector<std::int32_t> tokens(kept.begin(), kept.end());
    std::vector<float> masses(history.mass().begin(), history.mass().end());
    tokens.resize(static_cast<std::size_t>(stride));
    masses.resize(static_cast<std::size_t>(stride));
    const DeviceArray<std::int32_t> device_tokens(tokens);
    const DeviceArray<float> device_mass(masses);
    const DeviceArray<std::int32_t> counts({static_cast<std::int32_t>(kept.size())});
    for (int context = longest - steps + 1; context <= longest; ++context) {
      CAPTURE(context);
      const cuda::BatchShape shape{1, 1, 3, context};
      const DeviceBatch batch({pages}, {context}, shape);
      cuda::DecodeAttention attention(PageGeometry({d, 4096, 4}), shape,
                                      {.selects = false, .most_kept = stride, .channels = 0});
      cuda::BatchTensors tensors = batch.tensors();
      tensors.h2o = {.tokens = device_tokens.data(),
                     .mass = device_mass.data(),
                     .counts = counts.data(),
                     .received = nullptr,
                     .stride = stride};
      attention.attend(shape, tensors, options, nullptr);
      synchronize();
      const AttentionResult expected =
          cpu::attend(pages, {batch.queries, context, false, &history}, options);
      REQUIRE(difference(batch.output(), expected.output) < 3e-6);
      REQUIRE(counts.values()[0] == static_cast<int>(history.tokens().size()));
      const std::vector<std::int32_t> now = device_tokens.values();
      REQUIRE(std::equal(history.tokens().begin(), history.tokens().end(), now.begin()));
      const std::vector<float> sums = device_mass.values();
      for (std::size_t i = 0; i < history.mass().size(); ++i) {
        REQUIRE(sums[i] == doctest::Approx(history.mass()[i]).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("cuda attention: contexts whose scores exceed shared memory, and ties") {
  if (there_is_no_device()) {
    return;
  }
  const PageGeometrySpec geometry{64, 4096, 4};
  for (const int context : {70'000, 600'000}) {
    KvPages pages{PageGeometry(geometry)};
    pages.reserve(context);
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
    const SparfOptions options{{4, 5000, 16}};
    DeviceArray<std::int32_t> selected(std::vector<std::int32_t>(5000, -1));
    cuda::BatchTensors tensors = batch.tensors();
    tensors.tokens = selected.data();
    attention.attend(shape, tensors, options, nullptr);
    synchronize();
    const SelectionResult expected = cpu::select(pages, {batch.queries, context, true}, options);
    const std::vector<std::int32_t> tokens = selected.values();
    CAPTURE(context);
    CHECK(std::equal(tokens.begin(), tokens.end(), expected.heads[0].tokens.begin()));
  }
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
  cuda::require(cudaStreamCreate(&stream), "cudaStreamCreate");
  for (const bool sparse : {false, true}) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t launch = nullptr;
    cuda::require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal),
                  "cudaStreamBeginCapture");
    const Method method = sparse ? Method{SparfOptions{{16, 64, 4}}} : Method{DenseOptions{}};
    attention.attend(c.shape(), batch.tensors(), method, stream);
    cuda::require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    cuda::require(cudaGraphInstantiate(&launch, graph, 0), "cudaGraphInstantiate");
    std::vector<float> first;
    for (int run = 0; run < 20; ++run) {
      cuda::require(cudaGraphLaunch(launch, stream), "cudaGraphLaunch");
      cuda::require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
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
  const auto refusal = [&](const Method& method) {
    try {
      attention.attend(c.shape(), batch.tensors(), method, nullptr);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refusal(SparfOptions{{0, 10, 0}}) == "r: must be in 1 .. 128, is 0");
  CHECK(refusal(SparqOptions{{129, 10, 0}}) == "r: must be in 1 .. 128, is 129");
  CHECK(refusal(SparfOptions{{16, 0, 0}}) == "k: must be in 1 .. 2147483647, is 0");
  CHECK(refusal(SparfOptions{{16, 10, 11}}) == "local_window: must be in 0 .. 10, is 11");
  CHECK(refusal(WindowOptions{0}) == "window: must be in 1 .. 2147483647, is 0");
  CHECK(refusal(StreamingOptions{-1, 1}) == "sinks: must be in 0 .. 2147483647, is -1");
  CHECK(refusal(DenseOptions{100}) == "first_token: must be in 0 .. 99, is 100");
  CHECK(refusal(H2oOptions{4, 4}) == "tensors: H2O needs tokens, mass and counts");
  cuda::BatchShape larger = c.shape();
  larger.longest_context = 101;
  CHECK_THROWS_AS(attention.attend(larger, batch.tensors(), DenseOptions{}, nullptr),
                  std::invalid_argument);
  CHECK_THROWS_AS(cuda::DecodeAttention(PageGeometry({96, 4096, 4}), c.shape()),
                  std::invalid_argument);
}

TEST_CASE("cuda attention: values that are not finite are found by name") {
  if (there_is_no_device()) {
    return;
  }
  const Case c{{128, 4096, 4}, {100, 70}, 2, 3};
  const DeviceBatch batch(c.caches(), c.contexts, c.shape());
  const PageGeometry geometry(c.geometry);
  const auto found = [&](const cuda::BatchTensors& tensors) {
    try {
      cuda::check_finite(geometry, c.shape(), tensors, nullptr);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  CHECK(found(batch.tensors()) == "nothing");

  std::vector<float> queries = batch.queries;
  queries[(6 + 4) * 128 + 7] = std::numeric_limits<float>::quiet_NaN();
  queries[(6 + 5) * 128 + 7] = std::numeric_limits<float>::infinity();
  const DeviceArray<float> bad_queries(queries);
  cuda::BatchTensors tensors = batch.tensors();
  tensors.queries = bad_queries.data();
  CHECK(found(tensors) ==
        "queries: sequence 1, query head 4, channel 7 is not finite; must be a finite FP16 value");

  // Both in one page of a pool: token 35 of the second sequence's first head, row 3 of group 2.
  const std::vector<std::int32_t> table = batch.token_table();
  const std::size_t groups = table.size() / 4;
  const std::size_t at = static_cast<std::size_t>(table[2 * groups + 2]) * 2048 + 3 * 128 + 9;
  std::vector<std::uint16_t> pool = batch.k_pool();
  pool[at] = 0xfc00;  // minus infinity
  const DeviceArray<std::uint16_t> bad_k(pool);
  pool = batch.v_pool();
  pool[at] = 0x7e01;  // NaN
  const DeviceArray<std::uint16_t> bad_v(pool);
  tensors = batch.tensors();
  tensors.kv.v_pages = bad_v.data();
  CHECK(found(tensors) ==
        "V: sequence 1, KV head 0, token 35, channel 9 is not finite; must be a finite FP16 value");
  tensors.kv.k_pages = bad_k.data();
  CHECK(found(tensors) ==
        "K: sequence 1, KV head 0, token 35, channel 9 is not finite; must be a finite FP16 value");

  const DeviceArray<std::int32_t> contexts({100, 101});
  tensors.contexts = contexts.data();
  CHECK(found(tensors) == "contexts: that of sequence 1 must be 1 to 100");
}
