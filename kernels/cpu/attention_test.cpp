#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/cpu/selection.hpp"
#include "kernels/test_cache.hpp"
#include "kernels/test_plain_attention.hpp"

using namespace nearkv::kernels;

TEST_CASE("cpu attention: error against double at most twice that of the plain float kernel") {
  for (const int d_head : {64, 80, 128}) {
    const KvPages pages = testing::random_cache({d_head, 4096, 8}, 3000, 1);
    for (const int context : {1, 2, 15, 16, 17, 255, 1024, 3000}) {
      CAPTURE(d_head);
      CAPTURE(context);
      const SparfOptions options{d_head / 8, std::max(1, context / 8), 0};
      testing::ErrorAccount dense;
      testing::ErrorAccount sparf;
      for (unsigned seed = 0; seed < 8; ++seed) {
        // These seeds have no two scores within float rounding of the k-th.
        const std::vector<float> query = testing::random_queries(1, d_head, seed);
        dense.add(pages, query, context, DenseOptions{}, cpu::attend);
        sparf.add(pages, query, context, options, cpu::attend);
      }
      CHECK(dense.is_within_twice());
      CHECK(sparf.is_within_twice());
    }
  }
}

TEST_CASE("cpu attention: select selects what attend selects, to the bit") {
  for (const int channels : {2, 4, 8}) {
    const KvPages pages = testing::random_cache({128, 4096, channels}, 2048, 2);
    for (const int context : {1, 16, 777, 1024, 1536, 2048}) {
      for (const int heads : {1, 4}) {
        const std::vector<float> queries =
            testing::random_queries(heads, 128, static_cast<unsigned>(context));
        for (const SparfOptions& options : {SparfOptions{16, 256, 0}, SparfOptions{16, 64, 16},
                                            SparfOptions{1, 1, 1}, SparfOptions{128, 4000, 0}}) {
          const AttentionRequest request{
              .queries = queries, .context = context, .want_selection = true};
          const AttentionResult full = cpu::attend(pages, request, options);
          const SelectionResult selected = cpu::select(pages, request, options);
          CHECK(selected.touched == full.touched);
          CHECK(selected.heads == full.heads);
          CHECK(cpu::select(pages, {queries, context}, options).heads.empty());
        }
      }
    }
  }
}

TEST_CASE("cpu attention: LargestFinder equals a stable sort, with ties and signed zeros") {
  nearkv::Rng stream = testing::test_stream(3);
  cpu::LargestFinder finder;
  std::vector<int> found;
  for (int round = 0; round < 300; ++round) {
    const std::size_t n = 1 + stream.below(60);
    std::vector<float> scores(n);
    for (float& score : scores) {
      score = (static_cast<float>(stream.below(9)) - 4.0F) * (stream.below(2) != 0 ? 1.0F : -1.0F);
    }
    const int count = static_cast<int>(stream.below(n + 1));
    std::vector<int> order(n);
    for (std::size_t i = 0; i < n; ++i)
      order[i] = static_cast<int>(i);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(count));
    std::sort(order.begin(), order.end());
    finder.find(scores, count, found);
    REQUIRE(found == order);
  }
}

TEST_CASE("cpu attention: a context of 2^20 tokens") {
  // Values of V are the token's number in base 1024, so that the output tells which were attended.
  constexpr int context = 1 << 20;
  constexpr int d_head = 64;
  KvPages pages(PageGeometry({d_head, 4096, 4}));
  pages.reserve(context);
  std::vector<float> k(d_head);
  std::vector<float> v(d_head, 0.0F);
  nearkv::Rng stream = testing::test_stream(6);
  const std::vector<float> noise = testing::random_row(stream, 4096);
  const std::vector<int> needles{5, 524'288, 777'777, context - 2};
  for (int token = 0; token < context; ++token) {
    const bool is_needle = std::count(needles.begin(), needles.end(), token) > 0;
    for (std::size_t c = 0; c < k.size(); ++c) {
      const std::size_t at = (static_cast<std::size_t>(token) * 37 + c * 11) % noise.size();
      k[c] = is_needle ? 16.0F : noise[at];
    }
    v[0] = static_cast<float>(token / 1024);
    v[1] = static_cast<float>(token % 1024);
    pages.append(k, v);
  }
  const std::vector<float> query(d_head, 1.0F);
  const AttentionRequest request{.queries = query, .context = context, .want_selection = true};

  // The needles' logits are 128, those of others below 40: they share the attention evenly.
  double high = 0.0;
  double low = 0.0;
  for (const int token : needles) {
    high += token / 1024 / 4.0;
    low += token % 1024 / 4.0;
  }
  for (const Method& method : {Method{DenseOptions{}}, Method{SparfOptions{8, 1000, 4}}}) {
    const AttentionResult result = cpu::attend(pages, request, method);
    CHECK(result.output[0] == doctest::Approx(high).epsilon(1e-6));
    CHECK(result.output[1] == doctest::Approx(low).epsilon(1e-6));
    for (const int token : needles) {
      CHECK(
          std::binary_search(result.heads[0].tokens.begin(), result.heads[0].tokens.end(), token));
      const auto page = static_cast<std::uint32_t>(token / 32);
      CHECK(std::binary_search(result.touched.token_k.begin(), result.touched.token_k.end(), page));
    }
  }
  const AttentionResult sparf = cpu::attend(pages, request, SparfOptions{8, 1000, 4});
  CHECK(sparf.heads[0].tokens.size() == 1000);
  CHECK(sparf.touched.channel_k.size() == 2U * context / 512);  // channels 0 to 7: two groups
}
