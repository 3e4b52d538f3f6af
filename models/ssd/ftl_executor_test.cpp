#include "models/ssd/ftl_executor.hpp"

#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/flash/ftl/test_ftl.hpp"
#include "models/ssd/test_nvme.hpp"
#include "sim/core/check.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

constexpr std::uint32_t kPage = 4096;

/// One die of few blocks, 1 B/ns, everything in the order in which it comes.
DriveConfig small_drive() {
  DriveConfig drive;
  drive.flash = {.channels = 1,
                 .chips_per_channel = 1,
                 .dies_per_chip = 1,
                 .planes_per_die = 1,
                 .blocks_per_plane = 6,
                 .pages_per_block = 4,
                 .page_size = Bytes{kPage},
                 .spare_size = 0_B,
                 .policy = FlashPolicy::out_of_order,
                 .array_unit = ArrayUnit::die,
                 .read_priority = false,
                 .cache_read = false,
                 .multi_plane = false,
                 .bus_width = 1,
                 .mega_transfers = 1000,
                 .transfer_step = 0_ps,
                 .bits_per_cell = 1,
                 .t_read = {50us, 50us, 50us},
                 .t_program = {500us, 500us, 500us},
                 .t_erase = 3000us,
                 .array_spread = 0,
                 .read_command = {100ns, 0ns, 10ns},
                 .program_command = {200ns, 0ns, 20ns},
                 .erase_command = {300ns, 0ns, 30ns},
                 .read_retry = {},
                 .suspend = {}};
  drive.nvme = plain_nvme(1);
  drive.link = small_link();
  drive.controller.cores = 1;
  drive.controller.codeword = 512_B;
  drive.ftl = test_ftl::drive_config();
  drive.ftl.unwritten_reads = UnwrittenReads::zeroes;
  drive.ftl.overprovisioning_ratio = 0.66;  // 8 logical pages of 24
  drive.ftl.collection.least_free_blocks = 2;
  return drive;
}

constexpr SimDuration kRead = 100ns + 50us + 10ns + 4096ns;
constexpr SimDuration kProgram = 200ns + 4096ns + 500us + 20ns;
constexpr SimDuration kErase = 300ns + 3000us + 30ns;
constexpr FtlExecutor::Part kWhole{0, kPage};

struct Owner final : PageOwner {
  std::map<std::uint32_t, SimTime> done;
  void host_page_done(std::uint32_t request, SimTime at) override { done[request] = at; }
};

struct Drive {
  explicit Drive(const DriveConfig& config) : executor(config, 1, "test") { executor.begin(); }

  FtlExecutor executor;
  Owner owner;

  void run() { executor.process(SimTime{SimDuration::max() - SimDuration{1}}, owner); }
  /// Writes whole pages one after another; returns when the last one is done.
  SimTime write_all(const std::vector<LogicalPage>& pages, SimTime now) {
    for (const LogicalPage page : pages) {
      executor.write(0, page, kWhole, now);
      executor.start(now);
      run();
      now = owner.done.at(0);
    }
    return now;
  }
};

}  // namespace

TEST_CASE("ftl executor: a write and a read are one command each") {
  Drive drive(small_drive());
  CHECK(drive.executor.read(7, 3, kWhole, SimTime{}) == FtlExecutor::Outcome::done);  // not written
  const SimTime written = drive.write_all({3}, SimTime{1us});
  CHECK(written == SimTime{1us} + kProgram);
  CHECK(drive.executor.read(8, 3, kWhole, written) == FtlExecutor::Outcome::pending);
  drive.executor.start(written);
  drive.run();
  CHECK(drive.owner.done.at(8) == written + kRead);
  // Of a part, whole codewords cross the bus.
  drive.executor.read(9, 3, {700, 100}, written + 1ms);
  drive.executor.start(written + 1ms);
  drive.run();
  CHECK(drive.owner.done.at(9) == written + 1ms + kRead - 4096ns + 512ns);
}

TEST_CASE("ftl executor: spare bytes cross the bus with their page or their codeword") {
  DriveConfig config = small_drive();
  config.flash.spare_size = 224_B;
  Drive drive(config);
  const SimTime written = drive.write_all({3}, SimTime{1us});
  CHECK(written == SimTime{1us} + kProgram + 224ns);
  drive.executor.read(8, 3, {0, 512}, written);
  drive.executor.start(written);
  drive.run();
  CHECK(drive.owner.done.at(8) == written + kRead - 4096ns + 512ns + 28ns);
}

