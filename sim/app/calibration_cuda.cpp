// The CUDA device's part of sim/app/calibration_measure.hpp.
#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/calibration_measure.hpp"
#include "sim/core/check.hpp"

#ifdef NEARKV_CUDA
#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <vector>

#include "kernels/cuda/device_probe.hpp"
#include "sim/app/calibration_shapes.hpp"
#endif

namespace nearkv {

#ifndef NEARKV_CUDA

void check_cuda_device() {
  throw ConfigError(fmt::format(
      "--device: cuda: this program was built without CUDA kernels (CUDA Toolkit at its build: "
      "{}); "
      "build it with NEARKV_PRESET=cuda ./nearkv, which needs the CUDA Toolkit, or give --device "
      "cpu",
      build_info::kCudaToolkit));
}
std::string cuda_device_name() {
  check_cuda_device();
  return "";
}
void describe_cuda_device(Measurements& /*measurements*/) { check_cuda_device(); }
void measure_cuda_device(Measurements& /*measurements*/, const CalibrationPlan& /*plan*/) {
  check_cuda_device();
}

#else

using nlohmann::json;
namespace cuda = kernels::cuda;

namespace {

constexpr int kHalfBytes = 2;
constexpr int kHeads = 40;  // of OPT-13B and Llama-2-13B
constexpr int kHeadSize = 128;

class CudaMeasurement {
 public:
  CudaMeasurement(Measurements& measurements, const CalibrationPlan& plan)
      : measurements_(measurements), plan_(plan) {}

  void measure_all() {
    measurements_.add_stated("memory_capacity", "B",
                             static_cast<double>(cuda::device_properties().memory));
    plan_.say("kernel launches");
    measure_launches();
    // Kernels and cuBLAS were loaded by now.
    warm_up_library();
    measurements_.add_stated("memory_held", "B", static_cast<double>(cuda::memory_held()));
    plan_.say("GPU memory");
    measure_memory();
    plan_.say("GEMM");
    measure_gemms();
    plan_.say("decode attention");
    measure_decode();
    plan_.say("prefill attention");
    measure_prefill();
    plan_.say("layer norm");
    measure_norms();
    plan_.say("copies from and to the host");
    measure_copies();
  }

 private:
  /// Runs of at least 1 ms, by the device's clock of 0.5 us.
  TimeSpread time(cuda::DeviceOperation& operation, cuda::LaunchMode mode) const {
    constexpr CallPlan kCalls{.least_seconds = 1e-3, .most = 200};
    double first = 0;
    {
      cuda::DeviceTimer once(context_, operation, 1, cuda::LaunchMode::eager);
      first = once.seconds_a_call();
    }
    const int calls = std::max(calls_for(first, kCalls), operation.copies());
    cuda::DeviceTimer timer(context_, operation, calls, mode);
    return repeat_until_stable([&timer] { return timer.seconds_a_call(); }, plan_.repeats());
  }

  /// One call alone on an idle device, with what it takes to start it.
  TimeSpread time_single(cuda::DeviceOperation& operation) const {
    cuda::DeviceTimer timer(context_, operation, 1, cuda::LaunchMode::eager);
    return repeat_until_stable([&timer] { return timer.seconds_a_call(); }, plan_.repeats());
  }

  void warm_up_library() {
    const cuda::Operation gemm = cuda::device_gemm(context_, {16, 256, 256});
    static_cast<void>(time_single(*gemm));
  }

  void measure_launches() {
    const cuda::Operation empty = cuda::empty_kernel(context_);
    for (const auto& [name, mode] : {std::pair{"graph", cuda::LaunchMode::graph},
                                     std::pair{"eager", cuda::LaunchMode::eager}}) {
      constexpr int kKernels = 200;
      cuda::DeviceTimer timer(context_, *empty, kKernels, mode);
      measurements_.add(
          "kernel_launch", {{"launch", name}, {"kernels", kKernels}},
          repeat_until_stable([&timer] { return timer.seconds_a_call(); }, plan_.repeats()));
    }
    measurements_.add("kernel_launch", {{"launch", "single"}, {"kernels", 1}}, time_single(*empty));
  }

