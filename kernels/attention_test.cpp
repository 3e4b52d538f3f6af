// What every implementation of decode attention must do: one test body, run for each of them.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#ifdef NEARKV_CUDA
#include "kernels/cuda/attend.hpp"
#endif
#include "kernels/half.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

struct Implementation {
  const char* name;
  AttentionResult (*attend)(const KvPages&, const AttentionRequest&, const Method&);

  [[nodiscard]] AttentionResult dense(const KvPages& pages, const AttentionRequest& request,
                                      const DenseOptions& options) const {
    return attend(pages, request, options);
  }
  [[nodiscard]] AttentionResult sparf(const KvPages& pages, const AttentionRequest& request,
                                      const SparfOptions& options) const {
    return attend(pages, request, options);
  }
};

const std::vector<Implementation> implementations{
    {"reference", reference::attend},
    {"cpu", cpu::attend},
};

template <typename Body>
void for_each_implementation(Body body) {
  for (const Implementation& implementation : implementations) {
    CAPTURE(implementation.name);
    body(implementation);
  }
#ifdef NEARKV_CUDA
  if (cuda::is_available()) {
    const Implementation implementation{"cuda", cuda::attend};
    CAPTURE(implementation.name);
    body(implementation);
  }
#endif
}

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  float largest = 0.0F;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::fabs(a[i] - b[i]));
  return largest;
}

std::vector<std::uint32_t> sorted(const std::set<int>& values) {
  return {values.begin(), values.end()};
}

/// The pages of a selection, element by element: where does the layout put K[token, channel]?
TouchedPages brute_force(const PageGeometry& g, int context,
                         const std::vector<HeadSelection>& heads) {
  TouchedPages pages;
  pages.context = context;
  const int chunks = context / (g.page_bytes() / 2 / g.channels_per_group());
  std::set<int> channel_k;
  std::set<int> channels;
  std::set<int> tokens;
  std::set<int> token_kv;
  std::set<int> waiting_groups;
  std::set<int> waiting_tokens;
  for (const HeadSelection& head : heads) {
    channels.insert(head.channels.begin(), head.channels.end());
    tokens.insert(head.tokens.begin(), head.tokens.end());
    for (const int channel : head.channels) {
      for (int token = 0; token < context; ++token) {
        const int chunk = token / (g.page_bytes() / 2 / g.channels_per_group());
        const int group = channel / g.channels_per_group();
        const int page = chunk * (g.d_head() / g.channels_per_group()) + group;
        chunk < chunks ? channel_k.insert(page) : waiting_groups.insert(group);
      }
    }
    for (const int token : head.tokens) {
      const int per_page = g.page_bytes() / (2 * g.d_head());
      const bool flushed = token / per_page < context / per_page;
      flushed ? token_kv.insert(token / per_page) : waiting_tokens.insert(token);
    }
  }
  pages.channel_k = sorted(channel_k);
  pages.token_k = sorted(token_kv);
  pages.token_v = pages.token_k;
  pages.buffered_channel_groups = static_cast<int>(waiting_groups.size());
  pages.buffered_tokens = static_cast<int>(waiting_tokens.size());
  pages.distinct_channels = static_cast<int>(channels.size());
  pages.distinct_tokens = static_cast<int>(tokens.size());
  return pages;
}

/// K and V rows of integers, exact in FP16.
KvPages integer_cache(const std::vector<std::vector<float>>& k,
                      const std::vector<std::vector<float>>& v) {
  const int d_head = static_cast<int>(k.front().size());
  KvPages pages(
      PageGeometry({.d_head = d_head, .page_bytes = 4 * d_head, .channels_per_group = 2}));
  for (std::size_t token = 0; token < k.size(); ++token)
    pages.append(k[token], v[token]);
  return pages;
}

}  // namespace

