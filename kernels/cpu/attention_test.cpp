#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/cpu/selection.hpp"
#include "kernels/half.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

/// Attention as anyone would first write it: FP16 input, every sum a float in plain order. The
/// measure of what error is due to the precision and what to the kernel.
std::vector<float> plain_attention(const KvPages& pages, const std::vector<float>& query,
                                   const std::vector<int>& tokens) {
  std::vector<float> weights;
  const float root = std::sqrt(static_cast<float>(query.size()));
  for (const int token : tokens) {
    float logit = 0.0F;
    for (std::size_t c = 0; c < query.size(); ++c) {
      logit += query[c] * half_to_float(pages.k_row(token)[c]);
    }
    weights.push_back(logit / root);
  }
  const float max = *std::max_element(weights.begin(), weights.end());
  float sum = 0.0F;
  for (float& weight : weights) {
    weight = std::exp(weight - max);
    sum += weight;
  }
  std::vector<float> output(query.size(), 0.0F);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    for (std::size_t c = 0; c < query.size(); ++c) {
      output[c] += weights[i] / sum * half_to_float(pages.v_row(tokens[i])[c]);
    }
  }
  return output;
}

double largest_error(const std::vector<float>& values, const std::vector<float>& exact) {
  double largest = 0.0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    largest = std::max(largest,
                       std::fabs(static_cast<double>(values[i]) - static_cast<double>(exact[i])));
  }
  return largest;
}

}  // namespace

TEST_CASE("cpu attention: error against double at most twice that of the plain float kernel") {
  for (const int d_head : {64, 80, 128}) {
    const KvPages pages = testing::random_cache({d_head, 4096, 8}, 3000, 1);
    for (const int context : {1, 2, 15, 16, 17, 255, 1024, 3000}) {
      CAPTURE(d_head);
      CAPTURE(context);
      double dense_error = 0.0;
      double plain_error = 0.0;
      double sparf_error = 0.0;
      double plain_sparf_error = 0.0;
      float magnitude = 0.0F;
      for (unsigned seed = 0; seed < 8; ++seed) {
        const std::vector<float> query = testing::random_queries(1, d_head, seed);
        const AttentionRequest request{
            .queries = query, .context = context, .want_selection = true};
        const AttentionResult dense = cpu::attend(pages, request, DenseOptions{});
        const AttentionResult exact = reference::attend(pages, request, DenseOptions{});
        dense_error = std::max(dense_error, largest_error(dense.output, exact.output));
        plain_error = std::max(
            plain_error,
            largest_error(plain_attention(pages, query, exact.heads[0].tokens), exact.output));
        for (const float value : exact.output)
          magnitude = std::max(magnitude, std::fabs(value));

        const SparfOptions options{d_head / 8, std::max(1, context / 8), 0};
        const AttentionResult sparf = cpu::attend(pages, request, options);
        const AttentionResult exact_sparf = reference::attend(pages, request, options);
        // These seeds have no two scores within float rounding of the k-th.
        REQUIRE(sparf.heads == exact_sparf.heads);
        sparf_error = std::max(sparf_error, largest_error(sparf.output, exact_sparf.output));
        std::vector<float> mixed = plain_attention(pages, query, exact_sparf.heads[0].tokens);
        const std::vector<float> v_bar = pages.v_bar(context);
        for (std::size_t c = 0; c < mixed.size(); ++c) {
          const float alpha = exact_sparf.alpha[0];
          mixed[c] = alpha * mixed[c] + (1.0F - alpha) * v_bar[c];
        }
        plain_sparf_error = std::max(plain_sparf_error, largest_error(mixed, exact_sparf.output));
      }
      // Both are compared as floats: one rounding of the result is nobody's error.
      const double rounding = static_cast<double>(magnitude) * 0x1.0p-24;
      CHECK(dense_error <= 2.0 * plain_error + rounding);
      CHECK(sparf_error <= 2.0 * plain_sparf_error + 4.0 * rounding);
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
