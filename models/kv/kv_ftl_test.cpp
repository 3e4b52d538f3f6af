#include "models/kv/kv_ftl.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

int below(Rng& rng, int n) { return static_cast<int>(rng.below(static_cast<std::uint64_t>(n))); }

std::size_t order_of(std::string_view name) {
  return static_cast<std::size_t>(std::find(kPlaneOrders.begin(), kPlaneOrders.end(), name) -
                                  kPlaneOrders.begin());
}

KvFtlConfig plain_config() {
  KvFtlConfig config;
  config.plane_order = order_of("CPDW");
  config.sharing = KvBlockSharing::own_blocks;
  config.reclaim_below = 0.3;
  config.reclaim_until = 0.6;
  config.least_worn_first = true;
  config.bad_blocks = {.factory_share = 0, .grown_per_erase = 0, .pe_cycles = 1'000'000};
  return config;
}

/// d_head 8, 128-byte pages: 8 tokens a group; 2 channels a group: 32 tokens a channel page, 4
/// each.
kernels::PageGeometry small_pages() {
  return kernels::PageGeometry({.d_head = 8, .page_bytes = 128, .channels_per_group = 2});
}

KvFtl::Parts small_parts() {
  return {.flash = {.channels = 2,
                    .ways_per_channel = 1,
                    .dies_per_way = 2,
                    .planes_per_die = 2,
                    .blocks_per_plane = 16,
                    .pages_per_block = 8},
          .layout = {.channels_per_group = 2, .stream_skew = 3},
          .tracks_page_indices = true};
}

// OPT-13B: 40 layers, 40 heads of 128 channels, FP16.
constexpr std::int64_t kLayers = 40;
constexpr std::int64_t kHeads = 40;
kernels::PageGeometry opt13b_pages(int channels_per_group) {
  return kernels::PageGeometry(
      {.d_head = 128, .page_bytes = 4096, .channels_per_group = channels_per_group});
}

}  // namespace

TEST_CASE("kv_ftl: pages are programmed with the token that fills them") {
  KvFtl ftl(plain_config(), small_parts(), 1, "csd/0/ftl");
  const KvFtl::TaskId task = ftl.open_task(
      {.sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 100, .channel_copy = true},
      small_pages());
  const KvHead head{};
  for (int token = 1; token <= 100; ++token) {
    CAPTURE(token);
    KvOperations operations;
    REQUIRE(ftl.append(task, head, 1, &operations) == KvFtl::Outcome::ok);
    // K and V each 8 tokens; 4 channel groups each 32 tokens.
    REQUIRE(operations.size() == (token % 8 == 0 ? 2U : 0U) + (token % 32 == 0 ? 4U : 0U));
    // K and V rows of the open token group, and K rows of the open channel chunk, of 16 bytes.
    REQUIRE(ftl.buffered() == Bytes{(2 * (token % 8) + token % 32) * 16});
  }
  CHECK(ftl.buffered_high_water() == Bytes{(2 * 7 + 31) * 16});
  CHECK(ftl.counters().programs == 12 + 12 + 3 * 4);
  CHECK_THROWS_AS(ftl.append(task, head, 1, nullptr), CheckFailure);  // above max_tokens
}

TEST_CASE("kv_ftl: only pages that are on flash have a place") {
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 100, .channel_copy = true};
  for (const bool tracks : {true, false}) {
    CAPTURE(tracks);
    KvFtl::Parts parts = small_parts();
    parts.tracks_page_indices = tracks;
    KvFtl ftl(plain_config(), parts, 1, "csd/0/ftl");
    const KvFtl::TaskId task = ftl.open_task(shape, small_pages());
    REQUIRE(ftl.append(task, {}, 20, nullptr) == KvFtl::Outcome::ok);  // 8 tokens a page
    CHECK(ftl.plane_of(task, {}, KvStream::key_tokens, 1) >= 0);
    for (const int page : {-1, 2}) {
      CHECK_THROWS_AS(static_cast<void>(ftl.plane_of(task, {}, KvStream::key_tokens, page)),
                      CheckFailure);
      CHECK_THROWS_AS(static_cast<void>(ftl.page_of(task, {}, KvStream::key_tokens, page)),
                      CheckFailure);
    }
  }
}

TEST_CASE("kv_ftl: a layer at once is the same as its heads one by one") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "kv_ftl_test/layers");
    KvFtl at_once(plain_config(), small_parts(), 1, "csd/0/ftl");
    KvFtl one_by_one(plain_config(), small_parts(), 1, "csd/0/ftl");
    const KvTaskShape shape{
        .sequences = 2, .layers = 2, .kv_heads = 2, .max_tokens = 300, .channel_copy = true};
    const KvFtl::TaskId task = at_once.open_task(shape, small_pages());
    REQUIRE(one_by_one.open_task(shape, small_pages()) == task);
    for (int step = 0; step < 40; ++step) {
      KvOperations a;
      KvOperations b;
      const int layer = below(rng, 2);
      const int tokens = 1 + below(rng, 6);
      if (seed % 2 == 1 && below(rng, 8) == 0) {  // a head of its own length
        const KvHead head{.sequence = below(rng, 2), .layer = layer, .head = below(rng, 2)};
        at_once.append(task, head, tokens, &a);
        one_by_one.append(task, head, tokens, &b);
      } else {
        REQUIRE(at_once.append_layer(task, layer, tokens, &a) == KvFtl::Outcome::ok);
        for (int pair = 0; pair < 4; ++pair) {
          one_by_one.append(task, {.sequence = pair / 2, .layer = layer, .head = pair % 2}, tokens,
                            &b);
        }
      }
      REQUIRE(a == b);
      REQUIRE(at_once.buffered() == one_by_one.buffered());
      for (int head = 0; head < 8; ++head) {
        const KvHead at{.sequence = head / 4, .layer = head / 2 % 2, .head = head % 2};
        REQUIRE(at_once.tokens(task, at) == one_by_one.tokens(task, at));
      }
    }
    at_once.audit();
    for (KvFtl* ftl : {&at_once, &one_by_one}) {
      ftl->finish(task);
      REQUIRE(ftl->buffered() == Bytes{});
    }
  }
}

