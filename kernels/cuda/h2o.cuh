// The step of H2O's history (kernels/methods.hpp) on the device, after its attention: what each
// kept token received is added to its sum, the newest token joins, and one goes if there are too
// many.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/device_launch.cuh"

namespace nearkv::kernels::cuda {

struct H2oLaunch {
  BatchTensors t;
  int queries;  // of a KV head
  int heavy;
  int recent;
  const float* logits;  // [query head][logit_stride], of the kept tokens and the newest one
  int logit_stride;
};

constexpr int kH2oThreads = 256;

/// The smaller sum; of equal ones the older token.
struct Lightest {
  float mass;
  int place;
};
__device__ inline Lightest lighter(Lightest a, Lightest b) {
  return b.mass < a.mass || (b.mass == a.mass && b.place < a.place) ? b : a;
}

__device__ inline Lightest lightest_of_block(Lightest mine) {
  __shared__ Lightest of_warp[kH2oThreads / kWarp];
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    mine = lighter(mine, {__shfl_xor_sync(kAllLanes, mine.mass, mask),
                          __shfl_xor_sync(kAllLanes, mine.place, mask)});
  }
  if (threadIdx.x % kWarp == 0) {
    of_warp[threadIdx.x / kWarp] = mine;
  }
  __syncthreads();
  mine = of_warp[0];
  for (const Lightest& other : of_warp) {
    mine = lighter(mine, other);
  }
  return mine;
}

/// Block (KV head of the sequence, sequence).
__global__ void __launch_bounds__(kH2oThreads) step_h2o(const __grid_constant__ H2oLaunch a) {
  wait_for_previous_grid();
  const std::size_t kv_head = static_cast<std::size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  const std::size_t first = kv_head * static_cast<std::size_t>(a.t.h2o.stride);
  std::int32_t* tokens = a.t.h2o.tokens + first;
  float* masses = a.t.h2o.mass + first;
  float* received = a.t.h2o.received == nullptr ? nullptr : a.t.h2o.received + first;
  const int context = a.t.contexts[blockIdx.y];
  const int kept = a.t.h2o.counts[kv_head];
  Lightest mine{INFINITY, INT_MAX};
  for (int i = static_cast<int>(threadIdx.x); i <= kept; i += kH2oThreads) {
    float sum = 0.0F;
    for (int g = 0; g < a.queries; ++g) {
      const std::size_t query_head = kv_head * a.queries + g;
      const float logit = __ldcg(a.logits + query_head * a.logit_stride + i);
      sum += expf(logit - __ldcg(a.t.max + query_head)) / __ldcg(a.t.sum + query_head);
    }
    if (received != nullptr) {
      received[i] = sum;
    }
    const std::int32_t token = i == kept ? context - 1 : tokens[i];
    const float mass = i == kept ? sum : masses[i] + sum;
    tokens[i] = token;
    masses[i] = mass;
    if (token < context - a.recent) {
      mine = lighter(mine, {mass, i});
    }
  }
  const int evicted = lightest_of_block(mine).place;  // a barrier: the sums are there
  if (kept + 1 <= a.heavy + a.recent) {
    if (threadIdx.x == 0) {
      a.t.h2o.counts[kv_head] = kept + 1;
    }
    return;
  }
  // The tokens behind the one that goes move up.
  for (int begin = evicted; begin < kept; begin += kH2oThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const std::int32_t token = i < kept ? tokens[i + 1] : 0;
    const float mass = i < kept ? masses[i + 1] : 0.0F;
    __syncthreads();
    if (i < kept) {
      tokens[i] = token;
      masses[i] = mass;
    }
    __syncthreads();
  }
}

inline void launch_h2o(const H2oLaunch& a, const BatchShape& shape, const DeviceFacts& device,
                       cudaStream_t stream) {
  const GridShape grid{
      .grid = dim3(static_cast<unsigned>(shape.kv_heads), static_cast<unsigned>(shape.sequences)),
      .threads = kH2oThreads,
      .shared = 0};
  launch_overlapping(step_h2o, grid, device, stream, a);
}

}  // namespace nearkv::kernels::cuda
