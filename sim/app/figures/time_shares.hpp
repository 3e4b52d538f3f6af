// Where the decode time of a run went, as shares that add up to 1, from its record.
//
// Systems name the phases of their time differently, and KV on its way is a phase in one system and
// a part of a phase in another. Here the time of KV access (kv_access_share) comes first and is
// taken out of the phases that hold it: those called "kv_...", then attention outside of the GPU.
// Of the time of GPU operators, GEMMs, which read the weights, and attention on KV in VRAM are
// parts of their own, as the busy times of the first GPU say; without these it stays one part.
#pragma once

#include <vector>

#include "sim/app/record_view.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

/// Parts of the decode time, "share/NAME" each, unit 1; empty for a run without decode time.
[[nodiscard]] std::vector<Metric> time_shares(const RecordView& record);

}  // namespace nearkv