TEST_CASE("kv_ftl: tokens counted at once leave the state of tokens one by one") {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "kv_ftl_test/counted");
    KvFtl::Parts parts = small_parts();
    parts.tracks_page_indices = false;
    KvFtl at_once(plain_config(), parts, 1, "csd/0/ftl");
    KvFtl one_by_one(plain_config(), parts, 1, "csd/0/ftl");
    std::vector<KvFtl::Growing> tasks;
    std::vector<int> layers;
    for (int i = 0; i < 1 + below(rng, 3); ++i) {
      const KvTaskShape shape{.sequences = 1 + below(rng, 2),
                              .layers = 1 + below(rng, 3),
                              .kv_heads = 1 + below(rng, 2),
                              .max_tokens = 120,
                              .channel_copy = below(rng, 2) == 0,
                              .inputs_only = below(rng, 3) == 0};
      tasks.push_back({at_once.open_task(shape, small_pages()), 0});
      REQUIRE(one_by_one.open_task(shape, small_pages()) == tasks.back().task);
      layers.push_back(shape.layers);
      if (at_once.has_table(tasks.back().task)) {
        tasks.pop_back();
        layers.pop_back();
        break;  // the drive is full
      }
    }
    REQUIRE(!tasks.empty());
    for (int round = 0; round < 3; ++round) {
      int most = 0;
      for (KvFtl::Growing& growing : tasks) {
        REQUIRE(at_once.can_count(growing.task));
        growing.at_once = round == 0 ? 1 : 1 + below(rng, 8);
        growing.tokens = below(rng, 40 / growing.at_once) * growing.at_once;
        most = std::max(most, growing.tokens / growing.at_once);
      }
      at_once.append_counted(tasks);
      for (int token = 0; token < most; ++token) {
        for (int layer = 0; layer < 3; ++layer) {
          for (std::size_t i = 0; i < tasks.size(); ++i) {
            if (token * tasks[i].at_once < tasks[i].tokens && layer < layers[i]) {
              one_by_one.append_layer(tasks[i].task, layer, tasks[i].at_once, nullptr);
            }
          }
        }
      }
      REQUIRE(at_once.buffered() == one_by_one.buffered());
      REQUIRE(at_once.buffered_high_water() == one_by_one.buffered_high_water());
      REQUIRE(at_once.counters().programs == one_by_one.counters().programs);
      for (int plane = 0; plane < at_once.flash().planes(); ++plane) {
        std::vector<std::uint32_t>
            written[2];  // which of equal blocks a task opens does not matter
        for (int block = 0; block < at_once.flash().blocks_per_plane; ++block) {
          written[0].push_back(at_once.blocks_of(plane).block(block).written);
          written[1].push_back(one_by_one.blocks_of(plane).block(block).written);
        }
        std::sort(written[0].begin(), written[0].end());
        std::sort(written[1].begin(), written[1].end());
        REQUIRE(written[0] == written[1]);
      }
    }
    at_once.audit();
  }
}

TEST_CASE("kv_ftl: on fresh flash every page lies where KvPlacement puts it") {
  FlashConfig flash;
  flash.channels = 2;
  flash.chips_per_channel = 1;
  flash.dies_per_chip = 2;
  flash.planes_per_die = 2;
  flash.blocks_per_plane = 16;
  flash.pages_per_block = 8;
  flash.array_unit = ArrayUnit::plane;
  const KvFtl::Parts parts = small_parts();
  const KvPlacement placement(flash, parts.layout, "CPDW");
  KvFtl ftl(plain_config(), parts, 1, "csd/0/ftl");
  const KvTaskShape shape{
      .sequences = 2, .layers = 2, .kv_heads = 2, .max_tokens = 70, .channel_copy = true};
  const KvFtl::TaskId task = ftl.open_task(shape, small_pages());
  for (int layer = 0; layer < shape.layers; ++layer) {
    REQUIRE(ftl.append_layer(task, layer, 64, nullptr) == KvFtl::Outcome::ok);
  }
  int compared = 0;
  for (int pair = 0; pair < 4; ++pair) {
    for (int stream = 0; stream < kKvStreams; ++stream) {
      for (int page = 0; page < 8; ++page) {
        const auto kind = static_cast<KvStream>(stream);
        const PagePlace expected = placement.place(placement.base(pair, kind), page);
        const PhysicalPage at =
            ftl.page_of(task, {.sequence = pair / 2, .layer = 1, .head = pair % 2}, kind, page);
        const PagePlace place = ftl.place_of(at, ArrayUnit::plane);
        REQUIRE(place.channel == expected.channel);
        REQUIRE(place.unit == expected.unit);
        REQUIRE(ftl.place_of(at, ArrayUnit::die).unit == expected.unit / 2);
        ++compared;
      }
    }
  }
  CHECK(compared == 96);
  CHECK(ftl.counters().redirected_pages == 0);
}