TEST_CASE("ftl executor: a write of a part reads the rest of the page first") {
  for (const FlashPolicy policy : {FlashPolicy::out_of_order, FlashPolicy::data_out_first}) {
    DriveConfig config = small_drive();
    config.flash.policy = policy;
    config.flash.read_priority = policy == FlashPolicy::data_out_first;
    Drive drive(config);
    const SimTime written = drive.write_all({2}, SimTime{});
    drive.executor.write(5, 2, {1024, 1024}, written);
    drive.executor.start(written);
    drive.run();
    // 3 KiB of the old page leave the flash; then the whole page is programmed.
    CHECK(drive.owner.done.at(5) == written + kRead - 1024ns + kProgram);
    CHECK(drive.executor.ftl().counters().partial_writes == 1);
    // A page without data needs no read.
    const SimTime later = written + 10ms;
    drive.executor.write(6, 5, {1024, 1024}, later);
    drive.executor.start(later);
    drive.run();
    CHECK(drive.owner.done.at(6) == later + kProgram);
  }
}

TEST_CASE("ftl executor: a page whose program is under way is read from DRAM") {
  Drive drive(small_drive());
  drive.executor.write(1, 4, kWhole, SimTime{});
  drive.executor.start(SimTime{});
  CHECK(drive.executor.read(2, 4, kWhole, SimTime{1us}) == FtlExecutor::Outcome::done);
  drive.run();
  CHECK(drive.executor.read(3, 4, kWhole, SimTime{1ms}) == FtlExecutor::Outcome::pending);
  CHECK(drive.executor.counters().buffered_reads == 1);
}

TEST_CASE("ftl executor: a write that finds too few free blocks waits for the erase") {
  Drive drive(small_drive());
  // Two blocks of data, and two of their next versions: two blocks are stale, two are free.
  const SimTime t0 = drive.write_all({0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7}, SimTime{});
  CHECK(t0 == SimTime{} + 16 * kProgram);
  // The first of eight writes opens a block, which makes a collection due: nothing is valid in its
  // victim, which is erased at once. The fifth waits for that, opens the next block, and with it
  // the next collection begins. The die takes all in the order in which it came:
  //   erase, 4 programs, erase, 4 programs
  for (std::uint32_t i = 0; i < 8; ++i) {
    drive.executor.write(10 + i, i, kWhole, t0);
  }
  drive.executor.start(t0);
  drive.run();
  CHECK(drive.owner.done.at(10) == t0 + kErase + kProgram);
  CHECK(drive.owner.done.at(13) == t0 + kErase + 4 * kProgram);
  CHECK(drive.owner.done.at(14) == t0 + 2 * kErase + 5 * kProgram);
  CHECK(drive.owner.done.at(17) == t0 + 2 * kErase + 8 * kProgram);
  CHECK(drive.executor.counters().stalled_writes == 4);
  CHECK(drive.executor.ftl().counters().erases == 2);
  CHECK(drive.executor.full_at() == kNever);
  drive.executor.ftl().audit();
}

