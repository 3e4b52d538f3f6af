// Attention of one warp to tiles of 16 tokens whose K and V rows lie in shared memory, on tensor
// cores (mma.m16n8k16 of sm_80 and later, FP16 in, FP32 sums) at the precision of FP32 kernels:
// queries and weights are split into an FP16 value and the FP16 of what is left. The two halves
// fill rows and columns of the instruction that few queries would leave empty, so that the split
// costs nothing for up to 4 of them.
#pragma once

#include <cstdint>

#include <cuda_fp16.h>

namespace nearkv::kernels::cuda {

constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kWarp = 32;
constexpr int kTile = 16;  // tokens
constexpr float kLog2e = 1.44269504088896340736F;

/// Tiles in shared memory: boxes of 16 rows of 128 bytes, 8 vectors of 16 bytes; vector v of row r
/// lies at place v ^ (r mod 8), so that ldmatrix finds the same vector of 8 rows in 8 different
/// banks.
template <int D>
struct RowLayout {
  static constexpr int vector = 8;                         // halves of one 16-byte access
  static constexpr int vectors = D / vector;               // of one row
  static constexpr int rows = kWarp / vectors;             // that a warp copies side by side
  static constexpr int steps = (kTile + rows - 1) / rows;  // to copy a tile
  static constexpr int box_bytes = kTile * 128;
  static constexpr int boxes = (vectors + 7) / 8;
  static constexpr int tile_bytes = boxes * box_bytes;

  [[nodiscard]] static __device__ unsigned offset(int row, int vec) {
    return static_cast<unsigned>(vec / 8 * box_bytes + row * 128 + ((vec % 8) ^ (row % 8)) * 16);
  }
};

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ inline void load_matrices(unsigned (&to)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at));
}
__device__ inline void load_matrices_transposed(unsigned (&to)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at));
}
/// c += a b: a is 16 x 16, b 16 x 8.
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct Split {
  unsigned high;  // two halves
  unsigned low;
};
__device__ inline Split split(float x, float y) {
  const __half2 high = __floats2half2_rn(x, y);
  const float2 back = __half22float2(high);
  const __half2 low = __floats2half2_rn(x - back.x, y - back.y);
  Split parts;
  __builtin_memcpy(&parts.high, &high, sizeof(high));
  __builtin_memcpy(&parts.low, &low, sizeof(low));
  return parts;
}

/// The queries of a block as the instruction wants them: for each 16 channels and lane, rows 0 to 7
/// have the queries (4 of them: twice), rows 8 to 15 their low parts. Each query is multiplied with
/// a power of two, so that its largest value is 2^10: low parts stay above FP16's smallest numbers.
template <int D>
struct QueryFragments {
  uint4 of[D / kTile][kWarp];
  float up[8];        // power of two of each query
  float to_logit[8];  // from a product with the multiplied query
};

/// By all threads of a block of so many warps.
template <int D, int G>
__device__ void prepare_queries(const float* queries, int count, float scale, int warps,
                                QueryFragments<D>& fragments) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int g = static_cast<int>(threadIdx.x) / kWarp; g < G; g += warps) {
    float largest = 0.0F;
    for (int c = lane; c < D; c += kWarp) {
      largest = g < count ? fmaxf(largest, fabsf(queries[g * D + c])) : 0.0F;
    }
#pragma unroll
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, mask));
    }
    constexpr int kTarget = 10;
    constexpr int kMostExponent = 100;
    const int exponent = static_cast<int>(__float_as_uint(largest) >> 23U) - 127;
    const int raise = largest > 0.0F ? max(min(kTarget - exponent, kMostExponent), -100) : 0;
    if (lane == 0) {
      fragments.up[g] = ldexpf(1.0F, raise);
      fragments.to_logit[g] = scale * ldexpf(1.0F, -raise);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < D / kTile * kWarp; i += warps * kWarp) {
    const int chunk = i / kWarp;
    const int g = i % kWarp / 4 % G;
    const int channel = chunk * kTile + i % 4 * 2;
    uint4 fragment{0, 0, 0, 0};
    if (g < count) {
      const float* query = queries + g * D + channel;
      const float up = fragments.up[g];
      const Split first = split(query[0] * up, query[1] * up);
      const Split second = split(query[8] * up, query[9] * up);
      fragment = {first.high, first.low, second.high, second.low};
    }
    fragments.of[chunk][i % kWarp] = fragment;
  }
  __syncthreads();
}

/// Max, sum and out of the queries of one warp, in shared memory. For G = 4 query g is the sum of
/// columns g (high parts of the weights) and g + 4 (low parts).
template <int D>
struct WarpState {
  float max[8];
  float sum[8];
  float out[8][D];
};

/// Running softmax of a warp for G queries that share a KV head, 4 or 8. Lane l has the weights of
/// query l / 4 (G = 4: modulo 4), and as sums of weighted V rows those of channels l / 4 and
/// l / 4 + 8 of each 16 for columns 2 (l % 4) and 2 (l % 4) + 1.
template <int D, int G>
class WarpAttention {
 public:
  static_assert(G == 4 || G == 8);
  static constexpr int kChunks = D / kTile;

