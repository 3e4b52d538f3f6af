// Kind fpga_resources: what the configured engine needs of an FPGA, unit by unit.
//
//   "device": {"name": "Zynq 7045", "lut": {...}, "ff": {...}, "bram": {...}, "dsp": {...}},
//   "units": [{"name": "argtopk", "scales_with": "drive", "at": {...},
//              "costs": [{"resource": "lut", "amount": {...}}]}],
//   "published": [{"resource": "lut", "share": {...}}],
//   "designs": [{"name": "as_published", "point": {...}}]
//
// A unit's cost is amount x (size of the design / at), where the size is
//     drive            1
//     gemv_rate        FLOP/s of all GeMV units of the engine: their multipliers and adder trees
//     flash_channels   flash channels: each has a controller with its filter
// so that the paper's engine costs what the paper's Table II says, and other ones follow by
// proportion. A resource that no cost is given for was not published.
#pragma once

#include <memory>

#include "sim/app/figures/table_figure.hpp"

namespace nearkv {

/// Throws ConfigError.
[[nodiscard]] std::unique_ptr<Figure> make_fpga_resources_figure(const std::filesystem::path& file,
                                                                 const Suite& paper);

}  // namespace nearkv
