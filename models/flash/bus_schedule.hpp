// A bus that carries one transfer at a time, in one of two orders.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "sim/core/check.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// fifo: in the order of the calls; a transfer that is not ready holds up those behind it.
/// first_gap: a transfer takes the first gap that is long enough at or after the time at which it
/// is ready, so that nobody waits for what is not ready. Earlier calls keep their place: this is
/// list scheduling, in which a single transfer may end later when all others become shorter.
enum class BusOrder { fifo, first_gap };

class BusSchedule {
 public:
  explicit BusSchedule(BusOrder order) : order_(order) {}

  /// End of the transfer that reserve() would grant.
  [[nodiscard]] SimTime probe(SimTime ready, SimDuration length) const {
    const SimTime last = busy_.back().second;
    if (order_ == BusOrder::fifo || ready >= last) {
      return std::max(ready, last) + length;
    }
    return find_gap(ready, length).end;
  }

  /// Takes the bus for `length` > 0 from `ready` on at the earliest; returns the end. Transfers may
  /// not become ready before the time given to forget().
  SimTime reserve(SimTime ready, SimDuration length) {
    auto& [start, last] = busy_.back();
    if (order_ == BusOrder::fifo || (start <= ready && ready <= last)) {
      // In fifo order gaps are never filled: one interval says when the bus is free.
      last = std::max(ready, last) + length;
      return last;
    }
    check(length > SimDuration{0}, "a transfer that takes no time");
    if (ready > last) {
      busy_.emplace_back(ready, ready + length);
      return ready + length;
    }
    return fill_gap(ready, length);
  }

  /// No later transfer becomes ready before `now`.
  void forget(SimTime now) {
    while (head_ + 1 < busy_.size() && busy_[head_].second <= now) {
      ++head_;
    }
    if (head_ > kCompactAt) {
      busy_.erase(busy_.begin(), busy_.begin() + static_cast<std::ptrdiff_t>(head_));
      head_ = 0;
    }
  }

  /// Busy intervals that end after `now`, relative to it: start and end in turn, ascending.
  [[nodiscard]] std::vector<SimDuration> busy_after(SimTime now) const;
  void restore(const std::vector<SimDuration>& busy, SimTime now);
  /// Time between two times, not forgotten ones, in which the bus is taken; in fifo order gaps
  /// count as well.
  [[nodiscard]] SimDuration busy_between(SimTime from, SimTime to) const;

 private:
  using Interval = std::pair<SimTime, SimTime>;
  struct Gap {
    std::size_t next;  // the interval behind the gap
    SimTime start;
    SimTime end;
  };
  static constexpr std::size_t kCompactAt = 64;

  [[nodiscard]] Gap find_gap(SimTime ready, SimDuration length) const;
  SimTime fill_gap(SimTime ready, SimDuration length);

  BusOrder order_;
  std::vector<Interval> busy_{Interval{}};  // ascending, none touches the next; never empty
  std::size_t head_ = 0;                    // those before it are forgotten
};

}  // namespace nearkv
