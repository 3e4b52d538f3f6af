// Dense attention for heads with one query each (MHA), on FP32 instructions, where the device has
// the bulk copy engine (sm_90) and a tile is a piece of one page.
//
// This case lives by bandwidth alone. Measured on an H200, 40 heads of 128, in a graph, in us:
//     batch, tokens                            4, 2K   1, 8K   4, 8K  1, 32K  16, 2K
//     a plain read of so much                   36.4    36.4   145.7   145.7   145.7
//     24 warps, K and V of a tile together      48.0    48.6   163.1   163.3   158.5
//     24 warps, K and V fetched apart           49.4    49.7   164.9   167.7   158.2
//     20 warps (no spills), apart               48.6    48.4   164.5   165.5   157.4
//     the same, all blocks in one full wave     45.3    46.0   160.4   159.6   157.0
//     PyTorch's scaled_dot_product_attention    44.5    47.0   160.3   164.4   162.3
// On tensor cores, which serve the other cases, batch 64 and 2,048 tokens took 607 (16 warps of a
// multiprocessor, copies of lanes; 20 warps 653, 12 warps 614, rows by the bulk engine 649,
// swizzled boxes of a tensor map 640), this kernel 610, PyTorch 597, a plain read 582.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/tiles.cuh"

namespace nearkv::kernels::cuda {

/// A warp reads rows of D halves with 16 bytes a lane, 8 times for a tile.
template <int D>
struct OneQueryLayout {
  static constexpr int vector = 8;            // halves
  static constexpr int lanes = D / vector;    // of one row: 16 or 8
  static constexpr int rows = kWarp / lanes;  // side by side
  static constexpr int steps = 8;
  static constexpr int tile = rows * steps;  // tokens: 16 or 32
  static constexpr int bytes = tile * D * 2;
};

/// Running softmax of a warp for one query. Lane l has 8 channels of every `rows`-th row.
template <int D>
class OneQueryAttention {
 public:
  using Layout = OneQueryLayout<D>;

  __device__ OneQueryAttention(const float* query, float scale) {
#pragma unroll
    for (int c = 0; c < Layout::vector; ++c) {
      query_[c] = query[column() + c] * scale;
      out_[c] = 0.0F;
    }
  }

  using Weights = float[Layout::steps];

  /// Of the next rows. `k` is [rows][D]; what lies behind may be anything.
  __device__ void score(const std::uint16_t* k, int rows, Weights& weights) {
    float s[Layout::steps];
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      float values[Layout::vector];
      widen(k + row(i) * D + column(), values);
      s[i] = 0.0F;
#pragma unroll
      for (int c = 0; c < Layout::vector; ++c) {
        s[i] = fmaf(query_[c], values[c], s[i]);
      }
    }
    weigh(s, rows, weights);
  }

  /// Likewise; for the weights of the same rows.
  __device__ void accumulate(const std::uint16_t* v, int rows, const Weights& weights) {
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      if (row(i) < rows) {
        float values[Layout::vector];
        widen(v + row(i) * D + column(), values);
#pragma unroll
        for (int c = 0; c < Layout::vector; ++c) {
          out_[c] = fmaf(weights[i], values[c], out_[c]);
        }
      }
    }
  }

  __device__ void store(WarpState<D>& state) {
    sum_ = sum_over_lanes(sum_, 1);
#pragma unroll
    for (int c = 0; c < Layout::vector; ++c) {
      out_[c] = sum_over_lanes(out_[c], Layout::lanes);
    }
    if (lane() < Layout::lanes) {
#pragma unroll
      for (int c = 0; c < Layout::vector; ++c) {
        state.out[0][column() + c] = out_[c];
      }
    }
    if (lane() == 0) {
      state.max[0] = max_;
      state.sum[0] = sum_;
    }
  }

 private:
  [[nodiscard]] static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  [[nodiscard]] static __device__ int row(int step) {
    return step * Layout::rows + lane() / Layout::lanes;
  }
  [[nodiscard]] static __device__ int column() { return lane() % Layout::lanes * Layout::vector; }

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

  /// Over the lanes that differ in bits from `first` on.
  static __device__ float sum_over_lanes(float x, int first) {
#pragma unroll
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      if (mask >= first) {
        x += __shfl_xor_sync(kAllLanes, x, mask);
      }
    }
    return x;
  }

  /// A larger maximum: what was summed shrinks. `largest` is this lane's.
  __device__ void raise_max(float largest) {
    if (!__any_sync(kAllLanes, largest > max_)) {
      return;
    }
#pragma unroll
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, mask));
    }
    largest = fmaxf(largest, max_);
    const float shrink = exp2f((max_ - largest) * kLog2e);  // 0 at first: max_ is -infinity
    max_ = largest;
    sum_ *= shrink;
