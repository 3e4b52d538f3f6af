// Measurements of nearkv calibrate: the raw file configs/calibration/measurements/DEVICE.json.
//
//   {
//     "calibration_format": 1,
//     "environment": {"device": "NVIDIA H200", "command": "...", "date": "2026-01-31", ...},
//     "rows": [
//       {"what": "gemm", "parameters": {"rows": 16, ...}, "unit": "s",
//        "median": 1.2e-05, "p10": 1.1e-05, "p90": 1.3e-05, "runs": 40},
//       ...
//     ]
//   }
//
// A row is one figure with its spread over `runs` runs (sim/app/calibration_timing.hpp). Unit "s"
// is the time of one call; "B" and "1" are what a device says of itself, with one run. Parameters
// are integers and names. Where they have "bytes", these are what the model counts for the
// operator (each operand once; models/llm/operators.hpp), "flops" likewise.
//
// what                parameters beside bytes and flops
// memory_read         threads: host DRAM; without it: GPU memory. One pass over bytes
// memory_copy         likewise; bytes = read + written; GPU: by (kernel or cudaMemcpyAsync)
// gemm                rows, columns, depth: [rows x depth] x [depth x columns]; precision; library
// decode_attention    batch, heads, d_head, context, kernel (dense or sparf); for sparf
//                     compression (1/compression of the traffic), r, k; bytes of K and V, for
//                     sparf (S r + 2 k d_head) elements a head
// prefill_attention   batch, heads, d_head, tokens, part: scores, softmax, values or all; kernel
// layer_norm          rows, columns
// kernel_launch       launch: graph, eager (one after another) or single (alone, idle GPU)
// host_copy           direction: h2d, d2h or both; memory: pinned or pageable; bytes of one way
// disk_read           threads, block_bytes, access O_DIRECT; bytes of the whole file
// disk_write          likewise, with a flush at its end
// mapped_page         a page of a mapped file that is in the page cache: fault and copy
// first_touch         a page of anonymous memory: fault and zeroing
// memory_capacity     "B": GPU memory
// host_memory         "B"
// memory_held         "B": used on an idle device once context and cuBLAS are up
// cores               "1"
// page_size           "B"
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/calibration_timing.hpp"

namespace nearkv {

struct CalibrationRow {
  std::string what;
  nlohmann::json parameters = nlohmann::json::object();
  std::string unit = "s";
  TimeSpread spread;

  [[nodiscard]] bool has(std::string_view name) const { return parameters.contains(name); }
  /// A parameter that is a number. check()s that it is there.
  [[nodiscard]] std::int64_t number(std::string_view name) const;
  /// Whether a parameter is there and has this text.
  [[nodiscard]] bool is(std::string_view name, std::string_view text) const;
};

struct Measurements {
  nlohmann::json environment = nlohmann::json::object();
  std::vector<CalibrationRow> rows;

  void add(std::string what, nlohmann::json parameters, const TimeSpread& seconds);
  /// A figure that a device states.
  void add_stated(std::string what, std::string unit, double value);

  using Filter = std::function<bool(const CalibrationRow&)>;
  /// Rows called `what` that the filter takes, in order.
  [[nodiscard]] std::vector<const CalibrationRow*> select(std::string_view what,
                                                          const Filter& filter) const;
  [[nodiscard]] std::vector<const CalibrationRow*> select(std::string_view what) const;
};

/// The file's text: a row a line.
[[nodiscard]] std::string measurements_text(const Measurements& measurements);
/// Reads what measurements_text wrote. Throws ConfigError with `origin`, the JSON path and what
/// would have been right.
[[nodiscard]] Measurements parse_measurements(const nlohmann::json& document,
                                              const std::string& origin);

/// "nvidia_h200" for "NVIDIA H200", "intel_xeon_gold_6338" for "Intel(R) Xeon(R) Gold 6338 CPU @
/// 2.00GHz": a file's name.
[[nodiscard]] std::string device_file_name(std::string_view device);

}  // namespace nearkv
