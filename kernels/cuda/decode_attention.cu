#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/device_launch.cuh"
#include "kernels/cuda/select.cuh"

namespace nearkv::kernels::cuda {
namespace {

#ifndef NK_WARPS
#define NK_WARPS 8
#define NK_BLOCKS 3
#endif
constexpr int kMostWaves = 40;  // for which there is room for states of chunks

/// Warps of a block, blocks of a multiprocessor, and tiles of a warp that are on their way or at
/// work.
template <int G>
constexpr int kWarps = G == 1 ? NK_WARPS : 4;
template <int G>
constexpr int kThreads = kWarp * kWarps<G>;
template <int G>
constexpr int kBlocks = G == 1 ? NK_BLOCKS : 3;
template <int G>
constexpr int kStages = G == 1 ? 1 : 2;
constexpr int kMostBlocks = 6;
constexpr float kLog2e = 1.44269504088896340736F;
constexpr int kMostQueriesAPass = 4;

/// Token groups and rows in them, by multiplication instead of division.
struct TokenGroups {
  std::uint32_t tokens;  // of a group
  std::uint32_t magic;   // ceil(2^32 / tokens): exact for tokens x group below 2^32 / tokens

  explicit TokenGroups(int tokens_per_group)
      : tokens(static_cast<std::uint32_t>(tokens_per_group)),
        magic(static_cast<std::uint32_t>(((std::uint64_t{1} << 32) + tokens - 1) / tokens)) {}
  [[nodiscard]] __device__ std::uint32_t group_of(std::uint32_t token) const {
    if (tokens == 1) {
      return token;
    }
    // One too large at most for the largest tokens: mended.
    std::uint32_t group = __umulhi(token, magic);
    return group * tokens > token ? group - 1 : group;
  }
};

struct Launch {
  BatchTensors t;
  int kv_heads;
  int queries;      // of a KV head
  int chunk;        // tokens of a block
  int first_query;  // of this pass over the queries of a KV head
  int page_elements;
  bool overlaps;  // the next grid's blocks may start before this one's end
  TokenGroups groups;
  // Listed tokens: [query head][token_stride], of each min(most_tokens, context).
  const std::int32_t* tokens;
  int token_stride;
  int most_tokens;
  const float* alpha;
  float* partial;      // [unit][chunk][query][d_head + 2]
  unsigned* arrivals;  // [unit], zero between launches
};

/// The tokens of a block, in tiles; its warps take them in turn, so that tile i of a warp is tile
/// warp + i x kWarps of the block. Tiles do not straddle pages.
template <int D, int G, bool kListed>
class BlockTiles {
 public:
  static constexpr int kWarps = cuda::kWarps<G>;
  using Layout = RowLayout<D>;
  static constexpr int kTileHalves = Layout::tile * D;

  /// Tokens [first, end) of the context or of the list; `first` begins a page, or a tile.
  __device__ BlockTiles(const Launch& a, std::size_t kv_head, std::size_t query_head, int first)
      : a_(a),
        table_(a.t.kv.token_table + kv_head * a.t.kv.token_groups),
        list_(kListed ? a.tokens + query_head * a.token_stride : nullptr),
        first_(first) {
    const int group_tokens = static_cast<int>(a.groups.tokens);
    tiles_a_group_ = kListed ? 1 : (group_tokens + Layout::tile - 1) / Layout::tile;
    warp_ = static_cast<int>(threadIdx.x) / kWarp;
    if constexpr (!kListed) {
      first_group_ = static_cast<int>(a.groups.group_of(static_cast<std::uint32_t>(first)));
      read_pages(0);  // while the context is still on its way
    }
  }
  __device__ void set_end(int end) {
    end_ = end;
    const int each = kListed ? Layout::tile : static_cast<int>(a_.groups.tokens);
    const int tiles = (end - first_ + each - 1) / each * tiles_a_group_;
    count_ = warp_ < tiles ? (tiles - warp_ + kWarps - 1) / kWarps : 0;
    if constexpr (kListed) {
      read_token(0);
      read_page(0);
      read_token(1);
    }
  }

  /// Tiles of this warp.
  [[nodiscard]] __device__ int count() const { return count_; }

