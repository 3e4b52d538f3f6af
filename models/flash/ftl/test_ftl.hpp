// What the tests and benchmarks of the FTLs share: small drives, and a naive flash that performs
// the operations of an FTL and checks each of them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/flash/ftl/page_ftl.hpp"
#include "sim/core/check.hpp"

namespace nearkv::test_ftl {

inline FtlConfig plain_config() {
  FtlConfig config;
  config.overprovisioning_ratio = 0.2;
  config.mapping = {.ideal = true, .cache_capacity = 16_KiB, .entry_size = 4_B, .journal_pages = 4};
  config.collection = {.victim = VictimPolicy::greedy,
                       .random_candidates = 4,
                       .random_least_invalid = 0,
                       .threshold = 0.1,
                       .hard_threshold = 0.05,
                       .least_free_blocks = 0,
                       .at_once = 1,
                       .trigger = CollectionTrigger::on_write,
                       .open_ahead = false,
                       .mqsim_faults = false};
  config.wear_levelling = {
      .dynamic_levelling = true, .static_levelling = false, .static_threshold = 100};
  config.bad_blocks = {.factory_share = 0, .grown_per_erase = 0, .pe_cycles = 1'000'000'000};
  config.write_buffer = {.capacity = 64_KiB, .flush_order = FlushOrder::fifo, .flush_above = 0.5};
  return config;
}

/// For drives with a clock: static allocation CWDP, an ideal table, reads find pages as if written.
inline FtlConfig drive_config() {
  FtlConfig config = plain_config();
  config.unwritten_reads = UnwrittenReads::as_if_written;
  config.wear_levelling.dynamic_levelling = false;
  config.write_buffer.capacity = 0_B;
  return config;
}

/// 2 channels x 1 way x 2 dies x 2 planes of 24 blocks of 8 pages: 1536 pages.
inline FtlGeometry small_geometry() {
  return {.channels = 2,
          .ways_per_channel = 1,
          .dies_per_way = 2,
          .planes_per_die = 2,
          .blocks_per_plane = 24,
          .pages_per_block = 8};
}

/// The oracle: what every physical page holds, in maps, from the operations alone. A page of
/// content is (logical page, version). check() fails where flash would not allow an operation.
class NaiveFlash {
 public:
  explicit NaiveFlash(const FtlGeometry& geometry) : geometry_(geometry) {}

  struct Content {
    std::uint32_t logical;
    std::int64_t version;
    bool operator==(const Content&) const = default;
  };

  /// Programs of the host's carry `version`.
  void perform(const FlashOperations& operations, std::int64_t version) {
    for (std::size_t i = 0; i < operations.size(); ++i) {
      const FlashOperation& operation = operations[i];
      check(operation.after < static_cast<std::int32_t>(i), "an operation waits for a later one");
      switch (operation.command) {
        case FlashCommand::read:
          check(pages_.contains(operation.page), "a read of an erased page");
          check(pages_.at(operation.page).logical == operation.logical, "a read of other data");
          break;
        case FlashCommand::program:
          program(operations, operation, version);
          break;
        case FlashCommand::erase:
          erase(operation.page);
          break;
      }
    }
  }

  [[nodiscard]] bool holds(PhysicalPage page) const { return pages_.contains(page); }
  [[nodiscard]] Content at(PhysicalPage page) const { return pages_.at(page); }
  [[nodiscard]] std::int64_t erases() const { return erases_; }
  [[nodiscard]] std::int64_t programs() const { return programs_; }

 private:
  void program(const FlashOperations& operations, const FlashOperation& operation,
               std::int64_t version) {
    const auto in_block = operation.page % static_cast<std::uint32_t>(geometry_.pages_per_block);
    check(!pages_.contains(operation.page), "a program of a page that is not erased");
    check(in_block == 0 || pages_.contains(operation.page - 1), "pages of a block out of order");
    ++programs_;
    if (operation.cause == FlashCause::host || operation.cause == FlashCause::mapping) {
      pages_[operation.page] = {operation.logical, version};
      return;
    }
    const FlashOperation& source = operations.at(static_cast<std::size_t>(operation.after));
    check(source.command == FlashCommand::read && source.logical == operation.logical,
          "a moved page without its read");
    check(geometry_.plane_of(source.page) == geometry_.plane_of(operation.page),
          "a page moved to another plane");
    pages_[operation.page] = pages_.at(source.page);
  }

  void erase(PhysicalPage first) {
    check(first % static_cast<std::uint32_t>(geometry_.pages_per_block) == 0, "half an erase");
    ++erases_;
    for (int i = 0; i < geometry_.pages_per_block; ++i) {
      pages_.erase(first + static_cast<std::uint32_t>(i));
    }
  }

  FtlGeometry geometry_;
  std::map<PhysicalPage, Content> pages_;
  std::int64_t erases_ = 0;
  std::int64_t programs_ = 0;
};

/// Writes uniformly random pages of a sequentially filled drive; the write amplification of the
/// last `measured` of `writes`.
inline double uniform_amplification(PageFtl& ftl, std::int64_t writes, std::int64_t measured,
                                    Rng& rng) {
  const auto pages = static_cast<std::uint64_t>(ftl.logical_pages());
  for (std::uint64_t page = 0; page < pages; ++page) {
    ftl.write(static_cast<LogicalPage>(page), nullptr);
  }
  PageFtl::Counters before;
  for (std::int64_t i = 0; i < writes; ++i) {
    if (i == writes - measured) {
      before = ftl.counters();
    }
    check(ftl.write(static_cast<LogicalPage>(rng.below(pages)), nullptr) == PageFtl::Outcome::ok,
          "a drive with over-provisioning is exhausted");
  }
  const PageFtl::Counters& after = ftl.counters();
  return 1 + static_cast<double>(after.collected_pages - before.collected_pages) /
                 static_cast<double>(after.host_programs - before.host_programs);
}

}  // namespace nearkv::test_ftl
