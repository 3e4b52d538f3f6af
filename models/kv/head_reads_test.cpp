#include "models/kv/head_reads.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

/// 64 channels of 2 bytes in pages of 2 KiB: 16 tokens a group, 256 a channel page, 16 groups of 4
/// channels.
const kernels::PageGeometrySpec kSpec{.d_head = 64, .page_bytes = 2048, .channels_per_group = 4};
constexpr int kTokensPerGroup = 16;
constexpr int kTokensPerChannelPage = 256;
constexpr int kChannelGroups = 16;

SyntheticHeadsConfig source_of(int heads, int queries) {
  return {.heads = heads,
          .queries = queries,
          .heads_like = traces::measured_synthetic_kv(64, 1, 1)};  // the shape is set by the reads
}

constexpr SparsityConfig kSparsity{
    .channels = 8, .selected_share = 0.0625, .local_window_share = 0.25};

std::vector<int> ascending(int count) {
  std::vector<int> pages(static_cast<std::size_t>(count));
  std::iota(pages.begin(), pages.end(), 0);
  return pages;
}

bool equal(const HeadReads& a, const HeadReads& b) {
  return a.channel_pages == b.channel_pages && a.key_pages == b.key_pages &&
         a.value_pages == b.value_pages && a.estimate_flops == b.estimate_flops &&
         a.attention_flops == b.attention_flops && a.query_elements == b.query_elements &&
         a.score_elements == b.score_elements;
}

bool equal(const std::vector<HeadReads>& a, const std::vector<HeadReads>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const HeadReads& x, const HeadReads& y) { return equal(x, y); });
}

}  // namespace

TEST_CASE("head reads: dense attention reads every flushed token group") {
  const kernels::PageGeometry geometry(kSpec);
  for (const int context : {1, 15, 16, 17, 31, 32, 1000, 1024}) {
    CAPTURE(context);
    const HeadReads reads = dense_reads(geometry, {64, 1}, context);
    CHECK(reads.key_pages == ascending(context / kTokensPerGroup));
    CHECK(reads.value_pages == reads.key_pages);
    CHECK(reads.channel_pages.empty());
    CHECK_FALSE(reads.has_first_step());
    CHECK(reads.pages() == 2 * (context / kTokensPerGroup));
    const kernels::TouchedPages touched = kernels::dense_pages(geometry, context, {});
    CHECK(std::equal(touched.token_k.begin(), touched.token_k.end(), reads.key_pages.begin(),
                     reads.key_pages.end()));
  }
}

TEST_CASE("head reads: dense work is two products of 2 FLOP an element, on whole groups") {
  const kernels::PageGeometry geometry(kSpec);
  for (const int context : {1, 16, 17, 1024}) {
    for (const int queries : {1, 4, 8}) {
      const std::int64_t tokens = (context + 15) / 16 * 16;
      const std::int64_t expected = 2 * 2 * tokens * 64 * queries;
      MESSAGE("context ", context, ", ", queries, " queries a KV head: 2 products x 2 FLOP x ",
              tokens, " tokens x 64 channels x ", queries, " = ", expected);
      CHECK(dense_reads(geometry, {64, queries}, context).attention_flops == Flops{expected});
    }
  }
  // The queries of a group share the pages.
  CHECK(dense_reads(geometry, {64, 8}, 1000).key_pages ==
        dense_reads(geometry, {64, 1}, 1000).key_pages);
}