TEST_CASE("ftl executor: pages of a victim move when they have been read") {
  DriveConfig config = small_drive();
  Drive drive(config);
  // A: 0 1 2 3; B: 4 5 6 7; C: 0 1 2 4: A keeps 3, B keeps 5 6 7. D: 0 1 2 4.
  const SimTime t0 = drive.write_all({0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 4, 0, 1, 2, 4}, SimTime{});
  // The next write opens E. The victim is C, which is stale; then A with one page is next.
  const SimTime t1 = drive.write_all({0, 1, 2, 4}, t0);
  CHECK(t1 == t0 + kErase + 4 * kProgram);
  drive.executor.write(20, 0, kWhole, t1);
  drive.executor.start(t1);
  drive.run();
  // It opens F, and D, which is stale, is erased before it.
  CHECK(drive.owner.done.at(20) == t1 + kErase + kProgram);
  const SimTime t2 = drive.write_all({1, 2, 4}, t1 + kErase + kProgram);
  drive.executor.write(21, 0, kWhole, t2);
  drive.executor.start(t2);
  drive.run();
  // E is stale again.
  CHECK(drive.owner.done.at(21) == t2 + kErase + kProgram);
  CHECK(drive.executor.ftl().counters().collected_pages == 0);
  // Now versions that leave one page in each block: A's page 3 has to move, in the die's order:
  // read of the move, the host's program, program of the move, erase.
  const SimTime t3 = drive.write_all({5, 6, 7}, t2 + kErase + kProgram);
  drive.executor.ftl().audit();
  const PageFtl::Counters before = drive.executor.ftl().counters();
  drive.executor.write(22, 0, kWhole, t3);
  drive.executor.start(t3);
  drive.run();
  const PageFtl::Counters& after = drive.executor.ftl().counters();
  REQUIRE(after.collections == before.collections + 1);
  const std::int64_t moved = after.collected_pages - before.collected_pages;
  CHECK(drive.owner.done.at(22) == t3 + (moved == 0 ? kErase : moved * kRead) + kProgram);
  drive.executor.ftl().audit();
}

TEST_CASE("ftl executor: a full drive is a result") {
  DriveConfig config = small_drive();
  config.ftl.overprovisioning_ratio = 0.1;  // 21 pages of 24, five blocks are 20
  Drive drive(config);
  std::vector<LogicalPage> pages;
  for (LogicalPage page = 0; page < 20; ++page) {
    pages.push_back(page);
  }
  const SimTime t0 = drive.write_all(pages, SimTime{});
  CHECK(drive.executor.full_at() == kNever);
  CHECK(drive.executor.full_reason().empty());
  drive.executor.write(30, 20, kWhole, t0);
  drive.executor.read(31, 4, kWhole, t0);
  drive.executor.start(t0);
  drive.run();
  CHECK(drive.executor.full_at() == t0);
  CHECK(drive.executor.full_reason() ==
        "test/ftl: plane 0 has 1 of 6 blocks free, 0 bad, and no invalid page to collect in a full "
        "block; 20 of 24 pages hold data");
  CHECK(drive.owner.done.count(30) == 0);
  CHECK(drive.owner.done.at(31) == t0 + kRead);  // reads go on
}

TEST_CASE("ftl executor: TRIM makes room") {
  DriveConfig config = small_drive();
  config.ftl.overprovisioning_ratio = 0.1;
  Drive drive(config);
  std::vector<LogicalPage> pages;
  for (LogicalPage page = 0; page < 20; ++page) {
    pages.push_back(page);
  }
  const SimTime t0 = drive.write_all(pages, SimTime{});
  for (LogicalPage page = 0; page < 4; ++page) {
    drive.executor.trim(page, t0);
  }
  CHECK(drive.executor.read(0, 2, kWhole, t0) == FtlExecutor::Outcome::done);
  drive.executor.write(30, 20, kWhole, t0);
  drive.executor.start(t0);
  drive.run();
  CHECK(drive.executor.full_at() == kNever);
  CHECK(drive.owner.done.at(30) == t0 + kErase + kProgram);
}

TEST_CASE("ftl executor: an access waits for its translation page") {
  DriveConfig config = small_drive();
  config.flash.blocks_per_plane = 40;
  config.flash.pages_per_block = 64;
  config.ftl.overprovisioning_ratio = 0.2;  // 2048 pages: two translation pages of 1024 entries
  config.ftl.mapping = {
      .ideal = false, .cache_capacity = Bytes{kPage}, .entry_size = 4_B, .journal_pages = 4};
  Drive drive(config);
  // The first accesses of each translation page find nothing on flash. The second one evicts the
  // first, which is changed: a program of the mapping before the host's.
  const SimTime first = drive.write_all({0}, SimTime{});
  CHECK(first == SimTime{} + kProgram);
  const SimTime second = drive.write_all({1500}, first);
  CHECK(second == first + 2 * kProgram);
  // Back again: the other one is programmed, this one read, then the page.
  drive.executor.read(5, 0, kWhole, second);
  drive.executor.start(second);
  drive.run();
  CHECK(drive.owner.done.at(5) == second + kProgram + 2 * kRead);
  // A hit costs nothing.
  drive.executor.read(6, 0, kWhole, second + 10ms);
  drive.executor.start(second + 10ms);
  drive.run();
  CHECK(drive.owner.done.at(6) == second + 10ms + kRead);
}