TEST_CASE("attention: dense on paper, two tokens") {
  // d_head 4, q = (2, 0, 0, 0): logits 2 k_0 / sqrt(4) = k_0, that is 0 and 2.
  const KvPages pages = integer_cache({{0, 1, 1, 1}, {2, 1, 1, 1}}, {{1, 0, 0, 0}, {0, 1, 0, 8}});
  const std::vector<float> query{2, 0, 0, 0};
  const double weight = std::exp(2.0) / (1.0 + std::exp(2.0));
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionResult result = implementation.dense(pages, {query, 2}, {});
    CHECK(result.output[0] == doctest::Approx(1.0 - weight).epsilon(1e-6));
    CHECK(result.output[1] == doctest::Approx(weight).epsilon(1e-6));
    CHECK(result.output[3] == doctest::Approx(8.0 * weight).epsilon(1e-6));
    CHECK(result.states[0].max == 2.0F);
    CHECK(result.states[0].sum == doctest::Approx(1.0 + std::exp(-2.0)).epsilon(1e-6));
    CHECK(result.alpha == std::vector<float>{1.0F});
    // Two tokens fill one token page and one channel page of 4 tokens is not full.
    CHECK(result.touched.token_k == std::vector<std::uint32_t>{0});
    CHECK(result.touched.buffered_tokens == 0);
  });
}

TEST_CASE("attention: sparf on paper, r = 1 and k = 2 of four tokens") {
  // |q|: channel 2 is the largest. Temperature sqrt(4 * 3 / 4) = sqrt(3). Scores q_2 k_2 = 0, 3, 3,
  // -3: j = {1, 2}, s_hat = e^(score / sqrt 3) / sum.
  const KvPages pages = integer_cache({{1, 0, 0, 0}, {0, 0, -1, 0}, {4, 0, -1, 0}, {9, 9, 1, 9}},
                                      {{0, 0, 0, 0}, {4, 0, 0, 0}, {8, 0, 0, 4}, {0, 0, 0, 0}});
  const std::vector<float> query{1, 0, -3, 0};
  const double kept = 2.0 * std::exp(std::sqrt(3.0));
  const double alpha = kept / (kept + 1.0 + std::exp(-std::sqrt(3.0)));
  // Exact logits over j: (0 + 3) / 2 and (4 + 3) / 2; softmax weight of the second is 1/(1+e^-2).
  const double weight = 1.0 / (1.0 + std::exp(-2.0));
  const double exact = 4.0 * (1.0 - weight) + 8.0 * weight;
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionResult result = implementation.sparf(
        pages, {.queries = query, .context = 4, .want_selection = true}, {1, 2, 0});
    CHECK(result.heads[0].channels == std::vector<int>{2});
    CHECK(result.heads[0].tokens == std::vector<int>{1, 2});
    CHECK(result.alpha[0] == doctest::Approx(alpha).epsilon(1e-6));
    CHECK(result.output[0] == doctest::Approx(alpha * exact + (1.0 - alpha) * 3.0).epsilon(1e-6));
    CHECK(result.output[3] ==
          doctest::Approx(alpha * 4.0 * weight + (1.0 - alpha) * 1.0).epsilon(1e-6));
    CHECK(result.states[0].max == 3.5F);
    // Channel 2 is in group 1; 4 tokens fill its one page. Tokens 1 and 2 are in pages 0 and 1.
    CHECK(result.touched.channel_k == std::vector<std::uint32_t>{1});
    CHECK(result.touched.token_k == std::vector<std::uint32_t>{0, 1});
    CHECK(result.touched.total() == 5);
  });
}

