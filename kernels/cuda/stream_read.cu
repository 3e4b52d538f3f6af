#include <stdexcept>
#include <string>

#include "kernels/cuda/stream_read.hpp"

namespace nearkv::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = 8;  // in flight a thread

__global__ void __launch_bounds__(kThreads)
    read_all(const uint4* memory, std::size_t vectors, unsigned* sink) {
  const std::size_t first =
      static_cast<std::size_t>(blockIdx.x) * kThreads * kVectors + threadIdx.x;
  uint4 values[kVectors] = {};
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const std::size_t at = first + static_cast<std::size_t>(i) * kThreads;
    if (at < vectors) {
      values[i] = __ldcs(memory + at);
    }
  }
  unsigned sum = 0;
#pragma unroll
  for (const uint4& value : values) {
    sum += value.x + value.y + value.z + value.w;
  }
  if (sum == 0x9e3779b9U) {  // practically never: the value has to be known, not stored
    atomicAdd(sink, sum);
  }
}

}  // namespace

void stream_read(const void* memory, std::size_t bytes, unsigned* sink, cudaStream_t stream) {
  const std::size_t vectors = bytes / sizeof(uint4);
  const std::size_t of_block = static_cast<std::size_t>(kThreads) * kVectors;
  const auto blocks = static_cast<unsigned>((vectors + of_block - 1) / of_block);
  read_all<<<blocks, kThreads, 0, stream>>>(static_cast<const uint4*>(memory), vectors, sink);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
    throw std::runtime_error(std::string("stream read: ") + cudaGetErrorString(status));
  }
}

}  // namespace nearkv::kernels::cuda
