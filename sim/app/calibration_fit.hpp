// From measurements to the constants of models/gpu/gpu.hpp and models/host/host_config.hpp.
//
// The GPU model says  time = max(flops / (tensor_peak f), bytes / (memory_bandwidth g)) + launch.
// With the peaks of the datasheet P (FLOP/s) and W (bytes/s), and for each row its median time t,
// bytes B and FLOP F:
//
// fixed           GEMM rows bound by memory, F / P <= B / (3 W), lie on a line t = fixed + slope B;
//                 slope is the median of the slopes of all pairs of rows with different B, fixed
//                 the median of t - slope B, zero at least (Theil-Sen: no row can pull the line)
// gemm_memory_fraction       1 / (slope W)
// gemm_peak_fractions        for each number of GEMM rows with F / P >= B / W in some shape, the
//                            median over those shapes of F / (P (t - fixed))
// attention_memory_fraction  median of B / (W (t - fixed)), dense decode attention, rows of at
// least
//                            a tenth of the largest B
// attention_peak_fraction    median of F / (P (t - fixed)), scores and values of prefill attention,
//                            rows of at least a tenth of the largest F
// norm_memory_fraction       1 / (slope W) of the layer norms' own line
// elementwise_memory_fraction  B / (W t) of the largest copy within GPU memory by a kernel
// kernel_launch   (fixed - t_graph) + t_eager, the first zero at least: rows are timed in CUDA
//                 graphs, where a kernel follows another after t_graph, the time of an empty one;
//                 the systems modelled launch eagerly, where an empty one takes t_eager
// copy_engines    2 if copies in both directions at once take less than 1.5 times one, else 1
// memory_capacity, reserved_memory   as the device states them
//
// Host: dram_rate is B / t of memory_copy by most threads (read and written bytes, as the modelled
// traffic is copies); pageable_h2d and pageable_d2h are B / t of the largest copies;
// file_system/hit_per_page, swap/minor_fault, cores, dram and page_size are rows of their own.
//
// What has no rows is left out, and stays what the config that is extended says.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/calibration_rows.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// t = fixed + slope x.
struct Line {
  double fixed = 0;
  double slope = 0;
};
struct LinePoint {
  double x = 0;
  double t = 0;
};
/// Theil-Sen line; `points` have two different x at least.
[[nodiscard]] Line median_line(const std::vector<LinePoint>& points);

struct DevicePeaks {
  Rate memory_bandwidth{};
  FlopRate tensor_peak{};
};

/// The constants of a GPU, of a host, that the rows give, as a part of a config: sourced values
/// with source "measured". Throws ConfigError when a rate is above its peak, as the peaks are then
/// those of another device.
[[nodiscard]] nlohmann::json gpu_constants(const Measurements& measurements,
                                           const DevicePeaks& peaks);
[[nodiscard]] nlohmann::json host_constants(const Measurements& measurements);

}  // namespace nearkv
