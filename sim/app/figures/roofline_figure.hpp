// Kind roofline: operators of one layer under the roofs of the GPU and of the CSD.
//
//   "published_engine_peak": {...},
//   "passes": [{"name": "decode", "sequences": 64, "new_tokens": 1, "context": 1536}],
//   "points": [{"name": "insti_dense", "point": {...}}]
//
// GPU (of the first point): the roofs are the tensor peak and the memory bandwidth of its
// datasheet. A point is an operator of a pass: FLOPs over bytes (models/llm/operators.hpp), and
// FLOPs over the time that the model gives it (models/gpu/gpu.hpp). CSD: the roofs are the GeMV
// units' rate and the flash channels' bandwidth. A point is decode attention of a run, one for each
// design point: FLOPs (busy GeMV units x their rate) over bytes read from flash, and over the time
// that the GPU waits for it (phase csd_attention).
#pragma once

#include <memory>

#include "sim/app/figures/table_figure.hpp"

namespace nearkv {

/// Throws ConfigError.
[[nodiscard]] std::unique_ptr<Figure> make_roofline_figure(const std::filesystem::path& file,
                                                           const Suite& paper);

}  // namespace nearkv
