// A GPU as a roofline with measured efficiencies, a memory with a limit, and a queue of operators.
// Passive: it says how long an operator takes and when it starts, and keeps no clock.
//
//     time = max(flops / (tensor_peak x f), bytes / (memory_bandwidth x g)) + kernels x launch
//
// f is gemm_fraction(rows) for a GEMM and attention_peak_fraction for attention; g is the fraction
// of the memory bandwidth that this kind of operator reaches. Operators run one after another:
// each is timed as if it had the whole GPU, so two at a time would count its bandwidth twice.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/llm/operators.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Fraction of the tensor peak that a GEMM with this many rows (tokens) reaches while compute is
/// what limits it.
struct GemmPoint {
  std::int64_t rows = 0;
  double fraction = 0;

  void fields(FieldVisitor& v);
};

/// Two states: what the GPU draws while it waits, and while an operator runs.
struct GpuPowerConfig {
  Power idle{};    // with a context, between operators
  Power active{};  // in all

  void fields(FieldVisitor& v);
};

struct GpuConfig {
  std::string name;
  Bytes memory_capacity{};
  Bytes reserved_memory{};                     // CUDA context and libraries
  Rate memory_bandwidth{};                     // peak
  FlopRate tensor_peak{};                      // FP16, dense
  std::vector<GemmPoint> gemm_peak_fractions;  // by rows, ascending
  double attention_peak_fraction = 0;
  double gemm_memory_fraction = 0;
  double attention_memory_fraction = 0;
  double norm_memory_fraction = 0;
  double elementwise_memory_fraction = 0;
  double softmax_memory_fraction = 0;
  double strided_memory_fraction = 0;
  SimDuration kernel_launch{};
  int copy_engines = 0;
  GpuPowerConfig power;
  double price_usd = 0;

  void fields(FieldVisitor& v);

  /// Achieved fraction of the tensor peak, linear in log(rows) between the points and constant
  /// outside of them. rows > 0.
  [[nodiscard]] double gemm_fraction(std::int64_t rows) const;
};

class Gpu {
 public:
  /// `memory_name` names its memory in results.
  explicit Gpu(const GpuConfig& config, const std::string& memory_name = "VRAM");

  /// Time of the operators one after another on an idle GPU.
  [[nodiscard]] SimDuration time_of(std::span<const OperatorWork> operators) const;
  [[nodiscard]] SimDuration time_of(const OperatorWork& work) const;
  /// The same when a host thread issues one kernel after another, `kernel_issue` each, and began
  /// `ahead` of the GPU: an operator starts when it has been issued and the one before is done.
  [[nodiscard]] SimDuration time_of(std::span<const OperatorWork> operators,
                                    SimDuration kernel_issue, SimDuration ahead) const;

  /// When the operators would start and be done if they were issued at `now`; first come first
  /// served. The GPU is taken for the whole of time_of() with issue, and busy for that without.
  [[nodiscard]] Grant probe(SimTime now, std::span<const OperatorWork> operators) const;
  Grant issue(SimTime now, std::span<const OperatorWork> operators, SimDuration kernel_issue = {},
              SimDuration ahead = {});

  /// VRAM; reserved_memory is allocated in it as "CUDA context".
  [[nodiscard]] CapacityLedger& memory() { return memory_; }
  [[nodiscard]] const CapacityLedger& memory() const { return memory_; }
  [[nodiscard]] const GpuConfig& config() const { return config_; }

  static constexpr std::size_t kOperatorKinds = 6;
  struct Counters {
    std::array<SimDuration, kOperatorKinds> busy{};  // by OperatorKind
    Int128 flops = 0;  // of all operators: a day of computing is beyond 2^63
    Bytes bytes;
    std::int64_t kernels = 0;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }
  /// Speed of its compute clock from now on, as a share of the normal one: it scales the tensor
  /// peak. Memory has a clock of its own.
  void set_compute_speed(double speed);
  /// Counts work that was reused instead of simulated.
  void add(const Counters& work);

  /// Busy time by kind, utilisation over `elapsed`, work done, VRAM high-water mark.
  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

 private:
  [[nodiscard]] double memory_fraction(OperatorKind kind) const;
  [[nodiscard]] double peak_fraction(const OperatorWork& work) const;

  GpuConfig config_;
  double compute_speed_ = 1;
  FifoServers compute_{1};
  CapacityLedger memory_;
  Counters counters_;
};

}  // namespace nearkv