TEST_CASE("ftl executor: with MQSim's faults, requests for pages that are moved are lost") {
  DriveConfig config = small_drive();
  config.flash.policy = FlashPolicy::data_out_first;
  config.flash.read_priority = true;
  config.flash.blocks_per_plane = 16;
  config.ftl.collection.least_free_blocks = 10;
  config.ftl.collection.at_once = 10;
  config.ftl.collection.open_ahead = true;
  config.ftl.collection.mqsim_faults = true;
  config.ftl.overprovisioning_ratio = 0.75;  // 16 pages of 64; three of 16 blocks are open
  Drive drive(config);
  // One block of 0 1 2 3; the last page of the fourth block opens another one: nine are free.
  SimTime now = drive.write_all({0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 10, 11}, SimTime{});
  CHECK(drive.executor.ftl().counters().collections == 0);
  drive.executor.write(1, 12, kWhole, now);
  drive.executor.start(now);
  CHECK(drive.executor.ftl().counters().collections == 1);
  CHECK(drive.executor.read(2, 1, kWhole, now) == FtlExecutor::Outcome::lost);
  CHECK(drive.executor.write(3, 2, kWhole, now) == FtlExecutor::Outcome::lost);
  CHECK(drive.executor.read(4, 12, kWhole, now) == FtlExecutor::Outcome::pending);
  drive.executor.start(now);
  drive.run();
  // The chip belongs to the collection: three moves and an erase, then the host's read, program.
  CHECK(drive.owner.done.at(4) == now + 3 * kRead + 3 * kProgram + kErase + kRead);
  CHECK(drive.owner.done.at(1) == drive.owner.done.at(4) + kProgram);
  CHECK(drive.executor.counters().lost == 2);
}

TEST_CASE("ftl executor: with MQSim's faults, the sectors that were written are kept") {
  DriveConfig config = small_drive();
  config.flash.policy = FlashPolicy::data_out_first;
  config.flash.read_priority = true;
  config.ftl.collection.mqsim_faults = true;
  Drive drive(config);
  const auto write = [&](FtlExecutor::Part part, SimTime now) {
    drive.executor.write(1, 2, part, now);
    drive.executor.start(now);
    drive.run();
    return drive.owner.done.at(1) - now;
  };
  // Its programs transfer what the host has written.
  const auto program_of = [](std::int64_t bytes) {
    return kProgram - 4096ns + std::chrono::nanoseconds(bytes);
  };
  CHECK(write({0, 512}, SimTime{}) == program_of(512));
  // One sector is kept, then of two one is written once more, then three.
  CHECK(write({512, 512}, SimTime{10ms}) == kRead - 4096ns + 512ns + program_of(512));
  CHECK(write({512, 512}, SimTime{20ms}) == kRead - 4096ns + 512ns + program_of(512));
  CHECK(write({2048, 1024}, SimTime{30ms}) == kRead - 4096ns + 1024ns + program_of(1024));
  CHECK(write({0, 1024}, SimTime{40ms}) == kRead - 4096ns + 1024ns + program_of(1024));
  CHECK(write({0, 4096}, SimTime{50ms}) == program_of(4096));
}

TEST_CASE("ftl executor: static wear levelling moves cold blocks, where it is on") {
  for (const bool is_on : {false, true}) {
    CAPTURE(is_on);
    DriveConfig config = small_drive();
    config.flash.blocks_per_plane = 16;
    config.ftl.overprovisioning_ratio = 0.5;  // 32 pages of 64
    config.ftl.wear_levelling = {
        .dynamic_levelling = true, .static_levelling = is_on, .static_threshold = 5};
    Drive drive(config);
    SimTime now{};
    for (LogicalPage page = 0; page < 32; ++page) {
      now = drive.write_all({page}, now) + 1s;
    }
    for (int i = 0; i < 2000; ++i) {
      now = drive.write_all({static_cast<LogicalPage>(i % 3)}, now) + 1s;
    }
    const BlockPool::Wear wear = drive.executor.ftl().blocks_of(0).wear();
    CHECK((drive.executor.ftl().counters().levellings > 0) == is_on);
    CHECK((wear.highest - wear.lowest <= 5 + 2) == is_on);
  }
}

