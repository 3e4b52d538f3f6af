// Replay of a KV page trace (traces/kv_page_trace.hpp). All records of one step and layer are a
// batch: the heads' pages are independent of each other, and the next layer needs the result, so
// that a batch is submitted when the one before is done.
//
// On a CSD a batch is one AttendBatch of all heads, and its pages are those of the trace; they lie
// where the drive's FTL put them when the tokens were appended, before the step and in no time. On
// an SSD each page is a read of page_size bytes, at most `depth` of them at a time, at the address
// that a plain layout gives it:
//     head     = (sequence x layers + layer) x KV heads + KV head
//     address  = (head x P + p) x page_size,  with P the pages of one head at the longest context
// and p = page for K by token groups, T + page for V, 2 T + page for channel-indexed K (SparQ
// and SparF only), T the token groups at the longest context.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sim/app/replay_device.hpp"
#include "sim/app/replay_run.hpp"
#include "traces/kv_page_trace.hpp"

namespace nearkv {

/// Bytes of the plain layout, all heads at the longest context.
[[nodiscard]] Bytes kv_cache_size(const traces::KvTraceHeader& header);

/// Page of the plain layout at which a head begins.
[[nodiscard]] std::int64_t kv_first_page(const traces::KvTraceHeader& header,
                                         const traces::KvTraceRecord& record);

struct KvReplay {
  traces::KvTraceReader& reader;
  const ReplayDrive& drive;
  PreconditionConfig state;   // of an SSD
  std::optional<int> depth;   // needed for an SSD, refused for a CSD
  std::int64_t most_records;  // that are replayed
  std::string input;          // file names, for messages
  std::string device;
  std::string mode = {};  // set by run_kv_replay
};

/// Fills result.stats (SSD), result.batches and the metrics. Throws ConfigError when trace and
/// drive do not fit together.
void run_kv_replay(KvReplay& replay, ReplayResult& result);

}  // namespace nearkv