TEST_CASE("attention: ties go to the smaller index, the local window comes first") {
  const std::vector<float> k{1, 1, 1, 1};
  const KvPages pages = integer_cache(std::vector(6, k), std::vector(6, k));
  const std::vector<float> query{1, -1, 1, -1};
  const std::vector<float> zero{0, -0.0F, 0, 0};
  for_each_implementation([&](const Implementation& implementation) {
    const auto select = [&](const std::vector<float>& q, const SparfOptions& options) {
      return implementation
          .sparf(pages, {.queries = q, .context = 5, .want_selection = true}, options)
          .heads[0];
    };
    CHECK(select(query, {2, 3, 0}) == HeadSelection{{0, 1}, {0, 1, 2}});
    CHECK(select(query, {2, 3, 2}) == HeadSelection{{0, 1}, {0, 3, 4}});
    CHECK(select(query, {2, 3, 3}) == HeadSelection{{0, 1}, {2, 3, 4}});
    // All scores 0, temperature defined as that of ratio 1; output is the mean, no NaN.
    CHECK(select(zero, {2, 2, 0}) == HeadSelection{{0, 1}, {0, 1}});
    const AttentionResult result = implementation.sparf(pages, {zero, 5}, {2, 2, 0});
    CHECK(result.alpha[0] == doctest::Approx(0.4).epsilon(1e-6));
    CHECK(result.output[0] == doctest::Approx(1.0).epsilon(1e-6));
  });
}

TEST_CASE("attention: one token of context") {
  for (const int d_head : {64, 80, 128}) {
    const KvPages pages = testing::random_cache({d_head, 4096, 8}, 3, 1);
    const std::vector<float> query = testing::random_queries(1, d_head, 2);
    std::vector<float> value(static_cast<std::size_t>(d_head));
    for (std::size_t c = 0; c < value.size(); ++c)
      value[c] = half_to_float(pages.v_row(0)[c]);
    for_each_implementation([&](const Implementation& implementation) {
      const AttentionResult dense = implementation.dense(pages, {query, 1}, {});
      CHECK(dense.output == value);
      CHECK(dense.touched.total() == 0);
      CHECK(dense.touched.buffered_tokens == 1);
      const AttentionResult sparf = implementation.sparf(pages, {query, 1}, {8, 1, 1});
      CHECK(sparf.output == value);
      CHECK(sparf.alpha[0] == 1.0F);
      CHECK(sparf.touched.total() == 0);
      CHECK(sparf.touched.buffered_tokens == 1);
      CHECK(sparf.touched.buffered_channel_groups >= 1);
    });
  }
}

TEST_CASE("attention: sparf with all channels and all tokens is dense attention") {
  for (const int d_head : {64, 80, 128}) {
    const KvPages pages = testing::random_cache({d_head, 4096, 4}, 700, 3);
    const std::vector<float> queries = testing::random_queries(2, d_head, 4);
    for_each_implementation([&](const Implementation& implementation) {
      for (const int context : {1, 31, 512, 700}) {
        const AttentionResult dense = implementation.dense(pages, {queries, context}, {});
        const AttentionResult sparf =
            implementation.sparf(pages, {queries, context}, {d_head, context, 0});
        CHECK(largest_difference(dense.output, sparf.output) <= 1e-6F);
        CHECK(std::fabs(sparf.alpha[0] - 1.0F) <= 1e-6F);
        CHECK(sparf.touched.token_k == dense.touched.token_k);
        CHECK(sparf.touched.channel_k.size() ==
              static_cast<std::size_t>(pages.geometry().flushed_channel_pages(context)));
      }
    });
  }
}

TEST_CASE("attention: touched pages are those of the selected channels and tokens, no others") {
  for (const int d_head : {64, 80, 128}) {
    for (const int channels : {2, 4, 8}) {
      const KvPages pages = testing::random_cache({d_head, 4096, channels}, 1100, 5);
      const PageGeometry& geometry = pages.geometry();
      const std::vector<float> queries = testing::random_queries(3, d_head, 6);
      // One token before, at and after the edges of token groups and channel pages.
      const int group = geometry.tokens_per_group();
      const int chunk = geometry.tokens_per_channel_page();
      for (const int edge : {group, 4 * group, chunk, 1024}) {
        for (const int context : {edge - 1, edge, edge + 1}) {
          if (context > pages.tokens()) continue;
          CAPTURE(d_head);
          CAPTURE(channels);
          CAPTURE(context);
          for_each_implementation([&](const Implementation& implementation) {
            const AttentionResult result = implementation.sparf(
                pages, {.queries = queries, .context = context, .want_selection = true},
                {d_head / 8, std::max(context / 8, 2), 2});
            REQUIRE(result.heads.size() == 3);
            for (const HeadSelection& head : result.heads) {
              CHECK(head.channels.size() == static_cast<std::size_t>(d_head / 8));
              CHECK(head.tokens.size() == static_cast<std::size_t>(std::max(context / 8, 2)));
              CHECK(std::is_sorted(head.tokens.begin(), head.tokens.end()));
            }
            CHECK(result.touched == brute_force(geometry, context, result.heads));
          });
        }
      }
    }
  }
}

