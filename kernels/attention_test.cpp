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
#include "kernels/half.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

struct Implementation {
  const char* name;
  AttentionResult (*dense)(const KvPages&, const AttentionRequest&, const DenseOptions&);
  AttentionResult (*sparf)(const KvPages&, const AttentionRequest&, const SparfOptions&);
};

const std::vector<Implementation> implementations{
    {"reference", reference::dense_attention, reference::sparf_attention},
    {"cpu", cpu::dense_attention, cpu::sparf_attention},
};

template <typename Body>
void for_each_implementation(Body body) {
  for (const Implementation& implementation : implementations) {
    CAPTURE(implementation.name);
    body(implementation);
  }
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
  pages.pages_per_channel_group = chunks;
  std::set<int> channel_k;
  std::set<int> token_kv;
  std::set<int> waiting_groups;
  std::set<int> waiting_tokens;
  for (const HeadSelection& head : heads) {
    for (const int channel : head.channels) {
      for (int token = 0; token < context; ++token) {
        const int chunk = token / (g.page_bytes() / 2 / g.channels_per_group());
        const int group = channel / g.channels_per_group();
        chunk < chunks ? channel_k.insert(group * chunks + chunk) : waiting_groups.insert(group);
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
    const auto refusal = [&](std::span<const float> queries, int context, SparfOptions options) {
      try {
        implementation.sparf(pages, {queries, context}, options);
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
    CHECK(refusal(query, 10, {0, 4, 1}) == "sparf: r is 0; must be 1 to d_head, which is 64");
    CHECK(refusal(query, 10, {65, 4, 1}) == "sparf: r is 65; must be 1 to d_head, which is 64");
    CHECK(refusal(query, 10, {8, 0, 0}) == "sparf: k is 0; must be at least 1");
    CHECK(refusal(query, 10, {8, 4, 5}) == "sparf: local_window is 5; must be 0 to k, which is 4");
    CHECK(refusal(query, 10, {8, 4, -1}) ==
          "sparf: local_window is -1; must be 0 to k, which is 4");
    std::vector<float> bad = query;
    bad[64 + 3] = std::numeric_limits<float>::quiet_NaN();
    CHECK(refusal(bad, 10, fine) ==
          "attention: query head 1, channel 3 is nan; must be finite and at most 65504, the range "
          "of FP16");
    CHECK_THROWS_AS(implementation.dense(pages, {bad, 10}, {}), std::invalid_argument);
    CHECK_THROWS_AS(implementation.dense(pages, {query, 11}, {}), std::invalid_argument);
    CHECK_THROWS_AS(implementation.dense(pages, {query, 10}, {.first_token = 10}),
                    std::invalid_argument);
  });
}
