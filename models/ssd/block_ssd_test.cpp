#include "models/ssd/block_ssd.hpp"

#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/flash/ftl/test_ftl.hpp"
#include "models/ssd/block_host.hpp"
#include "models/ssd/test_drive.hpp"
#include "models/ssd/test_nvme.hpp"
#include "sim/core/check.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

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
  BlockSsd ssd(config, 1, "test");
  Fixed source{std::move(requests)};
  ClosedLoop host(ssd, source);
  return host.run(SimTime{}, depth);
}

}  // namespace

TEST_CASE("block ssd: messages are packets on lanes") {
  NvmeLinkConfig link = mqsim_like_drive().link;
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
  const ResponseTimes one = closed_loop(mqsim_like_drive(), {{7, 0_B, 4_KiB}}, 1);
  CHECK(one.requests == 1);
  CHECK(one.sum == alone);
  // The next one's doorbell waits behind the completion doorbell.
  const ResponseTimes two = closed_loop(mqsim_like_drive(), {{0, 0_B, 4_KiB}, {1, 0_B, 4_KiB}}, 1);
  CHECK(two.least == alone);
  CHECK(two.most == alone + 8ns);
}

TEST_CASE("block ssd: only the bytes asked for leave the flash and cross the link") {
  const SimDuration alone = 8ns + 8ns + 25ns + 290ns + 75'020ns + 11ns;
  // 512 B: 1,536 ns on the channel, 4 packets = 156 ns on the link
  CHECK(closed_loop(mqsim_like_drive(), {{0, 1024_B, 512_B}}, 1).sum == alone + 1'536ns + 156ns);
  // 1 KiB across two pages on two channels: two data-outs at once
  CHECK(closed_loop(mqsim_like_drive(), {{0, 3584_B, 1_KiB}}, 1).sum == alone + 1'536ns + 312ns);
}

TEST_CASE("block ssd: a page that was never written is read without the flash") {
  BlockSsdConfig config = mqsim_like_drive();
  config.ftl.unwritten_reads = UnwrittenReads::zeroes;
  const SimDuration alone = 8ns + 8ns + 25ns + 11ns;
  CHECK(closed_loop(config, {{0, 0_B, 4_KiB}}, 1).sum == alone + 1'248ns);
  CHECK(closed_loop(config, {{0, 0_B, 8_KiB}}, 1).sum == alone + 2'496ns);
}

TEST_CASE("block ssd: a write fetches its data and ends with the last program") {
  // doorbell 8, entry 8 + 25, data request 8 and 1,248 down, command 361 + 12,288 of data, tPROG,
  // completion entry 11
  const SimDuration alone = 8ns + 8ns + 25ns + 8ns + 1'248ns + 361ns + 12'288ns + 750us + 11ns;
  CHECK(closed_loop(mqsim_like_drive(), {{0, 0_B, 4_KiB, BlockOp::write}}, 1).sum == alone);
  // Two pages on two channels: twice the data on the link, everything else at once.
  CHECK(closed_loop(mqsim_like_drive(), {{0, 0_B, 8_KiB, BlockOp::write}}, 1).sum ==
        alone + 1'248ns);
}

TEST_CASE("block ssd: firmware takes a core for each command, look-up and completion") {
  BlockSsdConfig config = mqsim_like_drive();
  config.controller = {.cores = 1,
                       .command_cost = 1us,
                       .lookup_cost = 100ns,
                       .completion_cost = 500ns,
                       .codeword = 512_B};
  const SimDuration fetched = 8ns + 8ns + 25ns;
  const SimDuration flash = 290ns + 75'020ns + 12'288ns;
  // The completion's firmware runs while the data are on the link: 500 ns of 1,248.
  const SimDuration read = fetched + 1'100ns + flash + 1'248ns + 11ns;
  CHECK(closed_loop(config, {{0, 0_B, 4_KiB}}, 1).sum == read);
  // Two pages on two channels: two look-ups.
  CHECK(closed_loop(config, {{0, 0_B, 8_KiB}}, 1).sum == read + 100ns + 1'248ns);
  const SimDuration write =
      fetched + 1'100ns + 8ns + 1'248ns + 361ns + 12'288ns + 750us + 500ns + 11ns;
  CHECK(closed_loop(config, {{0, 0_B, 4_KiB, BlockOp::write}}, 1).sum == write);
  // Two commands for two channels: the second waits for the core, and with two for its entry.
  const std::vector<BlockRequest> both{{0, 0_B, 512_B}, {1, 4_KiB, 512_B}};
  const SimDuration small = fetched + 1'100ns + 290ns + 75'020ns + 1'536ns + 500ns + 11ns;
  CHECK(closed_loop(config, both, 2).least == small);
  CHECK(closed_loop(config, both, 2).most == small + 1'100ns);
  config.controller.cores = 2;
  CHECK(closed_loop(config, both, 2).most == small + 25ns);
}

TEST_CASE("block ssd: data pass the DRAM in and out") {
  BlockSsdConfig config = mqsim_like_drive();
  config.dram.rate = Rate{4'096'000'000};  // 1 us a page
  config.dram.read_data = true;
  const SimDuration fetched = 8ns + 8ns + 25ns;
  const SimDuration read = fetched + 290ns + 75'020ns + 12'288ns + 2us + 1'248ns + 11ns;
  CHECK(closed_loop(config, {{0, 0_B, 4_KiB}}, 1).sum == read);
  // Two pages leave two channels at once: two in, one after the other, and 8 KiB out.
  CHECK(closed_loop(config, {{0, 0_B, 8_KiB}}, 1).sum == read + 2us + 1'248ns);
  const SimDuration write = fetched + 8ns + 1'248ns + 2us + 361ns + 12'288ns + 750us + 11ns;
  CHECK(closed_loop(config, {{0, 0_B, 4_KiB, BlockOp::write}}, 1).sum == write);
  config.dram.read_data = false;  // reads pass it by
  CHECK(closed_loop(config, {{0, 0_B, 4_KiB}}, 1).sum == read - 2us);
}

TEST_CASE("block ssd: the controller holds fetch_limit commands") {
  BlockSsdConfig config = mqsim_like_drive();
  std::vector<BlockRequest> requests;
  for (std::uint64_t i = 0; i < 4; ++i) {
    requests.push_back({i, static_cast<std::int64_t>(i) * 4_KiB, 4_KiB});  // four chips
  }
  const ResponseTimes all_at_once = closed_loop(config, requests, 4);
  config.nvme.fetch_limit = 1;
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
  const BlockSsdConfig config = mqsim_like_drive();
  BlockSsd ssd(config, 1, "test");
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
  const BlockSsdConfig config = mqsim_like_drive();
  const auto run = [&] {
    BlockSsd ssd(config, 1, "test");
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

TEST_CASE("block ssd: with a write buffer a write ends in DRAM and is programmed later") {
  BlockSsdConfig config = mqsim_like_drive();
  config.dram.rate = Rate{4'096'000'000};  // 1 us a page
  config.ftl.write_buffer = {
      .capacity = 8_KiB, .flush_order = FlushOrder::fifo, .flush_above = 0};  // two pages
  const SimDuration in_dram = 8ns + 8ns + 25ns + 8ns + 1'248ns + 1us + 11ns;
  CHECK(closed_loop(config, {{0, 0_B, 4_KiB, BlockOp::write}}, 1).sum == in_dram);
  // The third page of one chip finds no room until the first program is done: out of DRAM, over
  // the channel, programmed.
  const std::vector<BlockRequest> three{{0, 0_B, 4_KiB, BlockOp::write},
                                        {1, 16_KiB, 4_KiB, BlockOp::write},
                                        {2, 32_KiB, 4_KiB, BlockOp::write}};
  const ResponseTimes times = closed_loop(config, three, 1);
  const SimDuration program = 361ns + 12'288ns + 750us;
  CHECK(times.last == SimTime{in_dram - 11ns + 1us + program + 11ns});
  // A read of what is in the buffer needs no flash; here it does not pass the DRAM either.
  const ResponseTimes read =
      closed_loop(config, {{0, 0_B, 4_KiB, BlockOp::write}, {1, 0_B, 4_KiB, BlockOp::read}}, 1);
  CHECK(read.most < 5us);
}

TEST_CASE("block ssd: the write buffer has the sectors that were written, and no others") {
  BlockSsdConfig config = mqsim_like_drive();
  config.ftl.write_buffer = {
      .capacity = 32_KiB, .flush_order = FlushOrder::fifo, .flush_above = 0.9};
  const auto read_after_write = [&](Bytes first, Bytes size) {
    return closed_loop(config, {{0, 1_KiB, 1_KiB, BlockOp::write}, {1, first, size, BlockOp::read}},
                       1)
        .most;
  };
  CHECK(read_after_write(1_KiB, 1_KiB) < 5us);
  CHECK(read_after_write(1536_B, 512_B) < 5us);
  CHECK(read_after_write(512_B, 1_KiB) > 75us);
  CHECK(read_after_write(1536_B, 1_KiB) > 75us);
  CHECK(read_after_write(2_KiB, 1_KiB) > 75us);
  CHECK(read_after_write(0_B, 4_KiB) > 75us);
}

TEST_CASE("block ssd: a TRIM gives up whole pages, and a drive that is full says so") {
  BlockSsdConfig config = mqsim_like_drive();
  config.flash.channels = 1;
  config.flash.chips_per_channel = 1;
  config.flash.blocks_per_plane = 16;
  config.flash.pages_per_block = 8;
  config.ftl.overprovisioning_ratio = 0.05;  // 121 of 128 pages: more than can be in use
  config.ftl.unwritten_reads = UnwrittenReads::zeroes;
  std::vector<BlockRequest> requests;
  for (std::uint64_t i = 0; i < 121; ++i) {
    requests.push_back({i, static_cast<std::int64_t>(i) * 4_KiB, 4_KiB, BlockOp::write});
  }
  const auto run = [&](BlockSsd& ssd, const std::vector<BlockRequest>& all) {
    Fixed source{all};
    ClosedLoop host(ssd, source);
    return host.run(ssd.last_event(), 1);
  };
  BlockSsd full(config, 1, "test");
  const ResponseTimes times = run(full, requests);
  CHECK(times.requests == 120);  // 15 of 16 blocks; the last write is never done
  CHECK(full.full_at() > times.last);
  CHECK(full.full_at() < times.last + 2us);
  CHECK(full.full_reason().find("120 of 128 pages hold data") != std::string::npos);
  // Half of page 5 and pages 6 to 21: one whole block is stale then.
  BlockSsd trimmed(config, 1, "test");
  std::vector<BlockRequest> with_trim(requests.begin(), requests.end() - 1);
  with_trim.push_back({200, 5 * 4_KiB + 2_KiB, 66_KiB, BlockOp::trim});
  with_trim.push_back(requests.back());
  CHECK(run(trimmed, with_trim).requests == 122);
  CHECK(trimmed.full_at() == kNever);
  CHECK(trimmed.full_reason().empty());
  const PageFtl::Counters& counters = trimmed.ftl().counters();
  CHECK(counters.trims == 16);
  CHECK(counters.collections > 0);
  Metrics metrics;
  trimmed.report(metrics, "drive", 1s);
  CHECK(metrics.at("drive/flash/blocks_erased") == static_cast<double>(counters.erases));
  CHECK(metrics.at("drive/ftl/collections") == static_cast<double>(counters.collections));
  CHECK(metrics.at("drive/ftl/write_amplification") == counters.write_amplification());
}

TEST_CASE("block ssd: the drive starts as preconditioned, and its counters at zero") {
  BlockSsdConfig config = mqsim_like_drive();
  config.flash.blocks_per_plane = 32;
  config.flash.pages_per_block = 8;
  config.precondition = {
      .fill = 0.9, .pattern = FillPattern::random, .steady_tolerance = 0.1, .rounds_at_most = 20};
  BlockSsd ssd(config, 1, "test");
  const std::int64_t held = ssd.ftl().pages().valid;
  CHECK(held == std::llround(0.9 * static_cast<double>(ssd.ftl().logical_pages())));
  CHECK(ssd.ftl().wear().total > 0);
  Fixed source{{{0, 0_B, 4_KiB, BlockOp::write}}};
  ClosedLoop host(ssd, source);
  host.run(SimTime{}, 1);
  CHECK(ssd.ftl().counters().host_programs == 1);
  CHECK(ssd.ftl().counters().erases <= 1);
}
