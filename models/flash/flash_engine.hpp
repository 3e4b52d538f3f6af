// The flash array as an event loop of its own, page-exact, with the scheduling policy as a
// parameter (flash_config.hpp).
//
// A *unit* (chip, die or plane, by policy) works on one command at a time:
//     read:    command on the bus; array time x (1 + retries) + ready delay; then the pages of its
//              planes leave over the bus one after another, each when the bus is granted to it
//     program: command and all data on the bus; array time + ready delay
//     erase:   command on the bus; array time + ready delay
// The bus of a channel serves one command or one data-out at a time and is granted when it is free.
// Pages go in the order in which they became ready, commands round robin over the units that can
// take one (from the unit behind the last one served); data_out_first serves pages before commands,
// out_of_order commands before pages, as they are short and keep a die at work. Array ends at one
// time come before the bus's end at that time, and in the order of their commands. A unit without
// cache read is taken until its last page has left; with cache read its pages move into the cache
// register when that is empty, and the array takes the next read. A program or an erase needs a
// unit with nothing in it. With policies fifo and first_gap all of this follows flash_array.hpp's
// recurrences, command cycles included.
//
// Gates are back-pressure: a page with a gate leaves only while the gate has a credit, and takes
// one when the bus is granted to it. Without one the channel passes it over for the next page that
// is ready; its unit keeps it. A returned credit goes to the first channel with an idle bus that
// has a page for it, round robin over the channels.
//
// Channels do not know each other; completions are reported in time order, at equal times by
// channel. No event and no allocation a page beyond a pooled node: two or three steps of a loop.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/flash/bus_schedule.hpp"
#include "models/flash/event_ring.hpp"
#include "models/flash/flash_command_pool.hpp"
#include "models/flash/flash_config.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/random.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// One page (or the block of one plane) for one operation.
struct PageCommand {
  std::uint64_t tag = 0;  // comes back with the completion
  PageOp op = PageOp::read;
  PageCause cause = PageCause::host;
  bool is_held = false;  // waits in its queue until release(); only with data_out_first
  std::uint16_t channel = 0;
  std::uint16_t chip = 0;
  std::uint16_t die = 0;
  std::uint16_t plane = 0;
  std::uint32_t page = 0;   // index in its block: page type and multi-plane partners
  std::uint32_t bytes = 0;  // that cross the bus; less than a page for a partial read
  std::uint8_t gate = 0;    // whose credit its data-out takes; 0: none
};

/// Receives completions: a read when its last byte has left the channel, a program or an erase
/// when the controller sees that it is ready. It may add commands and start them at `at`.
class PageSink {
 public:
  PageSink() = default;
  PageSink(const PageSink&) = delete;
  PageSink& operator=(const PageSink&) = delete;
  virtual ~PageSink() = default;

  virtual void page_done(std::uint64_t tag, SimTime at) = 0;
};

class FlashEngine {
 public:
  static constexpr int kGates = 2;

  /// Read retries and the spread of array times are drawn from children of `rng`, in the order in
  /// which commands are added.
  FlashEngine(const FlashConfig& config, const Rng& rng);

  /// Names a command that is held.
  using Handle = std::uint32_t;
  /// Adds a command that its channel sees at the next start().
  Handle add(const PageCommand& command);
  /// A held command may run from the next start() on.
  void release(Handle held);
  /// Commands added so far are there from `now` on. Events before `now` must have been processed.
  void start(SimTime now);

  /// Gate 1 to kGates has so many credits; they are unlimited before. Not with fifo or first_gap.
  void set_gate(int gate, std::int64_t credits);
  /// A page that took a credit has gone. As with start(), events before `now` must be processed.
  void return_credit(int gate, SimTime now);

  /// Events of one time come in the order in which they began, as in MQSim, and not by channel;
  /// before the first command, and only with data_out_first.
  void order_ties_by_age();

