// One replay: what is asked for, and what comes out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/app/replay_stats.hpp"
#include "sim/core/latency_histogram.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

/// In the order of their names on the command line.
enum class ReplayFormat { automatic, mqsim, fio, kv, workload };

struct ReplayOptions {
  std::string input;
  std::string device;
  std::vector<std::string> overrides;  // "path=value"; "workload/path=value" for a workload
  ReplayFormat format = ReplayFormat::automatic;
  std::string trace_device;          // only its requests; empty: all
  std::optional<double> time_scale;  // of arrivals
  std::optional<int> depth;          // a closed loop of so many requests
  std::int64_t max_requests = INT64_MAX;
  std::optional<double> fill;  // of the drive, before the first request
};

struct ReplayResult {
  RunRecord record;
  std::string input;  // name and format, for people
  std::string drive;
  std::string mode;  // "closed loop, depth 256"
  ReplayStats stats;
  /// Of a KV page trace: from the submission of all heads of one layer and step to the last one.
  LatencyHistogram batches;
};

/// Throws ConfigError.
[[nodiscard]] ReplayResult run_replay(const ReplayOptions& options);

}  // namespace nearkv
