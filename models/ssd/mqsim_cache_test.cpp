#include "models/ssd/mqsim_cache.hpp"

#include <utility>

#include <doctest/doctest.h>

#include "models/ssd/block_host.hpp"
#include "models/ssd/block_ssd.hpp"
#include "models/ssd/test_drive.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

constexpr MqsimCacheConfig kTwoPages{.pages = 2,
                                     .sector_limit = 1000,
                                     .row_bytes = 8192,
                                     .burst_bytes = 1,
                                     .burst_ns = 10,
                                     .activate_ns = 13,
                                     .access_ns = 13,
                                     .precharge_ns = 13};

constexpr SimDuration kPageInDram = 26ns + 20'480ns;
constexpr SimDuration kProgram = 361ns + 12'288ns + 750us;
// Doorbell, fetch of the entry, data in, completion entry; the same with the data on the way out.
constexpr SimDuration kWriteOnLink = 8ns + 8ns + 25ns + 8ns + 1'248ns + 11ns;
constexpr SimDuration kReadOnLink = 8ns + 8ns + 25ns + 1'248ns + 11ns;

struct One {
  BlockRequest request;
  bool is_given = false;
  bool next(BlockRequest& given) {
    given = request;
    return !std::exchange(is_given, true);
  }
};

/// A drive that gets one request after another, with time between them.
struct CachedDrive {
  explicit CachedDrive(const MqsimCacheConfig& cache) : ssd(config(), 1, "test") {
    ssd.use_mqsim_cache(cache);
  }
  static BlockSsdConfig config() {
    BlockSsdConfig config = mqsim_like_drive();
    config.ftl.collection.mqsim_faults = true;
    return config;
  }

  SimDuration time_of(BlockOp op, Bytes first, Bytes size) {
    now += 10ms;
    One source{{0, first, size, op}};
    ClosedLoop host(ssd, source);
    return host.run(now, 1).sum;
  }
  SimDuration write(Bytes first, Bytes size) { return time_of(BlockOp::write, first, size); }
  SimDuration read(Bytes first, Bytes size) { return time_of(BlockOp::read, first, size); }
  /// Pages that are written again and again stay in the cache.
  void keep(Bytes first, Bytes size) {
    for (int i = 0; i < 3; ++i) {
      write(first, size);
    }
  }
  [[nodiscard]] std::int64_t programs() { return ssd.ftl().counters().host_programs; }

  BlockSsd ssd;
  SimTime now{1ms};
};

}  // namespace

TEST_CASE("mqsim cache: DRAM opens rows, and counts half of the long ones") {
  CHECK(kTwoPages.access_time(4096) == 26ns + 20'480ns);
  CHECK(kTwoPages.access_time(8192) == 26ns + 40'960ns);
  CHECK(kTwoPages.access_time(16384) == 26ns + 26ns + 40'960ns + 13ns);
  CHECK(kTwoPages.access_time(16384 + 1000) == 26ns + 26ns + 40'960ns + 13ns + 100ns);
}

TEST_CASE("mqsim cache: a write is done when it is in DRAM, and goes to the flash at once") {
  CachedDrive drive(kTwoPages);
  CHECK(drive.write(0_B, 4_KiB) == kWriteOnLink + kPageInDram);
  CHECK(drive.programs() == 1);
  // It has left the cache with that.
  CHECK(drive.read(0_B, 4_KiB) == kReadOnLink + 290ns + 75'020ns + 12'288ns);
}

TEST_CASE(
    "mqsim cache: a page that is written again within a second stays, and is read from DRAM") {
  CachedDrive drive(kTwoPages);
  drive.keep(0_B, 4_KiB);
  const std::int64_t before = drive.programs();
  CHECK(drive.write(0_B, 4_KiB) == kWriteOnLink + kPageInDram);
  CHECK(drive.programs() == before);
  CHECK(drive.read(0_B, 4_KiB) == kReadOnLink + kPageInDram);
  drive.now += 2s;
  drive.write(8_KiB, 4_KiB);  // what was written lately is forgotten with this
  drive.write(0_B, 4_KiB);
  CHECK(drive.programs() == before + 2);
}

TEST_CASE("mqsim cache: sectors that are not there come from the flash") {
  CachedDrive drive(kTwoPages);
  drive.keep(0_B, 1_KiB);
  const SimDuration link = kReadOnLink;
  CHECK(drive.read(0_B, 4_KiB) == link + 290ns + 75'020ns + 9'216ns);
  // 4 packets of 156 B on 4 lanes: 78 ns a sector pair
  CHECK(drive.read(0_B, 1_KiB) == link - 1'248ns + 312ns + 26ns + 5'120ns);
}

TEST_CASE("mqsim cache: the least recently used page makes room") {
  CachedDrive drive(kTwoPages);
  drive.keep(0_B, 4_KiB);
  drive.keep(8_KiB, 4_KiB);
  CHECK(drive.read(0_B, 4_KiB) == kReadOnLink + kPageInDram);
  const std::int64_t before = drive.programs();
  // DRAM gives the old page before it takes the new one; both are programmed.
  CHECK(drive.write(16_KiB, 4_KiB) == kWriteOnLink + 2 * kPageInDram);
  CHECK(drive.programs() == before + 2);
  CHECK(drive.read(0_B, 4_KiB) == kReadOnLink + kPageInDram);
  CHECK(drive.read(8_KiB, 4_KiB) > kReadOnLink + 75us);
}

TEST_CASE("mqsim cache: further pages wait while too many sectors are on their way") {
  MqsimCacheConfig one_page_at_a_time = kTwoPages;
  one_page_at_a_time.sector_limit = 8;
  CachedDrive drive(one_page_at_a_time);
  CHECK(drive.write(0_B, 8_KiB) == kWriteOnLink + 1'248ns + kProgram + kPageInDram);
  CHECK(drive.write(0_B, 4_KiB) == kWriteOnLink + kPageInDram);
}

TEST_CASE("mqsim cache: requests that overlap end each once") {
  CachedDrive drive(kTwoPages);
  struct Many {
    std::uint64_t given = 0;
    bool next(BlockRequest& request) {
      const auto page = static_cast<std::int64_t>(given * 7 % 5);
      request = {given, page * 4_KiB, 4_KiB, given % 3 == 0 ? BlockOp::read : BlockOp::write};
      return given++ < 200;
    }
  } source;
  ClosedLoop host(drive.ssd, source);
  const ResponseTimes times = host.run(drive.now, 8);
  CHECK(times.requests == 200);
  CHECK(times.least >= kReadOnLink);
}
