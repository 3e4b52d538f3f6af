// The host's storage path: file reads and writes through the page cache (memory-mapped files, as
// FlexGen keeps its KV cache), and anonymous memory that swaps.
//
// A *stream* is one thread that walks over a span of a file or region. All streams live in this
// component of the event loop; an actor starts one and waits for its Completion. Streams share the
// host cores (first come first served) and the SSDs, and touch one HostMemory.
//
// A file stream goes window by window (aligned; config /host/file_system/readahead_window). With
// one window in flight and an idle machine, a window of p pages costs
//     resident:       p x hit_per_page
//     never written:  p x (hit_per_page + miss_per_page)
//     else:           io_submission + SSD read of the window + p x (hit_per_page + miss_per_page)
// where hit_per_page counts the pages of the span and miss_per_page all pages of the window. With
// more in flight, the read of a later window starts when an earlier one has been consumed. A write
// to a window that is stored and not resident reads it first, as a memory-mapped write does. Of
// the streams that handle pages of files, fault_threads are in the hit_per_page part at a time
// (faults and unmapping share locks; in a virtual machine they are one behind the other).
//
// A region stream goes over the windows that are not resident by swap clusters of c pages:
//     never touched:  c x minor_fault
//     swapped out:    major_fault + io_submission + SSD read of the cluster + c x minor_fault
// Resident memory costs nothing here: what is done with it is the caller's.
//
// Eviction. When a window needs an extent and memory is full, the least recently used extent goes.
// If it is dirty the stream first writes it, one request a dirty window (io_submission each, for
// anonymous memory swap_out_per_page a page), and waits for the last one. Above
// dirty_background_ratio a flusher writes the oldest dirty extents of files in the background;
// above dirty_ratio a writing stream writes back itself until that holds.
//
// Not modelled: an extent counts as resident for all streams as soon as one has begun to read it;
// writeback by age (dirty_expire) and on request; the device address of a swapped page follows
// from its place in the region.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/host/host_config.hpp"
#include "models/host/host_memory.hpp"
#include "models/ssd/ssd.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/event_loop.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Bytes [offset, offset + length) of a file or region.
struct MemorySpan {
  MemoryObject object;
  Bytes offset;
  Bytes length;
};

class HostStorage final : public Component {
 public:
  /// Attaches itself to the loop. `cores` and `ssds` may be shared with others and must outlive it.
  HostStorage(EventLoop& loop, const HostConfig& config, FifoServers& cores, SsdArray& ssds);

  // -- Setting up; takes no simulated time.
  /// Memory that is never evicted; before the first stream. Throws OutOfCapacity.
  void pin(std::string_view label, Bytes size) { memory_.pin(label, size); }
  /// Throws OutOfCapacity when the SSDs do not hold it. It has no contents yet.
  MemoryObject create_file(const std::string& name, Bytes size);
  /// Throws OutOfCapacity when memory and swap do not hold it.
  MemoryObject create_region(Bytes size);
  void remove(MemoryObject object);
  /// The span of a file has contents, on the SSDs only.
  void assume_stored(const MemorySpan& span);
  /// The span was used like this just now: what is resident, dirty and evicted follows, without
  /// the time that it takes.
  void assume_used(const MemorySpan& span, Access access);

  /// Something else on the host takes memory, until relieve(): what has to go for it and is dirty
  /// is on its way to the SSDs, which are busy with it. Throws OutOfCapacity.
  void press(SimTime now, Bytes size);
  void relieve(Bytes size) { memory_.give_back(size); }

  // -- Work for an actor: `done` finishes when the last page has been handled.
  void read_file(SimTime now, const MemorySpan& span, Completion& done);
  void write_file(SimTime now, const MemorySpan& span, Completion& done);
  void touch_memory(SimTime now, const MemorySpan& span, Access access, Completion& done);

  [[nodiscard]] const HostMemory& memory() const { return memory_; }
  /// Where a file or region lies on the SSDs.
  [[nodiscard]] Bytes address_of(MemoryObject object, Bytes offset) const;

  /// Windows by what a stream found; for regions in units of the same size.
  struct Counters {
    std::int64_t hits = 0;
    std::int64_t reads = 0;
    std::int64_t zeros = 0;
    std::int64_t written_for_room = 0;  // synchronously, before an eviction
    std::int64_t written_in_background = 0;
    std::int64_t written_by_throttled = 0;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }
  /// CPU time of all streams.
  [[nodiscard]] SimDuration cpu_time() const { return cpu_time_; }

  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

  // -- Component.
  [[nodiscard]] SimTime next_event() const override;
  void process(SimTime until) override;

