// Configuration of the block-device FTL: config /.../ftl/*. Names follow MQSim where it has them.
#pragma once

#include <cstdint>

#include "models/flash/ftl/block_pool.hpp"
#include "models/flash/ftl/ftl_geometry.hpp"
#include "models/flash/ftl/write_buffer.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

/// static: a page's plane follows from its logical number. dynamic: from the order of writes.
enum class AllocationMode { by_logical_page, by_write_order };

/// What a read of a page finds that was never written: no data on flash, or a page that is placed
/// now as if it had been written before (as MQSim does).
enum class UnwrittenReads { zeroes, as_if_written };

/// The three kinds of random are those of Van Houdt (SIGMETRICS 2013): any block, a full one, a
/// full one with at least random_least_invalid pages to gain.
enum class VictimPolicy {
  greedy,
  random_greedy,
  fifo,
  cost_benefit,
  random,
  random_full,
  random_stale,
};

/// Who collects while free blocks are below `threshold` and not below `hard_threshold`.
enum class CollectionTrigger { on_write, by_caller };

struct GarbageCollectionConfig {
  VictimPolicy victim = VictimPolicy::greedy;
  int random_candidates = 0;     // of random_greedy
  int random_least_invalid = 0;  // of random_stale, pages
  double threshold = 0;          // of the blocks of a plane
  double hard_threshold = 0;
  int least_free_blocks = 0;  // both thresholds are at least that
  int at_once = 0;            // collections of one plane at a time, for a drive with a clock
  CollectionTrigger trigger = CollectionTrigger::on_write;
  bool open_ahead = false;    // blocks are opened when the one before is full, not when needed
  bool mqsim_faults = false;  // see mqsim_victim() and models/ssd/ftl_executor.hpp

  void fields(FieldVisitor& v);
};

struct WearLevellingConfig {
  bool dynamic_levelling = false;
  bool static_levelling = false;
  int static_threshold = 0;  // erases between the most and the least worn block

  void fields(FieldVisitor& v);
};

struct MappingConfig {
  bool ideal = false;  // the whole table is in DRAM and costs no flash access
  Bytes cache_capacity{};
  Bytes entry_size{};
  int journal_pages = 0;

  void fields(FieldVisitor& v);
};

struct FtlConfig {
  double overprovisioning_ratio = 0;  // of the physical pages that the host does not see
  std::size_t plane_order = 0;        // index into kPlaneOrders
  AllocationMode allocation = AllocationMode::by_logical_page;
  UnwrittenReads unwritten_reads = UnwrittenReads::zeroes;
  MappingConfig mapping;
  GarbageCollectionConfig collection;
  WearLevellingConfig wear_levelling;
  BadBlockConfig bad_blocks;
  WriteBufferConfig write_buffer;

  void fields(FieldVisitor& v);

  /// Pages that the host sees: planes x floor(pages of a plane x (1 - overprovisioning_ratio)).
  [[nodiscard]] std::int64_t logical_pages(const FtlGeometry& geometry) const;
};

}  // namespace nearkv
