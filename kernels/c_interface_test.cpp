// The C interface gives what the C++ interface gives, and its errors say what is wrong.
#include "kernels/c_interface.h"

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

constexpr nearkv_cache_shape shape{
    .d_head = 16, .page_bytes = 128, .channels_per_group = 2, .channel_copy = 1};
constexpr int heads = 3;
constexpr int tokens = 40;

struct Free {
  void operator()(nearkv_cache* cache) const { nearkv_cache_free(cache); }
  void operator()(nearkv_h2o_history* history) const { nearkv_h2o_free(history); }
};
using Cache = std::unique_ptr<nearkv_cache, Free>;
using History = std::unique_ptr<nearkv_h2o_history, Free>;

struct Setting {
  std::int32_t nearkv_method::*option;
  std::int32_t value;
};

nearkv_method method_of(std::int32_t kind, std::initializer_list<Setting> settings = {}) {
  nearkv_method method{};
  method.kind = kind;
  for (const Setting& setting : settings)
    method.*setting.option = setting.value;
  return method;
}

struct ErrorBuffer {
  std::vector<char> bytes = std::vector<char>(200, '?');
  [[nodiscard]] std::string text() const { return bytes.data(); }
};

Cache new_cache(const nearkv_cache_shape& of = shape) {
  return Cache(nearkv_cache_create(&of, nullptr, 0));
}

/// Two caches of the same tokens each way, and queries for both.
struct Twins {
  nearkv::Rng stream = testing::test_stream(7);
  std::vector<float> k = testing::random_row(stream, 2 * tokens * shape.d_head);
  std::vector<float> v = testing::random_row(stream, 2 * tokens * shape.d_head);
  std::vector<float> queries = testing::random_queries(2 * heads, shape.d_head, 8);
  std::vector<KvPages> pages;
  std::vector<Cache> caches;

  Twins() {
    const std::size_t row = shape.d_head;
    for (std::size_t i = 0; i < 2; ++i) {
      pages.emplace_back(PageGeometry({shape.d_head, shape.page_bytes, shape.channels_per_group}));
      for (std::size_t token = i * tokens; token < (i + 1) * tokens; ++token) {
        pages.back().append(std::span(k).subspan(token * row, row),
                            std::span(v).subspan(token * row, row));
      }
      caches.push_back(new_cache());
    }
    REQUIRE(nearkv_caches_append(pointers().data(), 2, tokens, k.data(), v.data(), nullptr, 0) ==
            0);
  }

  [[nodiscard]] std::vector<nearkv_cache*> pointers() const {
    return {caches[0].get(), caches[1].get()};
  }
};

/// All results of one call; `attention` points into the vectors.
struct Call {
  std::vector<nearkv_cache*> caches;
  std::vector<std::int32_t> contexts{tokens, tokens / 2};
  std::vector<nearkv_h2o_history*> histories;
  std::vector<float> output = std::vector<float>(2 * heads * shape.d_head);
  std::vector<float> alpha = std::vector<float>(2 * heads);
  std::vector<float> max = alpha;
  std::vector<float> sum = alpha;
  std::vector<std::int32_t> kept = std::vector<std::int32_t>(2 * heads * tokens);
  std::vector<std::int32_t> counts = std::vector<std::int32_t>(2 * heads);
  nearkv_attention attention{};

  explicit Call(const Twins& twins) : caches(twins.pointers()) {
    attention = {.calls = 2,
                 .heads = heads,
                 .caches = caches.data(),
                 .contexts = contexts.data(),
                 .queries = twins.queries.data(),
                 .histories = nullptr,
                 .output = output.data(),
                 .alpha = alpha.data(),
                 .max = max.data(),
                 .sum = sum.data(),
                 .tokens = kept.data(),
                 .token_space = tokens,
                 .token_counts = counts.data()};
  }

  [[nodiscard]] std::string error_of(const nearkv_method& method, int threads = 1) const {
    ErrorBuffer error;
    const int status =
        nearkv_attend(&attention, &method, threads, error.bytes.data(), error.bytes.size());
    CHECK(status == -1);
    return error.text();
  }
};