TEST_CASE("attention: a group of queries is its heads one by one, pages united") {
  const KvPages pages = testing::random_cache({64, 4096, 4}, 300, 7);
  const std::vector<float> queries = testing::random_queries(4, 64, 8);
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionResult group = implementation.sparf(
        pages, {.queries = queries, .context = 290, .want_selection = true}, {8, 36, 4});
    for (std::size_t head = 0; head < 4; ++head) {
      const std::span<const float> query = std::span(queries).subspan(head * 64, 64);
      const AttentionResult alone = implementation.sparf(
          pages, {.queries = query, .context = 290, .want_selection = true}, {8, 36, 4});
      CHECK(alone.heads[0] == group.heads[head]);
      CHECK(alone.alpha[0] == group.alpha[head]);
      CHECK(std::equal(alone.output.begin(), alone.output.end(),
                       group.output.begin() + static_cast<std::ptrdiff_t>(head * 64)));
      CHECK(std::includes(group.touched.channel_k.begin(), group.touched.channel_k.end(),
                          alone.touched.channel_k.begin(), alone.touched.channel_k.end()));
      CHECK(std::includes(group.touched.token_v.begin(), group.touched.token_v.end(),
                          alone.touched.token_v.begin(), alone.touched.token_v.end()));
    }
  });
}

TEST_CASE("attention: a prefix of a cache gives what the shorter cache gives, to the bit") {
  const KvPages longer = testing::random_cache({128, 4096, 8}, 600, 9);
  const KvPages shorter = testing::random_cache({128, 4096, 8}, 333, 9);
  const std::vector<float> query = testing::random_queries(1, 128, 10);
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionResult a = implementation.sparf(longer, {query, 333}, {16, 41, 10});
    const AttentionResult b = implementation.sparf(shorter, {query, 333}, {16, 41, 10});
    CHECK(a.output == b.output);
    CHECK(a.touched == b.touched);
    CHECK(implementation.dense(longer, {query, 333}, {}).output ==
          implementation.dense(shorter, {query, 333}, {}).output);
  });
}

TEST_CASE("attention: chunks of a context merge into the whole") {
  const KvPages pages = testing::random_cache({128, 4096, 8}, 500, 11);
  const std::vector<float> query = testing::random_queries(1, 128, 12);
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionResult whole = implementation.dense(pages, {query, 500}, {});
    AttentionState merged = AttentionState::neutral(128);
    std::size_t page_count = 0;
    for (const int edge : {160, 320, 500}) {
      const int first = edge == 500 ? 320 : edge - 160;
      const AttentionResult part =
          implementation.dense(pages, {query, edge}, {.first_token = first});
      merged = merge(merged, part.states[0]);
      page_count += part.touched.total();
    }
    CHECK(largest_difference(finish(merged), whole.output) <= 1e-6F);
    CHECK(page_count == whole.touched.total());
  });
}

TEST_CASE("attention: scores far apart and large values stay finite") {
  const int d_head = 64;
  KvPages pages(PageGeometry({.d_head = d_head, .page_bytes = 4096, .channels_per_group = 8}));
  const std::vector<float> high(64, half_max);
  const std::vector<float> low(64, -half_max);
  const std::vector<float> ones(64, 1.0F);
  pages.append(high, ones);
  pages.append(low, high);
  for_each_implementation([&](const Implementation& implementation) {
    CHECK(implementation.dense(pages, {high, 2}, {}).output == ones);
    CHECK(implementation.sparf(pages, {high, 2}, {8, 1, 0}).output == ones);
  });
}

