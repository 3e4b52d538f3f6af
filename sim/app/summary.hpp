// What `nearkv run` prints about a record.
#pragma once

#include <string>

#include "sim/app/record_view.hpp"

namespace nearkv {

/// Throughput and times, where the decode time went, utilization, memory, how many constants
/// nobody measured, notes. Ends with a line break.
[[nodiscard]] std::string summary_of(const RecordView& record);

/// The assumed, fitted and overridden constants with their reasons.
[[nodiscard]] std::string constants_table(const RecordView& record);

}  // namespace nearkv
