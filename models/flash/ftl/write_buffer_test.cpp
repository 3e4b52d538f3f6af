#include "models/flash/ftl/write_buffer.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

constexpr std::uint64_t kWhole = 0xff;

WriteBuffer buffer_of(int slots, FlushOrder order) {
  return WriteBuffer({.capacity = 4_KiB * slots, .flush_order = order, .flush_above = 0.5}, 4_KiB);
}

}  // namespace

TEST_CASE("write_buffer: writes merge, reads hit, the oldest is flushed first") {
  WriteBuffer buffer = buffer_of(4, FlushOrder::fifo);
  CHECK(buffer.put(10, 0x0f) == WriteBuffer::Put::stored);
  CHECK(buffer.put(20, kWhole) == WriteBuffer::Put::stored);
  CHECK(!buffer.read(10, kWhole));
  CHECK(buffer.put(10, 0xf0) == WriteBuffer::Put::merged);
  CHECK(buffer.read(10, kWhole));
  CHECK(!buffer.wants_flush());
  buffer.put(30, kWhole);
  CHECK(buffer.wants_flush());
  const auto flush = buffer.begin_flush();
  REQUIRE(flush.has_value());
  CHECK(flush->page == 10);
  CHECK(flush->sectors == kWhole);
  CHECK(buffer.read(10, kWhole));  // its program runs
  buffer.end_flush(flush->slot);
  CHECK(!buffer.read(10, kWhole));
}

TEST_CASE("write_buffer: with lru a page that is written again is flushed later") {
  WriteBuffer buffer = buffer_of(4, FlushOrder::lru);
  buffer.put(1, kWhole);
  buffer.put(2, kWhole);
  buffer.put(1, kWhole);
  CHECK(buffer.begin_flush()->page == 2);
  CHECK(buffer.begin_flush()->page == 1);
  CHECK(!buffer.begin_flush().has_value());
}

TEST_CASE("write_buffer: a write of a page in flight takes a new slot with the old sectors") {
  WriteBuffer buffer = buffer_of(2, FlushOrder::fifo);
  buffer.put(7, 0x0f);
  const auto first = buffer.begin_flush();
  CHECK(buffer.put(7, 0x10) == WriteBuffer::Put::stored);
  CHECK(buffer.read(7, 0x1f));
  CHECK(buffer.put(8, kWhole) == WriteBuffer::Put::full);
  buffer.end_flush(first->slot);
  CHECK(buffer.read(7, 0x1f));
  CHECK(buffer.put(8, kWhole) == WriteBuffer::Put::stored);
  CHECK(buffer.begin_flush()->sectors == 0x1f);
  CHECK_THROWS_AS(buffer.end_flush(first->slot), CheckFailure);
}

TEST_CASE("write_buffer: equals a naive one on random operations") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "write_buffer_test");
    const auto below = [&](std::uint64_t n) { return static_cast<int>(rng.below(n)); };
    const int slots = 1 + below(20);
    const FlushOrder order = static_cast<FlushOrder>(below(2));
    WriteBuffer buffer = buffer_of(slots, order);
    struct Entry {
      LogicalPage page;
      std::uint64_t sectors;
    };
    std::deque<Entry> waiting;
    std::vector<std::pair<int, Entry>> flying;        // slot
    std::map<LogicalPage, std::uint64_t> answerable;  // newest content
    for (int i = 0; i < 3'000; ++i) {
      const auto page = static_cast<LogicalPage>(below(40));
      const std::uint64_t sectors = 1 + rng.below(kWhole);
      const auto same = [&](const Entry& entry) { return entry.page == page; };
      const auto at = std::find_if(waiting.begin(), waiting.end(), same);
      const int what = below(10);
      if (what < 5) {
        const WriteBuffer::Put put = buffer.put(page, sectors);
        if (at != waiting.end()) {
          REQUIRE(put == WriteBuffer::Put::merged);
          Entry merged{page, at->sectors | sectors};
          answerable[page] = merged.sectors;
          *at = merged;
          if (order == FlushOrder::lru) {
            waiting.erase(at);
            waiting.push_back(merged);
          }
        } else if (static_cast<int>(waiting.size() + flying.size()) == slots) {
          REQUIRE(put == WriteBuffer::Put::full);
        } else {
          REQUIRE(put == WriteBuffer::Put::stored);
          answerable[page] |= sectors;
          waiting.push_back({page, answerable[page]});
        }
      } else if (what < 7) {
        const auto held = answerable.find(page);
        REQUIRE(buffer.read(page, sectors) ==
                (held != answerable.end() && (sectors & ~held->second) == 0));
      } else if (what < 8) {
        const auto flush = buffer.begin_flush();
        REQUIRE(flush.has_value() == !waiting.empty());
        if (flush) {
          REQUIRE(flush->page == waiting.front().page);
          REQUIRE(flush->sectors == waiting.front().sectors);
          flying.emplace_back(flush->slot, waiting.front());
          waiting.pop_front();
        }
      } else if (what < 9 && !flying.empty()) {
        const auto index = static_cast<std::ptrdiff_t>(rng.below(flying.size()));
        const LogicalPage ended = flying[index].second.page;
        const auto still = [&](const Entry& entry) { return entry.page == ended; };
        // Flights are in the order of their begin: the last one of a page is the newest.
        const bool newer = std::any_of(waiting.begin(), waiting.end(), still) ||
                           std::any_of(flying.begin() + index + 1, flying.end(),
                                       [&](const auto& f) { return still(f.second); });
        buffer.end_flush(flying[index].first);
        flying.erase(flying.begin() + index);
        if (!newer) {
          answerable.erase(ended);
        }
      } else if (std::none_of(flying.begin(), flying.end(),
                              [&](const auto& f) { return same(f.second); })) {
        buffer.discard(page);
        answerable.erase(page);
        if (at != waiting.end()) {
          waiting.erase(at);
        }
      }
      REQUIRE(buffer.waiting() == static_cast<int>(waiting.size()));
      REQUIRE(buffer.in_flight() == static_cast<int>(flying.size()));
    }
  }
}