  [[nodiscard]] std::size_t fitting(std::size_t wanted) const {
    constexpr std::size_t kShare = 4;
    constexpr std::size_t kUnit = std::size_t{1} << 20;
    return std::max(kUnit, std::min(wanted, cuda::memory_free() / kShare) / kUnit * kUnit);
  }

  void measure_memory() {
    const std::size_t bytes = fitting(std::size_t{4} << 30);
    const cuda::Operation read = cuda::device_read(context_, bytes);
    measurements_.add("memory_read", {{"bytes", bytes}}, time(*read, cuda::LaunchMode::graph));
    for (const auto& [name, by] : {std::pair{"kernel", cuda::DeviceCopyBy::kernel},
                                   std::pair{"cudaMemcpyAsync", cuda::DeviceCopyBy::runtime}}) {
      const cuda::Operation copy = cuda::device_copy(context_, bytes, by);
      measurements_.add("memory_copy", {{"bytes", 2 * bytes}, {"by", name}},
                        time(*copy, cuda::LaunchMode::eager));
    }
  }

  void measure_gemms() {
    const std::vector<int> hidden_sizes =
        plan_.is_quick ? std::vector<int>{4096} : std::vector<int>{2048, 4096, 5120};
    const std::vector<int> rows = plan_.is_quick
                                      ? std::vector<int>{1, 16, 256, 1024, 4096}
                                      : std::vector<int>{1, 4, 16, 64, 256, 1024, 4096, 16384};
    const std::string library = "cuBLAS " + cuda::device_properties().cublas;
    for (const int hidden : hidden_sizes) {
      for (const ProjectionShape& shape : projections(hidden)) {
        for (const int m : rows) {
          json row = gemm_parameters(m, shape, kHalfBytes);
          if (row.at("bytes").get<std::size_t>() > cuda::memory_free() / 2) {
            continue;
          }
          row["library"] = library;
          row["launch"] = "graph";
          const cuda::Operation gemm = cuda::device_gemm(context_, {m, shape.columns, shape.depth});
          measurements_.add("gemm", row, time(*gemm, cuda::LaunchMode::graph));
        }
      }
    }
  }

  void measure_decode() {
    const std::vector<int> batches =
        plan_.is_quick ? std::vector<int>{1, 16} : std::vector<int>{1, 4, 16, 64};
    const std::vector<int> contexts = plan_.is_quick
                                          ? std::vector<int>{1024, 8192}
                                          : std::vector<int>{512, 1024, 2048, 8192, 32768};
    constexpr int kMostTokens = 16 * 32768;  // 10.7 GB of K and V
    for (const int batch : batches) {
      for (const int context : contexts) {
        if (batch * context <= kMostTokens) {
          for (const DecodePoint& point : with_compressions(
                   {.batch = batch, .heads = kHeads, .d_head = kHeadSize, .context = context})) {
            measure_decode_point(point);
          }
        }
      }
    }
  }

  void measure_decode_point(const DecodePoint& point) {
    cuda::DecodeSpec spec{point.batch, point.heads, point.d_head, point.context};
    if (point.compression > 0) {
      spec.r = point.r();
      spec.k = point.k();
    }
    if (cuda::decode_bytes(spec) > cuda::memory_free() / 10 * 9) {
      return;  // smaller devices have fewer points
    }
    json row = point.parameters();
    row["launch"] = "graph";
    const cuda::Operation decode = cuda::device_decode_attention(context_, spec);
    measurements_.add("decode_attention", row, time(*decode, cuda::LaunchMode::graph));
  }

  void measure_prefill() {
    std::vector<PrefillPoint> points{{1, kHeads, kHeadSize, 1024}, {4, kHeads, kHeadSize, 1024}};
    if (!plan_.is_quick) {
      points.insert(points.end(), {{1, kHeads, kHeadSize, 4096},
                                   {4, kHeads, kHeadSize, 2048},
                                   {16, kHeads, kHeadSize, 1024}});
    }
    const std::string kernel =
        fmt::format("unfused: cuBLAS {} batched GEMM, causal softmax kernel, batched GEMM",
                    cuda::device_properties().cublas);
    for (const PrefillPoint& point : points) {
      for (const auto& [name, part] : {std::pair{"scores", cuda::PrefillPart::scores},
                                       std::pair{"softmax", cuda::PrefillPart::softmax},
                                       std::pair{"values", cuda::PrefillPart::values},
                                       std::pair{"all", cuda::PrefillPart::all}}) {
        json row = point.parameters(name, kHalfBytes);
        if (row.at("bytes").get<std::size_t>() > cuda::memory_free() / 2) {
          continue;
        }
        row["kernel"] = kernel;
        const cuda::Operation prefill = cuda::device_prefill_attention(
            context_, {point.batch, point.heads, point.d_head, point.tokens}, part);
        measurements_.add("prefill_attention", row, time(*prefill, cuda::LaunchMode::graph));
      }
    }
  }

