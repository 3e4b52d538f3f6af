#include "models/flash/ftl/ftl_config.hpp"

#include <vector>

namespace nearkv {

void GarbageCollectionConfig::fields(FieldVisitor& v) {
  v.one_of(
      "victim", victim,
      {"greedy", "random_greedy", "fifo", "cost_benefit", "random", "random_full", "random_stale"},
      "which block is collected: fewest valid pages; the same among random candidates (RGA); "
      "written longest ago; best age x (1 - u) / 2u (Kawaguchi et al., USENIX 1995); a random "
      "one; a random full one; a random full one with random_least_invalid pages to gain "
      "(Van Houdt, SIGMETRICS 2013)");
  v.parameter("random_candidates", random_candidates,
              "candidates of random_greedy; MQSim takes log2 of the blocks of a plane",
              {1, 1 << 20});
  v.parameter("random_least_invalid", random_least_invalid,
              "pages to gain in a victim of random_stale", {0, 1 << 20});
  v.parameter("threshold", threshold,
              "share of a plane's blocks below which free blocks are collected", {0, 1});
  v.parameter("hard_threshold", hard_threshold,
              "share of a plane's blocks below which writes wait for collection", {0, 1});
  v.parameter("least_free_blocks", least_free_blocks,
              "both thresholds are at least so many blocks of a plane", {0, 1 << 20});
  v.parameter("at_once", at_once, "blocks of one plane that a drive collects at a time",
              {1, 1 << 20});
  v.one_of("trigger", trigger, {"on_write", "by_caller"},
           "between the two thresholds writes collect a block for each one opened, or the "
           "controller does when it is idle");
  v.parameter("open_ahead", open_ahead,
              "the next block is opened when the one before is full, not when it is needed");
  v.parameter("mqsim_faults", mqsim_faults,
              "what MQSim does against its own intent is done too: for comparisons with it");
  v.require([this] { return hard_threshold <= threshold; }, "hard_threshold",
            "must not exceed threshold");
}

void WearLevellingConfig::fields(FieldVisitor& v) {
  v.parameter("dynamic", dynamic_levelling, "free blocks are opened least worn first");
  v.parameter("static", static_levelling,
              "data of the least worn block move to the most worn free one when wear differs");
  v.parameter("static_threshold", static_threshold,
              "difference of erase counts at which static wear levelling moves a block",
              {1, 1 << 30});
}

void MappingConfig::fields(FieldVisitor& v) {
  v.parameter("ideal", ideal, "the whole mapping table is in DRAM and needs no flash access");
  v.parameter("cache_capacity", cache_capacity, "DRAM for translation pages (CMT)",
              range_of(512_B, Bytes{std::int64_t{1} << 40}));
  v.parameter("entry_size", entry_size, "of one page's entry in a translation page",
              range_of(1_B, 64_B));
  v.parameter("journal_pages", journal_pages,
              "translation pages that are not cached and whose changes by moved data may wait in "
              "DRAM before one is rewritten with each write",
              {0, 1 << 30});
}

void FtlConfig::fields(FieldVisitor& v) {
  v.parameter("overprovisioning_ratio", overprovisioning_ratio,
              "share of the physical pages that the host does not see", {0, 0.99});
  v.choice(FieldInfo{"plane_order",
                     "dimensions in the order in which consecutive pages change them: C channel, "
                     "W way, D die, P plane"},
           std::vector<std::string_view>(kPlaneOrders.begin(), kPlaneOrders.end()), plane_order);
  v.one_of("allocation", allocation, {"static", "dynamic"},
           "the plane of a page follows from its logical number, or from the order of writes");
  v.one_of("unwritten_reads", unwritten_reads, {"zeroes", "as_if_written"},
           "a read of a page that was never written needs no flash, or finds a page placed as if "
           "it had been written");
  v.group("mapping", mapping, "the mapping table and its cache");
  v.group("garbage_collection", collection, "garbage collection");
  v.group("wear_levelling", wear_levelling, "wear levelling");
  v.group("bad_blocks", bad_blocks, "how blocks fail");
  v.group("write_buffer", write_buffer, "the write buffer in the drive's DRAM");
}

std::int64_t FtlConfig::logical_pages(const FtlGeometry& geometry) const {
  const double share = 1 - overprovisioning_ratio;
  return geometry.planes() *
         static_cast<std::int64_t>(static_cast<double>(geometry.pages_per_plane()) * share);
}

}  // namespace nearkv
