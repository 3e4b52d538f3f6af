// A design point: everything that a run depends on. The root of the config.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/csd/csd_config.hpp"
#include "models/gpu/gpu.hpp"
#include "models/host/host_config.hpp"
#include "models/llm/model_shape.hpp"
#include "models/pcie/pcie.hpp"
#include "models/ssd/ssd.hpp"
#include "models/systems/system.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

/// A batch of equal requests, all there at the start.
struct Workload {
  int batch = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;  // the first of them comes from prefill

  [[nodiscard]] int decode_steps() const { return output_tokens - 1; }
  /// Tokens that decode step `step` (from 0) attends over, its own included.
  [[nodiscard]] int context_of(int step) const { return prompt_tokens + 1 + step; }
  [[nodiscard]] int longest_context() const { return prompt_tokens + decode_steps(); }

  void fields(FieldVisitor& v);
};

/// exact: every page of every step. reuse: equal drive work is simulated once, equal to exact to
/// the picosecond. sampled: reuse, and of the decode steps only so many as the bound needs.
enum class Fidelity { exact, reuse, sampled };

struct SimulationConfig {
  Fidelity fidelity = Fidelity::sampled;
  std::int64_t seed = 0;
  double sampling_tolerance = 0;
  int most_sampled_steps = 0;

  void fields(FieldVisitor& v);
};

struct DesignPoint {
  std::string name;
  ModelShape model;
  Workload workload;
  std::vector<GpuConfig> gpu;
  HostConfig host;
  PcieConfig pcie;
  std::vector<SsdConfig> ssd;
  std::vector<CsdConfig> csd;
  std::unique_ptr<System> system;
  std::string system_kind;
  SimulationConfig simulation;

  void fields(FieldVisitor& v);
};

}  // namespace nearkv
