#include "models/host/host_memory.hpp"

#include <bit>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

using Mask = HostMemory::WindowMask;

/// Extents of 4 windows of 4 KiB; `extents` of memory and `swap` extents of swap.
HostConfig small_host(std::int64_t extents, std::int64_t swap) {
  HostConfig config;
  config.cores = 1;
  config.reserved = 1_MiB;
  config.dram = config.reserved + 16_KiB * extents;
  config.page_size = 4_KiB;
  config.memory_extent = 16_KiB;
  config.file_system.readahead_window = 4_KiB;
  config.swap.size = 16_KiB * swap;
  config.swap.cluster_pages = 1;
  return config;
}

/// The same rules with ordered containers and a search for everything.
class Oracle {
 public:
  explicit Oracle(std::size_t capacity, std::size_t swap) : capacity_(capacity), swap_(swap) {}

  using Key = std::pair<int, std::int64_t>;
  struct Extent {
    bool anonymous = false;
    Mask resident = 0;
    Mask dirty = 0;
    Mask stored = 0;
  };

  struct Found {
    Mask hits;
    Mask to_read;
    Mask to_zero;
    bool evicted = false;
    Key victim{};
    Mask to_write = 0;
  };

  Found touch(Key key, bool anonymous, Mask windows, bool write) {
    Found found{};
    Extent& extent = extents_[key];
    extent.anonymous = anonymous;
    if (extent.resident == 0 && order_.size() == capacity_) {
      auto victim = order_.begin();
      while (swapped() == swap_ && extents_[*victim].anonymous) {
        ++victim;
      }
      Extent& gone = extents_[*victim];
      found.evicted = true;
      found.victim = *victim;
      found.to_write = gone.dirty;
      gone.stored |= gone.dirty;
      gone.dirty = gone.resident = 0;
      order_.erase(victim);
    }
    order_.remove(key);
    order_.push_back(key);
    for (Mask bit = 1; bit != 0; bit <<= 1) {
      if ((windows & bit) == 0) {
        continue;
      }
      Mask& where = (extent.resident & bit) != 0 ? found.hits
                    : (extent.stored & bit) != 0 ? found.to_read
                                                 : found.to_zero;
      where |= bit;
    }
    if (write) {
      extent.dirty |= windows;
    } else if (anonymous) {
      extent.dirty |= found.to_zero;
    }
    extent.resident |= windows;
    return found;
  }

  [[nodiscard]] std::size_t swapped() const {
    std::size_t count = 0;
    for (const auto& [key, extent] : extents_) {
      count += extent.anonymous && extent.resident == 0 && extent.stored != 0 ? 1 : 0;
    }
    return count;
  }
  [[nodiscard]] std::size_t resident() const { return order_.size(); }

 private:
  std::size_t capacity_;
  std::size_t swap_;
  std::map<Key, Extent> extents_;
  std::list<Key> order_;  // oldest first
};

}  // namespace

TEST_CASE("host memory: random traces agree with a naive LRU") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed, "host memory/trace");
    const auto extents = static_cast<std::int64_t>(rng.below(12)) + 3;
    const auto swap = static_cast<std::int64_t>(rng.below(6));
    HostMemory memory(small_host(extents, swap));
    Oracle oracle(static_cast<std::size_t>(extents), static_cast<std::size_t>(swap));
    // Anonymous memory fills what there is: the page cache keeps one extent.
    const MemoryObject region = memory.add(MemoryKind::anonymous, 16_KiB * (extents + swap - 1));
    const MemoryObject file = memory.add(MemoryKind::file, 16_KiB * 20);
    for (int i = 0; i < 3'000; ++i) {
      const bool anonymous = rng.below(3) == 0;
      const MemoryObject object = anonymous ? region : file;
      const auto extent = static_cast<std::int64_t>(
          rng.below(static_cast<std::uint64_t>(anonymous ? extents + swap - 1 : 20)));
      const Mask windows = rng.below(15) + 1;
      const bool write = rng.below(2) == 0;
      const auto found =
          memory.touch(object, extent, windows, write ? Access::write : Access::read);
      const auto expected = oracle.touch({object.index, extent}, anonymous, windows, write);
      REQUIRE(found.hits == expected.hits);
      REQUIRE(found.to_read == expected.to_read);
      REQUIRE(found.to_zero == expected.to_zero);
      REQUIRE(found.victim.exists() == expected.evicted);
      if (expected.evicted) {
        REQUIRE(Oracle::Key{found.victim.object.index, found.victim.extent} == expected.victim);
        REQUIRE(found.victim.to_write == expected.to_write);
      }
      REQUIRE(memory.resident() == 16_KiB * static_cast<std::int64_t>(oracle.resident()));
      REQUIRE(memory.swapped() == 16_KiB * static_cast<std::int64_t>(oracle.swapped()));
      REQUIRE(memory.resident(MemoryKind::file) + memory.resident(MemoryKind::anonymous) ==
              memory.resident());
    }
  }
}

