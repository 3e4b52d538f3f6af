#include "models/kv/kv_layout.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

FlashConfig flash_of(int channels, int dies, int planes, ArrayUnit unit = ArrayUnit::plane) {
  FlashConfig flash;
  flash.channels = channels;
  flash.chips_per_channel = dies;
  flash.dies_per_chip = 1;
  flash.planes_per_die = planes;
  flash.blocks_per_plane = 1;
  flash.pages_per_block = 1;
  flash.array_unit = unit;
  return flash;
}

constexpr KvStream kStreams[] = {KvStream::key_tokens, KvStream::value_tokens,
                                 KvStream::key_channels};

std::string problem_with(const char* key, int value) {
  nlohmann::json config = {{"channels_per_group", 4}, {"stream_skew", 61}};
  config[key] = value;
  KvLayoutConfig layout;
  try {
    read_fields(config, [&](FieldVisitor& v) { layout.fields(v); });
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("kv layout: a round of pages lies on every unit of every channel once") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/kv/kv_layout_test");
    const FlashConfig flash = flash_of(
        static_cast<int>(1 + rng.below(16)), static_cast<int>(1 + rng.below(8)),
        static_cast<int>(1 + rng.below(4)), rng.below(2) == 0 ? ArrayUnit::plane : ArrayUnit::die);
    const KvPlacement placement(
        flash, {.channels_per_group = 4, .stream_skew = static_cast<int>(rng.below(1000))},
        flash.array_unit == ArrayUnit::die ? "CWDP" : "CPDW");  // planes of a die last
    const int slots = flash.channels * flash.units_per_channel();
    const int pair = static_cast<int>(rng.below(100'000));
    const int base = placement.base(pair, kStreams[rng.below(3)]);
    const int first = static_cast<int>(rng.below(10'000));
    std::set<std::pair<int, int>> places;
    for (int page = first; page < first + slots; ++page) {
      const PagePlace place = placement.place(base, page);
      REQUIRE(place.channel >= 0);
      REQUIRE(place.channel < flash.channels);
      REQUIRE(place.unit >= 0);
      REQUIRE(place.unit < flash.units_per_channel());
      REQUIRE(places.emplace(place.channel, place.unit).second);
      // The next round is the same.
      const PagePlace again = placement.place(base, page + slots);
      REQUIRE(again.channel == place.channel);
      REQUIRE(again.unit == place.unit);
    }
  }
}

TEST_CASE("kv layout: consecutive pages lie on consecutive channels, then on the next unit") {
  const KvPlacement placement(flash_of(8, 4, 2), {.channels_per_group = 4, .stream_skew = 61},
                              "CPDW");
  for (const KvStream stream : kStreams) {
    for (const int pair : {0, 1, 77}) {
      const int base = placement.base(pair, stream);
      for (int page = 0; page < 1000; ++page) {
        const PagePlace here = placement.place(base, page);
        const PagePlace next = placement.place(base, page + 1);
        REQUIRE(next.channel == (here.channel + 1) % 8);
        REQUIRE(next.unit == (here.unit + (next.channel == 0 ? 1 : 0)) % 8);
      }
    }
  }
  CHECK(placement.place(placement.base(0, KvStream::key_tokens), 0).channel == 0);
  CHECK(placement.place(placement.base(0, KvStream::key_tokens), 0).unit == 0);
}

TEST_CASE("kv layout: streams start stream_skew pages apart") {
  const FlashConfig flash = flash_of(8, 8, 4);  // 256 places
  const KvPlacement placement(flash, {.channels_per_group = 4, .stream_skew = 61}, "CPDW");
  std::vector<int> bases;
  for (int pair = 0; pair < 256; ++pair) {
    for (const KvStream stream : kStreams) {
      bases.push_back(placement.base(pair, stream));
    }
  }
  for (std::size_t i = 1; i < bases.size(); ++i) {
    CHECK((bases[i] - bases[i - 1] + 256) % 256 == 61);
  }
  // 61 and 256 have no common divisor: 256 streams in a row start on 256 places.
  for (std::size_t i = 0; i + 256 <= bases.size(); i += 100) {
    CHECK(std::set<int>(bases.begin() + static_cast<std::ptrdiff_t>(i),
                        bases.begin() + static_cast<std::ptrdiff_t>(i) + 256)
              .size() == 256);
  }
  // Without a skew all start at the same place; with one of 64 on 4 different ones.
  for (const auto& [skew, starts] : {std::pair{0, 1}, {64, 4}, {256, 1}, {257, 256}}) {
    const KvPlacement other(flash, {.channels_per_group = 4, .stream_skew = skew}, "CPDW");
    std::set<int> different;
    for (int pair = 0; pair < 256; ++pair) {
      for (const KvStream stream : kStreams) {
        different.insert(other.base(pair, stream));
      }
    }
    CHECK(static_cast<int>(different.size()) == starts);
  }
}

TEST_CASE("kv layout: the largest pair and skew stay within the array") {
  const FlashConfig flash = flash_of(63, 64, 16);
  const KvPlacement placement(flash, {.channels_per_group = 1, .stream_skew = 1 << 20}, "CPDW");
  const std::int64_t slots = std::int64_t{63} * 64 * 16;
  constexpr int kPair = 2'000'000'000;
  const int base = placement.base(kPair, KvStream::key_channels);
  CHECK(base == (std::int64_t{kPair} * 3 + 2) * (1 << 20) % slots);
  const PagePlace place = placement.place(base, 1'000'000'000);
  CHECK(place.channel == (base + 1'000'000'000) % slots % 63);
  CHECK(place.unit == (base + 1'000'000'000) % slots / 63);
}

TEST_CASE("kv layout: what lies a shift further on differs in the names of units alone") {
  const KvLayoutConfig layout{.channels_per_group = 4, .stream_skew = 61};
  // Channel first: a row over the channels. Way first: the channel's 32 planes. Dies that read as
  // one: as many rows as keep the planes of a die together.
  CHECK(KvPlacement(flash_of(8, 8, 4), layout, "CPDW").shift() == 8);
  CHECK(KvPlacement(flash_of(8, 8, 4), layout, "WPCD").shift() == 256);
  const FlashConfig dies = flash_of(8, 8, 4, ArrayUnit::die);
  CHECK(KvPlacement(dies, layout, "CPDW").shift() == 32);
  CHECK(KvPlacement(dies, layout, "CWDP").shift() == 8);

  const KvPlacement placement(flash_of(8, 8, 4), layout, "CPDW");
  std::map<std::pair<int, int>, int> names;
  for (int page = 0; page < 256; ++page) {
    const PagePlace here = placement.place(5, page);
    const PagePlace there = placement.place(5 + 3 * placement.shift(), page);
    REQUIRE(here.channel == there.channel);
    REQUIRE(names.try_emplace({here.channel, here.unit}, there.unit).first->second == there.unit);
  }
  CHECK(placement.distance(250, 3) == 9);
  CHECK(placement.distance(3, 250) == 247);
  // Streams of a pair take 183 slots of 256: after 256 pairs they lie as those of the first.
  CHECK(placement.first_like(255) == 255);
  CHECK(placement.first_like(256 + 7) == 7);
}

TEST_CASE("kv layout: page counts at the edges of groups") {
  // 16 tokens a group, 256 a channel page, 16 channel groups.
  const kernels::PageGeometry geometry(
      {.d_head = 128, .page_bytes = 4096, .channels_per_group = 8});
  struct Case {
    int context;
    int groups;
    int chunks;
  };
  for (const auto& [context, groups, chunks] :
       {Case{0, 0, 0}, Case{1, 0, 0}, Case{15, 0, 0}, Case{16, 1, 0}, Case{17, 1, 0},
        Case{255, 15, 0}, Case{256, 16, 1}, Case{257, 16, 1}, Case{2047, 127, 7},
        Case{2048, 128, 8}}) {
    CAPTURE(context);
    const KvPageCounts both = flushed_pages(geometry, context, true);
    CHECK(both.key_tokens == groups);
    CHECK(both.value_tokens == groups);
    CHECK(both.key_channels == chunks * 16);
    CHECK(both.total() == 2 * groups + chunks * 16);
    const KvPageCounts dense = flushed_pages(geometry, context, false);
    CHECK(dense.key_tokens == groups);
    CHECK(dense.key_channels == 0);
    CHECK(dense.total() == 2 * groups);
  }
}

TEST_CASE("kv layout: page counts are those of a cache that is filled token by token") {
  for (const kernels::PageGeometrySpec spec :
       {kernels::PageGeometrySpec{.d_head = 64, .page_bytes = 512, .channels_per_group = 4},
        {.d_head = 80, .page_bytes = 4096, .channels_per_group = 2},
        {.d_head = 96, .page_bytes = 16'384, .channels_per_group = 8}}) {
    const kernels::PageGeometry geometry(spec);
    KvPageCounts counted;
    int in_group = 0;
    int in_chunk = 0;
    for (int context = 0; context < 3000; ++context) {
      const KvPageCounts counts = flushed_pages(geometry, context, true);
      REQUIRE(counts.key_tokens == counted.key_tokens);
      REQUIRE(counts.value_tokens == counted.value_tokens);
      REQUIRE(counts.key_channels == counted.key_channels);
      if (++in_group == spec.page_bytes / 2 / spec.d_head) {
        in_group = 0;
        ++counted.key_tokens;
        ++counted.value_tokens;
      }
      if (++in_chunk == spec.page_bytes / 2 / spec.channels_per_group) {
        in_chunk = 0;
        counted.key_channels += spec.d_head / spec.channels_per_group;
      }
    }
  }
}

TEST_CASE("kv layout: channel pages are numbered in the order in which they are appended") {
  constexpr int kGroups = 16;
  int appended = 0;
  for (int chunk = 0; chunk < 10; ++chunk) {
    for (int group = 0; group < kGroups; ++group) {
      CHECK(channel_stream_page(group, chunk, kGroups) == appended++);
    }
  }
}

TEST_CASE("kv layout: impossible sizes are config errors") {
  CHECK(problem_with("stream_skew", 0).empty());
  CHECK(problem_with("stream_skew", -1).rfind("/stream_skew:", 0) == 0);
  CHECK(problem_with("stream_skew", (1 << 20) + 1).rfind("/stream_skew:", 0) == 0);
  CHECK(problem_with("channels_per_group", 0).rfind("/channels_per_group:", 0) == 0);
  CHECK(problem_with("channels_per_group", 65).rfind("/channels_per_group:", 0) == 0);
}