#pragma unroll
    for (float& x : out_) {
      x *= shrink;
    }
  }

  /// Eight sums over the lanes of a row at the price of one: halves are exchanged, so that each
  /// lane ends with the sum of one step.
  __device__ void weigh(float (&s)[Layout::steps], int rows, float (&weights)[Layout::steps]) {
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
    raise_max(logit);
    const float weight = exp2f((logit - max_) * kLog2e);
    sum_ += (lane() & kTwin) != 0 ? 0.0F : weight;
    const int base = lane() - lane() % Layout::lanes;
#pragma unroll
    for (int i = 0; i < Layout::steps; ++i) {
      const int source = ((i & 4) != 0 ? kFirst : 0) + ((i & 2) != 0 ? kFirst / 2 : 0) +
                         ((i & 1) != 0 ? kFirst / 4 : 0);
      weights[i] = __shfl_sync(kAllLanes, weight, base + source);
    }
  }

  float query_[Layout::vector];
  float max_ = -INFINITY;
  float sum_ = 0.0F;
  float out_[Layout::vector];
};

/// The tiles of one warp: W warps of the block take the tiles of its tokens in turn. Each lane
/// looks up one of the next 32 tiles.
template <int D, int W>
class InOrderTiles {
 public:
  using Layout = OneQueryLayout<D>;

  /// From position `first` of the unit's tokens on.
  __device__ InOrderTiles(const Launch& a, const Unit& unit, int first)
      : table_(a.t.kv.token_table + unit.kv_head * a.t.kv.token_groups),
        first_(first + static_cast<int>(threadIdx.x) / kWarp * Layout::tile) {
    look_up(a, 0);  // while the context is still on its way
  }
  /// To position `end`.
  __device__ void set_end(int end) { left_ = end - first_; }

  [[nodiscard]] __device__ int count() const {
    return left_ > 0 ? (left_ + W * Layout::tile - 1) / (W * Layout::tile) : 0;
  }
  /// Rows of the i-th tile.
  [[nodiscard]] __device__ int rows(int i) const {
    return min(Layout::tile, left_ - i * W * Layout::tile);
  }
  /// Where the i-th tile begins in the pools, in elements; for ascending i.
  [[nodiscard]] __device__ std::size_t place(const Launch& a, int i) {
    if (i % kWarp == 0 && i > 0) {
      look_up(a, i);
    }
    return static_cast<std::size_t>(__shfl_sync(kAllLanes, place_, i % kWarp)) * Layout::vector;
  }

 private:
  __device__ void look_up(const Launch& a, int i) {
    const int tile = i + static_cast<int>(threadIdx.x) % kWarp;
    const auto token =
        static_cast<std::uint32_t>(first_ + tile * W * Layout::tile + a.source.first_token);
    const std::uint32_t group =
        min(a.groups.group_of(token), static_cast<std::uint32_t>(a.t.kv.token_groups) - 1);
    place_ = static_cast<std::uint32_t>(table_[group]) * (a.page_elements / Layout::vector) +
             (token - group * a.groups.tokens) * Layout::lanes;
  }

  const std::int32_t* table_;
  int first_;
  int left_ = 0;             // positions from first_ to the block's end
  std::uint32_t place_ = 0;  // in vectors of 16 bytes
};

