// The NVMe front end of a drive at the end of its PCIe link (nvme_config.hpp), event-driven.
//
// Way of a command; each message waits for its direction of the link:
//     the host's core submits it (host_submit; a queue pair has one core, which also handles its
//     completions); doorbell down; when the controller holds fewer than fetch_limit commands,
//     arbitration; request for the entry up, entry down: NvmeTarget::command_arrived().
//     Lists of data pointers are fetched meanwhile, a piece after the other (request up, pointers
//     down); data wait for them.
//     fetch_data(): request up, data down: NvmeTarget::data_arrived().
//     send_data(): data up. complete(): completion entry up; then by `notice`:
//       entry      seen when it has arrived
//       interrupt  an interrupt message up behind the entry that reaches aggregation_threshold, or
//                  aggregation_time after the first entry without one; the host then handles all
//                  entries that have arrived
//       polling    the host handles all entries that have arrived at each multiple of poll_interval
//     Handling takes host_complete an entry; after the last one the host rings the completion
//     doorbell (down).
// A queue pair holds queue_depth commands from submission until the host has seen them; more wait
// before the queue.
//
// What stands behind the front end processes its own events and those of next_event() in time
// order. At one time what reaches the device comes first, then its timers, what reaches the host,
// and what the host does.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "models/flash/event_ring.hpp"
#include "models/ssd/block_request.hpp"
#include "models/ssd/nvme_arbiter.hpp"
#include "models/ssd/nvme_config.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Number of a command between its submission and its completion; small numbers are used again.
using NvmeSlot = std::uint32_t;

/// The controller behind the front end.
class NvmeTarget {
 public:
  NvmeTarget() = default;
  NvmeTarget(const NvmeTarget&) = delete;
  NvmeTarget& operator=(const NvmeTarget&) = delete;
  virtual ~NvmeTarget() = default;

  /// The controller has the command's entry. Sooner or later it calls complete().
  virtual void command_arrived(NvmeSlot slot, SimTime at) = 0;
  /// What fetch_data() asked for is there.
  virtual void data_arrived(NvmeSlot slot, SimTime at) = 0;
};

class NvmeFrontEnd {
 public:
  NvmeFrontEnd(const NvmeConfig& config, const NvmeLinkConfig& link);

  /// The host submits a command; events before `now` must have been processed.
  void submit(SimTime now, const BlockRequest& request);

  /// Time of the earliest event, kNever when there is none.
  [[nodiscard]] SimTime next_event() const {
    std::int64_t at = std::min(down_.arrivals.front_at(), up_.arrivals.front_at());
    if (host_works_) {
      at = std::min(at, std::min(timers_.front_at(), host_.front_at()));
    }
    return SimTime{SimDuration{at}};
  }
  /// Processes one event, the earliest, which is at `at`.
  void process_one(SimTime at, NvmeTarget& target, BlockHost& host);

  // -- For the target, about a command that has arrived.

  [[nodiscard]] const BlockRequest& request(NvmeSlot slot) const { return commands_[slot].request; }
  /// Data of a write, or the range of a TRIM; one call a command, before complete().
  void fetch_data(NvmeSlot slot, SimTime now);
  /// A part of a read's data, or all of it; in the order of the calls.
  void send_data(NvmeSlot slot, SimTime now, Bytes part);
  /// The controller is done with the command and posts its completion.
  void complete(NvmeSlot slot, SimTime now);

  /// Slots in use are smaller than this number.
  [[nodiscard]] std::size_t slots() const { return commands_.size(); }

  struct Counters {
    std::int64_t commands = 0;  // that the host has seen completed
    std::int64_t lists = 0;     // pieces of lists of data pointers that were fetched
    std::int64_t interrupts = 0;
    SimDuration down_busy{};
    SimDuration up_busy{};
  };
  [[nodiscard]] Counters counters() const;
  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

 private:
  static constexpr NvmeSlot kNoSlot = ~NvmeSlot{0};

