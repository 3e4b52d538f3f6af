// Samples of a design point's uncertain constants: those of source fit or assumed that have an
// interval. Each is drawn from a random stream of its own, which the constant's path names; so
// sample i of a constant is the same in every design point that has the constant. Positions in
// lists do not count: /csd/0/flash/t_read and /csd/1/flash/t_read are one draw.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/core/config.hpp"

namespace nearkv {

struct UncertainConstants {
  std::vector<ConstantUse> varied;  // with an interval
  std::vector<ConstantUse> held;    // without
};

/// The fit and assumed constants among those that a design point uses.
[[nodiscard]] UncertainConstants uncertain_constants(const std::vector<ConstantUse>& constants);

/// "/csd/0/flash/t_read" and "/csd/1/flash/t_read" as "/csd/*/flash/t_read".
[[nodiscard]] std::string draw_name(const std::string& path);

struct SampleOptions {
  int count = 0;  // none: no sampling
  std::uint64_t seed = 1;
};

struct ConstantSample {
  std::vector<double> values;  // in base units, of the varied constants in their order
  nlohmann::json config;       // the design point with these values
};

/// A Latin hypercube of the constants that vary.
[[nodiscard]] std::vector<ConstantSample> draw_samples(const nlohmann::json& config,
                                                       const std::vector<ConstantUse>& varied,
                                                       const SampleOptions& options);

}  // namespace nearkv