TEST_CASE(
    "kv_ftl: a task that keeps counts only has the places, counts and wear of one with a table") {
  std::int64_t counted = 0;
  std::int64_t tasks = 0;
  std::int64_t erases = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "kv_ftl_test/counts");
    KvFtlConfig config = plain_config();
    config.plane_order = rng.below(kPlaneOrders.size());
    config.sharing =
        below(rng, 8) == 0 ? KvBlockSharing::shared_blocks : KvBlockSharing::own_blocks;
    config.least_worn_first = below(rng, 2) == 0;
    config.bad_blocks.factory_share = below(rng, 2) == 0 ? 0.1 : 0;
    config.bad_blocks.grown_per_erase = below(rng, 3) == 0 ? 0.05 : 0;
    KvFtl::Parts parts = small_parts();
    parts.flash.channels = 1 + below(rng, 3);
    parts.flash.blocks_per_plane = 8 + below(rng, 40);
    parts.layout.stream_skew = below(rng, 70);
    KvFtl with_table(config, parts, seed, "csd/0/ftl");
    parts.tracks_page_indices = false;
    KvFtl counting(config, parts, seed, "csd/0/ftl");
    struct Task {
      KvFtl::TaskId id;
      KvTaskShape shape;
    };
    std::vector<Task> running;
    const auto both = [&](auto&& act) {
      const auto expected = act(with_table);
      REQUIRE(act(counting) == expected);
      return expected;
    };
    for (int step = 0; step < 120; ++step) {
      const int what = below(rng, 12);
      if (running.empty() || what == 0) {
        const KvTaskShape shape{.sequences = 1 + below(rng, 3),
                                .layers = 1 + below(rng, 2),
                                .kv_heads = 1 + below(rng, 3),
                                .max_tokens = 30 + below(rng, 250),
                                .channel_copy = below(rng, 2) == 0};
        running.push_back(
            {both([&](KvFtl& ftl) { return ftl.open_task(shape, small_pages()); }), shape});
        counted += counting.has_table(running.back().id) ? 0 : 1;
        ++tasks;
      } else if (what == 1) {
        const auto at = running.begin() + below(rng, static_cast<int>(running.size()));
        with_table.finish(at->id);
        counting.finish(at->id);
        running.erase(at);
      } else if (what == 2) {
        both([&](KvFtl& ftl) { return ftl.reclaim_round(nullptr); });
      } else if (what == 3 && below(rng, 3) == 0) {
        both([&](KvFtl& ftl) { return ftl.reclaim(nullptr); });
      } else if (what == 4 && below(rng, 3) == 0) {
        both([&](KvFtl& ftl) { return ftl.reclaim_one(nullptr); });
      } else {
        const Task& task = running[below(rng, static_cast<int>(running.size()))];
        const KvHead head{.sequence = below(rng, task.shape.sequences),
                          .layer = below(rng, task.shape.layers),
                          .head = below(rng, task.shape.kv_heads)};
        int most = 0;
        for (int pair = 0; pair < task.shape.sequences * task.shape.kv_heads; ++pair) {
          most = std::max(most, with_table.tokens(task.id, {.sequence = pair / task.shape.kv_heads,
                                                            .layer = head.layer,
                                                            .head = pair % task.shape.kv_heads}));
        }
        const int more = std::min(below(rng, 60), task.shape.max_tokens - most);
        both([&](KvFtl& ftl) {
          return what == 5 && seed % 3 == 0 ? ftl.append(task.id, head, more, nullptr)
                                            : ftl.append_layer(task.id, head.layer, more, nullptr);
        });
      }
      REQUIRE(counting.buffered() == with_table.buffered());
    }
    counting.audit();
    with_table.audit();
    for (const Task& task : running) {
      REQUIRE(counting.available_pages(task.id) == with_table.available_pages(task.id));
      for (int row = 0; row < task.shape.heads(); ++row) {
        const KvHead head{.sequence = row / task.shape.kv_heads % task.shape.sequences,
                          .layer = row / task.shape.kv_heads / task.shape.sequences,
                          .head = row % task.shape.kv_heads};
        const KvPageCounts pages =
            flushed_pages(small_pages(), counting.tokens(task.id, head), task.shape.channel_copy);
        const std::array counts{pages.key_tokens, pages.value_tokens, pages.key_channels};
        for (int stream = 0; stream < kKvStreams; ++stream) {
          for (int page = 0; page < counts[stream]; ++page) {
            const auto kind = static_cast<KvStream>(stream);
            REQUIRE(counting.plane_of(task.id, head, kind, page) ==
                    with_table.plane_of(task.id, head, kind, page));
          }
        }
      }
    }
    const KvFtl::Counters& a = counting.counters();
    const KvFtl::Counters& b = with_table.counters();
    REQUIRE(a.programs == b.programs);
    REQUIRE(a.erases == b.erases);
    REQUIRE(a.erased_unwritten_pages == b.erased_unwritten_pages);
    REQUIRE(a.redirected_pages == b.redirected_pages);
    REQUIRE(a.reclaimed_tasks == b.reclaimed_tasks);
    REQUIRE(a.grown_bad_blocks == b.grown_bad_blocks);
    for (int plane = 0; plane < parts.flash.planes(); ++plane) {
      for (int block = 0; block < parts.flash.blocks_per_plane; ++block) {
        const EraseBlock& one = counting.blocks_of(plane).block(block);
        const EraseBlock& other = with_table.blocks_of(plane).block(block);
        REQUIRE(one.state == other.state);
        REQUIRE(one.written == other.written);
        REQUIRE(one.valid == other.valid);
        REQUIRE(one.erases == other.erases);
      }
    }
    erases += a.erases;
  }
  MESSAGE(counted, " of ", tasks, " tasks kept counts only; ", erases, " blocks were erased");
  CHECK(counted > tasks / 4);
  CHECK(counted < tasks);
  CHECK(erases > 5'000);
}

