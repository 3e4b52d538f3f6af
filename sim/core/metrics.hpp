// What a run found, without JSON: metrics with units, and the outcome that a record holds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv {

struct Metric {
  std::string name;  // "csd/0/flash/channel_utilization"
  double value;
  std::string unit;  // "token/s", "s", "B", "1" for a plain ratio or count
  std::string doc;   // one sentence
};

/// Metrics of a run in the order in which parts reported them; a name may be added once, and a
/// value is finite.
class Metrics {
 public:
  void add(std::string name, double value, std::string unit, std::string doc);

  [[nodiscard]] const std::vector<Metric>& all() const { return metrics_; }
  /// Nothing when no such metric was reported.
  [[nodiscard]] std::optional<double> find(std::string_view name) const;
  /// check()s that the metric exists.
  [[nodiscard]] double at(std::string_view name) const;

 private:
  std::vector<Metric> metrics_;
};

enum class RunStatus {
  ok,
  out_of_memory,  // a memory of the simulated machine overflowed: a result
  infeasible,     // nothing ran: no placement fits the memories: a result as well
  drive_full,     // a drive has no free block and none to gain: a result too
  data_lost,      // a fault took what the system cannot do without: a result as well
  stopped,        // it took more time or memory of this machine than it may: no result
};

[[nodiscard]] std::string_view name_of(RunStatus status);

struct RunOutcome {
  RunStatus status = RunStatus::ok;
  std::string status_detail;  // what overflowed, else empty
  Metrics metrics;
  std::vector<std::string> notes;  // what a reader must know (synthetic tensors, ...)
  std::uint64_t digest = 0;        // of all wake-ups
  std::int64_t wakeups = 0;
  std::string requests_table;  // CSV, a row a request; empty where all are alike. Not in the record
};

}  // namespace nearkv