/// Shared memory of a block of W warps.
template <int D, int W>
constexpr int kOneQueryShared = W*(2 * OneQueryLayout<D>::bytes >
                                           static_cast<int>(sizeof(WarpState<D>))
                                       ? 2 * OneQueryLayout<D>::bytes
                                       : static_cast<int>(sizeof(WarpState<D>)));

/// Blocks of a multiprocessor. 4 warps: with the registers of 20 nothing is spilled (24 were 2 to
/// 5 % slower); 8 warps read little, where more tiles on their way count.
template <int W>
constexpr int kOneQueryBlocks = W == 4 ? 5 : 3;

/// Block (chunk of tokens, unit, sequence). Each warp has one tile of K and one of V on their way
/// or at work; the next K is fetched while V is at work.
template <int D, int W>
__global__ void __launch_bounds__(W* kWarp, kOneQueryBlocks<W>)
    attend_one(const __grid_constant__ Launch a) {
  using Layout = OneQueryLayout<D>;
  extern __shared__ __align__(128) std::byte tile_memory[];
  __shared__ TileBarrier barriers[W][2];  // of K, of V
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int chunk = static_cast<int>(blockIdx.x);
  TileBarrier& k_barrier = barriers[warp][0];
  TileBarrier& v_barrier = barriers[warp][1];
  const bool is_first_lane = threadIdx.x % kWarp == 0;
  if (is_first_lane) {
    k_barrier.init();
    v_barrier.init();
    TileBarrier::ready();
  }
  __syncwarp();
  wait_for_previous_grid();
  Unit unit = unit_of_block(a);
  InOrderTiles<D, W> tiles(a, unit, chunk * a.chunk);
  unit.total = a.source.total(unit.context, unit.index);
  const int chunks = (unit.total + a.chunk - 1) / a.chunk;
  if (chunk >= chunks) {
    return;
  }
  tiles.set_end(min(unit.total, (chunk + 1) * a.chunk));
  auto* k = reinterpret_cast<std::uint16_t*>(tile_memory + warp * 2 * Layout::bytes);
  auto* v = k + Layout::bytes / 2;
  const auto fetch = [&](TileBarrier& barrier, std::uint16_t* to, const std::uint16_t* from,
                         int i) {
    if (is_first_lane) {
      const unsigned bytes = static_cast<unsigned>(tiles.rows(i)) * D * 2;
      barrier.expect(bytes);
      barrier.copy(shared_address(to), from, bytes);
    }
  };
  const int count = tiles.count();
  std::size_t place = 0;
  if (count > 0) {
    place = tiles.place(a, 0);
    fetch(k_barrier, k, a.t.kv.k_pages + place, 0);
    fetch(v_barrier, v, a.t.kv.v_pages + place, 0);
  }
  OneQueryAttention<D> attention(a.t.queries + unit.first_query_head * D, a.scale);
  for (int i = 0; i < count; ++i) {
    const bool is_last = i + 1 == count;
    const auto phase = static_cast<unsigned>(i) % 2;
    typename OneQueryAttention<D>::Weights weights;
    k_barrier.wait(phase);
    attention.score(k, tiles.rows(i), weights);
    __syncwarp();
    if (!is_last) {
      place = tiles.place(a, i + 1);
      fetch(k_barrier, k, a.t.kv.k_pages + place, i + 1);
    }
    v_barrier.wait(phase);
    attention.accumulate(v, tiles.rows(i), weights);
    __syncwarp();
    if (!is_last) {
      fetch(v_barrier, v, a.t.kv.v_pages + place, i + 1);
    }
  }
  if (a.overlaps) {
    let_next_grid_start();
  }
  __syncthreads();  // the tiles' memory is free for the states
  auto* states = reinterpret_cast<WarpState<D>*>(tile_memory);
  attention.store(states[warp]);
  __syncthreads();
  merge_block<D, 8, W>(a, states, unit, chunks);
}

}  // namespace nearkv::kernels::cuda
