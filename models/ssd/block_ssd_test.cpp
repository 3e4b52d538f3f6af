#include "models/ssd/block_ssd.hpp"

#include <vector>

#include <doctest/doctest.h>

#include "models/ssd/block_host.hpp"
#include "models/ssd/page_striping.hpp"
#include "sim/core/check.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

/// MQSim's timing on 4 lanes of 1 GB/s and a 333 MT/s channel cut to 3 ns a byte.
BlockSsdConfig drive() {
  BlockSsdConfig config;
  config.page_size = 4_KiB;
  config.flash = {.channels = 2,
                  .chips_per_channel = 2,
                  .dies_per_chip = 1,
                  .planes_per_die = 1,
                  .blocks_per_plane = 1024,
                  .pages_per_block = 256,
                  .page_size = 4_KiB,
                  .spare_size = 0_B,
                  .policy = FlashPolicy::data_out_first,
                  .array_unit = ArrayUnit::die,
                  .read_priority = true,
                  .cache_read = false,
                  .multi_plane = false,
                  .bus_width = 1,
                  .mega_transfers = 333,
                  .transfer_step = 1ns,
                  .bits_per_cell = 1,
                  .t_read = {75us, 75us, 75us},
                  .t_program = {750us, 750us, 750us},
                  .t_erase = 3800us,
                  .array_spread = 0,
                  .read_command = {290ns, 650ns, 20ns},
                  .program_command = {361ns, 816ns, 0ns},
                  .erase_command = {220ns, 700ns, 0ns},
                  .read_retry = {},
                  .suspend = {}};
  config.link = {.lanes = 4,
                 .lane_rate = 1000_MBps,
                 .max_payload = 128_B,
                 .packet_overhead = 28_B,
                 .read_request = 4_B,
                 .doorbell = 2_B,
                 .submission_entry = 72_B,
                 .completion_entry = 16_B,
                 .time_step = 1ns,
                 .fetch_limit = 512};
  return config;
}

struct Fixed {
  std::vector<BlockRequest> requests;
  std::size_t given = 0;
  bool next(BlockRequest& request) {
    if (given == requests.size()) {
      return false;
    }
    request = requests[given++];
    return true;
  }
};

ResponseTimes closed_loop(const BlockSsdConfig& config, std::vector<BlockRequest> requests,
                          int depth) {
  PageStriping map(config.flash, "CWDP", 256, 1024);
  BlockSsd ssd(config, map, Rng(1, "test"));
  Fixed source{std::move(requests)};
  ClosedLoop host(ssd, source);
  return host.run(SimTime{}, depth);
}

}  // namespace

TEST_CASE("block ssd: messages are packets on lanes") {
  NvmeLinkConfig link = drive().link;
  CHECK(link.message_time(2_B) == 8ns);       // (28 + 2) / 4 = 7.5: 8 bytes a lane
  CHECK(link.message_time(72_B) == 25ns);     // 100 / 4
  CHECK(link.message_time(4_KiB) == 1248ns);  // 32 packets of 156 B
  CHECK(link.message_time(0_B) == 7ns);
  CHECK(link.message_time(129_B) == 47ns);  // 185 B in two packets
  link.lane_rate = 3000_MBps;
  CHECK(link.message_time(72_B) == 8ns);  // 8.333 ns, cut
  link.time_step = 0_ps;
  CHECK(link.message_time(72_B) == 8334_ps);  // late
}

TEST_CASE("block ssd: an unloaded read is the sum of its ways") {
  // doorbell 8, fetch 8 up and 25 down, command 290, tR 75,000 + 20, data-out 12,288 on the
  // channel and 1,248 on the link, completion entry 11
  const SimDuration alone = 8ns + 8ns + 25ns + 290ns + 75'020ns + 12'288ns + 1'248ns + 11ns;
  const ResponseTimes one = closed_loop(drive(), {{7, 0_B, 4_KiB}}, 1);
  CHECK(one.requests == 1);
  CHECK(one.sum == alone);
  // The next one's doorbell waits behind the completion doorbell.
  const ResponseTimes two = closed_loop(drive(), {{0, 0_B, 4_KiB}, {1, 0_B, 4_KiB}}, 1);
  CHECK(two.least == alone);
  CHECK(two.most == alone + 8ns);
}