TEST_CASE("kv_ftl: a task whose share of a plane does not fit keeps a table and is redirected") {
  KvFtlConfig config = plain_config();
  KvFtl::Parts parts = small_parts();
  parts.tracks_page_indices = false;
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 8 * 64, .channel_copy = false};
  // 64 pages of K and of V over 8 planes: 16 a plane, 2 blocks of 8 in each.
  for (const int blocks : {2, 1}) {
    CAPTURE(blocks);
    parts.flash.blocks_per_plane = blocks;
    KvFtl ftl(config, parts, 1, "csd/0/ftl");
    const KvFtl::TaskId task = ftl.open_task(shape, small_pages());
    CHECK(ftl.has_table(task) == (blocks == 1));
    CHECK(ftl.available_pages(task) == 8 * 8 * blocks);
    CHECK(ftl.append_layer(task, 0, 8 * 64, nullptr) ==
          (blocks == 2 ? KvFtl::Outcome::ok : KvFtl::Outcome::exhausted));
  }
  // While one task may need the blocks, no other one takes them; when it is finished it may.
  parts.flash.blocks_per_plane = 3;
  KvFtl ftl(config, parts, 1, "csd/0/ftl");
  const KvFtl::TaskId first = ftl.open_task(shape, small_pages());
  const KvFtl::TaskId second = ftl.open_task(shape, small_pages());
  CHECK(!ftl.has_table(first));
  CHECK(ftl.has_table(second));
  CHECK(ftl.available_pages(second) == 8 * 8);
  CHECK(ftl.append_layer(second, 0, 8 * 64, nullptr) == KvFtl::Outcome::exhausted);
  // 34 pages each: planes 0, 1 and, with the skew of 3, 3, 4 have one more than a block.
  CHECK(ftl.append_layer(first, 0, 8 * 34, nullptr) == KvFtl::Outcome::ok);
  ftl.finish(first);
  CHECK(ftl.available_pages(second) == (4 + 4 * 2) * 8);
  CHECK(ftl.append_layer(second, 0, 8 * 40, nullptr) == KvFtl::Outcome::ok);  // 10 a plane
  CHECK(ftl.counters().redirected_pages > 0);
  CHECK(ftl.layer_places(second, 0) != 0);
  ftl.audit();
}

TEST_CASE("kv_ftl: layers have equal place hashes when their pages lie at equal places") {
  const KvTaskShape shape{
      .sequences = 1, .layers = 3, .kv_heads = 2, .max_tokens = 128, .channel_copy = true};
  KvFtl::Parts parts = small_parts();
  for (const bool with_indices : {false, true}) {
    parts.tracks_page_indices = with_indices;
    KvFtl ftl(plain_config(), parts, 1, "csd/0/ftl");
    const KvFtl::TaskId task = ftl.open_task(shape, small_pages());
    for (int layer = 0; layer < 3; ++layer) {
      REQUIRE(ftl.append_layer(task, layer, 128, nullptr) == KvFtl::Outcome::ok);
      CHECK((ftl.layer_places(task, layer) == 0) == !with_indices);
    }
    // 32 pages of K and V and 16 of channels a head: 12 pages a plane and layer, 1 1/2 blocks.
    CHECK((ftl.layer_places(task, 0) == ftl.layer_places(task, 1)) == !with_indices);
    CHECK(ftl.layer_places(task, 0) == ftl.layer_places(task, 2));
  }
}

TEST_CASE("kv_ftl: reclaim in rounds is reclaim at once, a block of each plane at a time") {
  KvFtlConfig config = plain_config();
  KvFtl at_once(config, small_parts(), 1, "csd/0/ftl");
  KvFtl in_rounds(config, small_parts(), 1, "csd/0/ftl");
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 640, .channel_copy = false};
  for (KvFtl* ftl : {&at_once, &in_rounds}) {
    for (int i = 0; i < 5; ++i) {  // each 160 pages, in 3 blocks of each of 8 planes
      const KvFtl::TaskId task = ftl->open_task(shape, small_pages());
      REQUIRE(ftl->append(task, {}, 640, nullptr) == KvFtl::Outcome::ok);
      ftl->finish(task);
    }
  }
  KvOperations expected;
  CHECK(at_once.reclaim(&expected) == 3);  // 8 + 3 x 24 of 128 blocks: above 0.6
  KvOperations operations;
  int rounds = 0;
  while (in_rounds.wants_reclaim()) {
    const std::size_t before = operations.size();
    REQUIRE(in_rounds.reclaim_round(&operations));
    REQUIRE(operations.size() - before == 8);
    in_rounds.audit();
    ++rounds;
  }
  CHECK(rounds == 9);
  CHECK(operations == expected);
  CHECK(!in_rounds.reclaim_round(&operations));
}

TEST_CASE("kv_ftl: pages of different heads fill the same erase block") {
  KvFtl ftl(plain_config(), small_parts(), 1, "csd/0/ftl");
  const KvTaskShape shape{
      .sequences = 2, .layers = 2, .kv_heads = 4, .max_tokens = 64, .channel_copy = false};
  const KvFtl::TaskId task = ftl.open_task(shape, small_pages());
  for (int layer = 0; layer < shape.layers; ++layer) {
    ftl.append_layer(task, layer, 64, nullptr);
  }
  // 16 heads x 16 pages = 256 pages in 8 planes of 8 pages a block: 4 full blocks a plane.
  std::map<PhysicalPage, std::set<int>> heads_of_block;
  for (int i = 0; i < 16; ++i) {
    const KvHead head{.sequence = i / 4 % 2, .layer = i / 8, .head = i % 4};
    for (int page = 0; page < 8; ++page) {
      heads_of_block[ftl.page_of(task, head, KvStream::key_tokens, page) / 8].insert(i);
    }
  }
  CHECK(ftl.pages().free == 8 * 16 * 8 - 256);
  CHECK(heads_of_block.size() == 32);
  for (const auto& [block, heads] : heads_of_block) {
    CHECK(heads.size() >= 3);
  }
}