TEST_CASE("head reads: SparF reads the pages that the kernel touches, numbered as appended") {
  const kernels::PageGeometry geometry(kSpec);
  constexpr int kHeads = 3;
  constexpr int kQueries = 4;
  constexpr int kLongest = 900;
  constexpr std::uint64_t kSeed = 11;
  for (const int group : {1, 4}) {
    const SparfReads sparf(geometry, {64, group}, kSparsity, source_of(kHeads, kQueries), kSeed,
                           kLongest);
    for (const int context : {900, 768, 767, 512, 300, 255, 40, 2, 1}) {
      CAPTURE(context);
      const std::vector<HeadReads> all = sparf.at(context);
      const int positions = std::min(kQueries, context);
      REQUIRE(static_cast<int>(all.size()) == kHeads * positions);
      const int selected = std::max(1, static_cast<int>(std::lround(0.0625 * context)));
      const kernels::SparfOptions options{8, selected,
                                          static_cast<int>(std::lround(0.25 * selected))};
      for (int i = 0; i < kHeads * positions; ++i) {
        CAPTURE(i);
        const traces::SyntheticKv kv(traces::measured_synthetic_kv(64, kLongest, group),
                                     Rng(kSeed, "kv_source/" + std::to_string(i % kHeads)));
        const std::vector<float> values = kv.values();
        kernels::KvPages cache(geometry);
        for (int token = 0; token < context; ++token) {
          cache.append(kv.key(token), std::span(values).subspan(token * 64, 64));
        }
        const std::vector<float> queries = kv.query(context - 1 - i / kHeads);
        const kernels::TouchedPages touched =
            kernels::cpu::attend(cache, {queries, context}, options).touched;
        const HeadReads& reads = all[i];
        REQUIRE(std::equal(touched.channel_k.begin(), touched.channel_k.end(),
                           reads.channel_pages.begin(), reads.channel_pages.end()));
        REQUIRE(std::equal(touched.token_k.begin(), touched.token_k.end(), reads.key_pages.begin(),
                           reads.key_pages.end()));
        REQUIRE(std::equal(touched.token_v.begin(), touched.token_v.end(),
                           reads.value_pages.begin(), reads.value_pages.end()));
        REQUIRE(reads.pages() == static_cast<std::int64_t>(touched.total()));
        REQUIRE(reads.has_first_step());
        REQUIRE(reads.estimate_flops == Flops{std::int64_t{2} * context * 8 * group});
        REQUIRE(reads.attention_flops == Flops{std::int64_t{2} * 2 * selected * 64 * group});
        REQUIRE(reads.query_elements == 64 * group);
        REQUIRE(reads.score_elements == std::int64_t{context} * group);
      }
    }
  }
}

TEST_CASE("head reads: with all channels and all tokens SparF reads the whole cache") {
  const kernels::PageGeometry geometry(kSpec);
  const SparsityConfig all_of_it{.channels = 64, .selected_share = 1, .local_window_share = 0};
  const SparfReads sparf(geometry, {64, 1}, all_of_it, source_of(2, 2), 1, 1000);
  for (const int context : {1000, 512, 511, 16, 15, 1}) {
    for (const HeadReads& reads : sparf.at(context)) {
      CHECK(reads.channel_pages == ascending(context / kTokensPerChannelPage * kChannelGroups));
      CHECK(reads.key_pages == ascending(context / kTokensPerGroup));
      CHECK(reads.value_pages == reads.key_pages);
    }
  }
}

TEST_CASE("head reads: a channel page keeps its stream number while the context grows") {
  // One query at two contexts picks the same channels, so that it reads the same pages and those
  // that were appended since: behind the old ones, whatever the groups.
  const kernels::PageGeometry geometry(kSpec);
  const traces::SyntheticKv kv(traces::measured_synthetic_kv(64, 1600, 1), Rng(3, "kv"));
  const std::vector<float> no_value(64);
  kernels::KvPages cache(geometry);
  for (int token = 0; token < 1600; ++token) {
    cache.append(kv.key(token), no_value);
  }
  const auto stream_pages = [&](const std::vector<float>& query, int context) {
    const std::vector<std::uint32_t> pages =
        kernels::cpu::select(cache, {query, context}, kernels::SparfOptions{8, 16, 0})
            .touched.channel_k;
    return std::vector<int>(pages.begin(), pages.end());
  };
  for (int position = 500; position < 600; position += 7) {
    const std::vector<float> query = kv.query(position);
    const std::vector<int> before = stream_pages(query, 600);
    const std::vector<int> after = stream_pages(query, 1600);
    const int flushed_before = geometry.flushed_channel_pages(600);
    REQUIRE(before.size() < after.size());
    REQUIRE(before.back() < flushed_before);
    REQUIRE(std::equal(before.begin(), before.end(), after.begin()));
    REQUIRE(after[before.size()] >= flushed_before);
  }
}