TEST_CASE("block ssd: only the bytes asked for leave the flash and cross the link") {
  const SimDuration alone = 8ns + 8ns + 25ns + 290ns + 75'020ns + 11ns;
  // 512 B: 1,536 ns on the channel, 4 packets = 156 ns on the link
  CHECK(closed_loop(drive(), {{0, 1024_B, 512_B}}, 1).sum == alone + 1'536ns + 156ns);
  // 1 KiB across two pages on two channels: two data-outs at once
  CHECK(closed_loop(drive(), {{0, 3584_B, 1_KiB}}, 1).sum == alone + 1'536ns + 312ns);
}

TEST_CASE("block ssd: a write fetches its data and ends with the last program") {
  // doorbell 8, entry 8 + 25, data request 8 and 1,248 down, command 361 + 12,288 of data, tPROG,
  // completion entry 11
  const SimDuration alone = 8ns + 8ns + 25ns + 8ns + 1'248ns + 361ns + 12'288ns + 750us + 11ns;
  CHECK(closed_loop(drive(), {{0, 0_B, 4_KiB, true}}, 1).sum == alone);
  // Two pages on two channels: twice the data on the link, everything else at once.
  CHECK(closed_loop(drive(), {{0, 0_B, 8_KiB, true}}, 1).sum == alone + 1'248ns);
}

TEST_CASE("block ssd: the controller holds fetch_limit commands") {
  BlockSsdConfig config = drive();
  std::vector<BlockRequest> requests;
  for (std::uint64_t i = 0; i < 4; ++i) {
    requests.push_back({i, static_cast<std::int64_t>(i) * 4_KiB, 4_KiB});  // four chips
  }
  const ResponseTimes all_at_once = closed_loop(config, requests, 4);
  config.link.fetch_limit = 1;
  const ResponseTimes one_by_one = closed_loop(config, requests, 4);
  CHECK(all_at_once.last < SimTime{2 * 88'898ns});
  // The first entry comes behind four doorbells; each further fetch behind the last read's data.
  const SimDuration flash = 290ns + 75'020ns + 12'288ns;
  const SimDuration first = 4 * 8ns + 25ns + flash;
  const SimDuration further = 1'248ns + 8ns + 25ns + flash;
  CHECK(one_by_one.last == SimTime{first + 3 * further + 1'248ns + 11ns});
}

TEST_CASE("block ssd: open arrivals do not wait for completions") {
  struct Source {
    int left = 3;
    bool next(SimTime& at, BlockRequest& request) {
      at += 10us;
      request = {0, 0_B, 4_KiB};
      return left-- > 0;
    }
  };
  const BlockSsdConfig config = drive();
  PageStriping map(config.flash, "CWDP", 256, 1024);
  BlockSsd ssd(config, map, Rng(1, "test"));
  Source source;
  OpenArrivals host(ssd, source);
  const ResponseTimes& times = host.run();
  const SimDuration chip = 290ns + 75'020ns + 12'288ns;
  CHECK(times.requests == 3);
  CHECK(times.least == 88'898ns);
  CHECK(times.most == 88'898ns + 2 * (chip - 10us));  // one chip, three in a row
}

TEST_CASE("block ssd: nothing is lost and nothing depends on the run") {
  Rng rng(3, "models/flash/block_ssd_test");
  std::vector<BlockRequest> requests;
  std::int64_t pages = 0;
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const auto first = static_cast<std::int64_t>(rng.below(1000)) * 4096 + 512;
    const auto size = static_cast<std::int64_t>(1 + rng.below(16)) * 512;
    requests.push_back({i, Bytes{first}, Bytes{size}});
    pages += (first + size - 1) / 4096 - first / 4096 + 1;
  }
  const BlockSsdConfig config = drive();
  const auto run = [&] {
    PageStriping map(config.flash, "CWDP", 256, 1024);
    BlockSsd ssd(config, map, Rng(1, "test"));
    Fixed source{requests};
    ClosedLoop host(ssd, source);
    const ResponseTimes times = host.run(SimTime{}, 64);
    CHECK(ssd.next_event() == kNever);
    CHECK(ssd.flash().counters().pages_read == pages);
    return times;
  };
  const ResponseTimes a = run();
  const ResponseTimes b = run();
  CHECK(a.requests == 5000);
  CHECK(a.sum == b.sum);
  CHECK(a.last == b.last);
  // No faster than four chips one page after another.
  CHECK(a.last.time_since_epoch() > pages / 4 * SimDuration{75'310ns});
}

TEST_CASE("page striping: orders, first touch, capacity") {
  CHECK(is_striping_order("PDWC"));
  CHECK_FALSE(is_striping_order("CWD"));
  CHECK_FALSE(is_striping_order("CCWD"));
  FlashConfig config = drive().flash;
  config.dies_per_chip = 2;
  config.planes_per_die = 2;
  PageStriping channels_first(config, "CWDP", 4, 100);
  PageCommand where = channels_first.locate(1 + 2 * (1 + 2 * (0 + 2 * 1)));
  CHECK(where.channel == 1);
  CHECK(where.chip == 1);
  CHECK(where.die == 0);
  CHECK(where.plane == 1);
  PageStriping planes_first(config, "PDWC", 4, 100);
  where = planes_first.locate(1);
  CHECK(where.plane == 1);
  CHECK(where.channel == 0);
  CHECK(where.page == 0);
  CHECK(planes_first.locate(33).page == 1);  // the same plane, touched second
  CHECK(planes_first.locate(17).page == 2);
  CHECK(planes_first.locate(1).page == 0);
  CHECK(planes_first.locate(49).page == 3);
  CHECK(planes_first.locate(65).page == 0);  // the next block
  CHECK(planes_first.place(33).page == 1);   // a new version, behind the others
  CHECK(planes_first.locate(33).page == 1);
  CHECK(planes_first.fullest_plane() == 6);
  CHECK_THROWS_AS(static_cast<void>(planes_first.locate(100)), CheckFailure);
}
