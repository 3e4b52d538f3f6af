#include "traces/synthetic_kv.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"

using namespace nearkv;
using namespace nearkv::traces;

namespace {

std::size_t size(int value) { return static_cast<std::size_t>(value); }

SyntheticKv head(const SyntheticKvSpec& spec, int number) {
  return {spec, Rng{1, "test/head/" + std::to_string(number)}};
}

/// Logits of the first query head at context `context`.
std::vector<double> logits(const SyntheticKv& kv, int context) {
  const std::vector<float> query = kv.query(context - 1);
  const std::size_t d_head = size(kv.spec().d_head);
  std::vector<double> result(size(context), 0.0);
  for (int token = 0; token < context; ++token) {
    for (std::size_t c = 0; c < d_head; ++c) {
      result[size(token)] += static_cast<double>(query[c]) * static_cast<double>(kv.key(token)[c]);
    }
    result[size(token)] /= std::sqrt(static_cast<double>(d_head));
  }
  return result;
}

double mean(const std::vector<double>& values, int first, int last) {
  double sum = 0.0;
  for (int i = first; i < last; ++i)
    sum += values[size(i)];
  return sum / (last - first);
}

/// Autocorrelation of values[first .. last).
double autocorrelation(const std::vector<double>& values, int first, int last, int lag) {
  const double centre = mean(values, first, last);
  double product = 0.0;
  double square = 0.0;
  for (int i = first; i < last; ++i) {
    square += (values[size(i)] - centre) * (values[size(i)] - centre);
    if (i + lag < last) product += (values[size(i)] - centre) * (values[size(i + lag)] - centre);
  }
  return product / (last - first - lag) / (square / (last - first));
}

struct PageShares {
  double step_1 = 0.0;  ///< of the channel groups
  double step_2 = 0.0;  ///< of the token groups
  /// Dense reads K and V token pages; step 1 reads from a copy of K, half of that.
  [[nodiscard]] double of_dense() const { return step_1 / 2.0 + step_2; }
};

/// Shares of pages that SparF reads, mean over heads, at 4 KiB pages. A channel group counts in
/// whole, also where its last page is still in the buffer.
PageShares page_shares(const SyntheticKvSpec& spec, int channels_per_group, int context, int k,
                       int local_window) {
  constexpr int heads = 12;
  PageShares shares;
  const std::vector<float> no_value(size(spec.d_head), 0.0F);
  const kernels::PageGeometry geometry(
      {.d_head = spec.d_head, .page_bytes = 4096, .channels_per_group = channels_per_group});
  for (int number = 0; number < heads; ++number) {
    const SyntheticKv kv = head(spec, number);
    kernels::KvPages pages(geometry);
    for (int token = 0; token < context; ++token)
      pages.append(kv.key(token), no_value);
    const std::vector<float> queries = kv.query(context - 1);
    const kernels::SelectionResult result = kernels::cpu::select(
        pages, {queries, context}, kernels::SparfOptions{spec.d_head / 8, k, local_window});
    const kernels::TouchedPages& touched = result.touched;
    const int pages_of_all = std::max(geometry.flushed_channel_pages(context), 1);
    shares.step_1 += static_cast<double>(touched.channel_k.size()) / pages_of_all / heads;
    shares.step_2 += static_cast<double>(touched.token_k.size()) /
                     geometry.flushed_token_groups(context) / heads;
  }
  return shares;
}

}  // namespace

TEST_CASE("synthetic kv: equal spec and stream give equal bits, pinned") {
  const SyntheticKvSpec spec = measured_synthetic_kv(64, 100, 2);
  const SyntheticKv a(spec, Rng{7, "pinned"});
  const SyntheticKv b(spec, Rng{7, "pinned"});
  CHECK(std::equal(a.keys().begin(), a.keys().end(), b.keys().begin(), b.keys().end()));
  CHECK(a.values() == b.values());
  CHECK(a.query(99) == b.query(99));
  const SyntheticKv other(spec, Rng{7, "other"});
  CHECK(!std::equal(a.keys().begin(), a.keys().end(), other.keys().begin()));
  CHECK(a.query(98) != a.query(99));

  // A change of any of these changes every simulated result.
  CHECK(a.key(0)[0] == 0x1.054fa4p+0F);
  CHECK(a.key(99)[63] == -0x1.94d66ap-1F);
  CHECK(a.values()[64 * 50] == 0x1.5775a6p+0F);
  CHECK(a.query(99)[0] == 0x1.e45da4p+0F);
  CHECK(a.query(99)[127] == -0x1.274728p+1F);
}