TEST_CASE("head reads: the lists are ascending and within what is flushed") {
  const kernels::PageGeometry geometry(kSpec);
  const SparfReads sparf(geometry, {64, 2}, kSparsity, source_of(6, 3), 5, 1300);
  for (const int context : {1300, 1024, 1023, 777}) {
    for (const HeadReads& reads : sparf.at(context)) {
      for (const auto& [pages, flushed] :
           {std::pair{&reads.channel_pages, geometry.flushed_channel_pages(context)},
            {&reads.key_pages, geometry.flushed_token_groups(context)},
            {&reads.value_pages, geometry.flushed_token_groups(context)}}) {
        REQUIRE_FALSE(pages->empty());
        REQUIRE(std::adjacent_find(pages->begin(), pages->end(), std::greater_equal<>()) ==
                pages->end());
        REQUIRE(pages->front() >= 0);
        REQUIRE(pages->back() < flushed);
      }
      REQUIRE(reads.key_pages == reads.value_pages);
    }
  }
}

TEST_CASE("head reads: equal seeds give equal reads, whatever the longest context and the pool") {
  const kernels::PageGeometry geometry(kSpec);
  const auto at_600 = [&](std::uint64_t seed, int heads, int longest) {
    return SparfReads(geometry, {64, 1}, kSparsity, source_of(heads, 2), seed, longest).at(600);
  };
  const std::vector<HeadReads> reads = at_600(7, 4, 600);
  CHECK(equal(reads, at_600(7, 4, 600)));
  CHECK(equal(reads, at_600(7, 4, 1000)));
  CHECK_FALSE(equal(reads, at_600(8, 4, 600)));
  // A larger pool has the same heads and more; entries go query by query.
  const std::vector<HeadReads> more = at_600(7, 6, 600);
  REQUIRE(more.size() == 12);
  for (int query = 0; query < 2; ++query) {
    for (int head = 0; head < 4; ++head) {
      CHECK(equal(reads[query * 4 + head], more[query * 6 + head]));
    }
  }
  // Asking twice, and in another order, changes nothing.
  const SparfReads sparf(geometry, {64, 1}, kSparsity, source_of(4, 2), 7, 1000);
  static_cast<void>(sparf.at(1000));
  CHECK(equal(sparf.at(600), reads));
  CHECK(equal(sparf.at(600), reads));
}

TEST_CASE("head reads: the hash differs when anything differs") {
  const kernels::PageGeometry geometry(kSpec);
  const HeadReads reads =
      SparfReads(geometry, {64, 1}, kSparsity, source_of(1, 1), 7, 900).at(900).front();
  CHECK(reads.hash() == HeadReads(reads).hash());
  std::vector<std::uint64_t> hashes{reads.hash(), HeadReads{}.hash()};
  const auto changed = [&](auto&& change) {
    HeadReads other = reads;
    change(other);
    hashes.push_back(other.hash());
  };
  for (auto member : {&HeadReads::channel_pages, &HeadReads::key_pages, &HeadReads::value_pages}) {
    for (std::size_t i = 0; i < (reads.*member).size(); ++i) {
      changed([&](HeadReads& r) { (r.*member)[i] += 1'000'000; });
      changed([&](HeadReads& r) { (r.*member).erase((r.*member).begin() + std::ptrdiff_t(i)); });
    }
    changed([&](HeadReads& r) { (r.*member).push_back(5000); });
  }
  // A page that moves over to the neighbouring list.
  changed([](HeadReads& r) {
    r.key_pages.insert(r.key_pages.begin(), r.channel_pages.back());
    r.channel_pages.pop_back();
  });
  changed([](HeadReads& r) {
    r.value_pages.insert(r.value_pages.begin(), r.key_pages.back());
    r.key_pages.pop_back();
  });
  changed([](HeadReads& r) { std::swap(r.channel_pages, r.key_pages); });
  changed([](HeadReads& r) { r.estimate_flops += Flops{1}; });
  changed([](HeadReads& r) { r.attention_flops += Flops{1}; });
  changed([](HeadReads& r) { std::swap(r.estimate_flops, r.attention_flops); });
  changed([](HeadReads& r) { ++r.query_elements; });
  changed([](HeadReads& r) { ++r.score_elements; });
  std::sort(hashes.begin(), hashes.end());
  CHECK(std::adjacent_find(hashes.begin(), hashes.end()) == hashes.end());
  MESSAGE(hashes.size(), " variants, as many hashes");
}