  /// Time of the earliest event, kNever when the array is idle.
  [[nodiscard]] SimTime next_event() const { return SimTime{SimDuration{match_at_[1]}}; }
  /// Processes events up to and including `until` in time order.
  void process(SimTime until, PageSink& sink);

  /// What an idle array remembers: whose turn it is in its round robins. From equal turns equal
  /// commands take equal times, unless retries or a spread are drawn.
  [[nodiscard]] std::vector<std::uint32_t> turns() const;
  /// Of an idle array.
  void set_turns(const std::vector<std::uint32_t>& turns);

  struct Counters {
    std::int64_t pages_read = 0;
    std::int64_t pages_programmed = 0;
    std::int64_t blocks_erased = 0;
    std::int64_t commands = 0;     // a multi-plane command counts once
    std::int64_t suspensions = 0;  // not with fifo
    std::int64_t retries = 0;
    SimDuration bus_busy{};     // summed over the channels
    SimDuration array_busy{};   // summed over what works on its own
    SimDuration bus_stalled{};  // likewise: idle, and every page that is ready waits for a gate
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }
  /// The part of counters().bus_busy that one channel has.
  [[nodiscard]] SimDuration bus_busy(std::size_t channel) const {
    return SimDuration{channels_[channel].bus_busy};
  }
  [[nodiscard]] const FlashConfig& config() const { return config_; }
  /// Times of commands from now on; geometry, policy and random draws stay.
  void set_times(const FlashConfig& config);
  /// Pages, commands and mean channel utilisation over `elapsed`.
  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

 private:
  using Index = FlashCommandPool::Index;
  static constexpr Index kNone = FlashCommandPool::kNone;

  using Node = FlashCommandPool::Node;
  using Queue = FlashCommandPool::Queue;
  struct alignas(64) Unit {   // not a constant: a cache line, what every event needs first
    Queue waiting[kPageOps];  // of the host, or of all
    std::int64_t array_end = 0;
    std::int64_t array_since = 0;  // number of the event that began it
    Index array = kNone;           // the command in the array, linked by plane
    Index suspended = kNone;       // likewise
    std::int32_t data_out = 0;     // pages that wait for the bus or are on it
    std::int16_t suspensions = 0;
    bool held = false;       // the array is done, but the cache register is still full
    bool is_ending = false;  // its program or erase is just being reported
    std::int64_t suspended_left = 0;
    std::int32_t held_commands = 0;             // of the host
    Queue internal[kPageOps][kPageCauses - 1];  // of the other causes, with data_out_first
    // policy fifo
    std::int64_t free_at = 0;
    std::int64_t cache_free_at = 0;
  };
  struct Channel {
    std::int64_t bus_end = kIdle;
    std::int64_t bus_busy = 0;
    std::int64_t bus_since = 0;        // number of the event that began it
    Index command_unit = 0;            // whose command is on the bus, or was the last
    Index on_bus = kNone;              // the page that leaves; kNone for a command
    std::int64_t page_from = kNoPage;  // when it goes behind a command: the command's end
    bool bus_taken = false;
    bool is_dirty = false;  // has commands that start() has not seen
    std::uint32_t arrivals = 0;
    std::uint32_t turn = 0;  // of the round robin
    Queue ready_pages;       // in the order in which they became ready; by recurrence: new commands
    EventRing array_ends;    // by unit; by recurrence: completions by node
    std::int64_t stalled_since = kIdle;  // pages are ready, but their gates are shut
    BusSchedule bus_by_recurrence{BusOrder::fifo};
  };
  static constexpr std::int64_t kIdle = INT64_MAX;
  static constexpr std::int64_t kNoPage = -1;

  /// Of one kind of command, in ps.
  struct OpTimes {
    std::int64_t command = 0;
    std::int64_t further_plane = 0;
    std::int64_t ready = 0;
    std::int64_t array[kPageTypes] = {};
  };