TEST_CASE("ftl executor: nothing is lost under load, whatever the policies") {
  int runs = 0;
  for (const FlashPolicy policy : {FlashPolicy::fifo, FlashPolicy::first_gap,
                                   FlashPolicy::out_of_order, FlashPolicy::data_out_first}) {
    for (const VictimPolicy victim :
         {VictimPolicy::greedy, VictimPolicy::random_greedy, VictimPolicy::fifo,
          VictimPolicy::cost_benefit, VictimPolicy::random_stale}) {
      for (const bool is_ideal : {true, false}) {
        DriveConfig config = small_drive();
        FlashConfig& flash = config.flash;
        flash.channels = 2;
        flash.planes_per_die = 2;
        flash.blocks_per_plane = 24;
        flash.pages_per_block = 8;
        flash.policy = policy;
        const bool is_event_driven = flash.is_event_driven();
        flash.read_priority = is_event_driven;
        flash.multi_plane = policy == FlashPolicy::data_out_first;
        config.ftl = test_ftl::drive_config();
        config.ftl.overprovisioning_ratio = 0.35;
        config.ftl.unwritten_reads = UnwrittenReads::zeroes;
        config.ftl.collection.victim = victim;
        config.ftl.collection.random_least_invalid = 2;
        config.ftl.collection.at_once = 1 + runs % 3;
        config.ftl.collection.open_ahead = runs % 2 == 1;
        config.ftl.allocation =
            runs % 4 < 2 ? AllocationMode::by_logical_page : AllocationMode::by_write_order;
        config.ftl.wear_levelling = {.dynamic_levelling = runs % 2 == 0,
                                     .static_levelling = runs % 5 == 0,
                                     .static_threshold = 4};
        config.ftl.mapping = {.ideal = is_ideal,
                              .cache_capacity = Bytes{kPage},
                              .entry_size = 16_B,
                              .journal_pages = 2};
        CAPTURE(runs);
        ++runs;
        Drive drive(config);
        FtlExecutor& executor = drive.executor;
        Rng rng(static_cast<std::uint64_t>(runs), "models/ssd/ftl_executor_test");
        const auto pages = static_cast<std::uint64_t>(executor.ftl().logical_pages());
        std::uint32_t asked = 0;
        std::uint32_t at_once = 0;
        SimTime now{};
        for (int i = 0; i < 4000; ++i) {
          const auto page = static_cast<LogicalPage>(rng.below(pages));
          const std::uint64_t kind = rng.below(100);
          const auto sectors = static_cast<std::uint32_t>(1 + rng.below(8));
          const FtlExecutor::Part part{(8 - sectors) * 512, sectors * 512};
          if (kind < 2) {
            executor.trim(page, now);
          } else if (kind < 30) {
            at_once += executor.read(asked++, page, part, now) == FtlExecutor::Outcome::done;
          } else {
            executor.write(asked++, page, part, now);
          }
          executor.start(now);
          if (i % 16 == 15) {  // bursts, with a part of them still under way
            now = std::max(now, executor.next_event() == kNever ? now : executor.next_event()) +
                  SimDuration{static_cast<std::int64_t>(rng.below(20'000'000'000))};
            executor.process(now, drive.owner);
          }
        }
        drive.run();
        CHECK(executor.full_at() == kNever);
        CHECK(drive.owner.done.size() + at_once == asked);
        executor.ftl().audit();
        const PageFtl::Counters& ftl = executor.ftl().counters();
        const FlashEngine::Counters& flash_counters = executor.flash().counters();
        CHECK(ftl.collections > 100);
        CHECK(flash_counters.blocks_erased == ftl.erases);
        CHECK(ftl.erases == ftl.collections + ftl.levellings);
        const std::int64_t moved =
            ftl.collected_pages + ftl.levelled_pages - executor.counters().stale_moves;
        CHECK(flash_counters.pages_programmed == ftl.host_programs + ftl.mapping_programs + moved);
        CHECK(flash_counters.pages_read == ftl.host_reads - executor.counters().buffered_reads +
                                               ftl.partial_writes + ftl.mapping_reads +
                                               ftl.collected_pages + ftl.levelled_pages);
      }
    }
  }
}