TEST_CASE("attention: wrong arguments are refused by name") {
  const KvPages pages = testing::random_cache({64, 4096, 8}, 10, 13);
  const std::vector<float> query = testing::random_queries(2, 64, 14);
  for_each_implementation([&](const Implementation& implementation) {
    const auto refusal = [&](std::span<const float> queries, int context, const Method& method) {
      try {
        (void)implementation.attend(pages, {queries, context}, method);
      } catch (const std::invalid_argument& error) {
        return std::string(error.what());
      }
      return std::string("accepted");
    };
    const SparfOptions fine{8, 4, 1};
    CHECK(refusal(query, 10, fine) == "accepted");
    CHECK(refusal(std::span(query).first(63), 10, fine) ==
          "attention: queries has 63 values; must be a positive multiple of d_head, which is 64");
    CHECK(refusal({}, 10, fine) ==
          "attention: queries has 0 values; must be a positive multiple of d_head, which is 64");
    CHECK(refusal(query, 0, fine) ==
          "attention: context is 0; must be 1 to the 10 appended tokens");
    CHECK(refusal(query, 11, fine) ==
          "attention: context is 11; must be 1 to the 10 appended tokens");
    CHECK(refusal(query, 10, SparfOptions{0, 4, 1}) ==
          "sparf: r is 0; must be 1 to d_head, which is 64");
    CHECK(refusal(query, 10, SparfOptions{65, 4, 1}) ==
          "sparf: r is 65; must be 1 to d_head, which is 64");
    CHECK(refusal(query, 10, SparfOptions{8, 0, 0}) == "sparf: k is 0; must be at least 1");
    CHECK(refusal(query, 10, SparfOptions{8, 4, 5}) ==
          "sparf: local_window is 5; must be 0 to k, which is 4");
    CHECK(refusal(query, 10, SparfOptions{8, 4, -1}) ==
          "sparf: local_window is -1; must be 0 to k, which is 4");
    std::vector<float> bad = query;
    bad[64 + 3] = std::numeric_limits<float>::quiet_NaN();
    CHECK(refusal(bad, 10, fine) ==
          "attention: query head 1, channel 3 is nan; must be finite and at most 65504, the range "
          "of FP16");
    CHECK(refusal(query, 10, DenseOptions{10}) ==
          "attention: first_token is 10; must be 0 to 9, below the context");
    CHECK(refusal(query, 10, SparqOptions{65, 4, 1}) ==
          "sparq: r is 65; must be 1 to d_head, which is 64");
    CHECK(refusal(query, 10, WindowOptions{0}) == "window: window is 0; must be at least 1");
    CHECK(refusal(query, 10, StreamingOptions{-1, 4}) ==
          "streaming: sinks is -1; must be at least 0");
    CHECK(refusal(query, 10, StreamingOptions{4, 0}) ==
          "streaming: window is 0; must be at least 1");
    CHECK(refusal(query, 10, H2oOptions{4, 4}) ==
          "h2o: history is missing; make an H2oHistory for each KV head");
    H2oHistory history({4, 4}, std::vector<float>(5, 1.0F));
    CHECK_THROWS_WITH_AS(
        (void)implementation.attend(pages, {query, 10, false, &history}, H2oOptions{4, 4}),
        "h2o: context is 10; must be one more than the history's 5 tokens", std::invalid_argument);
    KvPages without(pages.geometry(), KeyCopies::tokens);
    without.append(std::vector<float>(64), std::vector<float>(64));
    CHECK_THROWS_WITH_AS((void)implementation.attend(without, {query, 1}, fine),
                         "sparf: the cache has no channel-indexed copy of K; make it with "
                         "KeyCopies::tokens_and_channels",
                         std::invalid_argument);
    CHECK(implementation.attend(without, {query, 1}, DenseOptions{}).output.size() == 128);
  });
}

