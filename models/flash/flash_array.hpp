// The flash array: channels, dies, planes. Passive: it answers when a page command starts and is
// done, and keeps no clock and no queue.
//
// A unit is what reads its array independently: a plane, or a die. A unit serves its commands in
// the order in which they are issued; a channel's bus serves transfers in `bus_order`. For a read
// issued at `now` on unit u of channel c:
//     array_start = max(now, unit_free[u]) + t_command
//     ready       = array_start + t_read
//     done        = end of a bus slot of `transfer` that starts at `ready` or later; t_command of
//                   bus time behind it is taken as well, for the cycles of another page's command
//     unit_free[u] = done, or with cache read max(ready, done of the unit's last read): the page
//                    moves into the cache register when that is empty, and the array is free
// For a program, whose data go in first, a slot of t_program_command + transfer starts at
// max(now, unit_free[u]) or later, and done = unit_free[u] = its end + t_program. So an unloaded
// read takes t_command + t_read + transfer, and a saturated channel moves one page each
// t_command + transfer. `transfer` covers the page and its spare area.
//
// Every picosecond follows from these recurrences, without an event a page. bus_order fifo holds
// up pages that are ready behind one that is not; first_gap does not, as controllers that pick
// whatever die is ready: it ends within 0.5 % of an arbiter that takes, of the pages that are
// ready, the one that was issued first (flash_array_test.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/flash/bus_schedule.hpp"
#include "sim/core/check.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// What reads its array independently of its neighbours.
enum class ArrayUnit { plane, die };

/// What the recurrences need of a FlashConfig (flash_config.hpp).
struct FlashArrayConfig {
  int channels = 0;
  int units_per_channel = 0;
  Bytes page_size{};       // user data of a page
  SimDuration transfer{};  // of a page and its spare area over the bus
  BusOrder bus_order = BusOrder::fifo;
  bool cache_read = false;  // the next array read overlaps the transfer of the last one
  // Command, address and status cycles on the bus of a read, a program, an erase.
  SimDuration t_command{};
  SimDuration t_program_command{};
  SimDuration t_erase_command{};
  SimDuration t_read{};     // tR
  SimDuration t_program{};  // tPROG
  SimDuration t_erase{};    // tBERS
};

class FlashArray {
 public:
  explicit FlashArray(const FlashArrayConfig& config);

  /// Unit in [0, units_per_channel). Grant::start is when the array read starts, Grant::done when
  /// the last byte has left the channel.
  [[nodiscard]] Grant probe_read(SimTime now, int channel, int unit) const {
    const SimTime array_start = std::max(now, unit_free_at_[index_of(channel, unit)]) + t_command_;
    const SimTime bus_end = buses_[channel].probe(array_start + t_read_, transfer_ + t_command_);
    return {array_start, bus_end - t_command_};
  }

  /// Calls of read, program and erase come in time order.
  Grant read(SimTime now, int channel, int unit) {
    return read_part(now, channel, unit, transfer_);
  }
  /// A read of which only a part of the page leaves over the bus, in `transfer`.
  Grant read_part(SimTime now, int channel, int unit, SimDuration transfer) {
    const std::size_t u = index_of(channel, unit);
    const SimTime array_start = std::max(now, unit_free_at_[u]) + t_command_;
    BusSchedule& bus = bus_at(now, channel);
    const SimTime done = bus.reserve(array_start + t_read_, transfer + t_command_) - t_command_;
    ++pages_read_;
    bus_time_ += transfer + t_command_;
    unit_free_at_[u] = cache_read_ ? cache_handover(u, array_start + t_read_, done) : done;
    return {array_start, done};
  }

  Grant program(SimTime now, int channel, int unit);
  Grant erase(SimTime now, int channel, int unit);

  /// Bus time of one page that is read: data, spare area and command cycles.
  [[nodiscard]] SimDuration bus_time_per_page() const { return t_command_ + transfer_; }
  [[nodiscard]] const FlashArrayConfig& config() const { return config_; }
  /// Times of commands from now on; the geometry stays.
  void set_times(const FlashArrayConfig& config);
  /// BusSchedule::busy_between() of a channel.
  [[nodiscard]] SimDuration bus_busy_between(int channel, SimTime from, SimTime to) const {
    return buses_[channel].busy_between(from, to);
  }
  /// Of all commands so far, summed over the channels; reused work (add()) is not in it.
  [[nodiscard]] SimDuration bus_time() const { return bus_time_; }

  /// The busy times that lie after a point of time, relative to it: equal states have equal
  /// futures.
  struct State {
    std::vector<std::vector<SimDuration>> buses;  // BusSchedule::busy_after
    std::vector<SimDuration> units;               // empty when all are idle
    std::vector<SimDuration> caches;              // likewise, and without cache read

    [[nodiscard]] std::uint64_t hash() const;
  };
  [[nodiscard]] State state_after(SimTime now) const;
  /// Puts the array into a state that state_after() gave, as of `now`.
  void restore(const State& state, SimTime now);

  struct Counters {
    std::int64_t pages_read = 0;
    std::int64_t pages_programmed = 0;
    std::int64_t blocks_erased = 0;
  };
  [[nodiscard]] Counters counters() const {
    return {pages_read_, pages_programmed_, blocks_erased_};
  }
  /// Counts work that was reused instead of simulated.
  void add(const Counters& work);

  /// Bytes, pages and mean channel utilisation over `elapsed`.
  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

 private:
  [[nodiscard]] std::size_t index_of(int channel, int unit) const {
    return static_cast<std::size_t>(channel) * units_ + unit;
  }
  BusSchedule& bus_at(SimTime now, int channel) {
    check(now >= latest_, "a flash command at a time before that of an earlier one");
    require_before_end(now);
    latest_ = now;
    buses_[channel].forget(now);
    return buses_[channel];
  }
  SimTime cache_handover(std::size_t u, SimTime ready, SimTime done) {
    return std::max(ready, std::exchange(cache_free_at_[u], done));
  }

  FlashArrayConfig config_;
  std::size_t units_;
  bool cache_read_;
  SimDuration t_command_;
  SimDuration t_read_;
  SimDuration transfer_;
  std::vector<BusSchedule> buses_;      // by channel
  std::vector<SimTime> unit_free_at_;   // by channel * units + unit
  std::vector<SimTime> cache_free_at_;  // likewise; used with cache read only
  SimTime latest_{};                    // time of the last command
  std::int64_t pages_read_ = 0;
  std::int64_t pages_programmed_ = 0;
  std::int64_t blocks_erased_ = 0;
  SimDuration bus_time_{};
};

}  // namespace nearkv
