// What `nearkv replay` prints and writes.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "sim/app/replay_run.hpp"

namespace nearkv {

/// For people.
[[nodiscard]] std::string replay_summary(const ReplayResult& result);

/// The run record, and "histograms": for each kind of request (and for batches) the latencies'
/// buckets, first_ps and last_ps inclusive.
[[nodiscard]] nlohmann::json replay_json(const ReplayResult& result);

/// The histograms as CSV: kind, first [ps], last [ps], count.
[[nodiscard]] std::string replay_csv(const ReplayResult& result);

}  // namespace nearkv