  void measure_norms() {
    const std::vector<int> rows =
        plan_.is_quick ? std::vector<int>{16384} : std::vector<int>{64, 2048, 16384};
    for (const int columns : {4096, 5120}) {
      for (const int m : rows) {
        const cuda::Operation norm = cuda::device_layer_norm(context_, {m, columns});
        measurements_.add("layer_norm",
                          {{"rows", m},
                           {"columns", columns},
                           {"bytes", std::int64_t{2} * kHalfBytes * m * columns}},
                          time(*norm, cuda::LaunchMode::graph));
      }
    }
  }

  void measure_copies() {
    constexpr std::size_t kLeast = std::size_t{4} << 10;
    const std::size_t most = fitting(std::size_t{plan_.is_quick ? 64U : 1024U} << 20);
    for (const bool is_pinned : {true, false}) {
      cuda::HostCopyBuffers buffers(context_, most, is_pinned);
      const auto measure = [&](const char* name, cuda::CopyDirection direction, std::size_t bytes) {
        const cuda::Operation copy = buffers.copy(direction, bytes);
        measurements_.add(
            "host_copy",
            {{"direction", name}, {"memory", is_pinned ? "pinned" : "pageable"}, {"bytes", bytes}},
            time_single(*copy));
      };
      for (std::size_t bytes = kLeast; bytes <= most; bytes *= 4) {
        measure("h2d", cuda::CopyDirection::host_to_device, bytes);
        measure("d2h", cuda::CopyDirection::device_to_host, bytes);
      }
      if (is_pinned) {
        // The largest of the sizes above, so that there is a copy to compare with.
        std::size_t largest = kLeast;
        while (largest * 4 <= most) {
          largest *= 4;
        }
        measure("both", cuda::CopyDirection::both, largest);
      }
    }
  }

  Measurements& measurements_;
  const CalibrationPlan& plan_;
  cuda::DeviceContext context_;
};

}  // namespace

void check_cuda_device() {
  if (const std::string reason = cuda::missing_device(); !reason.empty()) {
    throw ConfigError("--device: cuda: " + reason + ", or give --device cpu");
  }
}

std::string cuda_device_name() { return cuda::device_properties().name; }

void describe_cuda_device(Measurements& measurements) {
  const cuda::DeviceProperties device = cuda::device_properties();
  json& environment = measurements.environment;
  environment["compute_capability"] = device.compute_capability;
  environment["multiprocessors"] = device.multiprocessors;
  environment["l2_bytes"] = device.l2_bytes;
  environment["memory_bus_bits"] = device.memory_bus_bits;
  environment["highest_core_kilohertz"] = device.core_kilohertz;
  environment["highest_memory_kilohertz"] = device.memory_kilohertz;
  environment["async_engines"] = device.async_engines;
  environment["ecc"] = device.has_ecc;
  environment["cuda_toolkit"] = build_info::kCudaToolkit;
  environment["cuda_runtime"] = device.runtime;
  environment["driver"] = device.driver.empty() ? "not said" : device.driver;
  environment["driver_supports_cuda"] = device.driver_supports;
  environment["cublas"] = device.cublas;
}

void measure_cuda_device(Measurements& measurements, const CalibrationPlan& plan) {
  try {
    CudaMeasurement(measurements, plan).measure_all();
  } catch (const std::runtime_error& error) {
    throw ConfigError(fmt::format("--device: cuda: {}; is another program using the GPU's memory?",
                                  error.what()));
  }
}

#endif

}  // namespace nearkv
