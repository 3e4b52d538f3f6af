// Work of known size on a CUDA device, timed by the device's own events, for calibration.
//
// An operation enqueues one call; a DeviceTimer runs so many calls in a row between two events, one
// after another in a stream or as one CUDA graph. Operations on memory rotate over equal copies of
// their operands, so that four times the L2 cache passes before a byte is read again. Operands are
// FP16 values of mean 0, about normal, with variance 1 (power, and so clocks, depend on them).
//
// Plain C++: CUDA is in device_probe.cu alone. Errors of arguments are std::invalid_argument, those
// of CUDA and cuBLAS std::runtime_error with the name of the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace nearkv::kernels::cuda {

struct DeviceProperties {
  std::string name;
  std::string compute_capability;  // "9.0"
  int multiprocessors = 0;
  std::size_t l2_bytes = 0;
  std::size_t memory = 0;
  int memory_bus_bits = 0;
  int core_kilohertz = 0;  // highest clock rates
  int memory_kilohertz = 0;
  int async_engines = 0;  // that the driver reports
  bool has_ecc = false;
  std::string runtime;          // "13.0"
  std::string driver_supports;  // newest CUDA version, "13.0"
  std::string driver;           // "580.159.04"; empty where the system does not say
  std::string cublas;           // "13.1.0"
};

/// Why there is no device to calibrate, with what would help; empty if there is one.
[[nodiscard]] std::string missing_device();
[[nodiscard]] DeviceProperties device_properties();

/// Memory in use on the device, by this process and others.
[[nodiscard]] std::size_t memory_held();
[[nodiscard]] std::size_t memory_free();

/// Where an operation goes: the stream, cuBLAS with its workspace. One at a time.
class DeviceContext {
 public:
  DeviceContext();
  ~DeviceContext();
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;

  struct Handles;
  [[nodiscard]] Handles& handles() const { return *handles_; }

 private:
  std::unique_ptr<Handles> handles_;
};

class DeviceOperation {
 public:
  DeviceOperation() = default;
  DeviceOperation(const DeviceOperation&) = delete;
  DeviceOperation& operator=(const DeviceOperation&) = delete;
  virtual ~DeviceOperation() = default;

  /// Enqueues one call; `turn` counts calls.
  virtual void enqueue(int turn) = 0;
  /// Equal operands that it rotates over. A graph of fewer calls would not pass them all.
  [[nodiscard]] virtual int copies() const { return 1; }
};

enum class LaunchMode { eager, graph };

class DeviceTimer {
 public:
  /// Calls `operation` once, so that its code is loaded; captures the graph of `calls` calls.
  DeviceTimer(const DeviceContext& context, DeviceOperation& operation, int calls, LaunchMode mode);
  ~DeviceTimer();
  DeviceTimer(const DeviceTimer&) = delete;
  DeviceTimer& operator=(const DeviceTimer&) = delete;

  /// Runs all calls and returns the seconds of one.
  [[nodiscard]] double seconds_a_call();

 private:
  struct Recording;
  std::unique_ptr<Recording> recording_;
};

using Operation = std::unique_ptr<DeviceOperation>;

/// A kernel of one thread that does nothing.
[[nodiscard]] Operation empty_kernel(const DeviceContext& context);
/// One read of `bytes` (a multiple of 16), kernels/cuda/stream_read.hpp.
[[nodiscard]] Operation device_read(const DeviceContext& context, std::size_t bytes);
/// `bytes` (a multiple of 16) from one place to another in GPU memory: by a plain kernel of 16-byte
/// accesses, as elementwise operators are, or by cudaMemcpyAsync.
enum class DeviceCopyBy { kernel, runtime };
[[nodiscard]] Operation device_copy(const DeviceContext& context, std::size_t bytes,
                                    DeviceCopyBy by);

struct DeviceGemmShape {
  int rows;  ///< [rows x depth] x [depth x columns], all row-major FP16, sums in FP32
  int columns;
  int depth;
};
/// cublasGemmEx.
[[nodiscard]] Operation device_gemm(const DeviceContext& context, const DeviceGemmShape& shape);

struct DecodeSpec {
  int batch;
  int heads;  ///< MHA
  int d_head;
  int context;
  int r = 0;  ///< SparF's channels and tokens; r = 0 is dense attention
  int k = 0;
};
/// GPU memory that decode_attention takes for the spec.
[[nodiscard]] std::size_t decode_bytes(const DecodeSpec& spec);
/// kernels/cuda/decode_attention.hpp on scattered pages of 4 KiB, 4 channels a group.
[[nodiscard]] Operation device_decode_attention(const DeviceContext& context,
                                                const DecodeSpec& spec);

enum class PrefillPart { scores, softmax, values, all };
struct PrefillSpec {
  int batch;
  int heads;
  int d_head;
  int tokens;
};
/// Causal attention of a whole prompt, not fused: all scores by cuBLAS (scaled), softmax over the
/// tokens so far with zeros after them, values by cuBLAS. Parts can be timed alone.
[[nodiscard]] Operation device_prefill_attention(const DeviceContext& context,
                                                 const PrefillSpec& spec, PrefillPart part);

struct NormShape {
  int rows;
  int columns;
};
/// Layer norm without weights, a block a row, one read and one write.
[[nodiscard]] Operation device_layer_norm(const DeviceContext& context, const NormShape& shape);

enum class CopyDirection { host_to_device, device_to_host, both };

/// Memory on both sides of the link, touched.
class HostCopyBuffers {
 public:
  /// Pinned memory for two directions, or pageable memory.
  HostCopyBuffers(const DeviceContext& context, std::size_t bytes, bool is_pinned);
  ~HostCopyBuffers();
  HostCopyBuffers(const HostCopyBuffers&) = delete;
  HostCopyBuffers& operator=(const HostCopyBuffers&) = delete;

  /// cudaMemcpyAsync of `bytes`, from the next place of the buffers at each call; `both` copies so
  /// many each way at the same time (pinned memory only).
  [[nodiscard]] Operation copy(CopyDirection direction, std::size_t bytes);

 private:
  struct Memory;
  const DeviceContext& context_;
  std::unique_ptr<Memory> memory_;
};

}  // namespace nearkv::kernels::cuda
