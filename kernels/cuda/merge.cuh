// The states of a block's warps become one, the blocks of a unit the unit's output.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/tiles.cuh"

namespace nearkv::kernels::cuda {

struct Merged {
  float max;
  float sum;
  float out;
};

__device__ inline float shrink_to(float max, float larger) {
  return max == -INFINITY ? 0.0F : exp2f((max - larger) * kLog2e);
}

/// Channel c of the merged states of a block's W warps for query g.
template <int D, int G, int W>
__device__ Merged merge_warps(const WarpState<D>* states, int g, int c) {
  Merged merged{-INFINITY, 0.0F, 0.0F};
#pragma unroll
  for (int w = 0; w < W; ++w) {
    merged.max = fmaxf(merged.max, states[w].max[g]);
  }
#pragma unroll
  for (int w = 0; w < W; ++w) {
    const WarpState<D>& state = states[w];
    const float factor = shrink_to(state.max[g], merged.max);
    merged.sum += factor * state.sum[g];
    merged.out += factor * (G == 4 ? state.out[g][c] + state.out[g + 4][c] : state.out[g][c]);
  }
  return merged;
}

template <int D>
__device__ void write_output(const Launch& a, std::size_t query_head, int c, const Merged& state) {
  float value = state.out / state.sum;
  if (a.alpha != nullptr) {
    const float alpha = a.alpha[query_head];
    value = alpha * value + (1.0F - alpha) * a.t.kv.v_bar[query_head / a.queries * D + c];
  }
  a.t.output[query_head * D + c] = value;
  if (a.t.state_out != nullptr) {
    a.t.state_out[query_head * D + c] = state.out;
  }
  if (c == 0 && a.t.max != nullptr) {
    a.t.max[query_head] = state.max;
    a.t.sum[query_head] = state.sum;
  }
}

/// Channel c of query g over the chunks of a unit, as they lie in memory.
template <int D>
__device__ Merged merge_chunks(const float* states, std::size_t stride, int chunks, int c) {
  constexpr int kBatch = 8;  // states whose loads are on their way together
  Merged merged{-INFINITY, 0.0F, 0.0F};
  for (int first = 0; first < chunks; first += kBatch) {
    Merged batch[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      batch[b] = {-INFINITY, 0.0F, 0.0F};
      if (first + b < chunks) {
        const float* state = states + static_cast<std::size_t>(first + b) * stride;
        batch[b] = {__ldcg(state), __ldcg(state + 1), __ldcg(state + 2 + c)};
      }
    }
    float max = merged.max;
#pragma unroll
    for (const Merged& other : batch) {
      max = fmaxf(max, other.max);
    }
    const float shrink = shrink_to(merged.max, max);
    merged = {max, merged.sum * shrink, merged.out * shrink};
#pragma unroll
    for (const Merged& other : batch) {
      const float factor = shrink_to(other.max, max);
      merged.sum += factor * other.sum;
      merged.out += factor * other.out;
    }
  }
  return merged;
}

/// Merges the warps of the block; the last block of a unit merges its chunks and writes the output.
template <int D, int G, int W>
__device__ void merge_block(const Launch& a, const WarpState<D>* states, const Unit& unit,
                            int chunks) {
  constexpr int kState = D + 2;
  const int of_pass = a.of_pass;
  const std::size_t of_block = static_cast<std::size_t>(of_pass) * kState;
  float* partial = a.partial + unit.index * gridDim.x * of_block;
  for (int i = static_cast<int>(threadIdx.x); i < of_pass * D; i += W * kWarp) {
    const int g = i / D;
    const int c = i % D;
    const Merged merged = merge_warps<D, G, W>(states, g, c);
    if (chunks == 1) {
      write_output<D>(a, unit.first_query_head + g, c, merged);
      continue;
    }
    float* mine = partial + blockIdx.x * of_block + g * kState;
    mine[2 + c] = merged.out;
    if (c == 0) {
      mine[0] = merged.max;
      mine[1] = merged.sum;
    }
  }
  if (chunks == 1) {
    return;
  }
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(&a.arrivals[unit.index], 1U) + 1 == static_cast<unsigned>(chunks);
    if (is_last) {
      a.arrivals[unit.index] = 0;  // for the next launch
    }
  }
  __syncthreads();
  if (!is_last) {
    return;
  }
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < of_pass * D; i += W * kWarp) {
    const int g = i / D;
    const int c = i % D;
    write_output<D>(a, unit.first_query_head + g, c,
                    merge_chunks<D>(partial + g * kState, of_block, chunks, c));
  }
}

}  // namespace nearkv::kernels::cuda
