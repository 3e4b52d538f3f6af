// What a replay counts: latencies and bytes of reads, writes and trims apart.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "sim/core/latency_histogram.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"
#include "traces/block_record.hpp"

namespace nearkv {

/// Statistics of a BlockHost whose requests have ids from id_of(). The latency of a request goes
/// from its submission (of an open loop: its arrival) to the time at which the host sees its
/// completion.
class ReplayStats {
 public:
  using Kind = traces::AccessKind;

  [[nodiscard]] static std::uint64_t id_of(Kind kind, Bytes size) {
    return (static_cast<std::uint64_t>(size.count()) << kKindBits) |
           static_cast<std::uint64_t>(kind);
  }

  void add(std::uint64_t id, SimTime submitted, SimTime at) {
    PerKind& of_kind = kinds_[id & ((1U << kKindBits) - 1)];
    of_kind.bytes += Bytes{static_cast<std::int64_t>(id >> kKindBits)};
    of_kind.latency.add(at - submitted);
    last_ = at;
  }

  [[nodiscard]] const LatencyHistogram& latency(Kind kind) const { return of(kind).latency; }
  [[nodiscard]] Bytes bytes(Kind kind) const { return of(kind).bytes; }
  [[nodiscard]] std::int64_t requests(Kind kind) const { return of(kind).latency.count(); }
  [[nodiscard]] std::int64_t requests() const;
  /// The last completion.
  [[nodiscard]] SimTime last() const { return last_; }

  /// Metrics "read/latency_p99" and so on of each kind that occurred; rates are over `elapsed`.
  void report(Metrics& metrics, SimDuration elapsed) const;

 private:
  static constexpr unsigned kKindBits = 2;
  struct PerKind {
    LatencyHistogram latency;
    Bytes bytes{};
  };
  [[nodiscard]] const PerKind& of(Kind kind) const {
    return kinds_[static_cast<std::size_t>(kind)];
  }

  std::array<PerKind, traces::kAccessKinds> kinds_;
  SimTime last_{};
};

[[nodiscard]] std::string_view name_of(traces::AccessKind kind);

/// Adds "PREFIX/latency_mean", least, percentiles and most of a histogram that is not empty.
void report_latency(Metrics& metrics, const std::string& prefix, const LatencyHistogram& latency);

}  // namespace nearkv