 private:
  using WindowMask = HostMemory::WindowMask;
  static constexpr std::int64_t kMostInFlight = 64;

  enum class Step {
    idle,
    admit,      // the next unit: room in memory, then its read
    make_room,  // what must be written or waited for before that
    write_out,
    read_unit,
    consume,
    finish,
    flush,  // the background flusher looks for work
  };

  /// Constants of one kind of object. Units are windows of a file or swap clusters of a region.
  struct Costs {
    Bytes unit{};
    int units_per_window = 0;
    int in_flight = 0;        // of a reading stream; others wait for each unit
    SimDuration submit{};     // CPU time before a unit is read
    SimDuration page_hit{};   // of a page of the span
    SimDuration page_miss{};  // of a page of a unit that was not resident
    SimDuration unit_hit{};   // of all pages of a unit
    SimDuration unit_miss{};
  };

  /// CPU time of a unit's pages.
  struct UnitCost {
    SimDuration hit;
    SimDuration miss;
  };

  struct Unit {
    SimTime ready_at;
    bool missing;  // it was not resident
  };

  /// One thread at work.
  struct Stream {
    SimTime at = kNever;  // of the next step
    Step step = Step::idle;
    bool is_flusher = false;
    bool throttles = false;   // writes a file
    bool room_stays = false;  // `room` is a writeback, not an eviction
    Access access = Access::read;
    int in_flight = 0;
    const Costs* costs = nullptr;
    Completion* completion = nullptr;
    MemoryObject object;
    Bytes begin{};  // of the span
    Bytes end{};
    Bytes size{};                   // of the object
    std::int64_t past_last = 0;     // units of the span end here
    std::int64_t front = 0;         // next unit to admit
    std::int64_t tail = 0;          // next unit to consume
    std::int64_t extent_begin = 0;  // unit; of the extent that is being admitted
    std::int64_t extent_end = 0;    // unit; its part in the span ends here
    WindowMask to_read = 0;
    WindowMask missing = 0;
    HostMemory::Victim room{};
    std::array<Unit, kMostInFlight> units{};  // by number modulo the size
    // For the activity log: what the stream's time so far went into.
    int cause = -1;  // why it began
    SimTime recorded_since{};
    SimDuration core_work{};
    SimDuration core_queue{};
  };

  void start(SimTime now, const MemorySpan& span, Access access, Completion& done);
  void run_step(Stream& s);
  void admit(Stream& s);
  bool enter_extent(Stream& s);
  void make_room(Stream& s);
  void write_out(Stream& s);
  void read_unit(Stream& s);
  void admitted(Stream& s, SimTime ready_at);
  void consume(Stream& s);
  void flush(Stream& s);
  void wake_flusher(SimTime now);
  [[nodiscard]] bool must_throttle(const Stream& s) const;
  [[nodiscard]] static bool front_is_in(const Stream& s, WindowMask windows);
  [[nodiscard]] UnitCost cost_of(const Stream& s, std::int64_t unit) const;
  SimTime compute(Stream& s, SimDuration service);
  SimTime compute_from(Stream& s, SimTime begin, SimDuration service);
  SimTime handle_pages(Stream& s, const UnitCost& cost, SimDuration then);
  void record_start(Stream& s, SimTime now) const;
  void record_compute(Stream& s, const Grant& core) const;
  void record_transfer(const Stream& s, const Grant& granted, Bytes size, Access access) const;
  [[nodiscard]] int record_finish(const Stream& s) const;
  [[nodiscard]] Bytes whole_extents(Bytes size) const;
  template <class Visit>
  void for_each_extent(const MemorySpan& span, Visit visit);

  EventLoop& loop_;
  FifoServers& cores_;
  FifoServers faults_;
  SsdArray& ssds_;
  Bytes page_size_;
  Bytes window_;
  SimDuration io_submission_;
  SimDuration swap_out_per_window_;
  Bytes flush_above_;
  Bytes throttle_above_;
  Costs file_costs_;
  Costs region_costs_;
  HostMemory memory_;
  Bytes swap_span_;  // the SSDs' first bytes are swap, the rest is for files
  CapacityLedger disk_;
  Bytes next_file_base_;
  Bytes next_region_base_{};
  std::vector<Bytes> storage_bases_;  // by object
  std::vector<std::string> names_;    // by object; empty for regions
  std::vector<Stream> streams_;       // the first is the flusher
  bool rescheduled_ = false;          // a step has changed when another stream goes on
  bool finished_ = false;             // a step has finished a completion
  Counters counters_;
  SimDuration cpu_time_{};
};

}  // namespace nearkv