void check_equal(const Call& call, const std::vector<AttentionResult>& expected) {
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t head = 0; head < heads; ++head) {
      const std::size_t place = i * heads + head;
      CAPTURE(place);
      for (std::size_t c = 0; c < shape.d_head; ++c) {
        CHECK(call.output[place * shape.d_head + c] == expected[i].output[head * shape.d_head + c]);
      }
      CHECK(call.alpha[place] == expected[i].alpha[head]);
      CHECK(call.max[place] == expected[i].states[head].max);
      CHECK(call.sum[place] == expected[i].states[head].sum);
      std::vector<std::int32_t> row = expected[i].heads[head].tokens;
      CHECK(call.counts[place] == static_cast<int>(row.size()));
      row.resize(tokens, -1);
      CHECK(std::vector(call.kept.begin() + place * tokens,
                        call.kept.begin() + (place + 1) * tokens) == row);
    }
  }
}

}  // namespace

TEST_CASE("C interface: every method gives the bits of the C++ interface") {
  const Twins twins;
  struct Case {
    nearkv_method given;
    Method method;
  };
  const std::vector<Case> cases{
      {method_of(NEARKV_DENSE), DenseOptions{}},
      {method_of(NEARKV_DENSE, {{&nearkv_method::first_token, 5}}), DenseOptions{5}},
      {method_of(
           NEARKV_SPARQ,
           {{&nearkv_method::r, 4}, {&nearkv_method::k, 8}, {&nearkv_method::local_window, 2}}),
       SparqOptions{{4, 8, 2}}},
      {method_of(
           NEARKV_SPARF,
           {{&nearkv_method::r, 4}, {&nearkv_method::k, 8}, {&nearkv_method::local_window, 2}}),
       SparfOptions{{4, 8, 2}}},
      {method_of(NEARKV_STREAMING, {{&nearkv_method::sinks, 4}, {&nearkv_method::window, 6}}),
       StreamingOptions{4, 6}},
      {method_of(NEARKV_WINDOW, {{&nearkv_method::window, 9}}), WindowOptions{9}},
  };
  for (const Case& each : cases) {
    CAPTURE(name_of(each.method));
    for (const int threads : {1, 2}) {
      Call call(twins);
      REQUIRE(nearkv_attend(&call.attention, &each.given, threads, nullptr, 0) == 0);
      std::vector<AttentionResult> expected;
      for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t values = heads * shape.d_head;
        expected.push_back(
            cpu::attend(twins.pages[i],
                        {.queries = std::span(twins.queries).subspan(i * values, values),
                         .context = call.contexts[i],
                         .want_selection = true},
                        each.method));
      }
      check_equal(call, expected);
    }
  }
}

TEST_CASE("C interface: H2O steps its histories") {
  const Twins twins;
  const H2oOptions options{3, 4};
  const std::vector<float> mass = [] {
    nearkv::Rng stream = testing::test_stream(9);
    std::vector<float> values = testing::random_row(stream, tokens - 2);
    for (float& value : values)
      value *= value;
    return values;
  }();
  Call call(twins);
  std::vector<History> histories;
  std::vector<H2oHistory> expected_histories(2, H2oHistory(options, mass));
  for (int i = 0; i < 2; ++i) {
    histories.emplace_back(nearkv_h2o_create(options.heavy, options.recent, mass.data(),
                                             static_cast<int>(mass.size()), nullptr, 0));
    call.histories.push_back(histories.back().get());
  }
  call.attention.histories = call.histories.data();
  const nearkv_method method =
      method_of(NEARKV_H2O, {{&nearkv_method::heavy, 3}, {&nearkv_method::recent, 4}});
  for (const int context : {tokens - 1, tokens}) {
    call.contexts.assign(2, context);
    REQUIRE(nearkv_attend(&call.attention, &method, 2, nullptr, 0) == 0);
    std::vector<AttentionResult> expected;
    for (std::size_t i = 0; i < 2; ++i) {
      const std::size_t values = heads * shape.d_head;
      expected.push_back(
          cpu::attend(twins.pages[i],
                      {.queries = std::span(twins.queries).subspan(i * values, values),
                       .context = context,
                       .want_selection = true,
                       .history = &expected_histories[i]},
                      options));
    }
    check_equal(call, expected);
  }

  call.histories[1] = call.histories[0];
  CHECK(call.error_of(method) == "histories[1] is also histories[0]; each call steps its own");
}

