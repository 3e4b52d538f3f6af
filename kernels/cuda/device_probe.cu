#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/device_probe.hpp"
#include "kernels/cuda/stream_read.hpp"

namespace nearkv::kernels::cuda {

namespace {

void require(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
  }
}

void require(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw std::runtime_error(std::string(call) + ": " + cublasGetStatusString(status));
  }
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  // What a newer runtime no longer knows counts as not said.
  return cudaDeviceGetAttribute(&value, which, 0) == cudaSuccess ? value : 0;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// "580.159.04" of /proc/driver/nvidia/version: the first word with two dots or a version's form.
std::string driver_text() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string word;
  while (file >> word) {
    const bool is_version = word.find('.') != std::string::npos &&
                            word.find_first_not_of("0123456789.") == std::string::npos;
    if (is_version) {
      return word;
    }
  }
  return "";
}

// -- Memory -----------------------------------------------------------------------------------

__device__ unsigned mixed(unsigned long long x) {
  // The finalizer of splitmix64 (Steele, Lea, Flood 2014): neighbouring counts become unrelated.
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<unsigned>(x ^ (x >> 31));
}

/// Four uniform bytes added: mean 0, variance 1, about normal.
__global__ void fill_halves(__half* memory, std::size_t count, unsigned long long seed) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    const unsigned bits = mixed(i + (seed << 40));
    const int sum =
        static_cast<int>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24));
    constexpr float kDeviation = 147.8F;  // sqrt(4 (256^2 - 1) / 12)
    memory[i] = __float2half((static_cast<float>(sum) - 510.0F) / kDeviation);
  }
}

constexpr unsigned kFillBlocks = 2048;
constexpr unsigned kFillThreads = 256;

template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t count) : count_(count) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, std::max<std::size_t>(count, 1) * sizeof(T)), "cudaMalloc");
    data_ = static_cast<T*>(memory);
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    require(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
            "cudaMemcpy");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

/// Random FP16 values.
class HalfBuffer : public DeviceBuffer<__half> {
 public:
  HalfBuffer(std::size_t count, unsigned long long seed) : DeviceBuffer<__half>(count) {
    fill_halves<<<kFillBlocks, kFillThreads>>>(data(), count, seed);
    require(cudaDeviceSynchronize(), "fill");
  }
};

/// Copies of operands of `bytes` so that a read finds none of them in L2.
std::size_t copies_beyond_cache(std::size_t bytes) {
  constexpr std::size_t kCaches = 4;
  const auto wanted = kCaches * static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize));
  return std::max<std::size_t>(1, (wanted + bytes - 1) / bytes);
}

}  // namespace

struct DeviceContext::Handles {
  cudaStream_t stream = nullptr;
  cudaStream_t second_stream = nullptr;  // of copies the other way
  cublasHandle_t blas = nullptr;
  std::unique_ptr<DeviceBuffer<unsigned char>> workspace;
};

