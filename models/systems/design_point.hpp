// A design point: everything that a run depends on. The root of the config.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/csd/csd_config.hpp"
#include "models/faults/fault_config.hpp"
#include "models/gpu/gpu.hpp"
#include "models/host/host_config.hpp"
#include "models/llm/model_shape.hpp"
#include "models/pcie/pcie.hpp"
#include "models/ssd/ssd.hpp"
#include "models/systems/energy.hpp"
#include "models/systems/parallelism.hpp"
#include "models/systems/system.hpp"
#include "models/systems/workload.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

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
  std::vector<GpuConfig> gpu;  // one: all GPUs are alike
  ParallelismConfig parallelism;
  HostConfig host;
  PcieConfig pcie;
  std::vector<SsdConfig> ssd;
  std::vector<CsdConfig> csd;
  std::vector<FaultConfig> faults;
  EconomicsConfig economics;
  std::unique_ptr<System> system;
  std::string system_kind;
  SimulationConfig simulation;

  void fields(FieldVisitor& v);

 private:
  void require_fitting_faults(FieldVisitor& v) const;
  void require_fitting_link(FieldVisitor& v, const FaultConfig& fault, const std::string& path,
                            bool is_device) const;
};

}  // namespace nearkv
