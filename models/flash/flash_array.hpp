// The flash array: channels, dies, planes. Passive: it answers when a page command starts and is
// done, and keeps no clock and no queue.
//
// Scheduling policy `fifo`: each channel serves its commands in the order in which they are
// issued. Then every picosecond follows from a max-plus recurrence over two kinds of state, the
// time at which a bus is free and the time at which a unit is free (a unit is what reads its
// array independently: a plane, or a die). For a read issued at `now` on unit u of channel c:
//     array_start = max(now, unit_free[u]) + t_command
//     ready       = array_start + t_read
//     out_start   = max(ready, bus_free[c])
//     done        = out_start + transfer
//     bus_free[c] = done + t_command          (the cycles of one command of another page)
//     unit_free[u] = done, or with cache read max(ready, done of the unit's last read): the page
//                    moves into the cache register when that is empty, and the array is free
// and for a program, whose data go in first:
//     in_start    = max(now, bus_free[c], unit_free[u])
//     bus_free[c] = in_start + t_command + transfer
//     done = unit_free[u] = bus_free[c] + t_program
// so an unloaded read takes t_command + t_read + transfer, and a saturated channel moves one page
// each t_command + transfer. `transfer` covers the page and its spare area.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// What reads its array independently of its neighbours.
enum class ArrayUnit { plane, die };

struct FlashConfig {
  int channels = 0;
  int dies_per_channel = 0;
  int planes_per_die = 0;
  int blocks_per_plane = 0;
  int pages_per_block = 0;
  Bytes page_size{};   // user data of a page
  Bytes spare_size{};  // ECC and metadata that cross the bus with it
  Rate channel_rate{};
  ArrayUnit array_unit = ArrayUnit::plane;
  bool cache_read = false;  // the next array read overlaps the transfer of the last one
  SimDuration t_command{};  // command, address and status cycles on the bus, a page command
  SimDuration t_read{};     // tR
  SimDuration t_program{};  // tPROG
  SimDuration t_erase{};    // tBERS

  void fields(FieldVisitor& v);

  [[nodiscard]] int units_per_channel() const {
    return dies_per_channel * (array_unit == ArrayUnit::plane ? planes_per_die : 1);
  }
  [[nodiscard]] Bytes capacity() const;
};

class FlashArray {
 public:
  explicit FlashArray(const FlashConfig& config);

  /// Unit in [0, units_per_channel). Grant::start is when the array read starts, Grant::done when
  /// the last byte has left the channel.
  [[nodiscard]] Grant probe_read(SimTime now, int channel, int unit) const {
    const std::size_t u = index_of(channel, unit);
    const SimTime array_start = std::max(now, unit_free_at_[u]) + t_command_;
    const SimTime ready = array_start + t_read_;
    return {array_start, std::max(ready, bus_free_at_[channel]) + transfer_};
  }

  Grant read(SimTime now, int channel, int unit) {
    const Grant grant = probe_read(now, channel, unit);
    const std::size_t u = index_of(channel, unit);
    ++pages_read_;
    unit_free_at_[u] = cache_read_ ? cache_handover(u, grant) : grant.done;
    bus_free_at_[channel] = grant.done + t_command_;
    return grant;
  }

  Grant program(SimTime now, int channel, int unit);
  Grant erase(SimTime now, int channel, int unit);

  /// Bus time of one page: data, spare area and command cycles.
  [[nodiscard]] SimDuration bus_time_per_page() const { return t_command_ + transfer_; }

  /// The busy times that lie after `now`, relative to it: equal values mean equal futures.
  [[nodiscard]] std::vector<SimDuration> state_after(SimTime now) const;
  /// Puts the array into a state that state_after() gave, as of `now`.
  void restore(const std::vector<SimDuration>& state, SimTime now);

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
  SimTime cache_handover(std::size_t u, const Grant& grant) {
    return std::max(grant.start + t_read_, std::exchange(cache_free_at_[u], grant.done));
  }

  FlashConfig config_;
  std::size_t units_;
  bool cache_read_;
  SimDuration t_command_;
  SimDuration t_read_;
  SimDuration transfer_;
  std::vector<SimTime> bus_free_at_;   // by channel
  std::vector<SimTime> unit_free_at_;  // by channel * units + unit
  std::vector<SimTime> cache_free_at_;  // likewise; used with cache read only
  std::int64_t pages_read_ = 0;
  std::int64_t pages_programmed_ = 0;
  std::int64_t blocks_erased_ = 0;
};

}  // namespace nearkv
