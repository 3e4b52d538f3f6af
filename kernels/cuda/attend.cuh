// Attention of one warp to tiles of tokens whose K and V rows lie in shared memory.
#pragma once

#include <cstdint>

#include <cuda_fp16.h>

namespace nearkv::kernels::cuda {

constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kWarp = 32;

/// How a warp reads rows of D halves: 16 bytes a lane, several rows a step.
template <int D>
struct RowLayout {
  static constexpr int vector = 8;               // halves of one 16-byte access
  static constexpr int lanes = D / vector;       // of one row
  static constexpr int rows = kWarp / lanes;     // side by side; 80: 3, two lanes have none
  static constexpr int steps = D == 80 ? 9 : 8;  // 27 rows hold the 25 of a 4 KiB page
  static constexpr int tile = rows * steps;
};

/// Running softmax of a warp for G queries that share a KV head. Logits are in units of log2.
template <int D, int G>
class WarpAttention {
 public:
  using Layout = RowLayout<D>;

  /// `queries` is [G][D] with the scale of the logits in it.
  __device__ void begin(const float* queries, float scale_log2) {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      max_[g] = -INFINITY;
      sum_[g] = 0.0F;
#pragma unroll
      for (int c = 0; c < Layout::vector; ++c) {
        query_[g][c] = is_used() ? queries[g * D + column() + c] * scale_log2 : 0.0F;
        out_[g][c] = 0.0F;
      }
    }
  }

  /// `k` and `v` are [rows][D] in shared memory.
  __device__ void attend(const std::uint16_t* k, const std::uint16_t* v, int rows) {
    float weights[G][Layout::steps];
    score(k, rows, weights);
    accumulate(v, rows, weights);
  }

  /// Sums over the warp's rows; afterwards the first Layout::lanes lanes hold the row of `out`.
  __device__ void finish() {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      sum_[g] = D == 80 ? sum_over_rows(sum_[g]) : sum_over_warp(sum_[g]);
#pragma unroll
      for (int c = 0; c < Layout::vector; ++c) {
        out_[g][c] = sum_over_rows(out_[g][c]);
      }
    }
  }

  [[nodiscard]] __device__ float max(int g) const { return max_[g]; }
  [[nodiscard]] __device__ float sum(int g) const { return sum_[g]; }
  [[nodiscard]] __device__ float out(int g, int c) const { return out_[g][c]; }

  [[nodiscard]] static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  [[nodiscard]] static __device__ int row(int step) {
    return step * Layout::rows + lane() / Layout::lanes;
  }
  [[nodiscard]] static __device__ int column() { return lane() % Layout::lanes * Layout::vector; }
  [[nodiscard]] static __device__ bool is_used() { return lane() / Layout::lanes < Layout::rows; }

 private:
  static __device__ void widen(const std::uint16_t* at, float (&row)[Layout::vector]) {
    const uint4 bits = *reinterpret_cast<const uint4*>(at);
    __half2 pairs[Layout::vector / 2];
    __builtin_memcpy(pairs, &bits, sizeof(bits));
#pragma unroll
    for (int c = 0; c < Layout::vector / 2; ++c) {
      const float2 pair = __half22float2(pairs[c]);
      row[2 * c] = pair.x;
      row[2 * c + 1] = pair.y;
    }
  }

  /// Logits of a tile and their weights, 0 for rows that do not exist.
  __device__ void score(const std::uint16_t* k, int rows, float (&weights)[G][Layout::steps]) {
    float s[G][Layout::steps];
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      float values[Layout::vector];
      widen(k + row(i) * D + column(), values);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        s[g][i] = 0.0F;
#pragma unroll
        for (int c = 0; c < Layout::vector; ++c) {
          s[g][i] = fmaf(query_[g][c], values[c], s[g][i]);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      if constexpr (D == 80) {
        weigh_rows(g, s[g], rows, weights[g]);
      } else {
        weigh_scattered(g, s[g], rows, weights[g]);
      }
    }
  }

  /// What lies behind the last row in shared memory may be anything: such rows are left out.
  __device__ void accumulate(const std::uint16_t* v, int rows,
                             const float (&weights)[G][Layout::steps]) {
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      if (row(i) < rows && is_used()) {
        float values[Layout::vector];
        widen(v + row(i) * D + column(), values);
#pragma unroll
        for (int g = 0; g < G; ++g) {
#pragma unroll
          for (int c = 0; c < Layout::vector; ++c) {
            out_[g][c] = fmaf(weights[g][i], values[c], out_[g][c]);
          }
        }
      }
    }
  }

  static __device__ float sum_over_rows(float x) {
    if constexpr (D == 80) {
      const float second = __shfl_down_sync(kAllLanes, x, Layout::lanes);
      const float third = __shfl_down_sync(kAllLanes, x, 2 * Layout::lanes);
      return x + second + third;  // right in the first row's lanes
    } else {
#pragma unroll
      for (int mask = Layout::lanes; mask < kWarp; mask *= 2) {
        x += __shfl_xor_sync(kAllLanes, x, mask);
      }
      return x;
    }
  }

  static __device__ float sum_over_warp(float x) {
#pragma unroll
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      x += __shfl_xor_sync(kAllLanes, x, mask);
    }
    return x;
  }

  /// A larger maximum: what was summed shrinks. `largest` is this lane's.
  __device__ void raise_max(int g, float largest) {
    if (!__any_sync(kAllLanes, largest > max_[g])) {
      return;
    }
#pragma unroll
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, mask));
    }
    largest = fmaxf(largest, max_[g]);
    const float shrink = exp2f(max_[g] - largest);  // 0 at first: max_ is -infinity
    max_[g] = largest;
    sum_[g] *= shrink;