TEST_CASE("synthetic kv: more tokens and more query heads leave the first ones as they are") {
  const Rng stream{3, "prefix"};
  const SyntheticKv longer(measured_synthetic_kv(128, 300, 4), stream);
  const SyntheticKv shorter(measured_synthetic_kv(128, 200, 1), stream);
  CHECK(std::equal(shorter.keys().begin(), shorter.keys().end(), longer.keys().begin()));
  const std::vector<float> values = shorter.values();
  const std::vector<float> longer_values = longer.values();
  CHECK(std::equal(values.begin(), values.end(), longer_values.begin()));
  const std::vector<float> query = shorter.query(150);
  const std::vector<float> queries = longer.query(150);
  CHECK(queries.size() == 4 * query.size());
  CHECK(std::equal(query.begin(), query.end(), queries.begin()));
}

TEST_CASE("synthetic kv: every size of head and text works") {
  for (const int d_head : {1, 2, 3, 64, 80, 128}) {
    for (const int tokens : {1, 2, 33}) {
      const SyntheticKv kv = head(measured_synthetic_kv(d_head, tokens, 1), 0);
      CHECK(kv.keys().size() == size(tokens) * size(d_head));
      CHECK(kv.values().size() == kv.keys().size());
      const std::vector<float> query = kv.query(tokens - 1);
      CHECK(query.size() == size(d_head));
      for (const float value : query)
        CHECK(std::isfinite(value));
      for (const float value : kv.keys())
        CHECK(std::isfinite(value));
    }
  }
}

TEST_CASE("synthetic kv: logits have the measured spread, sink, recency and clustering") {
  const SyntheticKvSpec spec = measured_synthetic_kv(128, 2048, 1);
  constexpr int heads = 24;
  double spread = 0.0;
  double sink = 0.0;
  double self = 0.0;
  double near_32 = 0.0;
  double near_128 = 0.0;
  double lag_1 = 0.0;
  double lag_16 = 0.0;
  double lag_64 = 0.0;
  for (int number = 0; number < heads; ++number) {
    const SyntheticKv kv = head(spec, number);
    const std::vector<double> scores = logits(kv, 2048);
    const int far_end = 2047 - 256;
    const double far = mean(scores, 16, far_end);
    double square = 0.0;
    for (int token = 4; token < 2047; ++token) {
      square += (scores[size(token)] - far) * (scores[size(token)] - far) / 2043.0;
    }
    spread += std::sqrt(square) / heads;
    sink += (scores[0] - far) / heads;
    self += (scores[2047] - far) / heads;
    near_32 += (mean(scores, 2047 - 32, 2047 - 16) - far) / heads;
    near_128 += (mean(scores, 2047 - 128, 2047 - 64) - far) / heads;
    lag_1 += autocorrelation(scores, 16, far_end, 1) / heads;
    lag_16 += autocorrelation(scores, 16, far_end, 16) / heads;
    lag_64 += autocorrelation(scores, 16, far_end, 64) / heads;
  }
  // Measured on the model named at measured_synthetic_kv, two texts; ranges around both.
  CHECK(spread == doctest::Approx(2.75).epsilon(0.15));
  CHECK(sink == doctest::Approx(9.0).epsilon(0.2));
  CHECK(self == doctest::Approx(8.0).epsilon(0.3));
  CHECK(near_32 == doctest::Approx(4.6).epsilon(0.25));
  CHECK(near_128 == doctest::Approx(2.7).epsilon(0.35));
  CHECK(std::fabs(lag_1 - 0.52) < 0.08);
  CHECK(std::fabs(lag_16 - 0.25) < 0.08);
  CHECK(std::fabs(lag_64 - 0.14) < 0.08);
}

