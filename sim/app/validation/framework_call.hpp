// Single operations as a framework calls them on a machine: copies between host and GPU, GEMMs,
// attention on GPU and CPU; timed from before the first call until the last one is done.
//
// An eager framework spends CPU time on each call before the GPU gets it (dispatch, checks,
// allocation, launch). Calls do not wait for the GPU, so that of several only the first one's time
// is always seen:
//     done(i) = max(done(i - 1), (i + 1) x call) + time of kernel i on the machine
// The time of a kernel or copy is what Machine gives to every system.
#pragma once

#include <nlohmann/json.hpp>

#include "sim/app/point.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// What one call of the framework takes on the CPU; "framework" of the point's config.
struct FrameworkCalls {
  SimDuration kernel{};  // an operator on the GPU
  SimDuration copy{};    // a copy between host and GPU

  void fields(FieldVisitor& v);
};

/// Lists the fields of FrameworkCalls without one.
void framework_call_fields(FieldVisitor& v);

/// Simulates "operation" of the point's config, which is a design point otherwise:
///   {"kind": "copy", "direction": "h2d" | "d2h", "memory": "pinned" | "pageable", "bytes"}
///   {"kind": "gemm", "m", "n", "k"}
///   {"kind": "decode_attention", "kernel": "fused" | "unfused", "batch", "context"}
///   {"kind": "prefill_attention", "batch", "tokens"}, {"kind": "cpu_attention", "batch",
///   "context"}
/// Attention has the heads of the point's model. The metric is "time".
[[nodiscard]] RunRecord simulate_operation(const PreparedPoint& prepared);

}  // namespace nearkv