TEST_CASE("kv_ftl: equals a naive one on random tasks, and no page is lost") {
  std::int64_t exhausted = 0;
  std::int64_t reclaimed = 0;
  std::int64_t redirected = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "kv_ftl_test/random tasks");
    KvFtlConfig config = plain_config();
    config.plane_order = rng.below(kPlaneOrders.size());
    config.sharing = static_cast<KvBlockSharing>(below(rng, 2));
    config.least_worn_first = below(rng, 2) == 0;
    config.bad_blocks.factory_share = below(rng, 3) == 0 ? 0.1 : 0;
    config.bad_blocks.grown_per_erase = below(rng, 3) == 0 ? 0.02 : 0;
    KvFtl ftl(config, small_parts(), seed, "csd/0/ftl");
    // The oracle: who programmed a page, as (task, layer, sequence, head, stream, page).
    using Owner = std::tuple<int, int, int, int, int, int>;
    std::map<PhysicalPage, Owner> programmed;
    std::map<Owner, PhysicalPage> where;
    struct Task {
      KvFtl::TaskId id;
      KvTaskShape shape;
      std::map<std::tuple<int, int, int>, int> tokens;
    };
    std::vector<Task> running;
    std::vector<KvFtl::TaskId> finished;  // least recently used first
    for (int step = 0; step < 400; ++step) {
      KvOperations operations;
      const int what = below(rng, 10);
      if (running.empty() || (what == 0 && running.size() < 8)) {
        const KvTaskShape shape{.sequences = 1 + below(rng, 2),
                                .layers = 1 + below(rng, 2),
                                .kv_heads = 1 + below(rng, 3),
                                .max_tokens = 100,
                                .channel_copy = below(rng, 2) == 0};
        running.push_back({ftl.open_task(shape, small_pages()), shape, {}});
      } else if (what == 1) {
        const auto at = running.begin() + below(rng, static_cast<int>(running.size()));
        ftl.touch(at->id);
        ftl.finish(at->id);
        finished.push_back(at->id);
        running.erase(at);
      } else if (what == 2 && below(rng, 4) == 0) {
        const std::int64_t before = ftl.counters().reclaimed_tasks;
        const int count = ftl.reclaim(&operations);
        REQUIRE(ftl.counters().reclaimed_tasks - before == count);
        for (int i = 0; i < count; ++i) {
          const KvFtl::TaskId gone = finished.front();
          finished.erase(finished.begin());
          std::erase_if(where, [&](const auto& entry) { return std::get<0>(entry.first) == gone; });
        }
        for (const KvOperation& operation : operations) {
          REQUIRE(operation.command == FlashCommand::erase);
          for (PhysicalPage page = operation.page; page < operation.page + 8; ++page) {
            const auto held = programmed.find(page);
            REQUIRE((held == programmed.end() || !where.contains(held->second)));
            programmed.erase(page);
          }
        }
        reclaimed += count;
      } else {
        Task& task = running[below(rng, static_cast<int>(running.size()))];
        const KvHead head{.sequence = below(rng, task.shape.sequences),
                          .layer = below(rng, task.shape.layers),
                          .head = below(rng, task.shape.kv_heads)};
        int& tokens = task.tokens[{head.layer, head.sequence, head.head}];
        const int more = std::min(1 + below(rng, 60), 100 - tokens);
        const std::int64_t available = ftl.available_pages(task.id);
        const int chunks = task.shape.channel_copy ? (tokens + more) / 32 - tokens / 32 : 0;
        const int groups = (tokens + more) / 8 - tokens / 8;
        const std::int64_t needed = 2 * groups + 4 * chunks;
        if (ftl.append(task.id, head, more, &operations) == KvFtl::Outcome::exhausted) {
          REQUIRE(needed > available);
          REQUIRE(operations.empty());
          REQUIRE(!ftl.exhaustion().empty());
          REQUIRE(ftl.tokens(task.id, head) == tokens);
          ++exhausted;
          continue;
        }
        REQUIRE(needed <= available);
        REQUIRE(static_cast<std::int64_t>(operations.size()) == needed);
        std::size_t next = 0;
        const auto take = [&](int stream, int from, int to) {
          for (int page = from; page < to; ++page) {
            const Owner owner{task.id, head.layer, head.sequence, head.head, stream, page};
            const PhysicalPage at = operations[next++].page;
            REQUIRE(!programmed.contains(at));
            REQUIRE((at % 8 == 0 || programmed.contains(at - 1)));  // in order in its block
            programmed[at] = owner;
            where[owner] = at;
          }
        };
        take(0, tokens / 8, tokens / 8 + groups);
        take(1, tokens / 8, tokens / 8 + groups);
        take(2, tokens / 32 * 4, (tokens / 32 + chunks) * 4);
        tokens += more;
      }
      if (step % 50 == 0) {
        ftl.audit();
      }
    }
    ftl.audit();
    REQUIRE(ftl.pages().valid == static_cast<std::int64_t>(where.size()));
    REQUIRE(ftl.pages().valid + ftl.pages().invalid ==
            static_cast<std::int64_t>(programmed.size()));
    if (config.sharing == KvBlockSharing::own_blocks) {
      REQUIRE(ftl.pages().invalid == 0);
    }
    for (const auto& [owner, page] : where) {
      const auto& [task, layer, sequence, head, stream, number] = owner;
      if (std::find(finished.begin(), finished.end(), task) == finished.end()) {
        REQUIRE(ftl.page_of(task, {.sequence = sequence, .layer = layer, .head = head},
                            static_cast<KvStream>(stream), number) == page);
      }
    }
    redirected += ftl.counters().redirected_pages;
  }
  MESSAGE(
      fmt::format("200 drives x 400 operations: {} appends to a full drive, {} tasks reclaimed, "
                  "{} pages redirected",
                  exhausted, reclaimed, redirected));
  CHECK(exhausted > 500);
  CHECK(reclaimed > 500);
  CHECK(redirected > 500);
}