namespace {

// -- Kernels ----------------------------------------------------------------------------------

__global__ void do_nothing() {}

constexpr int kRowThreads = 256;

constexpr int kCopyVectors = 4;  // in flight a thread

__global__ void __launch_bounds__(kRowThreads)
    copy_vectors(const uint4* from, uint4* to, std::size_t vectors) {
  const std::size_t first =
      static_cast<std::size_t>(blockIdx.x) * kRowThreads * kCopyVectors + threadIdx.x;
  uint4 values[kCopyVectors];
#pragma unroll
  for (int i = 0; i < kCopyVectors; ++i) {
    const std::size_t at = first + static_cast<std::size_t>(i) * kRowThreads;
    if (at < vectors) {
      values[i] = __ldcs(from + at);
    }
  }
#pragma unroll
  for (int i = 0; i < kCopyVectors; ++i) {
    const std::size_t at = first + static_cast<std::size_t>(i) * kRowThreads;
    if (at < vectors) {
      __stcs(to + at, values[i]);
    }
  }
}

template <typename Op>
__device__ float over_block(float value, Op op) {
  __shared__ float parts[kRowThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffU, value, offset));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    parts[threadIdx.x / 32] = value;
  }
  __syncthreads();
  value = parts[0];
  for (int i = 1; i < kRowThreads / 32; ++i) {
    value = op(value, parts[i]);
  }
  return value;
}

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// In place: a block a row of `columns` (even); row i of each head sees columns 0 .. i.
__global__ void __launch_bounds__(kRowThreads) causal_softmax(__half2* scores, int columns) {
  extern __shared__ float2 row[];  // tidy allows mutable-global: shared memory of the block
  const int last = static_cast<int>(blockIdx.x) % columns;
  __half2* of_row = scores + static_cast<std::size_t>(blockIdx.x) * (columns / 2);
  float largest = -INFINITY;
  for (int i = threadIdx.x; 2 * i <= last; i += kRowThreads) {
    float2 pair = __half22float2(of_row[i]);
    if (2 * i + 1 > last) {
      pair.y = -INFINITY;
    }
    row[i] = pair;
    largest = fmaxf(largest, fmaxf(pair.x, pair.y));
  }
  largest = over_block(largest, Max());
  float sum = 0;
  for (int i = threadIdx.x; 2 * i <= last; i += kRowThreads) {
    row[i] = make_float2(__expf(row[i].x - largest), __expf(row[i].y - largest));
    sum += row[i].x + row[i].y;
  }
  const float scale = 1 / over_block(sum, Add());
  for (int i = threadIdx.x; i < columns / 2; i += kRowThreads) {
    const float2 pair = 2 * i <= last ? row[i] : make_float2(0, 0);
    of_row[i] = __floats2half2_rn(pair.x * scale, pair.y * scale);
  }
}

/// A block a row of `columns` (even).
__global__ void __launch_bounds__(kRowThreads)
    layer_norm(const __half2* input, __half2* output, int columns) {
  extern __shared__ float2 row[];  // tidy allows mutable-global: shared memory of the block
  const std::size_t first = static_cast<std::size_t>(blockIdx.x) * (columns / 2);
  float sum = 0;
  for (int i = threadIdx.x; i < columns / 2; i += kRowThreads) {
    row[i] = __half22float2(input[first + i]);
    sum += row[i].x + row[i].y;
  }
  const float mean = over_block(sum, Add()) / static_cast<float>(columns);
  float squares = 0;
  for (int i = threadIdx.x; i < columns / 2; i += kRowThreads) {
    const float x = row[i].x - mean;
    const float y = row[i].y - mean;
    squares += x * x + y * y;
  }
  const float variance = over_block(squares, Add()) / static_cast<float>(columns);
  const float scale = rsqrtf(variance + 1e-5F);
  for (int i = threadIdx.x; i < columns / 2; i += kRowThreads) {
    output[first + i] = __floats2half2_rn((row[i].x - mean) * scale, (row[i].y - mean) * scale);
  }
}

// -- Operations -------------------------------------------------------------------------------

using Handles = DeviceContext::Handles;

class EmptyKernel : public DeviceOperation {
 public:
  explicit EmptyKernel(Handles& handles) : handles_(handles) {}
  void enqueue(int /*turn*/) override {
    do_nothing<<<1, 1, 0, handles_.stream>>>();
    require(cudaGetLastError(), "empty kernel");
  }

 private:
  Handles& handles_;
};

class DeviceRead : public DeviceOperation {
 public:
  DeviceRead(Handles& handles, std::size_t bytes)
      : handles_(handles), memory_(bytes / sizeof(__half), 1), sink_(1), bytes_(bytes) {}
  void enqueue(int /*turn*/) override {
    stream_read(memory_.data(), bytes_, sink_.data(), handles_.stream);
  }

 private:
  Handles& handles_;
  HalfBuffer memory_;
  DeviceBuffer<unsigned> sink_;
  std::size_t bytes_;
};

class DeviceCopy : public DeviceOperation {
 public:
  DeviceCopy(Handles& handles, std::size_t bytes, DeviceCopyBy by)
      : handles_(handles),
        from_(bytes / sizeof(__half), 1),
        to_(bytes / sizeof(__half), 2),
        bytes_(bytes),
        by_(by) {}
  void enqueue(int /*turn*/) override {
    if (by_ == DeviceCopyBy::runtime) {
      require(cudaMemcpyAsync(to_.data(), from_.data(), bytes_, cudaMemcpyDeviceToDevice,
                              handles_.stream),
              "cudaMemcpyAsync");
      return;
    }
    const std::size_t vectors = bytes_ / sizeof(uint4);
    const std::size_t of_block = static_cast<std::size_t>(kRowThreads) * kCopyVectors;
    copy_vectors<<<static_cast<unsigned>((vectors + of_block - 1) / of_block), kRowThreads, 0,
                   handles_.stream>>>(reinterpret_cast<const uint4*>(from_.data()),
                                      reinterpret_cast<uint4*>(to_.data()), vectors);
    require(cudaGetLastError(), "copy");
  }

