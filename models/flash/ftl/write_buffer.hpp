// The write buffer in the drive's DRAM: pages that the host has written and flash does not hold
// yet. Writes to a page that waits are merged into it; reads of what is here need no flash.
//
// Life of a page: put() -> begin_flush() -> (its program runs) -> end_flush(). Between the last two
// it still answers reads, but a new write of the page takes a new slot, into which the old sectors
// are copied. Sectors are bits: bit i of a mask is the i-th of up to 64 equal parts of a page.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/flash/ftl/ftl_geometry.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

/// Which waiting page is flushed first: that which came first, or that written least recently.
enum class FlushOrder { fifo, lru };

struct WriteBufferConfig {
  Bytes capacity{};
  FlushOrder flush_order = FlushOrder::fifo;
  double flush_above = 0;  // share of the slots that may wait before a flush in the background

  void fields(FieldVisitor& v);
};

class WriteBuffer {
 public:
  /// check()s that capacity / page_size is at least 1.
  WriteBuffer(const WriteBufferConfig& config, Bytes page_size);

  enum class Put {
    merged,  // into a page that waited
    stored,  // in a new slot
    full,    // not taken: a flush has to end first
  };
  Put put(LogicalPage page, std::uint64_t sectors);

  /// Whether all of `sectors` are here. Counts as a hit or a miss.
  bool read(LogicalPage page, std::uint64_t sectors);

  /// Drops a page that waits (TRIM); one whose program runs is not answered from here any more.
  void discard(LogicalPage page);

  struct Flush {
    int slot;
    LogicalPage page;
    std::uint64_t sectors;  // not all: the rest has to be read from flash first
  };
  /// Nothing when no page waits.
  std::optional<Flush> begin_flush();
  void end_flush(int slot);

  /// More pages wait than flush_above allows.
  [[nodiscard]] bool wants_flush() const { return waiting_ > flush_above_; }
  [[nodiscard]] int slots() const { return static_cast<int>(slots_.size()); }
  [[nodiscard]] int waiting() const { return waiting_; }
  [[nodiscard]] int in_flight() const { return in_flight_; }

  struct Counters {
    std::int64_t merged = 0;
    std::int64_t stored = 0;
    std::int64_t read_hits = 0;
    std::int64_t read_misses = 0;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  enum class SlotState : std::uint8_t { unused, waiting, in_flight };
  struct Slot {
    LogicalPage page = kNoPage;
    SlotState state = SlotState::unused;
    std::uint64_t sectors = 0;
    std::uint32_t next = 0;  // waiting: towards the newest; unused: the next unused one
    std::uint32_t previous = 0;
  };

  [[nodiscard]] std::size_t home_of(LogicalPage page) const;
  /// Position in the index of `page`, or of the gap where it would be.
  [[nodiscard]] std::size_t find(LogicalPage page) const;
  void remove_from_index(LogicalPage page);
  void append_to_waiting(std::uint32_t slot);
  void unlink(std::uint32_t slot);
  void make_unused(std::uint32_t slot);

  std::vector<Slot> slots_;
  std::vector<std::uint32_t> index_;  // open addressing by page; slot number or kNoPage
  FlushOrder order_;
  int flush_above_;
  std::uint32_t oldest_ = kNoPage;
  std::uint32_t newest_ = kNoPage;
  std::uint32_t unused_ = kNoPage;
  int waiting_ = 0;
  int in_flight_ = 0;
  Counters counters_;
};

}  // namespace nearkv
