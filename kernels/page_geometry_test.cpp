#include <stdexcept>
#include <string>

#include <doctest/doctest.h>

#include "kernels/api.hpp"

using namespace nearkv::kernels;

namespace {

std::string refusal(const PageGeometrySpec& spec) {
  try {
    const PageGeometry geometry(spec);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("page geometry: the paper's layout, 4 KiB pages and d_head 128") {
  const PageGeometry two({.d_head = 128, .page_bytes = 4096, .channels_per_group = 2});
  CHECK(two.tokens_per_group() == 16);  // 16 tokens x 128 x 2 B = 4096 B
  CHECK(two.channel_groups() == 64);
  CHECK(two.tokens_per_channel_page() == 1024);  // 2 channels x 1 K tokens
  const PageGeometry eight({.d_head = 128, .page_bytes = 4096, .channels_per_group = 8});
  CHECK(eight.tokens_per_channel_page() == 256);  // 8 channels x 256 tokens
  CHECK(eight.channel_groups() == 16);
}

TEST_CASE("page geometry: a row that does not divide the page leaves padding") {
  const PageGeometry geometry({.d_head = 80, .page_bytes = 4096, .channels_per_group = 5});
  CHECK(geometry.tokens_per_group() == 25);  // 25 x 160 B = 4000 B, 96 B padding
  CHECK(geometry.channel_groups() == 16);
  CHECK(geometry.tokens_per_channel_page() == 409);  // 5 x 409 x 2 B = 4090 B, 6 B padding
}

TEST_CASE("page geometry: only full pages are on flash") {
  const PageGeometry geometry({.d_head = 128, .page_bytes = 4096, .channels_per_group = 8});
  struct Row {
    int context, token_groups, tokens, chunks, channel_tokens;
  };
  for (const Row& row : {Row{0, 0, 0, 0, 0}, Row{1, 0, 1, 0, 1}, Row{15, 0, 15, 0, 15},
                         Row{16, 1, 0, 0, 16}, Row{17, 1, 1, 0, 17}, Row{255, 15, 15, 0, 255},
                         Row{256, 16, 0, 1, 0}, Row{257, 16, 1, 1, 1}}) {
    CAPTURE(row.context);
    CHECK(geometry.flushed_token_groups(row.context) == row.token_groups);
    CHECK(geometry.buffered_tokens(row.context) == row.tokens);
    CHECK(geometry.flushed_channel_chunks(row.context) == row.chunks);
    CHECK(geometry.buffered_channel_tokens(row.context) == row.channel_tokens);
    CHECK(geometry.flushed_channel_pages(row.context) == 16 * row.chunks);
    // K and V rows, and K once more by channel, 256 B each.
    CHECK(geometry.buffered_bytes(row.context) == 512 * row.tokens + 256 * row.channel_tokens);
  }
  // At 2048 tokens all is on flash and the channel copy is as large as the K of the token layout.
  CHECK(geometry.flushed_channel_pages(2048) == geometry.flushed_token_groups(2048));
}

TEST_CASE("page geometry: impossible sizes are refused, with what would have been right") {
  CHECK(refusal({128, 4096, 8}) == "accepted");
  CHECK(refusal({128, 256, 8}) == "accepted");
  CHECK(refusal({0, 4096, 8}) == "PageGeometry: d_head is 0; must be at least 1");
  CHECK(refusal({128, 0, 8}) == "PageGeometry: page_bytes is 0; must be at least 1");
  CHECK(refusal({128, 4096, -1}) == "PageGeometry: channels_per_group is -1; must be at least 1");
  CHECK(refusal({128, 4097, 8}) ==
        "PageGeometry: page_bytes is 4097; must be even, an element is 2 bytes");
  CHECK(refusal({128, 254, 8}) ==
        "PageGeometry: a page of 254 bytes cannot hold one token of d_head 128; page_bytes must be "
        "at least 256");
  CHECK(refusal({128, 4096, 3}) ==
        "PageGeometry: channels_per_group is 3; must divide d_head, which is 128");
  const PageGeometry geometry({.d_head = 128, .page_bytes = 4096, .channels_per_group = 8});
  CHECK_THROWS_AS((void)geometry.flushed_token_groups(-1), std::invalid_argument);
  CHECK_THROWS_AS((void)geometry.buffered_bytes(-1), std::invalid_argument);
}

TEST_CASE("page geometry: dense attention reads every K and V page once") {
  const PageGeometry geometry({.d_head = 128, .page_bytes = 4096, .channels_per_group = 8});
  const TouchedPages all = dense_pages(geometry, 1000, {});
  CHECK(all.token_k.size() == 62);
  CHECK(all.token_v == all.token_k);
  CHECK(all.channel_k.empty());
  CHECK(all.total() == 124);
  CHECK(all.buffered_tokens == 8);
  const TouchedPages chunk = dense_pages(geometry, 40, {.first_token = 20});
  CHECK(chunk.token_k == std::vector<std::uint32_t>{1});
  CHECK(chunk.buffered_tokens == 8);
  CHECK(dense_pages(geometry, 40, {.first_token = 38}).total() == 0);
  CHECK(dense_pages(geometry, 40, {.first_token = 38}).buffered_tokens == 2);
  CHECK_THROWS_AS(dense_pages(geometry, 0, {}), std::invalid_argument);
  CHECK_THROWS_AS(dense_pages(geometry, 40, {.first_token = 40}), std::invalid_argument);
  CHECK_THROWS_AS(dense_pages(geometry, 40, {.first_token = -1}), std::invalid_argument);
}