TEST_CASE("kv_ftl: idle reclaim takes the least recently used tasks, between two limits") {
  KvFtlConfig config = plain_config();
  config.reclaim_until = 0.4;
  KvFtl ftl(config, small_parts(), 1, "csd/0/ftl");  // 128 blocks of 8 pages
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 640, .channel_copy = false};
  std::vector<KvFtl::TaskId> tasks;
  for (int i = 0; i < 5; ++i) {              // each 160 pages, in 3 blocks of each of 8 planes
    CHECK(ftl.wants_reclaim() == (i == 4));  // 32 of 128 blocks are free then
    tasks.push_back(ftl.open_task(shape, small_pages()));
    REQUIRE(ftl.append(tasks.back(), {}, 640, nullptr) == KvFtl::Outcome::ok);
    if (i < 3) {
      ftl.finish(tasks.back());
    }
  }
  ftl.touch(tasks[0]);         // the order is now 1, 2, 0
  CHECK(ftl.wants_reclaim());  // 8 of 128 blocks are free
  KvOperations operations;
  CHECK(ftl.reclaim(&operations) == 2);  // then 56
  CHECK(operations.size() == 48);
  CHECK_THROWS_AS(ftl.touch(tasks[1]), CheckFailure);  // gone
  CHECK_THROWS_AS(ftl.touch(tasks[2]), CheckFailure);
  for (const KvFtl::TaskId task : {tasks[0], tasks[3], tasks[4]}) {
    CHECK(ftl.tokens(task, {}) == 640);
  }
  CHECK(!ftl.wants_reclaim());
  CHECK(ftl.reclaim(&operations) == 0);
  CHECK(ftl.reclaim_one(&operations));
  CHECK(operations.size() == 72);
  CHECK(ftl.counters().erases == 72);
  ftl.audit();
}

TEST_CASE("kv_ftl: a full drive says what fills it, and goes on after a reclaim") {
  KvFtl ftl(plain_config(), small_parts(), 1, "csd/0/ftl");
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 4, .max_tokens = 512, .channel_copy = false};
  const KvFtl::TaskId first = ftl.open_task(shape, small_pages());
  REQUIRE(ftl.append_layer(first, 0, 512, nullptr) == KvFtl::Outcome::ok);  // 512 pages
  ftl.finish(first);
  const KvFtl::TaskId second = ftl.open_task(shape, small_pages());
  REQUIRE(ftl.append_layer(second, 0, 504, nullptr) == KvFtl::Outcome::ok);
  const KvFtl::TaskId third = ftl.open_task(shape, small_pages());
  CHECK(ftl.append_layer(third, 0, 64, nullptr) == KvFtl::Outcome::exhausted);
  CHECK(ftl.tokens(third, {}) == 0);
  CHECK(ftl.exhaustion() ==
        "csd/0/ftl: 64 pages do not fit, 0 are available; of 1024 pages 1016 hold data (512 of "
        "finished tasks), 0 are kept for other tasks, 0 wait for an erase or for other tasks in "
        "their blocks, 0 are bad");
  CHECK(ftl.reclaim(nullptr) == 1);
  CHECK(ftl.append_layer(third, 0, 64, nullptr) == KvFtl::Outcome::ok);
  ftl.audit();
}

TEST_CASE("kv_ftl: shared blocks keep pages of reclaimed tasks, own blocks do not") {
  for (const KvBlockSharing sharing : {KvBlockSharing::own_blocks, KvBlockSharing::shared_blocks}) {
    KvFtlConfig config = plain_config();
    config.sharing = sharing;
    KvFtl ftl(config, small_parts(), 1, "csd/0/ftl");
    const KvTaskShape shape{
        .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 160, .channel_copy = false};
    const KvFtl::TaskId a = ftl.open_task(shape, small_pages());
    const KvFtl::TaskId b = ftl.open_task(shape, small_pages());
    for (int i = 0; i < 20; ++i) {
      ftl.append(a, {}, 8, nullptr);
      ftl.append(b, {}, 8, nullptr);
    }
    ftl.finish(a);
    CHECK(ftl.reclaim_one(nullptr));
    CHECK(ftl.pages().invalid == (sharing == KvBlockSharing::shared_blocks ? 40 : 0));
    ftl.finish(b);
    CHECK(ftl.reclaim_one(nullptr));
    CHECK(!ftl.reclaim_one(nullptr));
    CHECK(ftl.pages().valid + ftl.pages().invalid == 0);
    ftl.audit();
  }
}

TEST_CASE("kv_ftl: wear is even when tasks come and go, and worn blocks are retired") {
  KvFtlConfig config = plain_config();
  config.bad_blocks.pe_cycles = 40;
  KvFtl ftl(config, small_parts(), 1, "csd/0/ftl");
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 2, .max_tokens = 256, .channel_copy = true};
  std::int64_t tasks = 0;
  std::uint32_t widest = 0;
  for (;;) {
    const KvFtl::TaskId task = ftl.open_task(shape, small_pages());
    if (ftl.append_layer(task, 0, 256, nullptr) == KvFtl::Outcome::exhausted) {
      break;
    }
    ftl.finish(task);
    ftl.reclaim_one(nullptr);
    const BlockPool::Wear wear = ftl.wear();
    if (ftl.counters().grown_bad_blocks == 0) {
      widest = std::max(widest, wear.highest - wear.lowest);
    }
    ++tasks;
    REQUIRE(tasks < 100'000);
  }
  ftl.audit();
  const double pages_written = static_cast<double>(ftl.counters().programs);
  const double slots = static_cast<double>(8 * 16 * 8) * 40;
  MESSAGE(fmt::format(
      "{} tasks; spread of wear {}; {:.1f} % of all page slots x P/E cycles carried "
      "data (unwritten ends of blocks: amplification {:.3f})",
      tasks, widest, 100 * pages_written / slots, ftl.counters().write_amplification()));
  CHECK(widest <= 2);
  CHECK(pages_written * ftl.counters().write_amplification() / slots > 0.9);
  CHECK(pages_written * ftl.counters().write_amplification() / slots <= 1.0);
}