TEST_CASE("attention: SparQ computes what SparF computes, and counts rows and columns") {
  const KvPages pages = testing::random_cache({128, 4096, 8}, 900, 21);
  const std::vector<float> queries = testing::random_queries(2, 128, 22);
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionRequest request{.queries = queries, .context = 800, .want_selection = true};
    const AttentionResult sparf = implementation.attend(pages, request, SparfOptions{16, 50, 10});
    const AttentionResult sparq = implementation.attend(pages, request, SparqOptions{16, 50, 10});
    CHECK(sparq.output == sparf.output);
    CHECK(sparq.heads == sparf.heads);
    CHECK(sparq.touched == sparf.touched);
    std::set<int> tokens(sparf.heads[0].tokens.begin(), sparf.heads[0].tokens.end());
    tokens.insert(sparf.heads[1].tokens.begin(), sparf.heads[1].tokens.end());
    CHECK(sparq.touched.distinct_tokens == static_cast<int>(tokens.size()));
    CHECK(sparq.touched.distinct_channels >= 16);
  });
}

TEST_CASE("attention: windows and sinks attend to the tokens that their names say") {
  const KvPages pages = testing::random_cache({64, 4096, 4}, 300, 23);
  const std::vector<float> query = testing::random_queries(1, 64, 24);
  const auto range = [](int first, int end) {
    std::vector<int> tokens(static_cast<std::size_t>(end - first));
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
  };
  for_each_implementation([&](const Implementation& implementation) {
    const auto tokens = [&](int context, const Method& method) {
      const AttentionResult result = implementation.attend(
          pages, {.queries = query, .context = context, .want_selection = true}, method);
      CHECK(result.alpha[0] == 1.0F);
      CHECK(result.heads[0].channels.empty());
      CHECK(result.touched == brute_force(pages.geometry(), context, result.heads));
      return result.heads[0].tokens;
    };
    CHECK(tokens(300, WindowOptions{40}) == range(260, 300));
    CHECK(tokens(40, WindowOptions{40}) == range(0, 40));
    CHECK(tokens(1, WindowOptions{40}) == range(0, 1));
    std::vector<int> expected{0, 1, 2, 3};
    for (const int token : range(267, 300))
      expected.push_back(token);
    CHECK(tokens(300, StreamingOptions{4, 33}) == expected);
    CHECK(tokens(35, StreamingOptions{4, 33}) == range(0, 35));
    CHECK(tokens(3, StreamingOptions{4, 33}) == range(0, 3));
    CHECK(tokens(300, StreamingOptions{0, 7}) == range(293, 300));
  });
}

TEST_CASE("attention: a window that covers the context is dense attention") {
  const KvPages pages = testing::random_cache({80, 4096, 8}, 120, 25);
  const std::vector<float> queries = testing::random_queries(3, 80, 26);
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionResult dense = implementation.attend(pages, {queries, 120}, DenseOptions{});
    H2oHistory history({60, 60}, std::vector<float>(119, 1.0F));
    for (const Method& method : {Method{WindowOptions{120}}, Method{StreamingOptions{4, 116}},
                                 Method{H2oOptions{60, 60}}}) {
      CAPTURE(name_of(method));
      const AttentionResult all =
          implementation.attend(pages, {queries, 120, false, &history}, method);
      CHECK(largest_difference(all.output, dense.output) <= 1e-6F);
      CHECK(all.touched == dense.touched);
    }
  });
}