TEST_CASE("C interface: a clone grows on its own") {
  const Twins twins;
  const Cache copy(nearkv_cache_clone(twins.caches[0].get(), nullptr, 0));
  CHECK(nearkv_cache_tokens(copy.get()) == tokens);
  nearkv_cache* const pointer = copy.get();
  REQUIRE(nearkv_caches_append(&pointer, 1, 2, twins.k.data(), twins.v.data(), nullptr, 0) == 0);
  CHECK(nearkv_cache_tokens(copy.get()) == tokens + 2);
  CHECK(nearkv_cache_tokens(twins.caches[0].get()) == tokens);

  // Without contexts a call sees all appended tokens; results that are not wanted are null.
  Call call(twins);
  call.caches[1] = pointer;
  call.attention.contexts = nullptr;
  call.attention.alpha = call.attention.max = call.attention.sum = nullptr;
  call.attention.tokens = nullptr;
  const nearkv_method dense = method_of(NEARKV_DENSE);
  REQUIRE(nearkv_attend(&call.attention, &dense, 1, nullptr, 0) == 0);
  CHECK(call.counts.front() == tokens);
  CHECK(call.counts.back() == tokens + 2);
}

TEST_CASE("C interface: errors say what is wrong and what would be right") {
  const Twins twins;
  const nearkv_method dense = method_of(NEARKV_DENSE);
  CHECK(Call(twins).error_of(method_of(9)) == "method: kind is 9; must be 0 (dense) to 5 (window)");
  CHECK(Call(twins).error_of(
            method_of(NEARKV_WINDOW, {{&nearkv_method::k, 8}, {&nearkv_method::window, 8}})) ==
        "method: k is 8; must be 0 for kind 5, which has no such option");
  CHECK(Call(twins).error_of(
            method_of(NEARKV_SPARQ, {{&nearkv_method::r, 17}, {&nearkv_method::k, 8}})) ==
        "sparq: r is 17; must be 1 to d_head, which is 16");
  CHECK(Call(twins).error_of(dense, 0) == "threads is 0; must be at least 1");

  Call call(twins);
  call.attention.token_space = tokens - 1;
  CHECK(call.error_of(dense) ==
        "token_space is 39; must be at least the longest context, which is 40");
  call.caches[1] = nullptr;
  CHECK(call.error_of(dense) == "caches[1] is null");
  call.attention.calls = 0;
  CHECK(call.error_of(dense) == "calls is 0; must be at least 1");

  call = Call(twins);
  call.attention.caches = call.caches.data();
  CHECK(call.error_of(method_of(NEARKV_H2O, {{&nearkv_method::recent, 1}})) == "histories is null");
  call.attention.histories = call.histories.data();
  call.histories.assign(2, nullptr);
  call.attention.histories = call.histories.data();
  CHECK(call.error_of(dense) == "histories must be null for all methods but H2O");
}

TEST_CASE("C interface: errors of caches and histories") {
  ErrorBuffer error;
  nearkv_cache_shape wrong = shape;
  wrong.channel_copy = 2;
  CHECK(nearkv_cache_create(&wrong, error.bytes.data(), error.bytes.size()) == nullptr);
  CHECK(error.text() == "channel_copy is 2; must be 0 or 1");
  // Cut where the buffer ends.
  std::vector<char> cut(8, '?');
  CHECK(nearkv_cache_create(&wrong, cut.data(), cut.size()) == nullptr);
  CHECK(std::string(cut.data()) == "channel");

  const Twins twins;
  std::vector<float> values(2 * shape.d_head, 1.0F);
  values[shape.d_head + 3] = 1e6F;
  CHECK(nearkv_caches_append(twins.pointers().data(), 2, 1, values.data(), values.data(),
                             error.bytes.data(), error.bytes.size()) == -1);
  CHECK(error.text() ==
        "caches[1]: KvPages: token 40, channel 3: K is 1000000.000000; must be finite and below "
        "65520 to be stored in FP16");
  CHECK(nearkv_cache_tokens(twins.caches[0].get()) == tokens + 1);
  CHECK(nearkv_cache_tokens(twins.caches[1].get()) == tokens);

  CHECK(nearkv_h2o_create(1, 0, nullptr, 0, error.bytes.data(), error.bytes.size()) == nullptr);
  CHECK(error.text() == "h2o: recent is 0; must be at least 1");
  CHECK(nearkv_h2o_create(1, 1, nullptr, 5, error.bytes.data(), error.bytes.size()) == nullptr);
  CHECK(error.text() == "mass is null");
}