 private:
  Handles& handles_;
  HalfBuffer from_;
  HalfBuffer to_;
  std::size_t bytes_;
  DeviceCopyBy by_;
};

class DeviceGemm : public DeviceOperation {
 public:
  DeviceGemm(Handles& handles, const DeviceGemmShape& shape)
      : handles_(handles),
        shape_(shape),
        copies_(copies_beyond_cache(count(shape.depth, shape.columns) * sizeof(__half))),
        left_(count(shape.rows, shape.depth), 1),
        right_(copies_ * count(shape.depth, shape.columns), 2),
        product_(count(shape.rows, shape.columns)) {}

  void enqueue(int turn) override {
    const float one = 1;
    const float zero = 0;
    const __half* right = right_.data() + static_cast<std::size_t>(turn) % copies_ *
                                              count(shape_.depth, shape_.columns);
    // cuBLAS is column-major: a row-major product C = A B is its C' = B' A'.
    require(cublasGemmEx(handles_.blas, CUBLAS_OP_N, CUBLAS_OP_N, shape_.columns, shape_.rows,
                         shape_.depth, &one, right, CUDA_R_16F, shape_.columns, left_.data(),
                         CUDA_R_16F, shape_.depth, &zero, product_.data(), CUDA_R_16F,
                         shape_.columns, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
  }
  [[nodiscard]] int copies() const override { return static_cast<int>(copies_); }

 private:
  static std::size_t count(int rows, int columns) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  }

  Handles& handles_;
  DeviceGemmShape shape_;
  std::size_t copies_;
  HalfBuffer left_;
  HalfBuffer right_;
  DeviceBuffer<__half> product_;
};

class LayerNorm : public DeviceOperation {
 public:
  LayerNorm(Handles& handles, const NormShape& shape)
      : handles_(handles),
        shape_(shape),
        values_(static_cast<std::size_t>(shape.rows) * static_cast<std::size_t>(shape.columns)),
        copies_(copies_beyond_cache(values_ * sizeof(__half))),
        input_(copies_ * values_, 1),
        output_(copies_ * values_) {}

  void enqueue(int turn) override {
    const std::size_t first = static_cast<std::size_t>(turn) % copies_ * values_;
    layer_norm<<<static_cast<unsigned>(shape_.rows), kRowThreads,
                 static_cast<std::size_t>(shape_.columns) * sizeof(float), handles_.stream>>>(
        reinterpret_cast<const __half2*>(input_.data() + first),
        reinterpret_cast<__half2*>(output_.data() + first), shape_.columns);
    require(cudaGetLastError(), "layer norm");
  }
  [[nodiscard]] int copies() const override { return static_cast<int>(copies_); }

 private:
  Handles& handles_;
  NormShape shape_;
  std::size_t values_;
  std::size_t copies_;
  HalfBuffer input_;
  DeviceBuffer<__half> output_;
};

class PrefillAttention : public DeviceOperation {
 public:
  PrefillAttention(Handles& handles, const PrefillSpec& spec, PrefillPart part)
      : handles_(handles),
        spec_(spec),
        part_(part),
        heads_(spec.batch * spec.heads),
        q_(operand(), 1),
        k_(operand(), 2),
        v_(operand(), 3),
        scores_(static_cast<std::size_t>(heads_) * square(), 4),
        output_(operand()) {}

  void enqueue(int /*turn*/) override {
    if (part_ == PrefillPart::scores || part_ == PrefillPart::all) {
      multiply_scores();
    }
    if (part_ == PrefillPart::softmax || part_ == PrefillPart::all) {
      const auto blocks = static_cast<unsigned>(heads_) * static_cast<unsigned>(spec_.tokens);
      causal_softmax<<<blocks, kRowThreads, static_cast<std::size_t>(spec_.tokens) * sizeof(float),
                       handles_.stream>>>(reinterpret_cast<__half2*>(scores_.data()), spec_.tokens);
      require(cudaGetLastError(), "causal softmax");
    }
    if (part_ == PrefillPart::values || part_ == PrefillPart::all) {
      multiply_values();
    }
  }

