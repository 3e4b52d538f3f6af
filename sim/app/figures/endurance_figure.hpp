// Kind endurance: how much KV the drives can write until they are worn out.
//
//   "tokens_per_user_and_day": {...}, "endurance_factor": {...}, "years": [1, 3, 5],
//   "days_per_year": {...}, "claims_about": "endurance",
//   "points": [{"name": "insti_dense", "point": {...}}]
//
// From the records: tokens that can be written (kv_ftl.hpp: capacity x P/E cycles over bytes a
// token, all drives together) with K and V once and with SparF's second copy of K, and what the
// run itself programmed. Users are
//     endurance_factor x tokens / (tokens_per_user_and_day x days_per_year x years).
#pragma once

#include <memory>

#include "sim/app/figures/table_figure.hpp"

namespace nearkv {

/// Throws ConfigError.
[[nodiscard]] std::unique_ptr<Figure> make_endurance_figure(const std::filesystem::path& file,
                                                            const Suite& paper);

}  // namespace nearkv
