// The block-device FTL at work: host pages, moves of garbage collection and erases on the flash
// engine, in the order that the data allow, with the FTL's state following the clock.
//
// Reads go to the flash as soon as their translation is known. Writes take the next page of their
// plane, or wait while the plane has too few free blocks (PageFtl::can_place). A write of a part
// of a page that holds data reads the rest first. A collection begins when a block is opened, or
// ends below the hard threshold. It reads the valid pages of its victim; each moves when it has
// been read, to the plane's collection block, unless the host has overwritten it meanwhile. The
// victim is erased when the last move and the last host read in it are done, and only then is it
// free; then writes that waited go on in their order. A read of a page whose program is under way
// is answered from the drive's DRAM.
//
// A drive is full when a write waits in a plane where nothing is collected and nothing can be:
// full_at() says when that was; such writes are never done.
//
// MQSim's rules (commit 7ec40e3 of its repository) in these terms: both thresholds are at least ten
// free blocks, and at_once is ten; the three open blocks of a plane (data, mapping table, moves)
// are opened ahead and do not count as free; each block that is opened below the threshold, and
// each erase below ten, begins one collection of its plane; moves stay in their plane, reads first,
// each program when its read is done; erases of two planes of a die run together when both are due.
// With garbage_collection/mqsim_faults this class also does what MQSim does against its own intent,
// beyond the rules for victims (page_ftl_steps.cpp):
//   - a unit with an erase that waits for its moves serves nothing but collections;
//   - requests for a page that is being moved are never done (MQSim takes them off its list);
//   - a collection of a block with a host read under way begins its moves when that is done and
//     never erases: the block and one of at_once collections of its plane are lost;
//   - pages placed by a read count as programs under way for ever, which keeps their blocks from
//     being collected;
//   - reads do not look whether the program of their page is done;
//   - writes of parts of pages read just those sectors that were written before, and program what
//     was asked for;
//   - the newest of the writes that waited goes on first. (MQSim takes them in the order of their
//     addresses in its memory; new ones get those that were freed last, which are the low ones.)
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "models/flash/flash_engine.hpp"
#include "models/flash/ftl/lazy_bits.hpp"
#include "models/flash/ftl/page_ftl.hpp"
#include "models/ssd/drive_config.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Learns that a page of a request is done.
class PageOwner {
 public:
  PageOwner() = default;
  PageOwner(const PageOwner&) = delete;
  PageOwner& operator=(const PageOwner&) = delete;
  virtual ~PageOwner() = default;

  /// It may read and write further pages at `at`.
  virtual void host_page_done(std::uint32_t request, SimTime at) = 0;
};

class FtlExecutor final : private PageSink {
 public:
  /// `name` is the config path; random numbers are streams of `seed` below it.
  FtlExecutor(const DriveConfig& drive, std::uint64_t seed, const std::string& name);

  /// The FTL: before begin(), to precondition the drive.
  [[nodiscard]] PageFtl& ftl() { return ftl_; }
  /// With mqsim_faults: sectors of a page that were written before.
  void note_sectors(LogicalPage page, std::uint64_t sectors) { sectors_[page] = sectors; }
  /// From now on the FTL works step by step; before the first access.
  void begin();
  [[nodiscard]] const PageFtl& ftl() const { return ftl_; }
  [[nodiscard]] const FlashEngine& flash() const { return flash_; }

  /// Of one page, in bytes; multiples of 512 where sectors matter (mqsim_faults).
  struct Part {
    std::uint32_t first = 0;
    std::uint32_t size = 0;
  };
  enum class Outcome {
    pending,  // host_page_done() will be called, or never where the drive is full
    done,     // needs no flash
    lost,     // see mqsim_faults
  };
  /// `request` below 2^29 comes back. Nothing moves before start().
  Outcome read(std::uint32_t request, LogicalPage page, Part part, SimTime now);
  Outcome write(std::uint32_t request, LogicalPage page, Part part, SimTime now);
  /// The mapping alone changes; at once, while its table is read and written.
  void trim(LogicalPage page, SimTime now);
  /// Pages asked for since the last start go to the flash, together.
  void start(SimTime now);

  [[nodiscard]] SimTime next_event() const { return flash_.next_event(); }
  /// Processes events up to and including `until`.
  void process(SimTime until, PageOwner& owner);

  /// When the first write could not go on any more; kNever: not yet. Why: ftl().exhaustion().
  [[nodiscard]] SimTime full_at() const { return full_at_; }
  [[nodiscard]] std::string full_reason() const;

  struct Counters {
    std::int64_t stalled_writes = 0;  // pages that waited for a free block
    std::int64_t buffered_reads = 0;  // of pages whose program was under way
    std::int64_t lost = 0;            // pages, see mqsim_faults
    std::int64_t stale_moves = 0;     // read for a collection, but overwritten by then
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }
  void report(Metrics& metrics, const std::string& prefix) const;

