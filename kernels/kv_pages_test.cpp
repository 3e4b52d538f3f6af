#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/half.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

std::uint16_t element(std::span<const std::byte> page, int index) {
  const auto at = static_cast<std::size_t>(index) * 2;
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(page[at]) |
                                    std::to_integer<unsigned>(page[at + 1]) << 8);
}

using Rows = std::vector<std::vector<float>>;

/// Builds the expected image of every page from the layout's definition; returns the number of
/// elements that differ from it.
int wrong_elements(const KvPages& pages, const Rows& k, const Rows& v) {
  const PageGeometry& g = pages.geometry();
  const int tokens = static_cast<int>(k.size());
  const int page_elements = g.page_bytes() / 2;
  const auto expected = [&](const Rows& rows, int token, int channel, bool padding) {
    if (padding || token >= tokens) return std::uint16_t{0};
    return float_to_half(rows[static_cast<std::size_t>(token)][static_cast<std::size_t>(channel)]);
  };
  int wrong = 0;
  for (int group = 0; group * g.tokens_per_group() < tokens; ++group) {
    for (int i = 0; i < page_elements; ++i) {
      const int row = i / g.d_head();
      const bool padding = row >= g.tokens_per_group();
      const int token = group * g.tokens_per_group() + row;
      const int channel = i % g.d_head();
      wrong += element(pages.k_page(group), i) != expected(k, token, channel, padding) ? 1 : 0;
      wrong += element(pages.v_page(group), i) != expected(v, token, channel, padding) ? 1 : 0;
    }
  }
  for (int chunk = 0; chunk * g.tokens_per_channel_page() < tokens; ++chunk) {
    for (int group = 0; group < g.channel_groups(); ++group) {
      const std::span<const std::byte> page = pages.channel_page(group, chunk);
      for (int i = 0; i < page_elements; ++i) {
        const int column = i / g.tokens_per_channel_page();
        const bool padding = column >= g.channels_per_group();
        const int token = chunk * g.tokens_per_channel_page() + i % g.tokens_per_channel_page();
        const int channel = group * g.channels_per_group() + column;
        wrong += element(page, i) != expected(k, token, channel, padding) ? 1 : 0;
      }
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("kv pages: the image holds every bit at its place, around every group edge") {
  for (const int d_head : {64, 80, 128}) {
    for (const int channels : {2, 4, 8}) {
      const PageGeometry geometry(
          {.d_head = d_head, .page_bytes = 1024, .channels_per_group = channels});
      CAPTURE(d_head);
      CAPTURE(channels);
      KvPages pages(geometry);
      Rows k;
      Rows v;
      nearkv::Rng stream = testing::test_stream(1);
      const int last = 2 * geometry.tokens_per_channel_page() + 1;
      for (int token = 0; token < last; ++token) {
        k.push_back(testing::random_row(stream, d_head));
        v.push_back(testing::random_row(stream, d_head));
        pages.append(k.back(), v.back());
        REQUIRE(pages.tokens() == token + 1);
        // One token before the edge, at it, after it.
        const auto near_edge = [&](int size) { return (token + 2) % size <= 2; };
        const bool first_groups = token < 2 * geometry.tokens_per_group() + 2;
        if ((first_groups && near_edge(geometry.tokens_per_group())) ||
            near_edge(geometry.tokens_per_channel_page())) {
          CHECK(wrong_elements(pages, k, v) == 0);
          CHECK(pages.k_page(0).size() == 1024);
          CHECK(pages.channel_page(0, 0).size() == 1024);
        }
      }
    }
  }
}

TEST_CASE("kv pages: row and channel access agree with the pages") {
  const KvPages pages = testing::random_cache({80, 4096, 8}, 600, 2);
  const PageGeometry& g = pages.geometry();
  for (const int token : {0, 24, 25, 255, 256, 599}) {
    const int group = token / g.tokens_per_group();
    const int chunk = token / g.tokens_per_channel_page();
    for (int c = 0; c < g.d_head(); ++c) {
      const int in_row = token % g.tokens_per_group() * g.d_head() + c;
      CHECK(pages.k_row(token)[c] == element(pages.k_page(group), in_row));
      CHECK(pages.v_row(token)[c] == element(pages.v_page(group), in_row));
      const int in_chunk = token % g.tokens_per_channel_page();
      CHECK(pages.k_channel(c, chunk)[in_chunk] == pages.k_row(token)[c]);
      CHECK(element(pages.channel_page(c / 8, chunk),
                    c % 8 * g.tokens_per_channel_page() + in_chunk) == pages.k_row(token)[c]);
    }
  }
}

TEST_CASE("kv pages: v_bar of every prefix is the running mean, to the bit") {
  const KvPages pages = testing::random_cache({64, 1024, 8}, 50, 3);
  std::vector<double> sum(64, 0.0);
  for (int context = 1; context <= pages.tokens(); ++context) {
    const std::vector<float> mean = pages.v_bar(context);
    for (std::size_t c = 0; c < sum.size(); ++c) {
      sum[c] += static_cast<double>(half_to_float(pages.v_row(context - 1)[c]));
      REQUIRE(mean[c] == static_cast<float>(sum[c] / context));
    }
  }
  CHECK_THROWS_AS((void)pages.v_bar(0), std::invalid_argument);
  CHECK_THROWS_AS((void)pages.v_bar(51), std::invalid_argument);
}

TEST_CASE("kv pages: a prefix of a longer cache is the shorter cache") {
  const KvPages longer = testing::random_cache({64, 1024, 8}, 200, 4);
  const KvPages shorter = testing::random_cache({64, 1024, 8}, 130, 4);
  CHECK(longer.v_bar(130) == shorter.v_bar(130));
  for (int token = 0; token < 130; ++token) {
    for (int c = 0; c < 64; ++c)
      REQUIRE(longer.k_row(token)[c] == shorter.k_row(token)[c]);
  }
}

TEST_CASE("kv pages: bad values are named and leave the cache unchanged") {
  KvPages pages(PageGeometry({.d_head = 4, .page_bytes = 64, .channels_per_group = 2}));
  const std::vector<float> good{1.0F, 2.0F, -65504.0F, 65519.0F};
  pages.append(good, good);
  const auto refusal = [&](const std::vector<float>& k, const std::vector<float>& v) {
    try {
      pages.append(k, v);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(refusal({1.0F, 2.0F, 3.0F}, good) ==
        "KvPages: token 1: K has 3 values; must be d_head, which is 4");
  CHECK(refusal({0.0F, nan, 0.0F, 0.0F}, good) ==
        "KvPages: token 1, channel 1: K is nan; must be finite and below 65520 to be stored in "
        "FP16");
  CHECK(refusal(good, {0.0F, 0.0F, 0.0F, -65520.0F}) ==
        "KvPages: token 1, channel 3: V is -65520.000000; must be finite and below 65520 to be "
        "stored in FP16");
  CHECK(pages.tokens() == 1);
  CHECK(pages.v_bar(1) == std::vector<float>{1.0F, 2.0F, -65504.0F, 65504.0F});
  CHECK_THROWS_AS((void)pages.k_page(1), std::invalid_argument);
  CHECK_THROWS_AS((void)pages.v_page(-1), std::invalid_argument);
  CHECK_THROWS_AS((void)pages.channel_page(2, 0), std::invalid_argument);
  CHECK_THROWS_AS((void)pages.channel_page(0, 1), std::invalid_argument);
}