TEST_CASE("host memory: a circular scan of more than memory never hits") {
  HostMemory memory(small_host(10, 0));
  const MemoryObject file = memory.add(MemoryKind::file, 16_KiB * 11);
  Mask hits = 0;
  for (int round = 0; round < 5; ++round) {
    for (std::int64_t extent = 0; extent < 11; ++extent) {
      hits |= memory.touch(file, extent, 0xf, Access::read).hits;
    }
  }
  CHECK(hits == 0);
}

TEST_CASE("host memory: a circular scan of what fits hits from the second round on") {
  HostMemory memory(small_host(10, 0));
  const MemoryObject file = memory.add(MemoryKind::file, 16_KiB * 10);
  for (int round = 0; round < 3; ++round) {
    for (std::int64_t extent = 0; extent < 10; ++extent) {
      CHECK(memory.touch(file, extent, 0xf, Access::read).hits == (round == 0 ? 0 : 0xf));
    }
  }
}

TEST_CASE("host memory: pinned memory is taken from page cache and swap space") {
  HostMemory memory(small_host(10, 5));
  memory.pin("relay", 16_KiB * 4 - 1_B);
  CHECK(memory.capacity() == 16_KiB * 6);
  CHECK(memory.pinned().held() == 16_KiB * 4);
  CHECK_THROWS_AS(memory.add(MemoryKind::anonymous, 16_KiB * 11), OutOfCapacity);
  const MemoryObject region = memory.add(MemoryKind::anonymous, 16_KiB * 10);
  for (std::int64_t extent = 0; extent < 10; ++extent) {
    memory.touch(region, extent, 0xf, Access::write);
  }
  CHECK(memory.high_water() == 16_KiB * 10);
  CHECK(memory.swapped() == 16_KiB * 4);
  CHECK_THROWS_AS(memory.pin("late", 16_KiB), CheckFailure);
}

TEST_CASE("host memory: more pinned memory than there is, is a result and not a crash") {
  HostMemory memory(small_host(10, 5));
  try {
    memory.pin("relay", 16_KiB * 11);
    FAIL("pinned more than there is");
  } catch (const OutOfCapacity& e) {
    CHECK(e.resource == "host DRAM");
    CHECK(e.operation == "relay");
  }
  memory.pin("all", 16_KiB * 10 - 16_KiB);
  const MemoryObject file = memory.add(MemoryKind::file, 16_KiB);
  memory.touch(file, 0, 1, Access::read);
}

TEST_CASE("host memory: writeback takes the extents in the order in which they became dirty") {
  HostMemory memory(small_host(10, 0));
  const MemoryObject file = memory.add(MemoryKind::file, 16_KiB * 10);
  memory.touch(file, 3, 0b0001, Access::write);
  memory.touch(file, 1, 0b0110, Access::write);
  memory.touch(file, 3, 0b1000, Access::write);  // still first
  memory.touch(file, 2, 0b1111, Access::read);
  CHECK(memory.dirty() == 32_KiB);
  const auto first = memory.take_oldest_dirty();
  CHECK(first.extent == 3);
  CHECK(first.to_write == 0b1001);
  const auto second = memory.take_oldest_dirty();
  CHECK(second.extent == 1);
  CHECK_FALSE(memory.has_dirty());
  CHECK(memory.touch(file, 3, 0b1111, Access::read).hits == 0b1001);
}

TEST_CASE("host memory: removing gives back memory, swap and commitment") {
  HostMemory memory(small_host(4, 4));
  const MemoryObject region = memory.add(MemoryKind::anonymous, 16_KiB * 7);
  for (std::int64_t extent = 0; extent < 7; ++extent) {
    memory.touch(region, extent, 0xf, Access::write);
  }
  CHECK(memory.swapped() == 16_KiB * 3);
  memory.remove(region);
  CHECK(memory.resident() == 0_B);
  CHECK(memory.swapped() == 0_B);
  const MemoryObject again = memory.add(MemoryKind::anonymous, 16_KiB * 7);
  CHECK(memory.touch(again, 0, 1, Access::read).to_zero == 1);
  CHECK_THROWS_AS(memory.touch(region, 0, 1, Access::read), CheckFailure);
}

TEST_CASE("host memory: what something else takes has to go, least recently used first") {
  HostMemory memory(small_host(8, 4));
  const MemoryObject file = memory.add(MemoryKind::file, 16_KiB * 6);
  for (int extent = 0; extent < 6; ++extent) {
    memory.touch(file, extent, 0b1111, extent % 2 == 0 ? Access::write : Access::read);
  }
  CHECK(memory.take_away(16_KiB * 2).empty());
  const auto victims = memory.take_away(16_KiB * 3);
  REQUIRE(victims.size() == 3);
  for (int i = 0; i < 3; ++i) {
    CHECK(victims[static_cast<std::size_t>(i)].extent == i);
    CHECK(victims[static_cast<std::size_t>(i)].to_write == (i % 2 == 0 ? 0b1111U : 0U));
  }
  CHECK(memory.resident() == 16_KiB * 3);
  CHECK(memory.touch(file, 0, 1, Access::read).victim.exists());
  memory.give_back(16_KiB * 5);
  CHECK_FALSE(memory.touch(file, 1, 1, Access::read).victim.exists());
  CHECK_THROWS_AS(static_cast<void>(memory.take_away(16_KiB * 13)), OutOfCapacity);
}
