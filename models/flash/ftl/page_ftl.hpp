// The block-device FTL: page-level mapping with garbage collection, wear levelling and a cached
// mapping table. State only, without a clock: each call changes the mapping at once and appends the
// flash operations that a controller has to perform for it.
//
// Order of the operations. An operation may start when operation `after` of the same list is done;
// an erase when all from `after` up to itself are done. Besides, operations of one plane that touch
// the same block run in the order of the lists (programs of a block in page order, its erase after
// the reads before it). A write that had to collect because free blocks were below hard_threshold
// waits for the last erase; a read or write whose translation page was not cached waits for it.
//
// Garbage collection works plane by plane: valid pages of a victim go to the plane's collection
// block. A host or translation page may open a block only if one more stays free, so a collection
// always finds room. While fewer than `threshold` of a plane's blocks are free, each block that is
// opened makes one collection due; below `hard_threshold` the write itself collects until there
// are enough. As in MQSim, a block is a victim only when it is full and holds an invalid page.
//
// Mapping entries lie in translation pages on flash (as DFTL: Gupta et al., ASPLOS 2009), logical
// pages beyond the host's. A miss reads one and may evict a dirty one, which is programmed.
// Entries of moved pages whose translation page is not cached wait in DRAM (a journal) until it
// is read or the journal is longer than journal_pages; then each write rewrites one of them.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/flash/ftl/block_pool.hpp"
#include "models/flash/ftl/ftl_config.hpp"
#include "models/flash/ftl/ftl_geometry.hpp"
#include "models/flash/ftl/lazy_table.hpp"
#include "models/flash/ftl/mapping_cache.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

enum class FlashCommand : std::uint8_t { read, program, erase };
/// Why: for the host's data, the mapping table, garbage collection, wear levelling.
enum class FlashCause : std::uint8_t { host, mapping, collection, levelling };

struct FlashOperation {
  FlashCommand command;
  FlashCause cause;
  std::int32_t after;     // index in the list, or kNoOperation
  PhysicalPage page;      // of an erase: the first page of the block
  std::uint32_t logical;  // page that it holds; kNoPage for an erase

  bool operator==(const FlashOperation&) const = default;
};
using FlashOperations = std::vector<FlashOperation>;
inline constexpr std::int32_t kNoOperation = -1;

class PageFtl {
 public:
  static constexpr int kNoBlock = -1;

  /// `name` is the config path and names the random streams. check()s that the geometry is
  /// addressable with the translation pages.
  PageFtl(const FtlConfig& config, const FtlGeometry& geometry, Bytes page_size, std::uint64_t seed,
          const std::string& name);

  /// Pages that the host may use: 0 .. logical_pages() - 1; other numbers are our bug.
  [[nodiscard]] std::int64_t logical_pages() const { return logical_pages_; }

  // Every call appends to `out`, which may be null: then only the state changes (preconditioning).

  enum class Outcome {
    ok,
    exhausted,  // no free block and none to gain: a result; the page keeps its old data
  };
  struct WriteOptions {
    bool whole_page = true;  // false: what is not written is read from the old page first
    int plane = -1;          // with dynamic allocation: the plane to take, -1 for the next in turn
  };
  Outcome write(LogicalPage page, FlashOperations* out, const WriteOptions& options);
  Outcome write(LogicalPage page, FlashOperations* out) { return write(page, out, WriteOptions{}); }

  /// Returns the page that is read, or kNoPage when nothing was written there.
  PhysicalPage read(LogicalPage page, FlashOperations* out);

  /// The host does not need this page any more.
  void trim(LogicalPage page, FlashOperations* out);

  /// The mapping without cost.
  [[nodiscard]] PhysicalPage physical_of(LogicalPage page) const { return map_[map_index(page)]; }
  /// Soon somebody will ask where this page is.
  void prefetch(LogicalPage page) const { map_.prefetch(map_index(page)); }
  [[nodiscard]] bool is_mapped(LogicalPage page) const { return physical_of(page) != kNoPage; }

  enum class Pressure { none, soft, hard };
  [[nodiscard]] Pressure pressure(int plane) const;
  /// Collects one block of a plane; false when none holds an invalid page.
  bool collect(int plane, FlashOperations* out);

  // Step by step, for a caller with a clock (models/ssd/ftl_executor.hpp): a collection begins, its
  // pages move one by one when they have been read, and its block is free when it has been erased.
  // write() and read() are not used then. While free blocks are below `threshold`, each block that
  // is opened makes one collection due; below `hard_threshold` host pages cannot be placed.

  /// From now on; before that, writes without a clock may have filled the drive. Counters begin
  /// anew, but not the wear.
  void begin_steps() {
    by_steps_ = true;
    counters_ = {};
  }