TEST_CASE("kv_ftl: endurance of 4 drives with OPT-13B (claim C26)") {
  const Bytes capacity = Bytes{std::int64_t{1} << 40} * 8;  // 4 x 2 TiB
  constexpr std::int64_t kPeCycles = 3'000;
  // The published number counts each token's KV once at 0.78 MiB (2 x 40 layers x 5120 x 2 B is
  // 0.78125 MiB), thousands of tokens, write amplification 1, no second K copy, no
  // over-provisioning: 4 x 2 TiB x 3,000 / 0.78 MiB.
  const double published = writable_tokens({.capacity = capacity,
                                            .pe_cycles = kPeCycles,
                                            .bytes_per_token = 0.78 * 1024 * 1024,
                                            .write_amplification = 1});
  CHECK(published / 1'000 == doctest::Approx(32'263'877).epsilon(1e-7));

  const auto tokens = [&](bool channel_copy) {
    const double a_head = flash_bytes_per_token(opt13b_pages(4), channel_copy);
    return writable_tokens({.capacity = capacity,
                            .pe_cycles = kPeCycles,
                            .bytes_per_token = a_head * kLayers * kHeads,
                            .write_amplification = 1});
  };
  const double once = tokens(false);
  const double with_copy = tokens(true);
  MESSAGE(
      fmt::format("thousands of tokens: published 32,263,877, reproduced {:.0f} with 0.78 MiB a "
                  "token; exact KV {:.0f}; with the second K copy {:.0f}",
                  published / 1e3, once / 1e3, with_copy / 1e3));
  CHECK(once / 1'000 == doctest::Approx(32'212'255).epsilon(1e-7));
  CHECK(with_copy == doctest::Approx(once / 1.5).epsilon(1e-12));
  // 6.67 times the endurance (the paper's retention relaxation), 128 K tokens a user and day.
  const auto users = [&](double years) { return published * 6.67 / (128e3 * 365 * years); };
  CHECK(users(5) == doctest::Approx(920).epsilon(0.005));
  CHECK(users(3) == doctest::Approx(1530).epsilon(0.005));
  CHECK(users(1) == doctest::Approx(4600).epsilon(0.005));
}

TEST_CASE("kv_ftl: flash bytes a token count padding") {
  CHECK(flash_bytes_per_token(opt13b_pages(8), false) == 512);
  CHECK(flash_bytes_per_token(opt13b_pages(8), true) == 768);
  // d_head 80: 25 tokens of 160 bytes in 4096.
  const kernels::PageGeometry padded({.d_head = 80, .page_bytes = 4096, .channels_per_group = 8});
  CHECK(flash_bytes_per_token(padded, false) == doctest::Approx(2 * 4096 / 25.0));
}

TEST_CASE("kv_ftl: equal seeds give equal places, other seeds other bad blocks") {
  const auto digest = [](std::uint64_t seed) {
    KvFtlConfig config = plain_config();
    config.bad_blocks = {.factory_share = 0.1, .grown_per_erase = 0.05, .pe_cycles = 1'000};
    KvFtl ftl(config, small_parts(), seed, "csd/0/ftl");
    KvOperations operations;
    for (int i = 0; i < 30; ++i) {
      const KvFtl::TaskId task = ftl.open_task(
          {.sequences = 1, .layers = 1, .kv_heads = 2, .max_tokens = 128, .channel_copy = true},
          small_pages());
      ftl.append_layer(task, 0, 128, &operations);
      ftl.finish(task);
      ftl.reclaim(&operations);
    }
    std::uint64_t hash = 0;
    for (const KvOperation& operation : operations) {
      hash = mix_hash(hash, (std::uint64_t{operation.page} << 2) +
                                static_cast<std::uint64_t>(operation.command));
    }
    return hash;
  };
  CHECK(digest(1) == digest(1));
  CHECK(digest(1) != digest(2));
}

TEST_CASE("kv_ftl: memory a mapped page") {
  const KvFtl::Parts parts{.flash = {.channels = 8,
                                     .ways_per_channel = 8,
                                     .dies_per_way = 1,
                                     .planes_per_die = 4,
                                     .blocks_per_plane = 1024,
                                     .pages_per_block = 1024},
                           .layout = {.channels_per_group = 4, .stream_skew = 61},
                           .tracks_page_indices = true};
  KvFtl ftl(plain_config(), parts, 1, "csd/0/ftl");
  const KvTaskShape shape{
      .sequences = 4, .layers = 40, .kv_heads = 40, .max_tokens = 2048, .channel_copy = true};
  const std::int64_t without_task = ftl.memory_bytes();
  const KvFtl::TaskId task = ftl.open_task(shape, opt13b_pages(4));
  // Counts of each layer and each head.
  CHECK(ftl.memory_bytes() - without_task >=
        (shape.heads() + shape.layers) * static_cast<std::int64_t>(sizeof(int)));
  for (int layer = 0; layer < shape.layers; ++layer) {
    REQUIRE(ftl.append_layer(task, layer, 2048, nullptr) == KvFtl::Outcome::ok);
  }
  CHECK(ftl.memory_bytes() - without_task >=
        ftl.pages().valid * static_cast<std::int64_t>(sizeof(PhysicalPage)));
  const auto pages = static_cast<double>(ftl.pages().valid);
  const double blocks = 8.0 * 8 * 4 * 1024 * sizeof(EraseBlock);
  CHECK(pages == 6400.0 * 384);
  const double each = static_cast<double>(ftl.memory_bytes()) / pages;
  MESSAGE(fmt::format("{:.0f} pages: {:.2f} bytes each, of them {:.2f} for the drive's blocks",
                      pages, each, blocks / pages));
  CHECK(each < 9);
}

namespace {

constexpr KvTaskShape kSmallTask{
    .sequences = 2, .layers = 2, .kv_heads = 3, .max_tokens = 200, .channel_copy = true};

/// Where all pages of a task lie.
std::map<std::tuple<int, int, int, int>, PhysicalPage> places_of(const KvFtl& ftl,
                                                                 KvFtl::TaskId task, int tokens) {
  std::map<std::tuple<int, int, int, int>, PhysicalPage> places;
  const KvPageCounts counts = kSmallTask.flushed(small_pages(), tokens);
  const std::array<std::int64_t, kKvStreams> pages{counts.key_tokens, counts.value_tokens,
                                                   counts.key_channels};
  for (int layer = 0; layer < kSmallTask.layers; ++layer) {
    for (int pair = 0; pair < kSmallTask.sequences * kSmallTask.kv_heads; ++pair) {
      for (int stream = 0; stream < kKvStreams; ++stream) {
        for (int page = 0; page < pages[static_cast<std::size_t>(stream)]; ++page) {
          const KvHead head{pair / kSmallTask.kv_heads, layer, pair % kSmallTask.kv_heads};
          places[{layer, pair, stream, page}] =
              ftl.page_of(task, head, static_cast<KvStream>(stream), page);
        }
      }
    }
  }
  return places;
}

}  // namespace

TEST_CASE("kv_ftl: what failed planes held is remapped to the others, evenly") {
  for (const bool tracks : {true, false}) {
    for (const KvBlockSharing sharing :
         {KvBlockSharing::own_blocks, KvBlockSharing::shared_blocks}) {
      CAPTURE(tracks);
      CAPTURE(static_cast<int>(sharing));
      KvFtlConfig config = plain_config();
      config.sharing = sharing;
      KvFtl::Parts parts = small_parts();
      parts.tracks_page_indices = tracks;
      parts.flash.blocks_per_plane = 64;
      KvFtl ftl(config, parts, 1, "csd/0/ftl");
      const KvFtl::TaskId done = ftl.open_task(kSmallTask, small_pages());
      const KvFtl::TaskId task = ftl.open_task(kSmallTask, small_pages());
      for (int layer = 0; layer < kSmallTask.layers; ++layer) {
        REQUIRE(ftl.append_layer(done, layer, 100, nullptr) == KvFtl::Outcome::ok);
        REQUIRE(ftl.append_layer(task, layer, 100, nullptr) == KvFtl::Outcome::ok);
      }
      ftl.finish(done);
      const std::vector<int> planes{2, 3};  // a die
      std::vector<KvFtl::LostPage> lost;
      REQUIRE(ftl.fail_planes(planes, lost) == KvFtl::Outcome::ok);
      ftl.audit();
      CHECK(ftl.pages().bad == 2 * parts.flash.pages_per_plane());
      // A quarter of the planes, a quarter of the pages.
      const auto all = places_of(ftl, task, 100);
      CHECK(static_cast<double>(lost.size()) / static_cast<double>(all.size()) ==
            doctest::Approx(0.25).epsilon(0.1));
      std::map<int, int> by_plane;
      for (const auto& [page, at] : all) {
        ++by_plane[ftl.flash().plane_of(at)];
      }
      CHECK_FALSE(by_plane.contains(2));
      CHECK_FALSE(by_plane.contains(3));
      CHECK(by_plane.size() == 6);
      for (const auto& [plane, count] : by_plane) {
        CHECK(count == doctest::Approx(static_cast<double>(all.size()) / 6).epsilon(0.2));
      }
      CHECK(ftl.layer_places(task, 0) != 0);
      // It goes on growing, and finished tasks can be reclaimed.
      REQUIRE(ftl.append_layer(task, 0, 60, nullptr) == KvFtl::Outcome::ok);
      while (ftl.reclaim_one(nullptr)) {
      }
      ftl.audit();
      // The same planes again have nothing to lose.
      std::vector<KvFtl::LostPage> nothing;
      REQUIRE(ftl.fail_planes(planes, nothing) == KvFtl::Outcome::ok);
      CHECK(nothing.empty());
      // A new task works around them.
      const KvFtl::TaskId next = ftl.open_task(kSmallTask, small_pages());
      REQUIRE(ftl.append_layer(next, 0, 100, nullptr) == KvFtl::Outcome::ok);
      ftl.audit();
    }
  }
}

TEST_CASE("kv_ftl: pages that are lost get other places, as many as asked for") {
  KvFtl::Parts parts = small_parts();
  parts.tracks_page_indices = false;
  KvFtl ftl(plain_config(), parts, 1, "csd/0/ftl");
  const KvFtl::TaskId task = ftl.open_task(kSmallTask, small_pages());
  for (int layer = 0; layer < kSmallTask.layers; ++layer) {
    REQUIRE(ftl.append_layer(task, layer, 100, nullptr) == KvFtl::Outcome::ok);
  }
  const std::int64_t valid = ftl.pages().valid;
  Rng rng(1, "pages");
  std::vector<KvFtl::LostPage> lost;
  REQUIRE(ftl.lose_pages(9, rng, lost) == KvFtl::Outcome::ok);
  CHECK(lost.size() == 9);
  CHECK(ftl.pages().valid == valid);
  CHECK(ftl.pages().invalid == 9);
  ftl.audit();
  std::vector<KvFtl::LostPage> all;
  REQUIRE(ftl.lose_pages(1'000'000, rng, all) == KvFtl::Outcome::ok);
  CHECK(static_cast<std::int64_t>(all.size()) == valid);
  ftl.audit();
}

TEST_CASE("kv_ftl: planes that fail where the others are full are a result") {
  KvFtl::Parts parts = small_parts();
  parts.flash.blocks_per_plane = 8;
  KvFtl ftl(plain_config(), parts, 1, "csd/0/ftl");
  const KvFtl::TaskId task = ftl.open_task(kSmallTask, small_pages());
  for (int layer = 0; layer < kSmallTask.layers; ++layer) {
    REQUIRE(ftl.append_layer(task, layer, 96, nullptr) == KvFtl::Outcome::ok);
  }
  std::vector<KvFtl::LostPage> lost;
  CHECK(ftl.fail_planes({0, 1, 2, 3, 4, 5}, lost) == KvFtl::Outcome::exhausted);
  CHECK(ftl.exhaustion().find("do not fit") != std::string::npos);
}
