#include <climits>
#include <stdexcept>
#include <string>

#include <cuda_fp16.h>

#include "kernels/cuda/check_finite.hpp"
#include "kernels/cuda/device_launch.cuh"

namespace nearkv::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned long long kNothing = ULLONG_MAX;

/// The first places in [tensor], counted in elements of the tensor's logical order.
struct Findings {
  unsigned long long context;  // sequence
  unsigned long long query;    // [query head][channel]
  unsigned long long k;        // [KV head][token below longest_context][channel]
  unsigned long long v;        // likewise
};

struct Tensors {
  BatchTensors t;
  int d_head;
  int page_elements;
  int tokens_per_group;
  int longest_context;
};

__device__ bool is_finite(std::uint16_t half) { return (half & 0x7c00U) != 0x7c00U; }

__global__ void __launch_bounds__(kThreads)
    find_in_queries(const float* queries, std::size_t count, Findings* found) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * kThreads;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    if (!isfinite(queries[i])) {
      atomicMin(&found->query, static_cast<unsigned long long>(i));
    }
  }
}

/// Block (token group, KV head of the sequence, sequence).
__global__ void __launch_bounds__(kThreads) find_in_rows(const Tensors a, Findings* found) {
  const int context = a.t.contexts[blockIdx.z];
  if (context < 1 || context > a.longest_context) {
    if (threadIdx.x == 0) {
      atomicMin(&found->context, static_cast<unsigned long long>(blockIdx.z));
    }
    return;
  }
  const int first = static_cast<int>(blockIdx.x) * a.tokens_per_group;
  if (first >= context) {
    return;
  }
  const std::size_t kv_head = static_cast<std::size_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  const std::size_t page =
      static_cast<std::size_t>(a.t.kv.token_table[kv_head * a.t.kv.token_groups + blockIdx.x]);
  const int elements = min(a.tokens_per_group, context - first) * a.d_head;
  const unsigned long long place =
      (kv_head * a.longest_context + first) * static_cast<unsigned long long>(a.d_head);
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) {
    if (!is_finite(a.t.kv.k_pages[page * a.page_elements + i])) {
      atomicMin(&found->k, place + i);
    }
    if (!is_finite(a.t.kv.v_pages[page * a.page_elements + i])) {
      atomicMin(&found->v, place + i);
    }
  }
}

/// Device memory of one call.
class FindingsOnDevice {
 public:
  explicit FindingsOnDevice(cudaStream_t stream) : stream_(stream) {
    require(cudaMalloc(reinterpret_cast<void**>(&findings_), sizeof(Findings)), "cudaMalloc");
    if (const cudaError_t status = cudaMemsetAsync(findings_, 0xff, sizeof(Findings), stream);
        status != cudaSuccess) {
      cudaFree(findings_);
      require(status, "cudaMemsetAsync");
    }
  }
  ~FindingsOnDevice() { cudaFree(findings_); }
  FindingsOnDevice(const FindingsOnDevice&) = delete;
  FindingsOnDevice& operator=(const FindingsOnDevice&) = delete;

  [[nodiscard]] Findings* data() const { return findings_; }
  [[nodiscard]] Findings read() const {
    Findings found{};
    require(cudaMemcpyAsync(&found, findings_, sizeof(found), cudaMemcpyDeviceToHost, stream_),
            "cudaMemcpyAsync");
    require(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return found;
  }

 private:
  Findings* findings_ = nullptr;
  cudaStream_t stream_;
};

std::string place_of_row(const char* tensor, unsigned long long place, const BatchShape& shape,
                         int d_head) {
  const auto d = static_cast<unsigned long long>(d_head);
  const auto longest = static_cast<unsigned long long>(shape.longest_context);
  const auto heads = static_cast<unsigned long long>(shape.kv_heads);
  const unsigned long long head = place / d / longest;
  return std::string(tensor) + ": sequence " + std::to_string(head / heads) + ", KV head " +
         std::to_string(head % heads) + ", token " + std::to_string(place / d % longest) +
         ", channel " + std::to_string(place % d);
}

}  // namespace

void check_finite(const PageGeometry& geometry, const BatchShape& shape,
                  const BatchTensors& tensors, cudaStream_t stream) {
  const FindingsOnDevice on_device(stream);
  const int d = geometry.d_head();
  const std::size_t queries = shape.query_heads() * static_cast<std::size_t>(d);
  constexpr std::size_t kMostBlocks = 1024;
  const std::size_t blocks = (queries + kThreads - 1) / kThreads;
  find_in_queries<<<static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0,
                    stream>>>(tensors.queries, queries, on_device.data());
  require(cudaGetLastError(), "check_finite");
  const int groups =
      (shape.longest_context + geometry.tokens_per_group() - 1) / geometry.tokens_per_group();
  find_in_rows<<<dim3(static_cast<unsigned>(groups), static_cast<unsigned>(shape.kv_heads),
                      static_cast<unsigned>(shape.sequences)),
                 kThreads, 0, stream>>>({.t = tensors,
                                         .d_head = d,
                                         .page_elements = geometry.page_elements(),
                                         .tokens_per_group = geometry.tokens_per_group(),
                                         .longest_context = shape.longest_context},
                                        on_device.data());
  require(cudaGetLastError(), "check_finite");
  const Findings found = on_device.read();
  const std::string wish = " is not finite; must be a finite FP16 value";
  if (found.context != kNothing) {
    throw std::invalid_argument("contexts: that of sequence " + std::to_string(found.context) +
                                " must be 1 to " + std::to_string(shape.longest_context));
  }
  if (found.query != kNothing) {
    const auto heads = static_cast<unsigned long long>(shape.kv_heads) *
                       static_cast<unsigned long long>(shape.queries_per_kv_head);
    const unsigned long long head = found.query / static_cast<unsigned long long>(d);
    throw std::invalid_argument("queries: sequence " + std::to_string(head / heads) +
                                ", query head " + std::to_string(head % heads) + ", channel " +
                                std::to_string(found.query % static_cast<unsigned long long>(d)) +
                                wish);
  }
  if (found.k != kNothing) {
    throw std::invalid_argument(place_of_row("K", found.k, shape, d) + wish);
  }
  if (found.v != kNothing) {
    throw std::invalid_argument(place_of_row("V", found.v, shape, d) + wish);
  }
}

}  // namespace nearkv::kernels::cuda