 private:
  using Index = std::uint32_t;
  enum class Kind : std::uint8_t { read, program, rest, move_in, move_out, erase, mapping };
  struct Position {
    std::uint32_t block;  // number of the block in the drive
    std::uint32_t plane;
    std::uint32_t index;  // of the page in its block
  };
  struct Address {
    std::uint16_t channel;
    std::uint16_t chip;
    std::uint16_t die;
    std::uint16_t plane;
  };
  /// One page on its way: a move, or the rest of a partial write.
  struct Step {
    Index collection;
    PhysicalPage page;
    std::uint32_t id;
    FlashEngine::Handle program;  // held until the rest was read
    PageCommand later;            // likewise, where commands are not held
  };
  struct Collection {
    std::uint32_t plane;
    std::uint32_t block;  // number in the drive
    std::uint32_t left;   // moves
    bool is_levelling;
    bool is_waiting;  // for host accesses: to begin (mqsim_faults) or to erase
    bool has_begun;
    bool erases;  // false: never
    FlashEngine::Handle erase;
  };
  struct Access {
    std::uint32_t request;
    LogicalPage page;
    Part part;
    bool is_write;
  };
  /// Operations of the mapping table, and the host's access that waits for one of them.
  struct Lookup {
    FlashOperations operations;
    Access access;
    std::int32_t gate;
    std::uint32_t left;
  };

  [[nodiscard]] Position position_of(PhysicalPage page) const;
  [[nodiscard]] PageCommand command(PageOp op, const Position& at, std::uint32_t bytes) const;
  [[nodiscard]] std::uint32_t transfer_of(Part part) const {
    return part.size == page_size_ ? page_size_ + spare_size_ : transfer_of_part(part);
  }
  [[nodiscard]] std::uint32_t transfer_of_part(Part part) const;
  [[nodiscard]] static std::uint64_t tag(Kind kind, std::uint32_t request, std::uint32_t low);
  [[nodiscard]] bool is_locked(LogicalPage page) const {
    return locked_pages_ > 0 && locked_.contains(page);
  }

  Outcome read_now(const Access& access, SimTime now);
  void write_now(const Access& access, SimTime now);
  bool look_up(const Access& access, SimTime now);
  void begin_lookup(Index index, SimTime now);
  void run_lookup(Index index, std::int32_t after);
  void place(const Access& access, int plane, SimTime now);
  [[nodiscard]] std::uint32_t bytes_to_keep(const Access& access, PhysicalPage old);
  void add_partial(PageCommand program, PhysicalPage old, std::uint32_t keep);
  [[nodiscard]] int free_plane(LogicalPage page);
  void stall(const Access& access, int plane, SimTime now);
  void resume(int plane, SimTime now);
  void follow_opened(SimTime now);
  bool collect(int plane, SimTime now);
  void begin(int plane, int block, bool is_levelling, SimTime now);
  void launch(Index index, SimTime now);
  void try_erase(Index index, SimTime now);
  void add_erase(Index index, bool is_held);
  void block_left(std::uint32_t block, SimTime now);
  void set_full(int plane, SimTime now);

  void page_done(std::uint64_t tag, SimTime at) override;
  void rest_read(Index index, SimTime at);
  void moved_in(Index index, SimTime at);
  void moved_out(Index index, SimTime at);
  void erased(Index index, SimTime at);
  void mapping_done(Index index, std::int32_t operation, SimTime at);

  template <class T>
  struct Pool {
    std::vector<T> items;
    std::vector<Index> unused;

    Index take() {
      if (unused.empty()) {
        items.emplace_back();
        return static_cast<Index>(items.size() - 1);
      }
      const Index index = unused.back();
      unused.pop_back();
      return index;
    }
  };

  DriveConfig config_;
  PageFtl ftl_;
  FlashEngine flash_;
  PageOwner* owner_ = nullptr;
  std::uint32_t pages_per_block_;
  std::uint32_t blocks_per_plane_;
  std::uint32_t page_size_;
  std::uint32_t spare_size_;
  bool is_ideal_;
  bool zeroes_;
  bool by_order_;  // planes in the order of writes
  bool faults_;    // mqsim_faults
  bool holds_;     // the engine can hold commands
  std::vector<Address> planes_;
  std::vector<std::uint32_t> reads_;  // of the host, under way, by block
  std::vector<PageCommand> batch_;
  Pool<Step> steps_;
  Pool<Collection> collections_;
  Pool<Lookup> lookups_;
  std::vector<std::deque<Access>> stalled_;  // by plane
  std::vector<Index> waiting_;               // collections that wait for host reads
  LazyBits under_way_;                       // physical pages whose program is under way
  std::int64_t programs_ = 0;                // under way
  LazyBits locked_;                          // logical pages that are moved, with mqsim_faults
  std::int64_t locked_pages_ = 0;
  std::vector<std::uint64_t> sectors_;  // written, by logical page, with mqsim_faults
  SimTime full_at_ = kNever;
  int full_plane_ = -1;
  Counters counters_;
};

}  // namespace nearkv
