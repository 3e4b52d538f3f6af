// A sweep file: a base design point and what changes in it.
//
//   {
//     "title": "Flash parallelism",
//     "point": {"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json"},
//     "axes": [
//       {"name": "system", "variants": [{"name": "insti_sparf", "point": {"extends": "..."}}]},
//       {"path": "/csd/0/flash/channels", "values": [4, 8, 16]},
//       {"path": "/csd/0/flash/t_read",
//        "range": {"from": "10us", "to": "80us", "count": 4, "scale": "log"}},
//       {"path": "/workload/batch", "range": {"from": 16, "to": 64, "step": 16}},
//       {"path": "/csd/0/engine/softmax_latency", "interval": {"count": 5}},
//       {"zip": [{"path": "...", "values": [1, 2]}, {"path": "...", "values": [3, 4]}]}
//     ],
//     "skip": ["channels == 4 and batch > 32"],
//     "metrics": ["throughput", "utilization/*"],
//     "objectives": [{"name": "speed", "expression": "throughput", "goal": "maximize"}],
//     "constraints": ["decode_step_mean < 1"]
//   }
//
// The points are the product of the axes, the first axis slowest. A variant's "point" is merged
// over the base as what extends it; the other axes then set values at paths that exist. "interval"
// goes through the 90 % interval of a constant at equally spaced probabilities. With "sample" the
// axes with a range or an interval are drawn together, once for each combination of the others:
//
//     "sample": {"method": "latin_hypercube", "count": 1000, "seed": 1}
//
// "repeats" runs every point so many times with /simulation/seed rising by one. "most_seconds": 60
// and "most_memory": "4GiB" end a point that takes more of the machine that simulates, as
// --max-wall and --max-memory do, which go before them. In expressions an axis is called by its
// name, a metric by its own; numbers are in SI units.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/core/units.hpp"

namespace nearkv {

/// Either `step` or `count`, and neither where the axis is drawn or has shares.
struct SweepRange {
  nlohmann::json from;  // as configs write the value
  nlohmann::json to;
  nlohmann::json step;  // null where there is a count
  int count = 0;
  bool is_logarithmic = false;
};

struct SweepVariant {
  std::string name;
  nlohmann::json point;  // resolved; merged over the base
};

enum class AxisKind { values, range, interval, variants };

struct SweepAxis {
  std::string place;  // where in the file: "/axes/0"
  std::string name;   // of its column and in expressions
  std::string path;   // what it sets; empty for variants
  AxisKind kind = AxisKind::values;
  std::vector<nlohmann::json> values;
  SweepRange range;
  int count = 0;  // of an interval; 0 where it is drawn or has shares
  std::vector<double> shares;
  std::vector<SweepVariant> variants;
};

enum class SamplingMethod { random, latin_hypercube, sobol };
inline constexpr std::array<std::string_view, 3> kSamplingMethods{"random", "latin_hypercube",
                                                                  "sobol"};

struct SweepSampling {
  SamplingMethod method = SamplingMethod::latin_hypercube;
  std::int64_t count = 0;
  std::int64_t seed = 0;
};

struct SweepObjective {
  std::string name;
  std::string expression;  // an expression over axes and metrics
  bool is_maximized = false;
};

struct Sweep {
  std::filesystem::path file;
  std::string name;  // the file's, without its ending
  std::string title;
  nlohmann::json document;                         // resolved: what the sweep is
  nlohmann::json point;                            // the base
  std::vector<std::vector<SweepAxis>> dimensions;  // several axes: they move together
  std::optional<SweepSampling> sampling;
  int repeats = 1;
  std::vector<std::string> skip;
  std::vector<std::string> metrics;  // none: all
  std::vector<SweepObjective> objectives;
  std::vector<std::string> constraints;
  std::optional<double> most_seconds;  // a point may run
  std::optional<Bytes> most_memory;    // a point may take
};

/// Reads the file; what needs its points is checked by SweepPlan. Throws ConfigError whose lines
/// start with the file.
[[nodiscard]] Sweep load_sweep(const std::filesystem::path& file);

}  // namespace nearkv
