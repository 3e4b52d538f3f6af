// What nearkv calibrate measures, on a host and on a CUDA device. Row kinds and their parameters:
// sim/app/calibration_rows.hpp.
#pragma once

#include <functional>
#include <string>

#include "sim/app/calibration_rows.hpp"

namespace nearkv {

struct CalibrationPlan {
  bool is_quick = false;                        // fewer points, less time a point: for a try
  std::string disk_path;                        // a folder on the disk to measure; empty: no disk
  std::function<void(const std::string&)> say;  // what comes next, for people

  [[nodiscard]] RepeatPlan repeats() const;
};

/// Throws ConfigError when the plan's disk_path cannot be measured.
void check_disk_path(const CalibrationPlan& plan);

/// Name of the processor, as the system states it.
[[nodiscard]] std::string host_name();
/// "cpu", "cores", "cpu_megahertz", "host_memory_bytes", "last_level_cache_bytes", "system",
/// "eigen" into the environment.
void describe_host(Measurements& measurements);
/// What a host config needs: memory by one thread and by all, page costs, disk.
void measure_host(Measurements& measurements, const CalibrationPlan& plan);
/// GEMM and attention on the processor.
void measure_cpu_kernels(Measurements& measurements, const CalibrationPlan& plan);

/// Throws ConfigError with what to build or install when this program or this machine cannot run
/// CUDA kernels.
void check_cuda_device();
/// Name of the CUDA device.
[[nodiscard]] std::string cuda_device_name();
/// Driver, libraries, clocks into the environment.
void describe_cuda_device(Measurements& measurements);
/// GPU memory, launches, GEMM, attention, norms, copies from and to the host.
void measure_cuda_device(Measurements& measurements, const CalibrationPlan& plan);

}  // namespace nearkv
