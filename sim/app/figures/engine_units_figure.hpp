// Kind engine_units: single operations of the attention engine, as the model times them, beside the
// unit figures that the paper gives.
//
//   "published": {"gemv_latency": {...}, "gemv_rate": {...}, ...},
//   "point": {"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json"}
//
// Nothing runs but one token group of one head (a flash page of K and one of V) through the
// modelled drive of the point:
//     GeMV      half of the busy time of the GeMV units (Q K and P V), and their FLOPs over it
//     softmax   time in the attention kernels without that of the GeMV units
//     filter    time of a page in a channel's filter, and its bytes over it
#pragma once

#include <memory>

#include "sim/app/figures/table_figure.hpp"

namespace nearkv {

/// Throws ConfigError.
[[nodiscard]] std::unique_ptr<Figure> make_engine_units_figure(const std::filesystem::path& file,
                                                               const Suite& paper);

}  // namespace nearkv