#pragma unroll
    for (int c = 0; c < Layout::vector; ++c) {
      out_[g][c] *= shrink;
    }
  }

  /// Eight sums over the lanes of a row at the price of one: halves are exchanged, so that each
  /// lane ends with the sum of one step.
  __device__ void weigh_scattered(int g, float (&s)[Layout::steps], int rows,
                                  float (&weights)[Layout::steps]) {
    constexpr int kFirst = Layout::lanes / 2;
#pragma unroll
    for (int mask = kFirst, kept = 4; kept > 0; mask /= 2, kept /= 2) {
      const bool upper = (lane() & mask) != 0;
#pragma unroll
      for (int i = 0; i < kept; ++i) {
        const float give = upper ? s[i] : s[i + kept];
        const float keep = upper ? s[i + kept] : s[i];
        s[i] = keep + __shfl_xor_sync(kAllLanes, give, mask);
      }
    }
    constexpr int kTwin = D == 128 ? 1 : 0;  // 16 lanes a row: two of them have the same step
    float logit = s[0];
    if constexpr (kTwin != 0) {
      logit += __shfl_xor_sync(kAllLanes, logit, kTwin);
    }
    const int step = ((lane() & kFirst) != 0 ? 4 : 0) + ((lane() & (kFirst / 2)) != 0 ? 2 : 0) +
                     ((lane() & (kFirst / 4)) != 0 ? 1 : 0);
    logit = row(step) < rows ? logit : -INFINITY;
    raise_max(g, logit);
    const float weight = logit == -INFINITY ? 0.0F : exp2f(logit - max_[g]);
    sum_[g] += (lane() & kTwin) != 0 ? 0.0F : weight;
    const int base = lane() - lane() % Layout::lanes;
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      const int source = ((i & 4) != 0 ? kFirst : 0) + ((i & 2) != 0 ? kFirst / 2 : 0) +
                         ((i & 1) != 0 ? kFirst / 4 : 0);
      weights[i] = __shfl_sync(kAllLanes, weight, base + source);
    }
  }

  /// For row sizes that are no power of two.
  __device__ void weigh_rows(int g, float (&s)[Layout::steps], int rows,
                             float (&weights)[Layout::steps]) {
    const int base = lane() - lane() % Layout::lanes;
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      const float half = s[i] + __shfl_down_sync(kAllLanes, s[i], Layout::lanes / 2);
      float total = 0.0F;
#pragma unroll
      for (int part = 0; part < Layout::lanes / 2; ++part) {
        total += __shfl_sync(kAllLanes, half, base + part);
      }
      s[i] = row(i) < rows && is_used() ? total : -INFINITY;
      largest = fmaxf(largest, s[i]);
    }
    raise_max(g, largest);
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      weights[i] = s[i] == -INFINITY ? 0.0F : exp2f(s[i] - max_[g]);
      sum_[g] += weights[i];
    }
  }

  float query_[G][Layout::vector];
  float max_[G];
  float sum_[G];
  float out_[G][Layout::vector];
};

}  // namespace nearkv::kernels::cuda
