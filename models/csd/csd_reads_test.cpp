// From the kernels to flash: what attention touches is what the drive reads, page for page.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "models/csd/test_csd.hpp"
#include "models/kv/kv_layout.hpp"
#include "sim/core/random.hpp"
#include "traces/synthetic_kv.hpp"

using namespace nearkv;
using namespace nearkv::test_csd;

namespace {

using ReadPage = CsdFlash::ReadPage;

/// 64 channels of 2 bytes in pages of 2 KiB: 16 tokens a group, 256 a channel page of 4 channels.
constexpr int kChannels = 64;
constexpr int kTokensAGroup = 16;
constexpr int kTokensAChunk = 256;
constexpr int kChannelsAGroup = 4;
constexpr int kContext = 600;
constexpr int kPairs = 6;
constexpr int kQueries = 2;

CsdConfig config_of(FlashPolicy policy, FeedKind feed, bool has_tables) {
  CsdConfig config = round_config();
  config.flash.page_size = 2_KiB;
  config.flash.policy = policy;
  config.flash.bits_per_cell = has_tables ? 3 : 1;
  // Every stream of every pair begins at another plane, so that a base names a stream.
  config.flash.channels = 2;
  config.layout.stream_skew = 1;
  if (feed == FeedKind::pages) {
    config.engine.feed = {.kind = FeedKind::pages,
                          .heads_per_block = 0,
                          .staging_buffers = 0,
                          .key_buffers = 8,
                          .value_buffers = 9,
                          .heads_in_flight = 2};
  }
  return config;
}

/// Pages by stream, from the channels and tokens of a selection and the layout's definition alone.
std::vector<std::pair<KvStream, int>> pages_of(const kernels::AttentionResult& result) {
  std::set<std::pair<KvStream, int>> pages;
  for (const kernels::HeadSelection& head : result.heads) {
    for (const int channel : head.channels) {
      for (int chunk = 0; chunk < kContext / kTokensAChunk; ++chunk) {
        pages.emplace(KvStream::key_channels,
                      chunk * (kChannels / kChannelsAGroup) + channel / kChannelsAGroup);
      }
    }
    for (const int token : head.tokens) {
      if (const int group = token / kTokensAGroup; group < kContext / kTokensAGroup) {
        pages.emplace(KvStream::key_tokens, group);
        pages.emplace(KvStream::value_tokens, group);
      }
    }
  }
  return {pages.begin(), pages.end()};
}

/// Where the drive's task has a pair: of layer 1.
kernels::HeadPlace place_of(int pair) { return {pair / (kPairs / 2), 1, pair % (kPairs / 2)}; }

traces::SyntheticKv head_of(int pair) {
  return {traces::measured_synthetic_kv(kChannels, kContext, kQueries),
          Rng(4, "head/" + std::to_string(pair))};
}

/// The KV cache of the task as the drive stores it.
kernels::KvStore filled_store(const kernels::PageGeometry& geometry) {
  kernels::KvStore store(geometry, {.sequences = 2, .layers = 2, .kv_heads = kPairs / 2});
  for (int pair = 0; pair < kPairs; ++pair) {
    const traces::SyntheticKv kv = head_of(pair);
    const std::vector<float> values = kv.values();
    for (int token = 0; token < kContext; ++token) {
      const auto row = static_cast<std::size_t>(token) * kChannels;
      store.append(place_of(pair), kv.key(token), std::span(values).subspan(row, kChannels));
    }
  }
  return store;
}

kernels::AttentionResult attention(int pair, const kernels::KvStore& store,
                                   const kernels::Method& method) {
  const std::vector<float> queries = head_of(pair).query(kContext - 1);
  const std::vector<float> mass(kContext - 1, 1.0F);
  const auto* h2o = std::get_if<kernels::H2oOptions>(&method);
  kernels::H2oHistory history(h2o != nullptr ? *h2o : kernels::H2oOptions{1, 1}, mass);
  return kernels::cpu::attend(
      store.head(place_of(pair)),
      {.queries = queries, .context = kContext, .want_selection = true, .history = &history},
      method);
}

/// The store's places of what a kernel touched, all of them full pages.
std::vector<std::pair<KvStream, int>> pages_in_store(int pair, const kernels::KvStore& store,
                                                     const kernels::TouchedPages& touched) {
  std::vector<std::pair<KvStream, int>> pages;
  for (const kernels::PagePlace& place : kernels::KvStore::places(place_of(pair), touched)) {
    REQUIRE(store.is_on_flash(place));
    const KvStream stream = place.stream == kernels::PageStream::key_tokens ? KvStream::key_tokens
                            : place.stream == kernels::PageStream::value_tokens
                                ? KvStream::value_tokens
                                : KvStream::key_channels;
    pages.emplace_back(stream, place.page);
  }
  std::sort(pages.begin(), pages.end());
  return pages;
}

HeadReads reads_of(const kernels::TouchedPages& touched, bool has_first_step) {
  HeadReads reads;
  reads.channel_pages = {touched.channel_k.begin(), touched.channel_k.end()};
  reads.key_pages = {touched.token_k.begin(), touched.token_k.end()};
  reads.value_pages = {touched.token_v.begin(), touched.token_v.end()};
  reads.attention_flops = Flops{1000};
  if (has_first_step) {
    reads.estimate_flops = Flops{1000};
    reads.query_elements = kChannels;
    reads.score_elements = kContext;
  }
  return reads;
}

}  // namespace