  struct Command {
    BlockRequest request;
    SimTime submitted;
    NvmeSlot next;               // in one of its queue's lists
    std::int32_t pointers_left;  // of lists that have not been fetched
    std::int64_t held_data;      // of a read, until the lists are there
    bool wants_data;             // of a write, likewise
    bool is_complete;            // likewise
  };
  /// Commands in the order in which they came, linked by Command::next.
  struct List {
    NvmeSlot head = kNoSlot;
    NvmeSlot tail = kNoSlot;
  };
  struct QueuePair {
    List backlog;    // find no place in the queue
    List submitted;  // wait for being fetched
    List arrived;    // completion entries that the host has not looked at
    int outstanding = 0;
    int unsignalled = 0;            // completions since the last interrupt
    std::int64_t signal_at = 0;     // of their timer
    std::int64_t core_free_at = 0;  // the host's
    bool will_poll = false;
  };
  /// One direction of the link. Only what somebody waits for becomes an event.
  struct Direction {
    std::int64_t free_at = 0;
    std::int64_t busy = 0;
    EventRing arrivals;

    void occupy(std::int64_t now, std::int64_t length) {
      free_at = std::max(now, free_at) + length;
      busy += length;
    }
  };
  /// Messages that somebody waits for, and what the host does; `what` of an event is a slot or a
  /// queue and one of these.
  enum class Event : std::uint32_t {
    doorbell,
    entry,
    list,
    data,
    entry_request,
    list_request,
    data_request,
    completion,
    interrupt,
    submission,
    poll,
    seen,       // one of several completions that are handled together
    last_seen,  // the last of them
  };
  static constexpr std::uint32_t kEvents = 16;  // a power of two above the number of events

  static std::uint32_t what(std::uint32_t of, Event event) {
    return of * kEvents + static_cast<std::uint32_t>(event);
  }
  void send(Direction& direction, std::int64_t now, std::int64_t length, std::uint32_t of,
            Event event, std::int64_t latency);
  [[nodiscard]] NvmeSlot new_slot();
  void append(List& list, NvmeSlot slot);
  NvmeSlot take_first(List& list);
  [[nodiscard]] std::int64_t data_time(std::int64_t bytes);
  /// What a TRIM moves is the range that it names.
  [[nodiscard]] Bytes transferred(const BlockRequest& request) const {
    return request.op == BlockOp::trim ? link_.trim_range : request.size;
  }

  void enter_queue(NvmeSlot slot, std::int64_t now);
  void arrived_in_queue(NvmeSlot slot, std::int64_t now);
  void fetch_next(std::int64_t now);
  void fetch(NvmeSlot slot, std::int64_t now);
  void request_list(NvmeSlot slot, std::int64_t now);
  void list_arrived(NvmeSlot slot, std::int64_t now);
  void at_device(std::int64_t now, NvmeTarget& target);
  void at_host(std::int64_t now, BlockHost& host);
  void timer_ended(std::int64_t now);
  void signal(std::uint32_t queue, std::int64_t now);
  void completion_posted(std::uint32_t queue, std::int64_t now);
  void completion_arrived(NvmeSlot slot, std::int64_t now, BlockHost& host);
  void handle_completions(std::uint32_t queue, std::int64_t now, std::int64_t latency);
  void host_event(std::int64_t now, BlockHost& host);
  void seen(NvmeSlot slot, std::int64_t now, bool is_last, BlockHost& host);

  NvmeConfig config_;
  NvmeLinkConfig link_;
  std::int64_t doorbell_;
  std::int64_t read_request_;
  std::int64_t submission_entry_;
  std::int64_t completion_entry_;
  std::int64_t interrupt_;
  std::int64_t doorbell_latency_;
  std::int64_t read_latency_;
  std::int64_t completion_latency_;
  std::int64_t host_submit_;
  std::int64_t host_complete_;
  bool host_works_;             // false: nothing comes into timers_ and host_
  std::int64_t last_size_ = 0;  // the last data_time()
  std::int64_t last_data_time_ = 0;
  Direction down_;
  Direction up_;
  EventRing timers_;  // of aggregated interrupts, by queue
  EventRing host_;
  std::vector<Command> commands_;
  std::vector<NvmeSlot> free_slots_;
  std::vector<QueuePair> queues_;
  NvmeArbiter arbiter_;
  int in_controller_ = 0;
  Counters counters_;
};

}  // namespace nearkv