 private:
  [[nodiscard]] std::size_t square() const {
    return static_cast<std::size_t>(spec_.tokens) * static_cast<std::size_t>(spec_.tokens);
  }
  [[nodiscard]] std::size_t operand() const {
    return static_cast<std::size_t>(heads_) * static_cast<std::size_t>(spec_.tokens) *
           static_cast<std::size_t>(spec_.d_head);
  }

  /// Row-major S = Q K', which is cuBLAS's S' = (K')' Q'.
  void multiply_scores() {
    const float scale = 1 / std::sqrt(static_cast<float>(spec_.d_head));
    const float zero = 0;
    const long long rows = static_cast<long long>(spec_.tokens) * spec_.d_head;
    require(cublasGemmStridedBatchedEx(
                handles_.blas, CUBLAS_OP_T, CUBLAS_OP_N, spec_.tokens, spec_.tokens, spec_.d_head,
                &scale, k_.data(), CUDA_R_16F, spec_.d_head, rows, q_.data(), CUDA_R_16F,
                spec_.d_head, rows, &zero, scores_.data(), CUDA_R_16F, spec_.tokens,
                static_cast<long long>(square()), heads_, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmStridedBatchedEx");
  }

  /// Row-major O = P V, which is cuBLAS's O' = V' P'.
  void multiply_values() {
    const float one = 1;
    const float zero = 0;
    const long long rows = static_cast<long long>(spec_.tokens) * spec_.d_head;
    require(cublasGemmStridedBatchedEx(
                handles_.blas, CUBLAS_OP_N, CUBLAS_OP_N, spec_.d_head, spec_.tokens, spec_.tokens,
                &one, v_.data(), CUDA_R_16F, spec_.d_head, rows, scores_.data(), CUDA_R_16F,
                spec_.tokens, static_cast<long long>(square()), &zero, output_.data(), CUDA_R_16F,
                spec_.d_head, rows, heads_, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmStridedBatchedEx");
  }

  Handles& handles_;
  PrefillSpec spec_;
  PrefillPart part_;
  int heads_;
  HalfBuffer q_;
  HalfBuffer k_;
  HalfBuffer v_;
  HalfBuffer scores_;
  DeviceBuffer<__half> output_;
};

// -- Decode attention -------------------------------------------------------------------------

constexpr int kPageBytes = 4096;
constexpr int kChannelsAGroup = 4;

PageGeometry geometry_of(const DecodeSpec& spec) {
  return PageGeometry({spec.d_head, kPageBytes, kChannelsAGroup});
}

std::size_t up(int a, int b) { return static_cast<std::size_t>((a + b - 1) / b); }

/// Pages of one head in each layout.
struct HeadPages {
  explicit HeadPages(const DecodeSpec& spec)
      : token(up(spec.context, geometry_of(spec).tokens_per_group())),
        channel(up(spec.context, geometry_of(spec).tokens_per_channel_page()) *
                static_cast<std::size_t>(geometry_of(spec).channel_groups())) {}
  std::size_t token;
  std::size_t channel;
};

std::size_t heads_of(const DecodeSpec& spec) {
  return static_cast<std::size_t>(spec.batch) * static_cast<std::size_t>(spec.heads);
}

/// 0 .. count - 1 in an order without pattern, the same each time.
std::vector<std::int32_t> scattered(std::size_t count) {
  std::vector<std::int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::uint64_t state = 1;
  for (std::size_t i = count; i > 1; --i) {
    // Knuth's 64-bit linear congruential generator; its high bits are good enough for places.
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    std::swap(order[i - 1], order[(state >> 33) % i]);
  }
  return order;
}

/// One batch with random pages. K in the two layouts does not agree: no time depends on it.
struct DecodePools {
  DecodePools(const DecodeSpec& spec, unsigned long long seed)
      : k(heads_of(spec) * HeadPages(spec).token * kPageBytes / sizeof(__half), seed),
        v(k.count(), seed + 1),
        channels(spec.r == 0
                     ? 0
                     : heads_of(spec) * HeadPages(spec).channel * kPageBytes / sizeof(__half),
                 seed + 2) {}
  HalfBuffer k;
  HalfBuffer v;
  HalfBuffer channels;
};

class DecodeOperation : public DeviceOperation {
 public:
  DecodeOperation(Handles& handles, const DecodeSpec& spec)
      : handles_(handles),
        spec_(spec),
        shape_{.sequences = spec.batch,
               .kv_heads = spec.heads,
               .queries_per_kv_head = 1,
               .longest_context = spec.context},
        attention_(geometry_of(spec), shape_),
        token_table_(scattered(heads_of(spec) * HeadPages(spec).token)),
        channel_table_(scattered(spec.r == 0 ? 0 : heads_of(spec) * HeadPages(spec).channel)),
        contexts_(std::vector<std::int32_t>(static_cast<std::size_t>(spec.batch), spec.context)),
        v_bar_(std::vector<float>(rows())),
        queries_(std::vector<float>(query_values(spec))),
        output_(std::vector<float>(rows())) {
    const std::size_t bytes = 4 * heads_of(spec) * static_cast<std::size_t>(spec.context) *
                              static_cast<std::size_t>(spec.d_head);
    for (std::size_t copy = 0; copy < copies_beyond_cache(bytes); ++copy) {
      pools_.push_back(std::make_unique<DecodePools>(spec, 3 * copy + 1));
    }
  }

  void enqueue(int turn) override {
    const DecodePools& pools = *pools_[static_cast<std::size_t>(turn) % pools_.size()];
    const auto bits = [](const HalfBuffer& buffer) {
      return reinterpret_cast<const std::uint16_t*>(buffer.data());
    };
    const PageGeometry geometry = geometry_of(spec_);
    BatchTensors tensors{};
    tensors.kv.k_pages = bits(pools.k);
    tensors.kv.v_pages = bits(pools.v);
    tensors.kv.token_table = token_table_.data();
    tensors.kv.token_groups = static_cast<int>(HeadPages(spec_).token);
    tensors.contexts = contexts_.data();
    tensors.queries = queries_.data();
    tensors.output = output_.data();
    if (spec_.r == 0) {
      attention_.attend(shape_, tensors, DenseOptions{}, handles_.stream);
      return;
    }
    tensors.kv.channel_pages = bits(pools.channels);
    tensors.kv.channel_table = channel_table_.data();
    tensors.kv.v_bar = v_bar_.data();
    tensors.kv.channel_chunks =
        static_cast<int>(up(spec_.context, geometry.tokens_per_channel_page()));
    attention_.attend(shape_, tensors, SparfOptions{{spec_.r, spec_.k, 0}}, handles_.stream);
  }
  [[nodiscard]] int copies() const override { return static_cast<int>(pools_.size()); }

 private:
  [[nodiscard]] std::size_t rows() const {
    return heads_of(spec_) * static_cast<std::size_t>(spec_.d_head);
  }
  /// Values that FP16 holds, every head its own order of channels.
  static std::vector<float> query_values(const DecodeSpec& spec) {
    std::vector<float> values(heads_of(spec) * static_cast<std::size_t>(spec.d_head));
    for (std::size_t i = 0; i < values.size(); ++i) {
      constexpr std::size_t kPeriod = 251;  // prime, so that heads differ
      values[i] = static_cast<float>(i * 97 % kPeriod) / 128.0F - 1.0F;
    }
    return values;
  }

  Handles& handles_;
  DecodeSpec spec_;
  BatchShape shape_;
  DecodeAttention attention_;
  DeviceBuffer<std::int32_t> token_table_;
  DeviceBuffer<std::int32_t> channel_table_;
  DeviceBuffer<std::int32_t> contexts_;
  DeviceBuffer<float> v_bar_;
  DeviceBuffer<float> queries_;
  DeviceBuffer<float> output_;
  std::vector<std::unique_ptr<DecodePools>> pools_;
};

void require_positive(std::initializer_list<std::pair<const char*, long long>> sizes) {
  for (const auto& [name, size] : sizes) {
    if (size < 1) {
      throw std::invalid_argument(std::string(name) + ": must be at least 1, is " +
                                  std::to_string(size));
    }
  }
}

}  // namespace

// -- Device -----------------------------------------------------------------------------------

std::string missing_device() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) {
    return "";
  }
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  const std::string reason =
      status == cudaSuccess ? "no device" : std::string(cudaGetErrorString(status));
  return "no CUDA device can be used (" + reason +
         "); it needs an NVIDIA GPU and a driver for CUDA " + version_text(runtime) + " or newer";
}

DeviceProperties device_properties() {
  cudaDeviceProp raw{};
  require(cudaGetDeviceProperties(&raw, 0), "cudaGetDeviceProperties");
  DeviceProperties properties;
  properties.name = raw.name;
  properties.compute_capability = std::to_string(raw.major) + "." + std::to_string(raw.minor);
  properties.multiprocessors = raw.multiProcessorCount;
  properties.l2_bytes = static_cast<std::size_t>(raw.l2CacheSize);
  properties.memory = raw.totalGlobalMem;
  properties.memory_bus_bits = attribute(cudaDevAttrGlobalMemoryBusWidth);
  properties.core_kilohertz = attribute(cudaDevAttrClockRate);
  properties.memory_kilohertz = attribute(cudaDevAttrMemoryClockRate);
  properties.async_engines = attribute(cudaDevAttrAsyncEngineCount);
  properties.has_ecc = attribute(cudaDevAttrEccEnabled) != 0;
  int version = 0;
  require(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  properties.runtime = version_text(version);
  require(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  properties.driver_supports = version_text(version);
  properties.driver = driver_text();
  int parts[3] = {};
  cublasGetProperty(MAJOR_VERSION, &parts[0]);
  cublasGetProperty(MINOR_VERSION, &parts[1]);
  cublasGetProperty(PATCH_LEVEL, &parts[2]);
  properties.cublas =
      std::to_string(parts[0]) + "." + std::to_string(parts[1]) + "." + std::to_string(parts[2]);
  return properties;
}

std::size_t memory_free() {
  std::size_t free = 0;
  std::size_t total = 0;
  require(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

std::size_t memory_held() {
  std::size_t free = 0;
  std::size_t total = 0;
  require(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return total - free;
}

DeviceContext::DeviceContext() : handles_(std::make_unique<Handles>()) {
  // What cuBLAS's documentation recommends for Hopper.
  constexpr std::size_t kWorkspace = std::size_t{32} << 20;
  require(cudaStreamCreateWithFlags(&handles_->stream, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
  require(cudaStreamCreateWithFlags(&handles_->second_stream, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
  require(cublasCreate(&handles_->blas), "cublasCreate");
  require(cublasSetStream(handles_->blas, handles_->stream), "cublasSetStream");
  handles_->workspace = std::make_unique<DeviceBuffer<unsigned char>>(kWorkspace);
  require(cublasSetWorkspace(handles_->blas, handles_->workspace->data(), kWorkspace),
          "cublasSetWorkspace");
}

DeviceContext::~DeviceContext() {
  cublasDestroy(handles_->blas);
  cudaStreamDestroy(handles_->second_stream);
  cudaStreamDestroy(handles_->stream);
}

// -- Timing -----------------------------------------------------------------------------------

struct DeviceTimer::Recording {
  Handles& handles;
  DeviceOperation& operation;
  int calls;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  cudaGraphExec_t graph = nullptr;
  int turn = 0;

  void enqueue_all() {
    for (int i = 0; i < calls; ++i) {
      operation.enqueue(turn++);
    }
  }
};

DeviceTimer::DeviceTimer(const DeviceContext& context, DeviceOperation& operation, int calls,
                         LaunchMode mode)
    : recording_(new Recording{context.handles(), operation, calls}) {
  require_positive({{"calls", calls}});
  require(cudaEventCreate(&recording_->begin), "cudaEventCreate");
  require(cudaEventCreate(&recording_->end), "cudaEventCreate");
  cudaStream_t stream = recording_->handles.stream;
  // Outside of the graph: libraries load their code and choose algorithms at the first call.
  operation.enqueue(recording_->turn++);
  require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  if (mode == LaunchMode::graph) {
    cudaGraph_t graph = nullptr;
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
            "cudaStreamBeginCapture");
    recording_->enqueue_all();
    require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    require(cudaGraphInstantiate(&recording_->graph, graph, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(graph);
    require(cudaGraphUpload(recording_->graph, stream), "cudaGraphUpload");
  }
}

DeviceTimer::~DeviceTimer() {
  if (recording_->graph != nullptr) {
    cudaGraphExecDestroy(recording_->graph);
  }
  cudaEventDestroy(recording_->end);
  cudaEventDestroy(recording_->begin);
}

double DeviceTimer::seconds_a_call() {
  cudaStream_t stream = recording_->handles.stream;
  require(cudaEventRecord(recording_->begin, stream), "cudaEventRecord");
  if (recording_->graph != nullptr) {
    require(cudaGraphLaunch(recording_->graph, stream), "cudaGraphLaunch");
  } else {
    recording_->enqueue_all();
  }
  require(cudaEventRecord(recording_->end, stream), "cudaEventRecord");
  require(cudaEventSynchronize(recording_->end), "cudaEventSynchronize");
  float milliseconds = 0;
  require(cudaEventElapsedTime(&milliseconds, recording_->begin, recording_->end),
          "cudaEventElapsedTime");
  return static_cast<double>(milliseconds) * 1e-3 / recording_->calls;
}

// -- Making operations ------------------------------------------------------------------------

Operation empty_kernel(const DeviceContext& context) {
  return std::make_unique<EmptyKernel>(context.handles());
}

Operation device_read(const DeviceContext& context, std::size_t bytes) {
  if (bytes == 0 || bytes % 16 != 0) {
    throw std::invalid_argument("bytes: must be a multiple of 16 above 0");
  }
  return std::make_unique<DeviceRead>(context.handles(), bytes);
}

Operation device_copy(const DeviceContext& context, std::size_t bytes, DeviceCopyBy by) {
  if (bytes == 0 || bytes % 16 != 0) {
    throw std::invalid_argument("bytes: must be a multiple of 16 above 0");
  }
  return std::make_unique<DeviceCopy>(context.handles(), bytes, by);
}

Operation device_gemm(const DeviceContext& context, const DeviceGemmShape& shape) {
  require_positive({{"rows", shape.rows}, {"columns", shape.columns}, {"depth", shape.depth}});
  return std::make_unique<DeviceGemm>(context.handles(), shape);
}

std::size_t decode_bytes(const DecodeSpec& spec) {
  const HeadPages pages(spec);
  const std::size_t of_head = (2 * pages.token + (spec.r == 0 ? 0 : pages.channel)) * kPageBytes;
  const std::size_t logical = 4 * heads_of(spec) * static_cast<std::size_t>(spec.context) *
                              static_cast<std::size_t>(spec.d_head);
  // Pages of all copies, and scores and tokens of each head in float.
  return copies_beyond_cache(logical) * heads_of(spec) * of_head +
         2 * sizeof(float) * heads_of(spec) * static_cast<std::size_t>(spec.context);
}

Operation device_decode_attention(const DeviceContext& context, const DecodeSpec& spec) {
  require_positive({{"batch", spec.batch},
                    {"heads", spec.heads},
                    {"d_head", spec.d_head},
                    {"context", spec.context}});
  return std::make_unique<DecodeOperation>(context.handles(), spec);
}

Operation device_prefill_attention(const DeviceContext& context, const PrefillSpec& spec,
                                   PrefillPart part) {
  require_positive({{"batch", spec.batch},
                    {"heads", spec.heads},
                    {"d_head", spec.d_head},
                    {"tokens", spec.tokens}});
  constexpr int kMostTokens = 8192;  // a row of floats in 32 KiB of shared memory
  if (spec.tokens % 2 != 0 || spec.tokens > kMostTokens) {
    throw std::invalid_argument("tokens: must be even and at most 8192, is " +
                                std::to_string(spec.tokens));
  }
  return std::make_unique<PrefillAttention>(context.handles(), spec, part);
}

Operation device_layer_norm(const DeviceContext& context, const NormShape& shape) {
  require_positive({{"rows", shape.rows}, {"columns", shape.columns}});
  constexpr int kMostColumns = 8192;
  if (shape.columns % 2 != 0 || shape.columns > kMostColumns) {
    throw std::invalid_argument("columns: must be even and at most 8192, is " +
                                std::to_string(shape.columns));
  }
  return std::make_unique<LayerNorm>(context.handles(), shape);
}

// -- Copies over the link ---------------------------------------------------------------------

struct HostCopyBuffers::Memory {
  Memory(std::size_t size, bool pinned)
      : bytes(size), is_pinned(pinned), device(size / 2, 1), device_back(pinned ? size / 2 : 0, 2) {
    if (!pinned) {
      pageable.assign(size, 1);
      host = pageable.data();
      return;
    }
    require(cudaMallocHost(&host, size), "cudaMallocHost");
    require(cudaMallocHost(&host_back, size), "cudaMallocHost");
    std::memset(host, 1, size);
    std::memset(host_back, 1, size);
  }
  ~Memory() {
    if (is_pinned) {
      cudaFreeHost(host);
      cudaFreeHost(host_back);
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::size_t bytes;
  bool is_pinned;
  HalfBuffer device;
  HalfBuffer device_back;  // of the other direction
  std::vector<char> pageable;
  void* host = nullptr;
  void* host_back = nullptr;
};

namespace {

struct CopySides {
  void* device;
  void* host;
  void* device_back;
  void* host_back;
  std::size_t buffer_bytes;
};

class HostCopy : public DeviceOperation {
 public:
  HostCopy(Handles& handles, const CopySides& sides, CopyDirection direction, std::size_t bytes)
      : handles_(handles), sides_(sides), direction_(direction), bytes_(bytes) {
    require(cudaEventCreateWithFlags(&fork_, cudaEventDisableTiming), "cudaEventCreate");
    require(cudaEventCreateWithFlags(&join_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~HostCopy() override {
    cudaEventDestroy(join_);
    cudaEventDestroy(fork_);
  }

  void enqueue(int turn) override {
    const std::size_t places = sides_.buffer_bytes / bytes_;
    const std::size_t offset = static_cast<std::size_t>(turn) % places * bytes_;
    const auto at = [offset](void* memory) { return static_cast<char*>(memory) + offset; };
    if (direction_ == CopyDirection::both) {
      require(cudaEventRecord(fork_, handles_.stream), "cudaEventRecord");
      require(cudaStreamWaitEvent(handles_.second_stream, fork_, 0), "cudaStreamWaitEvent");
      copy(at(sides_.host_back), at(sides_.device_back), cudaMemcpyDeviceToHost,
           handles_.second_stream);
      copy(at(sides_.device), at(sides_.host), cudaMemcpyHostToDevice, handles_.stream);
      require(cudaEventRecord(join_, handles_.second_stream), "cudaEventRecord");
      require(cudaStreamWaitEvent(handles_.stream, join_, 0), "cudaStreamWaitEvent");
    } else if (direction_ == CopyDirection::host_to_device) {
      copy(at(sides_.device), at(sides_.host), cudaMemcpyHostToDevice, handles_.stream);
    } else {
      copy(at(sides_.host), at(sides_.device), cudaMemcpyDeviceToHost, handles_.stream);
    }
  }

 private:
  void copy(void* to, const void* from, cudaMemcpyKind kind, cudaStream_t stream) const {
    require(cudaMemcpyAsync(to, from, bytes_, kind, stream), "cudaMemcpyAsync");
  }

  Handles& handles_;
  CopySides sides_;
  CopyDirection direction_;
  std::size_t bytes_;
  cudaEvent_t fork_ = nullptr;
  cudaEvent_t join_ = nullptr;
};

}  // namespace

HostCopyBuffers::HostCopyBuffers(const DeviceContext& context, std::size_t bytes, bool is_pinned)
    : context_(context), memory_(std::make_unique<Memory>(bytes, is_pinned)) {}

HostCopyBuffers::~HostCopyBuffers() = default;

Operation HostCopyBuffers::copy(CopyDirection direction, std::size_t bytes) {
  if (bytes == 0 || bytes > memory_->bytes) {
    throw std::invalid_argument("bytes: must be in 1 .. " + std::to_string(memory_->bytes));
  }
  if (direction == CopyDirection::both && !memory_->is_pinned) {
    throw std::invalid_argument("direction: both needs pinned memory");
  }
  return std::make_unique<HostCopy>(
      context_.handles(),
      CopySides{memory_->device.data(), memory_->host, memory_->device_back.data(),
                memory_->host_back, memory_->bytes},
      direction, bytes);
}

}  // namespace nearkv::kernels::cuda