TEST_CASE("csd reads: flash is told to read the pages that the kernels touch, and no other") {
  const kernels::PageGeometry geometry(
      {.d_head = kChannels, .page_bytes = 2048, .channels_per_group = kChannelsAGroup});
  const kernels::KvStore store = filled_store(geometry);
  const std::vector<kernels::Method> methods{
      kernels::DenseOptions{},
      kernels::SparqOptions{{8, 37, 9}},
      kernels::SparfOptions{{8, 37, 9}},
      kernels::H2oOptions{.heavy = 37, .recent = 38},
      kernels::StreamingOptions{.sinks = 4, .window = 70},
      kernels::WindowOptions{.window = 75},
  };
  struct Case {
    FlashPolicy policy;
    FeedKind feed;
    bool has_tables;
  };
  for (const Case& drive_case : {Case{FlashPolicy::first_gap, FeedKind::blocks, false},
                                 {FlashPolicy::out_of_order, FeedKind::blocks, true},
                                 {FlashPolicy::out_of_order, FeedKind::pages, true},
                                 {FlashPolicy::out_of_order, FeedKind::pages, false}}) {
    const CsdConfig config = config_of(drive_case.policy, drive_case.feed, drive_case.has_tables);
    for (const kernels::Method& method : methods) {
      CAPTURE(static_cast<int>(drive_case.policy));
      CAPTURE(static_cast<int>(drive_case.feed));
      CAPTURE(std::string(kernels::name_of(method)));
      const bool has_first_step = kernels::select_options(method) != nullptr;
      Drive drive(config);
      const KvLayer layer{drive.csd.open_task({.sequences = 2,
                                               .layers = 2,
                                               .kv_heads = kPairs / 2,
                                               .max_tokens = kContext,
                                               .channel_copy = has_first_step},
                                              geometry),
                          1};
      drive.csd.append(layer, kContext, at(0ns));
      const KvPlacement placement(config.flash, config.layout,
                                  kPlaneOrders[config.kv_ftl.plane_order]);
      std::vector<HeadReads> patterns;
      std::vector<ReadPage> expected;
      for (int pair = 0; pair < kPairs; ++pair) {
        const kernels::AttentionResult result = attention(pair, store, method);
        patterns.push_back(reads_of(result.touched, has_first_step));
        const std::vector<std::pair<KvStream, int>> pages = pages_of(result);
        REQUIRE(pages_in_store(pair, store, result.touched) == pages);
        for (const auto& [stream, page] : pages) {
          const PhysicalPage* table =
              drive.csd.ftl().stream_table(layer.task, layer.layer, pair, stream);
          REQUIRE((table != nullptr) == drive_case.has_tables);
          expected.push_back(
              {placement.base(pair, stream), page, table == nullptr ? kNoPage : table[page]});
        }
      }
      std::vector<ReadPage> read;
      drive.csd.set_log(&read);
      Completion done;
      drive.csd.submit_attend(at(0ns), batch_of(kPairs, patterns), done, layer);
      static_cast<void>(drive.finish(done));
      std::sort(read.begin(), read.end());
      std::sort(expected.begin(), expected.end());
      REQUIRE(expected.size() > static_cast<std::size_t>(kPairs));
      REQUIRE(read == expected);
      REQUIRE(drive.csd.work().flash.pages_read == static_cast<std::int64_t>(read.size()));
      if (drive_case.has_tables) {
        // No two stream pages share a flash page.
        std::set<PhysicalPage> places;
        for (const ReadPage& page : read) {
          places.insert(page.at);
        }
        REQUIRE(places.size() == read.size());
      }
    }
  }
}