TEST_CASE("attention: H2O on paper, one step") {
  // d_head 4, q = (2, 0, 0, 0): logits k_0. Kept are tokens 0 and 2; token 3 is new.
  const KvPages pages = integer_cache({{0, 1, 1, 1}, {9, 9, 9, 9}, {1, 1, 1, 1}, {0, 1, 1, 1}},
                                      {{1, 0, 0, 0}, {9, 9, 9, 9}, {0, 1, 0, 0}, {0, 0, 1, 0}});
  const std::vector<float> query{2, 0, 0, 0};
  const double e = std::exp(1.0);
  for_each_implementation([&](const Implementation& implementation) {
    H2oHistory history({1, 1}, std::vector<float>{0.5F, 0.25F, 2.0F});
    CHECK(std::vector(history.tokens().begin(), history.tokens().end()) == std::vector{0, 2});
    const AttentionResult result = implementation.attend(
        pages, {.queries = query, .context = 4, .want_selection = true, .history = &history},
        H2oOptions{1, 1});
    CHECK(result.heads[0].tokens == std::vector{0, 2, 3});
    CHECK(result.output[0] == doctest::Approx(1.0 / (2.0 + e)).epsilon(1e-6));
    CHECK(result.output[1] == doctest::Approx(e / (2.0 + e)).epsilon(1e-6));
    // Token 0 has 0.5 + 1 / (2 + e), token 2 has 2 + e / (2 + e): token 0 is evicted.
    CHECK(std::vector(history.tokens().begin(), history.tokens().end()) == std::vector{2, 3});
    CHECK(history.mass()[0] == doctest::Approx(2.0 + e / (2.0 + e)).epsilon(1e-6));
    CHECK(history.mass()[1] == doctest::Approx(1.0 / (2.0 + e)).epsilon(1e-6));
    CHECK(history.context() == 4);
  });
}

TEST_CASE("attention: H2O over many steps keeps what a plain account of all masses keeps") {
  constexpr int prompt = 100;
  constexpr int steps = 60;
  const H2oOptions options{12, 8};
  const KvPages pages = testing::random_cache({64, 4096, 4}, prompt + steps, 27);
  for_each_implementation([&](const Implementation& implementation) {
    std::vector<float> mass(prompt);
    nearkv::Rng stream = testing::test_stream(28);
    for (float& m : mass)
      m = static_cast<float>(stream.uniform());
    H2oHistory history(options, mass);
    std::vector<double> account(mass.begin(), mass.end());
    std::set<int> kept(history.tokens().begin(), history.tokens().end());
    for (int step = 0; step < steps; ++step) {
      const int context = prompt + step + 1;
      const std::vector<float> queries =
          testing::random_queries(2, 64, 300 + static_cast<unsigned>(step));
      (void)implementation.attend(pages, {queries, context, false, &history}, options);
      // The same from dense attention over a cache of the kept rows alone.
      kept.insert(context - 1);
      account.push_back(0.0);
      KvPages few(pages.geometry(), KeyCopies::tokens);
      const std::vector<int> order(kept.begin(), kept.end());
      for (const int token : order) {
        std::vector<float> k(64);
        std::vector<float> one_hot(64, 0.0F);
        for (std::size_t c = 0; c < 64; ++c)
          k[c] = half_to_float(pages.k_row(token)[c]);
        one_hot[static_cast<std::size_t>(few.tokens())] = 1.0F;
        few.append(k, one_hot);  // so that the output is the probabilities
      }
      const AttentionResult dense = reference::attend(few, {queries, few.tokens()}, DenseOptions{});
      for (std::size_t i = 0; i < order.size(); ++i) {
        account[static_cast<std::size_t>(order[i])] +=
            static_cast<double>(dense.output[i]) + static_cast<double>(dense.output[64 + i]);
      }
      if (kept.size() > 20) {
        const auto last = kept.lower_bound(context - options.recent);
        kept.erase(std::min_element(kept.begin(), last, [&](int a, int b) {
          return account[static_cast<std::size_t>(a)] < account[static_cast<std::size_t>(b)];
        }));
      }
      REQUIRE(
          std::equal(kept.begin(), kept.end(), history.tokens().begin(), history.tokens().end()));
    }
  });
}

TEST_CASE("attention: states of any methods merge as those of the tokens together") {
  // A window and what lies before it, on two devices.
  const KvPages pages = testing::random_cache({128, 4096, 8}, 2500, 29);
  const std::vector<float> query = testing::random_queries(1, 128, 30);
  for_each_implementation([&](const Implementation& implementation) {
    const AttentionResult all = implementation.attend(pages, {query, 2500}, DenseOptions{});
    const AttentionResult young = implementation.attend(pages, {query, 2500}, WindowOptions{1100});
    const AttentionResult old = implementation.attend(pages, {query, 1400}, DenseOptions{});
    CHECK(largest_difference(finish(merge(old.states[0], young.states[0])), all.output) <= 1e-6F);
  });
}