TEST_CASE("synthetic kv: each strength moves what it is named after") {
  const SyntheticKvSpec base = measured_synthetic_kv(128, 600, 1);
  const auto advantage = [](const SyntheticKvSpec& spec, int token) {
    double sum = 0.0;
    for (int number = 0; number < 24; ++number) {
      const std::vector<double> scores = logits(head(spec, number), 600);
      sum += (scores[size(token)] - mean(scores, 16, 300)) / 24.0;
    }
    return sum;
  };
  SyntheticKvSpec spec = base;
  spec.sink_logit = 0.0;
  CHECK(std::fabs(advantage(spec, 0)) < 2.0);
  spec.sink_logit = 20.0;
  CHECK(advantage(spec, 0) == doctest::Approx(20.0).epsilon(0.15));
  spec = base;
  spec.recency_logit = 0.0;
  spec.topic_logit = 0.0;
  CHECK(std::fabs(advantage(spec, 599)) < 1.5);
  spec.recency_logit = 12.0;
  CHECK(advantage(spec, 599) == doctest::Approx(12.0).epsilon(0.2));

  // Sinks have small values, half way to normal in the middle of the sink tokens.
  spec = base;
  spec.sink_value = 0.0;
  spec.sink_tokens = 1;
  const std::vector<float> values = head(spec, 0).values();
  CHECK(std::all_of(values.begin(), values.begin() + 128, [](float v) { return v == 0.0F; }));
  CHECK(std::any_of(values.begin() + 128, values.begin() + 256, [](float v) { return v != 0.0F; }));

  // Outlier channels: a constant offset on neighbouring channels of K, the mean over tokens shows
  // it.
  spec = base;
  spec.outlier_share = 0.05;
  spec.outlier_offset = 20.0;
  const SyntheticKv outliers = head(spec, 0);
  std::vector<std::size_t> found;
  for (std::size_t c = 0; c < 128; ++c) {
    double sum = 0.0;
    for (int token = 0; token < 600; ++token) {
      sum += static_cast<double>(outliers.key(token)[c]) / 600.0;
    }
    if (std::fabs(sum) > 10.0) found.push_back(c);
  }
  CHECK(found.size() == 6);
  CHECK(found.back() - found.front() == 5);
}

TEST_CASE("synthetic kv: a few channels carry most of |q|, heads of a group resemble each other") {
  double heavy_share = 0.0;
  double correlation = 0.0;
  for (int number = 0; number < 24; ++number) {
    const SyntheticKv kv = head(measured_synthetic_kv(128, 300, 2), number);
    const std::vector<float> queries = kv.query(299);
    std::vector<float> magnitudes(queries.begin(), queries.begin() + 128);
    for (float& q : magnitudes)
      q = std::fabs(q);
    std::sort(magnitudes.rbegin(), magnitudes.rend());
    double heavy = 0.0;
    double all = 0.0;
    for (std::size_t c = 0; c < 128; ++c) {
      all += static_cast<double>(magnitudes[c]);
      if (c < 16) heavy = all;
    }
    heavy_share += heavy / all / 24.0;
    std::vector<double> scores[2];
    for (std::size_t h = 0; h < 2; ++h) {
      for (int token = 16; token < 299; ++token) {
        double score = 0.0;
        for (std::size_t c = 0; c < 128; ++c) {
          score +=
              static_cast<double>(queries[h * 128 + c]) * static_cast<double>(kv.key(token)[c]);
        }
        scores[h].push_back(score);
      }
    }
    const double mean_0 = mean(scores[0], 0, 283);
    const double mean_1 = mean(scores[1], 0, 283);
    double cross = 0.0;
    double square_0 = 0.0;
    double square_1 = 0.0;
    for (std::size_t i = 0; i < scores[0].size(); ++i) {
      cross += (scores[0][i] - mean_0) * (scores[1][i] - mean_1);
      square_0 += (scores[0][i] - mean_0) * (scores[0][i] - mean_0);
      square_1 += (scores[1][i] - mean_1) * (scores[1][i] - mean_1);
    }
    correlation += cross / std::sqrt(square_0 * square_1) / 24.0;
  }
  CHECK(heavy_share == doctest::Approx(0.43).epsilon(0.15));  // measured: 0.43
  CHECK(correlation == doctest::Approx(0.65).epsilon(0.25));  // measured: 0.65
}