  /// Draws a number below its argument; replaces the FTL's own stream for victims.
  using Draw = std::function<std::uint64_t(std::uint64_t)>;
  void set_draw(Draw draw) { draw_ = std::move(draw); }

  /// Translation of a host's access: reads and programs of the mapping table, none when it is
  /// ideal or the entry is cached. The access itself waits for the last read in the list.
  void look_up(LogicalPage page, bool changes, FlashOperations* out);
  /// The plane of the next version of a page.
  [[nodiscard]] int plane_for(LogicalPage page) { return choose_plane(page, WriteOptions{}); }
  [[nodiscard]] bool can_place(int plane) const;
  /// Places a page of the host's; check()s can_place(). `is_implied`: by a read, see
  /// UnwrittenReads; these need only a free page, and kNoPage says that there is none.
  PhysicalPage place(LogicalPage page, int plane, bool is_implied);
  /// Planes in which blocks were opened since the last call; the caller begins collections there.
  [[nodiscard]] std::vector<std::uint32_t>& opened_planes() { return opened_planes_; }

  /// Chooses a victim and closes it to others; kNoBlock when none is due, allowed, or fit.
  int begin_collection(int plane);
  /// Likewise for static wear levelling, after an erase.
  int begin_levelling(int plane);
  [[nodiscard]] int collecting(int plane) const { return planes_[plane].collecting; }
  struct Move {
    std::uint32_t id = kNoPage;  // page that moved; kNoPage: it is not current any more
    PhysicalPage to = kNoPage;   // kNoPage: no block has room
  };
  Move move(PhysicalPage from);
  /// The block of a collection was erased; false when it went bad.
  bool end_collection(int plane, int block);
  [[nodiscard]] EraseBlock& block_at(PhysicalPage page);
  /// A read by the host of a page on flash, or of one that was never written.
  void count_read(bool is_on_flash) {
    ++(is_on_flash ? counters_.host_reads : counters_.unwritten_reads);
  }
  void count_partial_write() { ++counters_.partial_writes; }
  /// Writes these pages and then stale ones into the host's open block until it is full.
  void place_used_block(int plane, std::span<const LogicalPage> pages);

  struct Counters {
    std::int64_t host_reads = 0;       // of pages on flash
    std::int64_t unwritten_reads = 0;  // of pages that were never written
    std::int64_t host_programs = 0;
    std::int64_t partial_writes = 0;  // that read the old page first
    std::int64_t trims = 0;           // of pages that held data
    std::int64_t cache_hits = 0;
    std::int64_t cache_misses = 0;
    std::int64_t mapping_reads = 0;
    std::int64_t mapping_programs = 0;
    std::int64_t collections = 0;
    std::int64_t collected_pages = 0;  // valid pages that garbage collection moved
    std::int64_t levellings = 0;
    std::int64_t levelled_pages = 0;
    std::int64_t erases = 0;
    std::int64_t grown_bad_blocks = 0;
    std::int64_t longest_journal = 0;  // translation pages
    std::int64_t implied_pages = 0;    // placed by a read, see UnwrittenReads

    /// All programs a program of the host's; 1 without any.
    [[nodiscard]] double write_amplification() const;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }

  /// free + valid + invalid + bad is geometry().pages().
  struct PageCounts {
    std::int64_t free = 0;  // erased and not programmed
    std::int64_t valid = 0;
    std::int64_t invalid = 0;
    std::int64_t bad = 0;

    bool operator==(const PageCounts&) const = default;
  };
  [[nodiscard]] PageCounts pages() const;
  [[nodiscard]] BlockPool::Wear wear() const;
  [[nodiscard]] const BlockPool& blocks_of(int plane) const { return planes_[plane].pool; }
  [[nodiscard]] const FtlGeometry& geometry() const { return geometry_; }
  [[nodiscard]] const FtlConfig& config() const { return config_; }
  /// Logical page that a physical one holds; kNoPage when it is not current.
  [[nodiscard]] std::uint32_t held_by(PhysicalPage page) const { return reverse_[page]; }
  /// The plane of a page with static allocation.
  [[nodiscard]] int home_plane(LogicalPage page) const { return stripe_.plane_of(page); }
  /// What is full, for a result: "csd/0/ftl: plane 3 has no free block ...".
  [[nodiscard]] std::string exhaustion() const { return exhaustion_of(exhausted_plane_); }
  [[nodiscard]] std::string exhaustion_of(int number) const;

  /// Recounts everything and check()s it: each valid physical page is mapped exactly once, counts
  /// of blocks and planes agree. Takes time in proportion to the drive.
  void audit() const;

  /// Memory of this model: the mapping (4 bytes a logical page) and all else.
  struct Memory {
    std::int64_t mapping;
    std::int64_t rest;
  };
  [[nodiscard]] Memory memory() const;