  [[nodiscard]] std::int64_t array_time_of(const PageCommand& command);
  [[nodiscard]] std::int64_t draw_array_time(const PageCommand& command);
  [[nodiscard]] int draw_retries();
  [[nodiscard]] Index unit_of(const PageCommand& command) const;
  [[nodiscard]] Unit& unit_at(std::size_t channel, Index unit) {
    return units_[channel * units_per_channel_ + unit];
  }

  [[nodiscard]] bool can_interrupt(const Unit& unit) const;
  /// What a unit serves next: nothing when op is negative.
  struct Choice {
    int op = -1;
    Queue* first = nullptr;   // where the command comes from
    Queue* second = nullptr;  // where further planes may come from; may be null
  };
  [[nodiscard]] Choice choose_by_cause(Unit& unit) const;
  [[nodiscard]] Index first_takeable(const Queue& queue) const;
  void take_partners(Queue& queue, bool is_host, const Node& wanted, std::uint32_t& taken,
                     Index& last);
  [[nodiscard]] Index take_by_cause(Unit& unit, int& planes);
  void push_ready(Channel& channel, Index node);
  void mark_dirty(std::size_t channel);
  [[nodiscard]] int next_op(Unit& unit) const;
  void set_ready(std::size_t channel, Index unit, bool is_ready);
  void update_ready(std::size_t channel, Index unit);
  [[nodiscard]] Index next_unit(std::size_t channel, Index from, Index end) const;
  [[nodiscard]] bool pick_command(std::size_t channel, std::int64_t now);
  [[nodiscard]] Index take_ready_page(Channel& channel);
  void grant(std::size_t channel, std::int64_t now);
  void send_page_behind_command(std::size_t channel);
  void take_page_back(Channel& channel);
  void begin_command(std::size_t channel, Index u, PageOp op, std::int64_t now);
  void move_to_output(Channel& channel, Unit& unit);
  void array_event(std::size_t channel, PageSink& sink);
  void bus_event(std::size_t channel, PageSink& sink);
  void start_by_recurrence(std::size_t channel, std::int64_t now);
  void finish(Index index, std::int64_t at, PageSink& sink);
  void update_next(std::size_t channel);
  void update_next_by_age(std::size_t channel);

  FlashConfig config_;
  // What every event asks for, in short.
  bool by_recurrence_;
  bool is_out_of_order_;
  bool read_priority_;
  bool cache_read_;
  bool are_times_alike_ = false;  // of all pages
  Index units_a_chip_ = 0;
  Index units_a_die_ = 0;
  Index units_a_plane_ = 0;
  Rng retry_rng_;
  Rng spread_rng_;
  std::int64_t retry_weights_ = 0;  // their sum
  OpTimes times_[kPageOps];
  std::size_t units_per_channel_;
  std::size_t words_per_channel_;
  bool has_causes_ = false;  // a command that is held, or not the host's, has come
  std::int64_t now_ = 0;
  std::uint32_t last_bytes_ = 0;
  std::int64_t last_transfer_ = 0;
  FlashCommandPool nodes_;
  std::vector<Unit> units_;           // by channel * units + unit
  std::vector<std::uint64_t> ready_;  // a bit a unit: it can take its next command
  std::vector<Channel> channels_;
  std::vector<std::size_t> dirty_;          // channels with commands that start() has not seen
  std::int64_t credits_[kGates + 1];        // the first one is of pages without a gate
  std::size_t gate_turn_[kGates + 1] = {};  // of the round robin over the channels
  int stalled_channels_ = 0;
  // The tournament of the channels for the earliest event: match 1 wins, the matches before n are
  // 2n and 2n + 1. Ties go to the lower channel, or to what began earlier (order_ties_by_age).
  std::vector<std::int64_t> match_at_;
  std::vector<std::int64_t> match_since_;
  std::int64_t begun_ = 0;  // events
  bool ties_by_age_ = false;
  std::vector<std::uint32_t> match_channel_;
  Counters counters_;
};

}  // namespace nearkv
