#include "kernels/kv_store.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/half.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

std::uint16_t element(const KvStore& store, const ElementPlace& place) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, store.bytes(place.page).data() + std::ptrdiff_t{2} * place.element,
              sizeof(bits));
  return bits;
}

struct Rows {
  std::vector<std::vector<float>> k;
  std::vector<std::vector<float>> v;
};

}  // namespace

TEST_CASE("kv store: every element is where the mapping says, in all heads, layers, sequences") {
  for (const int d_head : {64, 80, 128}) {
    for (const int channels : {2, 4, 8}) {
      CAPTURE(d_head);
      CAPTURE(channels);
      KvStore store(PageGeometry({d_head, 1024, channels}), {2, 3, 2});
      nearkv::Rng stream = testing::test_stream(1);
      for (int sequence = 0; sequence < 2; ++sequence) {
        for (int layer = 0; layer < 3; ++layer) {
          for (int kv_head = 0; kv_head < 2; ++kv_head) {
            const HeadPlace head{sequence, layer, kv_head};
            Rows rows;
            const int tokens = 130 + 7 * sequence + layer;  // ragged
            for (int token = 0; token < tokens; ++token) {
              rows.k.push_back(testing::random_row(stream, d_head));
              rows.v.push_back(testing::random_row(stream, d_head));
              store.append(head, rows.k.back(), rows.v.back());
            }
            for (int token = 0; token < tokens; token += 11) {
              for (int c = 0; c < d_head; c += 3) {
                const auto t = static_cast<std::size_t>(token);
                const auto i = static_cast<std::size_t>(c);
                REQUIRE(element(store, store.key(head, token, c)) == float_to_half(rows.k[t][i]));
                REQUIRE(element(store, store.value(head, token, c)) == float_to_half(rows.v[t][i]));
                REQUIRE(element(store, store.channel_key(head, c, token)) ==
                        float_to_half(rows.k[t][i]));
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("kv store: append names each page once, when its last token comes") {
  KvStore store(PageGeometry({64, 1024, 4}), {1, 1, 2});  // 8 tokens a group, 128 a channel page
  const std::vector<float> row(64, 1.0F);
  std::set<PagePlace> written;
  for (int token = 0; token < 300; ++token) {
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      const HeadPlace head{0, 0, kv_head};
      const std::vector<PagePlace> filled = store.append(head, row, row);
      CHECK(filled.size() ==
            ((token + 1) % 8 == 0 ? 2U : 0U) + ((token + 1) % 128 == 0 ? 16U : 0U));
      for (const PagePlace& place : filled) {
        CHECK(store.is_on_flash(place));
        REQUIRE(written.insert(place).second);
      }
      const PagePlace newest = store.key(head, token, 0).page;
      CHECK(store.is_on_flash(newest) == ((token + 1) % 8 == 0));
    }
  }
  CHECK(static_cast<std::int64_t>(written.size()) == store.pages_on_flash());
  CHECK(store.pages_on_flash() == 2 * (2 * 37 + 2 * 16));
  // Of 300 tokens: 4 in the token group buffer, K and V; 44 in the channel group buffer.
  CHECK(store.buffered_bytes() == 2 * (2 * 4 + 44) * 64 * 2);
}

TEST_CASE("kv store: what a kernel touches is on flash, and the rest of its tokens in buffers") {
  KvStore store(PageGeometry({64, 4096, 4}), {2, 2, 1});
  nearkv::Rng stream = testing::test_stream(2);
  for (int sequence = 0; sequence < 2; ++sequence) {
    for (int layer = 0; layer < 2; ++layer) {
      for (int token = 0; token < 700 + 100 * sequence; ++token) {
        store.append({sequence, layer, 0}, testing::random_row(stream, 64),
                     testing::random_row(stream, 64));
      }
    }
  }
  for (int sequence = 0; sequence < 2; ++sequence) {
    const HeadPlace head{sequence, 1, 0};
    const KvPages& pages = store.head(head);
    const std::vector<float> queries = testing::random_queries(2, 64, 3);
    for (const Method& method :
         {Method{DenseOptions{}}, Method{SparfOptions{8, 60, 10}}, Method{WindowOptions{100}}}) {
      const AttentionResult result = cpu::attend(
          pages, {.queries = queries, .context = pages.tokens(), .want_selection = true}, method);
      const std::vector<PagePlace> touched = KvStore::places(head, result.touched);
      const std::set<PagePlace> places(touched.begin(), touched.end());
      CHECK(places.size() == result.touched.total());
      // The pages of the selected elements, one by one, through the mapping.
      std::set<PagePlace> expected;
      const auto add = [&](const ElementPlace& place) {
        if (store.is_on_flash(place.page)) expected.insert(place.page);
      };
      for (const HeadSelection& selection : result.heads) {
        for (const int token : selection.tokens) {
          add(store.key(head, token, 63));
          add(store.value(head, token, 0));
        }
        for (const int channel : selection.channels) {
          for (int token = 0; token < pages.tokens(); ++token)
            add(store.channel_key(head, channel, token));
        }
      }
      CHECK(places == expected);
    }
  }
}

TEST_CASE("kv store: places that do not exist are named") {
  KvStore store(PageGeometry({64, 4096, 4}), {2, 3, 4}, KeyCopies::tokens);
  store.append({0, 0, 0}, std::vector<float>(64), std::vector<float>(64));
  CHECK_THROWS_WITH_AS((void)store.head({2, 0, 0}), "KvStore: sequence is 2; must be 0 to 1",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)store.head({0, -1, 0}), "KvStore: layer is -1; must be 0 to 2",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)store.head({0, 0, 4}), "KvStore: kv_head is 4; must be 0 to 3",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)store.key({0, 0, 0}, 1, 0), "KvStore: token is 1; must be 0 to 0",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)store.value({0, 0, 0}, 0, 64),
                       "KvStore: channel is 64; must be 0 to 63", std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)store.channel_key({0, 0, 0}, 0, 0),
                       "KvStore: there is no channel-indexed copy of K", std::invalid_argument);
  CHECK_FALSE(store.is_on_flash({{0, 0, 0}, PageStream::key_channels, 0}));
  CHECK_FALSE(store.is_on_flash({{0, 0, 0}, PageStream::key_tokens, -1}));
  CHECK_THROWS_AS((void)store.bytes({{0, 0, 1}, PageStream::key_tokens, 0}), std::invalid_argument);
  CHECK_THROWS_AS((void)store.bytes({{0, 0, 0}, PageStream::key_channels, -1}),
                  std::invalid_argument);
  CHECK_THROWS_WITH_AS(KvStore(store.geometry(), {0, 1, 1}),
                       "KvStore: sequences is 0; must be at least 1", std::invalid_argument);
}
