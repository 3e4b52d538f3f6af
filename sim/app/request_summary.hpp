// What `nearkv run` prints about the requests of a record.
#pragma once

#include <string>

#include "sim/app/record_view.hpp"

namespace nearkv {

/// "batch 64, 1024 + 1024 tokens" or "1000 requests, trace a.csv".
[[nodiscard]] std::string workload_text(const RecordView& record);

/// Mean and percentiles of the requests' times, and the goodput; empty for a fixed batch.
[[nodiscard]] std::string request_summary(const RecordView& record);

}  // namespace nearkv