  void report(Metrics& metrics, const std::string& prefix) const;

 private:
  enum Frontier { host_pages, mapping_pages, collected_pages, levelled_pages, frontiers };
  struct Plane {
    BlockPool pool;
    std::array<int, frontiers> open;  // block that is being written, or kNoBlock
    int collections_due = 0;
    int collecting = 0;          // blocks
    std::int64_t promised = 0;   // pages that blocks being collected still hold
    std::vector<int> history{};  // blocks in the order in which they were opened, for MQSim's fifo
    std::int64_t valid = 0;
    std::int64_t written = 0;  // valid and invalid
  };

  /// The table's order is plane by plane with static allocation, so that work on one plane, such
  /// as its garbage collection, stays in one part of it.
  [[nodiscard]] std::uint32_t map_index(std::uint32_t id) const {
    if (id >= logical_pages_) {
      return id;
    }
    const std::uint32_t row = stripe_shift_ < 0 ? id / stripes_ : id >> stripe_shift_;
    return (id - row * stripes_) * pages_a_stripe_ + row;
  }

  std::int32_t emit(FlashOperations* out, const FlashOperation& operation);
  [[nodiscard]] int blocks_at(double share) const;
  [[nodiscard]] int choose_plane(LogicalPage page, const WriteOptions& options);
  bool make_room(int plane, Frontier frontier, FlashOperations* out, std::int32_t& gate);
  bool make_room_anywhere(int& plane, FlashOperations* out, std::int32_t& gate);
  bool open_block(int plane, Frontier frontier, int reserve);
  PhysicalPage append(int plane, Frontier frontier, std::uint32_t id);
  void bind(std::uint32_t id, PhysicalPage page);
  void invalidate(PhysicalPage page);
  [[nodiscard]] bool can_collect(const Plane& plane, int block, Frontier frontier) const;
  [[nodiscard]] int choose_victim(int plane);
  [[nodiscard]] int greedy_victim(const Plane& plane) const;
  [[nodiscard]] int random_greedy_victim(const Plane& plane);
  [[nodiscard]] bool is_better_victim(const EraseBlock& a, const EraseBlock& b) const;
  void relocate(int plane, int block, Frontier frontier, FlashOperations* out);
  void level_wear(int plane, std::uint32_t erases, FlashOperations* out);
  [[nodiscard]] std::uint64_t draw(std::uint64_t below);
  [[nodiscard]] int random_victim(const Plane& plane);
  [[nodiscard]] bool is_safe_for_mqsim(const Plane& plane, int block) const;
  [[nodiscard]] int mqsim_victim(Plane& plane);
  [[nodiscard]] int mqsim_random_greedy(const Plane& plane);
  [[nodiscard]] int mqsim_coldest(const Plane& plane) const;
  [[nodiscard]] int coldest(const Plane& plane) const;
  [[nodiscard]] std::int64_t room_to_move(const Plane& plane, int free_blocks) const;
  [[nodiscard]] bool spares_block(const Plane& plane) const;
  [[nodiscard]] bool has_room_for(const Plane& plane, int block) const;
  void close_to_others(Plane& plane, int block);
  std::int32_t use_mapping(LogicalPage page, bool changes, FlashOperations* out);
  void mapping_moved(std::uint32_t id);
  std::int32_t read_translation(std::uint32_t page, FlashOperations* out);
  bool write_translation(std::uint32_t page, FlashOperations* out, std::int32_t after);
  void write_back_journal(FlashOperations* out);

  FtlConfig config_;
  FtlGeometry geometry_;
  std::string name_;
  std::int64_t logical_pages_;
  std::int64_t entries_;            // of a translation page
  std::int64_t translation_pages_;  // 0 with an ideal table
  PlaneStripe stripe_;
  std::uint32_t stripes_;         // planes
  std::uint32_t pages_a_stripe_;  // logical pages of a plane
  int stripe_shift_;              // log2 of stripes_, -1 when there is none
  LazyTable map_;                 // by map_index(logical page), translation pages at the end
  LazyTable reverse_;             // by physical page; kNoPage unless valid
  std::vector<Plane> planes_;
  std::optional<MappingCache> cache_;
  std::optional<MappingCache> journal_;  // its order is that of the first change
  Rng rng_;
  Draw draw_;
  bool by_steps_ = false;
  bool first_block_is_marked_ = false;  // see page_ftl_steps.cpp, on MQSim
  std::vector<std::uint32_t> opened_planes_;
  int soft_blocks_;
  int hard_blocks_;
  std::uint64_t programs_ = 0;
  std::uint64_t next_in_turn_ = 0;
  int exhausted_plane_ = -1;
  Counters counters_;
};

}  // namespace nearkv