  __device__ explicit WarpAttention(const QueryFragments<D>& queries)
      : queries_(queries.of), to_logit_(queries.to_logit[lane() / 4 % G]) {
    // Matrices of ldmatrix: tokens 0-7 and 8-15, channels 0-7 and 8-15 of a chunk.
    const int token = lane() % 8 + lane() / 16 * 8;
    row_ = static_cast<unsigned>(token) * 128;
    swizzle_ = static_cast<unsigned>((token % 8) ^ (lane() / 8 % 2)) * 16;
#pragma unroll
    for (auto& four : out_) {
#pragma unroll
      for (float& x : four) {
        x = 0.0F;
      }
    }
  }

  /// Logits of a tile's tokens and their weights, 0 from row `rows` on. `k` is a shared address.
  __device__ void score(unsigned k, int rows) {
    float s[2][4] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const uint4 q = queries_[c][lane()];
      const unsigned a[4] = {q.x, q.y, q.z, q.w};
      unsigned b[4];
      load_matrices(b, address(k, c));
      multiply(s[0], a, b[0], b[1]);
      multiply(s[1], a, b[2], b[3]);
    }
    const int first = lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Rounded before the maximum is taken off: else huge logits would differ from themselves.
      logits_[i] = __fmul_rn(s[i / 2][i % 2] + s[i / 2][i % 2 + 2], to_logit_);
      logits_[i] = first + i % 2 + i / 2 * 8 < rows ? logits_[i] : -INFINITY;
    }
    float largest = fmaxf(fmaxf(logits_[0], logits_[1]), fmaxf(logits_[2], logits_[3]));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    if (__any_sync(kAllLanes, largest > max_)) {
      raise_max(fmaxf(largest, max_));
    }
    float weights[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weights[i] = exp2f(fmaf(logits_[i] - max_, kLog2e, kWeightBits));
      sum_ += weights[i];
    }
    weights_[0] = split(weights[0], weights[1]);
    weights_[1] = split(weights[2], weights[3]);
  }

  /// Adds the tile's V rows; those from row `rows` on must be finite.
  __device__ void accumulate(unsigned v) {
    const bool is_low = G == 4 && lane() / 4 >= 4;
    const unsigned b0 = is_low ? weights_[0].low : weights_[0].high;
    const unsigned b1 = is_low ? weights_[1].low : weights_[1].high;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      unsigned a[4];
      load_matrices_transposed(a, address(v, c));
      multiply(out_[c], a, b0, b1);
      if constexpr (G == 8) {
        multiply(out_[c], a, weights_[0].low, weights_[1].low);
      }
    }
  }

  /// Logits of the tile that was scored last: calls write(query, token of the tile, logit).
  template <typename Write>
  __device__ void write_logits(int rows, Write write) const {
    if (lane() / 4 < G) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = lane() % 4 * 2 + i % 2 + i / 2 * 8;
        if (token < rows) {
          write(lane() / 4, token, logits_[i]);
        }
      }
    }
  }

  /// States of the first `count` queries.
  __device__ void store(int count, WarpState<D>& state) {
    sum_ += __shfl_xor_sync(kAllLanes, sum_, 1);
    sum_ += __shfl_xor_sync(kAllLanes, sum_, 2);
    if (lane() % 4 == 0) {
      state.max[lane() / 4] = max_;
      state.sum[lane() / 4] = sum_ * kWeightUnit;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = lane() % 4 * 2 + i;
      if (column % G < count) {
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          state.out[column][c * kTile + lane() / 4] = out_[c][i] * kWeightUnit;
          state.out[column][c * kTile + lane() / 4 + 8] = out_[c][i + 2] * kWeightUnit;
        }
      }
    }
  }

 private:
  // Weights are e^(logit - max) 2^12: that keeps the FP16 of small ones exact enough.
  static constexpr float kWeightBits = 12.0F;
  static constexpr float kWeightUnit = 1.0F / 4096.0F;

  [[nodiscard]] static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  /// Of the lane's row of 8 channels, 2 vectors a chunk.
  [[nodiscard]] __device__ unsigned address(unsigned tile, int chunk) const {
    return tile + row_ + static_cast<unsigned>(chunk / 4 * RowLayout<D>::box_bytes) +
           (static_cast<unsigned>(chunk % 4 * 32) ^ swizzle_);
  }

  __device__ void raise_max(float larger) {
    const float shrink = exp2f((max_ - larger) * kLog2e);  // 0 at first: max_ is -infinity
    max_ = larger;
    sum_ *= shrink;
    const float of_column[2] = {__shfl_sync(kAllLanes, shrink, lane() % 4 * 8),
                                __shfl_sync(kAllLanes, shrink, lane() % 4 * 8 + 4)};
#pragma unroll
    for (auto& four : out_) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        four[i] *= of_column[i % 2];
      }
    }
  }

  const uint4 (&queries_)[kChunks][kWarp];
  float to_logit_;
  unsigned row_;      // of the lane in a tile, bytes
  unsigned swizzle_;  // what its vectors' places are combined with, bytes
  float max_ = -INFINITY;
  float sum_ = 0.0F;
  float logits_[4];
  Split weights_[2];
  float out_[kChunks][4];
};

}  // namespace nearkv::kernels::cuda
