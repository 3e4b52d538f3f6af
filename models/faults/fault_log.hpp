// What faults did to a run: when they were there, what it took to recover, and how many tokens came
// out before, during and after.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Times are those of the run: 0 is the first arrival.
class FaultLog {
 public:
  explicit FaultLog(std::vector<std::string> labels);

  /// So many tokens came out at `at`, evenly since the last call. Calls come in time order.
  void tokens(SimTime at, std::int64_t count);
  /// Nothing came out from the last call to `at`: prefill, or no request was there. Not counted
  /// as time by any throughput.
  void pause(SimTime at);

  /// A fault, by its place in the list, begins; a loss ends with recovered().
  void begins(int fault, SimTime at);
  /// The condition is over.
  void ends(int fault, SimTime at);
  struct Recovery {
    SimTime begin;  // after the step in which the fault came
    SimTime end;
    std::int64_t recomputed_tokens = 0;
    std::int64_t lost_pages = 0;
  };
  void recovered(int fault, const Recovery& recovery);

  [[nodiscard]] bool has_begun() const { return first_.has_value(); }

  /// Adds, below faults/:
  ///   throughput_before   token/s  of decoding, until the first fault
  ///   throughput_during   token/s  while a fault was there or was being recovered from
  ///   throughput_after    token/s  afterwards
  ///   decoded_tokens      1        of all decode steps that were done
  ///   time_during         s        time that throughput_during is over
  ///   recovery_time       s        of all losses, in which nothing was decoded
  ///   recomputed_tokens   1        tokens whose K and V were computed again
  ///   lost_pages          1        flash pages with current data that were lost
  ///   N/count, N/first_time        of the N-th fault of the config
  /// A throughput over no time is left out. `end` is that of the run.
  void report(Metrics& metrics, SimTime end) const;

 private:
  struct Piece {
    SimTime begin;
    SimTime end;
    std::int64_t tokens;
  };
  struct Fault {
    std::string label;
    std::int64_t count = 0;
    int active = 0;
    std::optional<SimTime> first{};
  };
  struct Span {
    SimTime begin;
    SimTime end;
  };
  void enter(SimTime at);
  void leave(SimTime at);
  [[nodiscard]] double throughput_in(const std::vector<Span>& spans, double* time) const;

  std::vector<Fault> faults_;
  std::vector<Piece> pieces_;
  SimTime last_{};
  int active_ = 0;
  SimTime active_since_{};
  std::vector<Span> during_;
  std::optional<SimTime> first_;
  SimDuration recovery_time_{};
  std::int64_t recomputed_tokens_ = 0;
  std::int64_t lost_pages_ = 0;
};

}  // namespace nearkv
