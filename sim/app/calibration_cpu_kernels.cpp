// GEMM and attention of sim/app/calibration_measure.hpp on the processor.
#include <cstdint>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "kernels/api.hpp"
#include "kernels/cpu/host_probe.hpp"
#include "sim/app/calibration_measure.hpp"
#include "sim/app/calibration_shapes.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;
namespace host = kernels::cpu;

namespace {

constexpr int kFloatBytes = 4;

std::size_t cache_bytes() {
  constexpr std::size_t kCaches = 4;
  constexpr std::size_t kLeast = std::size_t{64} << 20;
  return std::max(kLeast, kCaches * host::host_properties().last_level_cache);
}

void measure_gemms(Measurements& measurements, const CalibrationPlan& plan) {
  host::ThreadTeam team(host::host_properties().cores);
  const std::vector<int> hidden_sizes =
      plan.is_quick ? std::vector<int>{1024} : std::vector<int>{1024, 2048};
  const std::vector<int> rows =
      plan.is_quick ? std::vector<int>{1, 16} : std::vector<int>{1, 4, 16, 64, 256};
  for (const int hidden : hidden_sizes) {
    for (const ProjectionShape& shape : projections(hidden)) {
      for (const int m : rows) {
        host::GemmProbe gemm(team, {m, shape.columns, shape.depth}, cache_bytes());
        json row = gemm_parameters(m, shape, kFloatBytes);
        row["library"] = "Eigen " + host::eigen_version();
        row["threads"] = team.size();
        measurements.add("gemm", row, time_on_host([&] { gemm.run(); }, plan.repeats()));
      }
    }
  }
}

}  // namespace

void measure_cpu_kernels(Measurements& measurements, const CalibrationPlan& plan) {
  plan.say("GEMM");
  measure_gemms(measurements, plan);
}

}  // namespace nearkv