TEST_CASE("head reads: impossible values are config errors") {
  const auto problem_with = [](auto config, nlohmann::json json, const char* key,
                               const nlohmann::json& value) -> std::string {
    json[key] = value;
    try {
      read_fields(json, [&](FieldVisitor& v) { config.fields(v); });
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  const auto sparsity = [&](const char* key, const nlohmann::json& value) {
    return problem_with(SparsityConfig{},
                        {{"channels", 16}, {"selected_share", 0.125}, {"local_window_share", 0.25}},
                        key, value);
  };
  CHECK(sparsity("channels", 16).empty());
  CHECK(sparsity("channels", 0).rfind("/channels:", 0) == 0);
  CHECK(sparsity("selected_share", 0).rfind("/selected_share:", 0) == 0);
  CHECK(sparsity("selected_share", 1.01).rfind("/selected_share:", 0) == 0);
  CHECK(sparsity("local_window_share", -0.1).rfind("/local_window_share:", 0) == 0);

  nlohmann::json shipped = load_config(shipped_configs() / "kv_sources" / "synthetic_smollm2.json");
  const auto source = [&](const char* key, const nlohmann::json& value) {
    return problem_with(KvSourceConfig{}, shipped, key, value);
  };
  const auto constant = [](double value) -> nlohmann::json {
    return {{"value", value}, {"source", "assumed"}, {"citation", "this test"}};
  };
  CHECK(source("heads", 8).empty());
  CHECK(source("heads", 0).rfind("/heads:", 0) == 0);
  CHECK(source("queries", 0).rfind("/queries:", 0) == 0);
  CHECK(source("run_share", constant(0.7)).empty());
  CHECK(source("run_share", constant(0.8)) ==
        "/run_share: must be at most 1 together with position_share");
  CHECK(source("logit_spread", constant(-1)).rfind("/logit_spread:", 0) == 0);
}

TEST_CASE("head reads: synthetic keys beyond FP16 are the config's mistake") {
  SyntheticHeadsConfig source = source_of(4, 2);
  source.heads_like.key_channel_spread = 6;
  const kernels::PageGeometry geometry({64, 4096, 4});
  CHECK_THROWS_AS(SparfReads(geometry, {64, 1}, kSparsity, source, 7, 600), ConfigError);
}

TEST_CASE("head reads: synthetic queries beyond FP16 are the config's mistake") {
  SyntheticHeadsConfig source = source_of(4, 2);
  source.heads_like.recency_logit = 1e6;
  const kernels::PageGeometry geometry({64, 4096, 4});
  const SparfReads sparf(geometry, {64, 1}, kSparsity, source, 7, 600);
  CHECK_THROWS_WITH_AS(static_cast<void>(sparf.at(600)),
                       "/system/kv_source: the synthetic queries are too large for FP16; choose "
                       "smaller logits or a smaller query_channel_spread",
                       ConfigError);
}