  /// Rows of the warp's i-th tile; none where a page's last tile lies behind the end.
  [[nodiscard]] __device__ int rows(int i) const {
    const int tile = warp_ + i * kWarps;
    if constexpr (kListed) {
      return min(Layout::tile, end_ - first_ - tile * Layout::tile);
    }
    const int group_tokens = static_cast<int>(a_.groups.tokens);
    const int group = tiles_a_group_ == 1 ? tile : tile / tiles_a_group_;
    const int first_row = (tile - group * tiles_a_group_) * Layout::tile;
    const int left = end_ - first_ - group * group_tokens - first_row;
    return max(0, min(Layout::tile, min(group_tokens - first_row, left)));
  }

  /// Starts the copies of the warp's i-th tile.
  __device__ void fetch(int i, std::uint16_t* k, std::uint16_t* v, std::uint64_t* barrier) {
    if constexpr (kListed) {
      fetch_listed(i, k, v);
    } else {
      fetch_page(i, k, v, barrier);
    }
  }

 private:
  /// Each lane reads the page of one of the warp's next tiles: fetches need not wait for the table.
  __device__ void read_pages(int from) {
    pages_begin_ = from;
    const int tile = warp_ + (from + static_cast<int>(threadIdx.x) % kWarp) * kWarps;
    const int group = first_group_ + (tiles_a_group_ == 1 ? tile : tile / tiles_a_group_);
    page_ = group < a_.t.kv.token_groups ? table_[group] : 0;
  }

  __device__ void fetch_page(int i, std::uint16_t* k, std::uint16_t* v, std::uint64_t* barrier) {
    if (i - pages_begin_ == kWarp) {
      read_pages(i);
    }
    const int tile = warp_ + i * kWarps;
    const int sub = tiles_a_group_ == 1 ? 0 : tile % tiles_a_group_;
    const int rows = this->rows(i);
    const std::size_t page =
        static_cast<std::size_t>(__shfl_sync(kAllLanes, page_, i - pages_begin_));
    const std::size_t first = page * a_.page_elements + static_cast<std::size_t>(sub) * kTileHalves;
#if NEARKV_CUDA_HOPPER
    if (threadIdx.x % kWarp == 0) {
      const unsigned bytes = static_cast<unsigned>(rows) * D * sizeof(std::uint16_t);
      expect_bytes(barrier, 2 * bytes);
      if (bytes > 0) {
        copy_bulk(k, a_.t.kv.k_pages + first, bytes, barrier);
        copy_bulk(v, a_.t.kv.v_pages + first, bytes, barrier);
      }
    }
#else
    using Warp = WarpAttention<D, 1>;
#pragma unroll
    for (int step = 0; step < Layout::steps; ++step) {
      if (Warp::row(step) < rows && Warp::is_used()) {
        const int at = Warp::row(step) * D + Warp::column();
        copy_16_bytes(k + at, a_.t.kv.k_pages + first + at);
        copy_16_bytes(v + at, a_.t.kv.v_pages + first + at);
      }
    }
    commit_copies();
#endif
  }

  /// Lane r keeps the token in row r of the warp's i-th tile, read ahead of its page.
  __device__ void read_token(int i) {
    const int row = static_cast<int>(threadIdx.x) % kWarp;
    if (i < count_ && row < rows(i)) {
      token_ =
          static_cast<std::uint32_t>(list_[first_ + (warp_ + i * kWarps) * Layout::tile + row]);
    }
  }
  /// And where its rows begin, in 16-byte vectors of the pools.
  __device__ void read_page(int i) {
    const int row = static_cast<int>(threadIdx.x) % kWarp;
    if (i < count_ && row < rows(i)) {
      const std::uint32_t group = a_.groups.group_of(token_);
      page_ = table_[group];
      row_in_page_ = (token_ - group * a_.groups.tokens) * Layout::lanes;
    }
  }

  __device__ void fetch_listed(int i, std::uint16_t* k, std::uint16_t* v) {
    using Warp = WarpAttention<D, 1>;
    const int rows = this->rows(i);
    const std::uint32_t mine =
        static_cast<std::uint32_t>(page_) * (a_.page_elements / Layout::vector) + row_in_page_;
#pragma unroll
    for (int step = 0; step < Layout::steps; ++step) {
      const std::uint32_t vector = __shfl_sync(kAllLanes, mine, Warp::row(step) % kWarp);
      if (Warp::row(step) < rows && Warp::is_used()) {
        const std::size_t from = static_cast<std::size_t>(vector) * Layout::vector + Warp::column();
        const int to = Warp::row(step) * D + Warp::column();
        copy_16_bytes(k + to, a_.t.kv.k_pages + from);
        copy_16_bytes(v + to, a_.t.kv.v_pages + from);
      }
    }
    commit_copies();
    read_page(i + 1);
    read_token(i + 2);
  }