TEST_CASE("synthetic kv: SparF's page traffic is in the range of real models") {
  // Broad ranges around the measured shares (see measured_synthetic_kv): step 1 by group size,
  // step 2 for k = S / 8.
  for (const int context : {1024, 1536, 2048}) {
    CAPTURE(context);
    const SyntheticKvSpec spec = measured_synthetic_kv(128, context, 1);
    const PageShares two = page_shares(spec, 2, context, context / 8, 0);
    const PageShares four = page_shares(spec, 4, context, context / 8, 0);
    const PageShares eight = page_shares(spec, 8, context, context / 8, 0);
    CHECK(std::fabs(two.step_1 - 0.23) < 0.03);
    CHECK(std::fabs(four.step_1 - 0.40) < 0.06);
    CHECK(std::fabs(eight.step_1 - 0.60) < 0.09);
    CHECK(std::fabs(eight.step_2 - 0.57) < 0.1);
    // The channel layout does not change which tokens are chosen.
    CHECK(two.step_2 == eight.step_2);
    CHECK(eight.of_dense() > two.of_dense());
  }
}

TEST_CASE("synthetic kv: page traffic falls with clustering and with fewer tokens") {
  const SyntheticKvSpec base = measured_synthetic_kv(128, 1024, 1);
  SyntheticKvSpec scattered = base;
  scattered.run_share = 0.0;
  scattered.position_share = 0.0;
  SyntheticKvSpec clustered = base;
  clustered.run_tokens = 64.0;
  clustered.run_share = 0.6;
  const double base_share = page_shares(base, 8, 1024, 128, 0).step_2;
  // Independent tokens: a group of 16 is missed with probability (7/8)^16 = 0.118.
  CHECK(page_shares(scattered, 8, 1024, 128, 0).step_2 == doctest::Approx(0.88).epsilon(0.03));
  CHECK(page_shares(clustered, 8, 1024, 128, 0).step_2 < base_share - 0.1);
  CHECK(page_shares(base, 8, 1024, 64, 0).step_2 < base_share - 0.1);
  CHECK(page_shares(base, 8, 1024, 128, 32).step_2 < base_share);
}

TEST_CASE("synthetic kv: impossible specs are refused by field") {
  const auto refusal = [](auto change) {
    SyntheticKvSpec spec = measured_synthetic_kv(64, 10, 1);
    change(spec);
    try {
      const SyntheticKv kv(spec, Rng{1, "refused"});
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refusal([](SyntheticKvSpec&) {}) == "accepted");
  CHECK(refusal([](SyntheticKvSpec& s) { s.d_head = 0; }) ==
        "synthetic KV: d_head is 0; must be finite and at least 1");
  CHECK(refusal([](SyntheticKvSpec& s) { s.channel_correlation = 1.5; }) ==
        "synthetic KV: channel_correlation is 1.5; must be 0 to 1");
  CHECK(refusal([](SyntheticKvSpec& s) { s.position_share = 0.8; }) ==
        "synthetic KV: run_share + position_share is 1.1; must be 0 to 1");
  CHECK(refusal([](SyntheticKvSpec& s) {
          s.sink_logit = std::numeric_limits<double>::quiet_NaN();
        }) == "synthetic KV: sink_logit is nan; must be finite and at least 0");
  CHECK(refusal([](SyntheticKvSpec& s) { s.tokens = 0; }) != "accepted");
  CHECK(refusal([](SyntheticKvSpec& s) { s.query_heads = 0; }) != "accepted");
  CHECK(refusal([](SyntheticKvSpec& s) { s.topics = 0; }) != "accepted");
  CHECK(refusal([](SyntheticKvSpec& s) { s.run_tokens = 0.5; }) != "accepted");
  CHECK(refusal([](SyntheticKvSpec& s) { s.recency_tokens = 0.0; }) != "accepted");
  CHECK(refusal([](SyntheticKvSpec& s) { s.outlier_query_gain = 0.0; }) ==
        "synthetic KV: outlier_query_gain is 0; must be finite and above 0");
  CHECK(refusal([](SyntheticKvSpec& s) { s.sink_tokens = -1; }) != "accepted");

  const SyntheticKv kv(measured_synthetic_kv(64, 10, 1), Rng{1, "range"});
  CHECK_THROWS_AS((void)kv.query(10), std::invalid_argument);
  CHECK_THROWS_AS((void)kv.query(-1), std::invalid_argument);
  CHECK_THROWS_AS((void)kv.key(10), std::invalid_argument);
  CHECK_THROWS_AS((void)kv.key(-1), std::invalid_argument);
}
