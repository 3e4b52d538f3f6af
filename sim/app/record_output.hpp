// What `nearkv record` prints and writes about a recording.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "sim/app/record_run.hpp"

namespace nearkv {

/// The source, a row a layer, the mean of all heads with its spread, and the geometries.
[[nodiscard]] std::string record_summary(const RecordResult& result);

/// The same for programs, with a row a head. Equal inputs give equal bytes.
[[nodiscard]] nlohmann::json record_json(const RecordResult& result);

}  // namespace nearkv