  const Launch& a_;
  const std::int32_t* table_;
  const std::int32_t* list_;
  int first_;
  int end_ = 0;
  int tiles_a_group_;
  int warp_;
  int count_ = 0;
  int first_group_ = 0;
  int pages_begin_ = 0;
  std::int32_t page_ = 0;  // of a tile to come, or of a row to come
  std::uint32_t token_ = 0;
  std::uint32_t row_in_page_ = 0;
};

/// Max, sum and out of each warp's queries, in shared memory.
template <int D, int G>
struct WarpStates {
  float of[kWarps<G>][G][D + 2];
};

template <int D, int G>
__device__ void store_warp(WarpAttention<D, G>& attention, WarpStates<D, G>& states) {
  using Layout = RowLayout<D>;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  attention.finish();
#pragma unroll
  for (int g = 0; g < G; ++g) {
    float* mine = states.of[warp][g];
    if (lane < Layout::lanes) {
#pragma unroll
      for (int c = 0; c < Layout::vector; ++c) {
        mine[2 + lane * Layout::vector + c] = attention.out(g, c);
      }
    }
    if (lane == 0) {
      mine[0] = attention.max(g);
      mine[1] = attention.sum(g);
    }
  }
}

struct Merged {
  float max;
  float sum;
  float out;
};

/// Element c of the merged states of a block's warps for query g.
template <int D, int G>
__device__ Merged merge_warps(const WarpStates<D, G>& states, int g, int c) {
  Merged merged{-INFINITY, 0.0F, 0.0F};
#pragma unroll
  for (int w = 0; w < kWarps<G>; ++w) {
    merged.max = fmaxf(merged.max, states.of[w][g][0]);
  }
#pragma unroll
  for (int w = 0; w < kWarps<G>; ++w) {
    const float max = states.of[w][g][0];
    const float factor = max == -INFINITY ? 0.0F : exp2f(max - merged.max);
    merged.sum += factor * states.of[w][g][1];
    merged.out += factor * states.of[w][g][2 + c];
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
  if (c == 0 && a.t.max != nullptr) {
    a.t.max[query_head] = state.max / kLog2e;
    a.t.sum[query_head] = state.sum;
  }
}

/// Merges the warps of the block; then the last block of a unit (a KV head, or a query head with
/// its list) merges all of its chunks and writes the output.
template <int D, int G>
__device__ void merge_block(const Launch& a, const WarpStates<D, G>& states, std::size_t unit,
                            std::size_t first_query_head, int chunks) {
  constexpr int kState = D + 2;
  constexpr int kOfBlock = G * kState;
  float* partial = a.partial + unit * gridDim.x * kOfBlock;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < G * D; i += kThreads<G>) {
    const int g = i / D;
    const int c = i % D;
    const Merged merged = merge_warps(states, g, c);
    if (chunks == 1) {
      write_output<D>(a, first_query_head + g, c, merged);
      continue;
    }
    float* mine = partial + blockIdx.x * kOfBlock + g * kState;
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
    is_last = atomicAdd(&a.arrivals[unit], 1U) + 1 == static_cast<unsigned>(chunks);
    if (is_last) {
      a.arrivals[unit] = 0;  // for the next launch
    }
  }
  __syncthreads();
  if (!is_last) {
    return;
  }
  __threadfence();
  constexpr int kBatch = 8;  // states whose loads are on their way together
  for (int i = static_cast<int>(threadIdx.x); i < G * D; i += kThreads<G>) {
    const int g = i / D;
    const int c = i % D;
    Merged merged{-INFINITY, 0.0F, 0.0F};
    for (int first = 0; first < chunks; first += kBatch) {
      Merged batch[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        batch[b] = {-INFINITY, 0.0F, 0.0F};
        if (first + b < chunks) {
          const float* state = partial + (first + b) * kOfBlock + g * kState;
          batch[b] = {__ldcg(state), __ldcg(state + 1), __ldcg(state + 2 + c)};
        }
      }
      float max = merged.max;
#pragma unroll
      for (const Merged& other : batch) {
        max = fmaxf(max, other.max);
      }
      const float shrink = exp2f(merged.max - max);
      merged = {max, merged.sum * shrink, merged.out * shrink};
#pragma unroll
      for (const Merged& other : batch) {
        const float factor = exp2f(other.max - max);
        merged.sum += factor * other.sum;
        merged.out += factor * other.out;
      }
    }
    write_output<D>(a, first_query_head + g, c, merged);
  }
}

/// Block (chunk of tokens, unit, sequence).
template <int D, int G, bool kListed>
__global__ void __launch_bounds__(kThreads<G>, kBlocks<G>) attend(const __grid_constant__ Launch a) {
  static_assert(!kListed || G == 1, "each query head has its own list");
  using Tiles = BlockTiles<D, G, kListed>;
  constexpr bool kBulk = NEARKV_CUDA_HOPPER != 0 && !kListed;
  constexpr int kRing = kStages<G>;
  extern __shared__ __align__(128) std::uint16_t memory[];
  __shared__ std::uint64_t barriers[kWarps<G>][kRing];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
#if NEARKV_CUDA_HOPPER
  if constexpr (kBulk) {
    if (threadIdx.x % kWarp == 0) {
      for (int stage = 0; stage < kRing; ++stage) {
        init_barrier(&barriers[warp][stage]);
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncwarp();
  }
#endif
  wait_for_previous_grid();
  const int context = a.t.contexts[blockIdx.z];
  const std::size_t unit = static_cast<std::size_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  const std::size_t kv_head = kListed ? unit / a.queries : unit;
  const std::size_t query_head = kListed ? unit : unit * a.queries + a.first_query;
  const int chunk = static_cast<int>(blockIdx.x);
  Tiles tiles(a, kv_head, query_head, chunk * a.chunk);
  const int tokens = kListed ? min(context, a.most_tokens) : context;
  const int chunks = (tokens + a.chunk - 1) / a.chunk;
  if (chunk >= chunks) {
    return;
  }
  tiles.set_end(min(tokens, (chunk + 1) * a.chunk));
  std::uint16_t* ring = memory + warp * kRing * 2 * Tiles::kTileHalves;
  const auto k_of = [&](int stage) { return ring + stage * 2 * Tiles::kTileHalves; };
  const auto v_of = [&](int stage) { return k_of(stage) + Tiles::kTileHalves; };
#pragma unroll
  for (int stage = 0; stage < kRing; ++stage) {
    if (stage < tiles.count()) {
      tiles.fetch(stage, k_of(stage), v_of(stage), &barriers[warp][stage]);
    } else if (!kBulk) {
      commit_copies();
    }
  }
  WarpAttention<D, G> attention;
  attention.begin(a.t.queries + query_head * D, kLog2e * rsqrtf(static_cast<float>(D)));
  int stage = 0;
  unsigned phase = 0;
  for (int i = 0; i < tiles.count(); ++i) {
#if NEARKV_CUDA_HOPPER
    if constexpr (kBulk) {
      wait_for_phase(&barriers[warp][stage], phase);
    } else
#endif
    {
      wait_for_copies<kRing - 1>();
      __syncwarp();
    }
#ifndef NK_NOCOMPUTE
    attention.attend(k_of(stage), v_of(stage), tiles.rows(i));
#endif
    __syncwarp();
    if (i + kRing < tiles.count()) {
      tiles.fetch(i + kRing, k_of(stage), v_of(stage), &barriers[warp][stage]);
    } else if (!kBulk) {
      commit_copies();
    }
    stage = stage + 1 == kRing ? 0 : stage + 1;
    phase ^= stage == 0 ? 1U : 0U;
  }
  if (a.overlaps) {
    let_next_grid_start();
  }
  __syncthreads();  // the ring is free for the states
  auto& states = *reinterpret_cast<WarpStates<D, G>*>(memory);
  static_assert(sizeof(states) <= kWarps<G> * kRing * 2 * Tiles::kTileHalves * 2);
  store_warp(attention, states);
  merge_block(a, states, unit, query_head, chunks);
}

// -- Launches -----------------------------------------------------------------------------------

/// Tokens of a block: whole pages, or tiles of a list. All blocks at once, or several waves of
/// them, cost about: waves x (what a block takes from its launch to its last store + its tiles).
template <int D, int G>
int chunk_of(int tokens, std::size_t units, int multiprocessors, int multiple) {
  // In units of the time in which the device reads one tile a resident warp, measured on an H200.
  constexpr double kLatency = 2.5;
  constexpr double kLeastTile = 0.3;  // a tile that has the memory for itself
#ifdef NK_TUNE
  if (const char* text = getenv("NK_CHUNK")) {
    return (atoi(text) + multiple - 1) / multiple * multiple;
  }
#endif
  const double slots = static_cast<double>(kBlocks<G>) * multiprocessors;
  const int tiles = (tokens + RowLayout<D>::tile - 1) / RowLayout<D>::tile;
  double least = INFINITY;
  int chosen = tokens;
  for (int chunks = 1; chunks <= tiles; ++chunks) {
    const int of_warp = ((tiles + chunks - 1) / chunks + kWarps<G> - 1) / kWarps<G>;
    const double blocks = static_cast<double>(units) * chunks;
    const double waves = blocks / slots;
    const double share = std::min(1.0, waves);
    const double rounds = waves <= 2.0 ? std::ceil(waves) : waves + 0.5;
    const double merging = chunks > 1 ? 0.5 : 0.0;
    const double cost =
        rounds * (kLatency + of_warp * std::max(share, kLeastTile)) + merging + chunks * 0.005;
    if (cost < least) {
      least = cost;
      chosen = (tokens + chunks - 1) / chunks;
    }
    if (waves > 32) {
      break;
    }
  }
  return (chosen + multiple - 1) / multiple * multiple;
}

template <int D, int G, bool kListed>
constexpr int kAttendShared =
    kStages<G> * 2 * kWarps<G> *
    BlockTiles<D, G, kListed>::kTileHalves* static_cast<int>(sizeof(std::uint16_t));

/// Chunks that were worked out for earlier launches: a decode step costs no search.
class ChunkPlans {
 public:
  template <int D, int G>
  int chunk(int tokens, std::size_t units, int multiprocessors, int multiple) {
    for (const Plan& plan : plans_) {
      if (plan.tokens == tokens && plan.units == units && plan.queries == G &&
          plan.multiple == multiple) {
        return plan.chunk;
      }
    }
    constexpr std::size_t kMostPlans = 64;
    if (plans_.size() == kMostPlans) {
      plans_.clear();
    }
    plans_.push_back(
        {tokens, units, G, multiple, chunk_of<D, G>(tokens, units, multiprocessors, multiple)});
    return plans_.back().chunk;
  }

 private:
  struct Plan {
    int tokens;
    std::size_t units;
    int queries;
    int multiple;
    int chunk;
  };
  std::vector<Plan> plans_;
};

struct Context {
  const DeviceFacts& device;
  ChunkPlans& plans;
  cudaStream_t stream;
};

template <int D, int G, bool kListed>
void launch_attend(Launch launch, const BatchShape& shape, const Context& context) {
  const int heads = kListed ? shape.kv_heads * shape.queries_per_kv_head : shape.kv_heads;
  const int tokens =
      kListed ? std::min(launch.most_tokens, shape.longest_context) : shape.longest_context;
  const std::size_t units =
      static_cast<std::size_t>(shape.sequences) * static_cast<std::size_t>(heads);
  launch.chunk = context.plans.chunk<D, G>(
      tokens, units, context.device.multiprocessors,
      kListed ? RowLayout<D>::tile : static_cast<int>(launch.groups.tokens));
  launch.overlaps = static_cast<double>(units) * tokens * D * 4 < 190e6;
  const GridShape grid{
      .grid = dim3(static_cast<unsigned>((tokens + launch.chunk - 1) / launch.chunk),
                   static_cast<unsigned>(heads), static_cast<unsigned>(shape.sequences)),
      .threads = kThreads<G>,
      .shared = kAttendShared<D, G, kListed>};
  launch_overlapping(attend<D, G, kListed>, grid, context.device, context.stream, launch);
}

/// All queries of a KV head, in passes of 4, 3, 2 or 1.
template <int D>
void launch_dense(Launch launch, const BatchShape& shape, const Context& context) {
  while (launch.first_query < launch.queries) {
    const int left = launch.queries - launch.first_query;
    if (left >= 4) {
      launch_attend<D, 4, false>(launch, shape, context);
      launch.first_query += 4;
    } else if (left == 3) {
      launch_attend<D, 3, false>(launch, shape, context);
      launch.first_query += 3;
    } else if (left == 2) {
      launch_attend<D, 2, false>(launch, shape, context);
      launch.first_query += 2;
    } else {
      launch_attend<D, 1, false>(launch, shape, context);
      launch.first_query += 1;
    }
  }
}

template <int D, int G, bool kListed>
void permit_shared() {
  require(cudaFuncSetAttribute(attend<D, G, kListed>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kAttendShared<D, G, kListed>),
          "cudaFuncSetAttribute");
}

/// Once: what would cost each launch a call of the driver.
template <int D>
void prepare_attend() {
  permit_shared<D, 1, false>();
  permit_shared<D, 2, false>();
  permit_shared<D, 3, false>();
  permit_shared<D, 4, false>();
  permit_shared<D, 1, true>();
}

template <typename T>
void allocate(T*& memory, std::size_t count) {
  void* taken = nullptr;
  require(cudaMalloc(&taken, std::max<std::size_t>(count, 1) * sizeof(T)), "cudaMalloc");
  memory = static_cast<T*>(taken);
}

}  // namespace

struct DecodeAttention::Buffers {
  float* partial = nullptr;
  unsigned* arrivals = nullptr;
  float* scores = nullptr;  // [query head][score_stride], if shared memory is too small
  int score_stride = 0;
  std::int32_t* tokens = nullptr;    // [query head][longest context]
  float* alpha = nullptr;            // [query head]
  std::int32_t* channels = nullptr;  // [query head][d_head]
  DeviceFacts device;
  ChunkPlans plans;
};

DecodeAttention::DecodeAttention(const PageGeometry& geometry, const BatchShape& largest)
    : geometry_(geometry), largest_(largest), buffers_(new Buffers) {
  const int d = geometry.d_head();
  if (d != 64 && d != 80 && d != 128) {
    throw std::invalid_argument("d_head: must be 64, 80 or 128, is " + std::to_string(d));
  }
  if (geometry.page_bytes() % 16 != 0) {
    throw std::invalid_argument("page_bytes: must be a multiple of 16, is " +
                                std::to_string(geometry.page_bytes()));
  }
  buffers_->device = DeviceFacts::of_current();
  const DeviceFacts& device = buffers_->device;
  prepare_selection(device);
  switch (d) {
    case 64:
      prepare_attend<64>();
      break;
    case 80:
      prepare_attend<80>();
      break;
    default:
      prepare_attend<128>();
  }
  const std::size_t units = largest.query_heads();
  // Chunks of all units: at most what chunk_of() aims at, and one more of each unit.
  const std::size_t blocks =
      static_cast<std::size_t>(device.multiprocessors) * kMostBlocks * kMostWaves + units;
  const std::size_t states = blocks * kMostQueriesAPass;
  if (!scores_fit(largest.longest_context, device)) {
    const int cluster = cluster_of(largest.longest_context, device);
    buffers_->score_stride = floats_of_block(largest.longest_context, cluster) * cluster;
  }
  allocate(buffers_->partial, states * static_cast<std::size_t>(d + 2));
  allocate(buffers_->arrivals, units);
  allocate(buffers_->scores, units * static_cast<std::size_t>(buffers_->score_stride));
  allocate(buffers_->tokens, units * static_cast<std::size_t>(largest.longest_context));
  allocate(buffers_->alpha, units);
  allocate(buffers_->channels, units * static_cast<std::size_t>(d));
  require(cudaMemset(buffers_->arrivals, 0, units * sizeof(unsigned)), "cudaMemset");
  require(cudaDeviceSynchronize(), "cudaMemset");  // the first launch may be in any stream
}

DecodeAttention::~DecodeAttention() {
  for (void* memory :
       {static_cast<void*>(buffers_->partial), static_cast<void*>(buffers_->arrivals),
        static_cast<void*>(buffers_->scores), static_cast<void*>(buffers_->tokens),
        static_cast<void*>(buffers_->alpha), static_cast<void*>(buffers_->channels)}) {
    cudaFree(memory);
  }
  delete buffers_;
}

void DecodeAttention::check_shape(const BatchShape& shape, const BatchTensors& tensors) const {
  if (shape.sequences < 1 || shape.kv_heads < 1 || shape.queries_per_kv_head < 1 ||
      shape.longest_context < 1) {
    throw std::invalid_argument("shape: all sizes must be at least 1");
  }
  if (shape.query_heads() > largest_.query_heads() ||
      shape.longest_context > largest_.longest_context) {
    throw std::invalid_argument("shape: larger than the one that memory was taken for");
  }
  if (tensors.kv.k_pages == nullptr || tensors.kv.v_pages == nullptr ||
      tensors.kv.token_table == nullptr || tensors.contexts == nullptr ||
      tensors.queries == nullptr || tensors.output == nullptr) {
    throw std::invalid_argument("tensors: a pointer is null");
  }
}

void DecodeAttention::dense(const BatchShape& shape, const BatchTensors& tensors,
                            cudaStream_t stream) {
  check_shape(shape, tensors);
  const Launch launch{.t = tensors,
                      .kv_heads = shape.kv_heads,
                      .queries = shape.queries_per_kv_head,
                      .chunk = 0,
                      .first_query = 0,
                      .page_elements = geometry_.page_elements(),
                      .overlaps = true,
                      .groups = TokenGroups(geometry_.tokens_per_group()),
                      .tokens = nullptr,
                      .token_stride = 0,
                      .most_tokens = 0,
                      .alpha = nullptr,
                      .partial = buffers_->partial,
                      .arrivals = buffers_->arrivals};
  const Context context{buffers_->device, buffers_->plans, stream};
  switch (geometry_.d_head()) {
    case 64:
      launch_dense<64>(launch, shape, context);
      break;
    case 80:
      launch_dense<80>(launch, shape, context);
      break;
    default:
      launch_dense<128>(launch, shape, context);
  }
}

void DecodeAttention::sparf(const BatchShape& shape, const BatchTensors& tensors,
                            const SparfOptions& options, std::int32_t* selected,
                            cudaStream_t stream) {
  check_shape(shape, tensors);
  const int d = geometry_.d_head();
  if (tensors.kv.channel_pages == nullptr || tensors.kv.channel_table == nullptr ||
      tensors.kv.v_bar == nullptr) {
    throw std::invalid_argument("tensors: SparF needs channel pages and v_bar");
  }
  if (options.r < 1 || options.r > d) {
    throw std::invalid_argument("r: must be in 1 .. " + std::to_string(d) + ", is " +
                                std::to_string(options.r));
  }
  if (options.k < 1 || options.local_window < 0 || options.local_window > options.k) {
    throw std::invalid_argument("k, local_window: must satisfy 0 <= local_window <= k, 1 <= k");
  }
  const SelectLaunch select{.t = tensors,
                            .kv_heads = shape.kv_heads,
                            .queries = shape.queries_per_kv_head,
                            .d_head = d,
                            .page_elements = geometry_.page_elements(),
                            .channels_per_group = geometry_.channels_per_group(),
                            .chunk_tokens = geometry_.tokens_per_channel_page(),
                            .r = options.r,
                            .k = options.k,
                            .local_window = options.local_window,
                            .scores = buffers_->scores,
                            .score_stride = buffers_->score_stride,
                            .channels = buffers_->channels,
                            .channel_stride = d,
                            .tokens = selected == nullptr ? buffers_->tokens : selected,
                            .token_stride = std::min(options.k, shape.longest_context),
                            .alpha = buffers_->alpha};
  launch_selection(select, shape, buffers_->device, stream);
  const Launch launch{.t = tensors,
                      .kv_heads = shape.kv_heads,
                      .queries = shape.queries_per_kv_head,
                      .chunk = 0,
                      .first_query = 0,
                      .page_elements = geometry_.page_elements(),
                      .overlaps = true,
                      .groups = TokenGroups(geometry_.tokens_per_group()),
                      .tokens = select.tokens,
                      .token_stride = select.token_stride,
                      .most_tokens = options.k,
                      .alpha = buffers_->alpha,
                      .partial = buffers_->partial,
                      .arrivals = buffers_->arrivals};
  const Context context{buffers_->device, buffers_->plans, stream};
  switch (d) {
    case 64:
      launch_attend<64, 1, true>(launch, shape, context);
      break;
    case 80:
      launch_attend<80, 1, true>(launch, shape, context);
      break;
    default:
      launch_attend<128, 1, true>(launch, shape, context);
  }
}

}  // namespace nearkv::kernels::cuda
