// The faults of a run in the order in which they begin and end.
#pragma once

#include <chrono>
#include <cstdint>
#include <queue>
#include <string>
#include <vector>

#include "models/faults/fault_config.hpp"
#include "sim/core/random.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// No fault begins or lasts later: no run is longer by far, and sums of times still fit.
constexpr SimDuration kLatestFault = std::chrono::hours(24 * 20);  // unit: hours, 20 days

/// Times of a trace: one duration a line ("12.5s"); empty lines and lines that begin with # are
/// skipped. Throws ConfigError with file and line.
[[nodiscard]] std::vector<SimDuration> read_fault_times(const std::string& file);

/// Faults at a rate are drawn from the seed, each from a stream of its own, as far as they are
/// asked for.
class FaultTimeline {
 public:
  FaultTimeline(const std::vector<FaultConfig>& faults, std::uint64_t seed);

  struct Event {
    SimTime at;
    int fault;      // index in the config's list
    bool is_begin;  // else a condition ends
    auto operator<=>(const Event&) const = default;
  };
  /// kNever when nothing is to come.
  [[nodiscard]] SimTime next() const { return events_.empty() ? kNever : events_.top().at; }
  /// The next event; of one time in the order of the list, of one fault ends first.
  Event take();

 private:
  void draw(int fault, SimTime after);

  std::vector<FaultConfig> faults_;
  std::vector<Rng> intervals_;  // by fault
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
};

}  // namespace nearkv
