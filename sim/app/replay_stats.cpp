#include "sim/app/replay_stats.hpp"

#include <string>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

struct Percentile {
  double percent;
  const char* name;
};
constexpr std::array kPercentiles{Percentile{50, "p50"}, Percentile{95, "p95"},
                                  Percentile{99, "p99"}, Percentile{99.9, "p99.9"}};

}  // namespace

std::string_view name_of(traces::AccessKind kind) {
  constexpr std::array<std::string_view, traces::kAccessKinds> kNames{"read", "write", "trim"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::int64_t ReplayStats::requests() const {
  std::int64_t sum = 0;
  for (const PerKind& kind : kinds_) {
    sum += kind.latency.count();
  }
  return sum;
}

void report_latency(Metrics& metrics, const std::string& prefix, const LatencyHistogram& latency) {
  const auto add = [&](const std::string& name, double seconds, const std::string& doc) {
    metrics.add(fmt::format("{}/latency_{}", prefix, name), seconds, "s", doc);
  };
  add("mean", latency.mean_seconds(), "mean latency");
  add("min", to_seconds(latency.least()), "shortest latency");
  for (const Percentile& p : kPercentiles) {
    add(p.name, to_seconds(latency.percentile(p.percent)),
        fmt::format("{} % of the latencies are at most that long{}", p.percent,
                    latency.is_exact() ? "" : " (at most 0.1 % too high)"));
  }
  add("max", to_seconds(latency.most()), "longest latency");
}

void ReplayStats::report(Metrics& metrics, SimDuration elapsed) const {
  const double seconds = to_seconds(elapsed);
  for (const Kind kind : {Kind::read, Kind::write, Kind::trim}) {
    if (requests(kind) == 0) {
      continue;
    }
    const std::string prefix(name_of(kind));
    const auto count = static_cast<double>(requests(kind));
    const auto moved = static_cast<double>(bytes(kind).count());
    metrics.add(prefix + "/requests", count, "1", "requests that were completed");
    metrics.add(prefix + "/bytes", moved, "B", "bytes of these requests");
    metrics.add(prefix + "/bandwidth", moved / seconds, "B/s", "bytes over the simulated time");
    metrics.add(prefix + "/iops", count / seconds, "1/s", "requests over the simulated time");
    report_latency(metrics, prefix, latency(kind));
  }
}

}  // namespace nearkv
