#include <algorithm>
#include <climits>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/attend_one.cuh"
#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/device_launch.cuh"
#include "kernels/cuda/h2o.cuh"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/select.cuh"
#include "kernels/cuda/tiles.cuh"

namespace nearkv::kernels::cuda {
namespace {

// Of the kernel on tensor cores. Fewer warps than the other one's, as it needs the registers; 10
// warps and 4 blocks of 5 were slower by 1 to 5 %, 3 blocks of 8, whose registers spill, by up to
// 15 %.
constexpr int kWarps = 8;   // of a block
constexpr int kBlocks = 2;  // of a multiprocessor
constexpr int kThreads = kWarps * kWarp;
constexpr int kMostBlocks = 6;  // of a multiprocessor, of any kernel
constexpr int kMostWaves = 40;  // for which there is room for states of chunks
constexpr int kMostQueriesAPass = 8;

/// Block (chunk of tokens, unit, sequence).
template <int D, int G>
__global__ void __launch_bounds__(kThreads, kBlocks) attend(const __grid_constant__ Launch a) {
  constexpr unsigned kTileBytes = RowLayout<D>::tile_bytes;
  extern __shared__ __align__(1024) std::byte memory[];
  __shared__ QueryFragments<D> queries;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int chunk = static_cast<int>(blockIdx.x);
  wait_for_previous_grid();
  Unit unit = unit_of_block(a);
  WarpTiles<D, kWarps> tiles(a, unit, chunk * a.chunk);
  unit.total = a.source.total(unit.context, unit.index);
  const int chunks = (unit.total + a.chunk - 1) / a.chunk;
  if (chunk >= chunks) {
    return;
  }
  tiles.begin(unit, min(unit.total, (chunk + 1) * a.chunk));
  const unsigned k = shared_address(memory) + static_cast<unsigned>(warp) * 2 * kTileBytes;
  const unsigned v = k + kTileBytes;
  const int count = tiles.count();
  const auto fetch_k = [&](int i) { tiles.fetch(i, a.t.kv.k_pages, k); };
  const auto fetch_v = [&](int i) { tiles.fetch(i, a.t.kv.v_pages, v); };
  if (count > 0) {
    fetch_k(0);
    fetch_v(0);
    tiles.advance(0);
  }
  prepare_queries<D, G>(a.t.queries + unit.first_query_head * D, a.of_pass, a.scale, kWarps,
                        queries);
  WarpAttention<D, G> attention(queries);
  for (int i = 0; i < count; ++i) {
    const int rows = tiles.rows(i);
    wait_for_copies<1>();  // K is there
    __syncwarp();
    attention.score(k, rows);
    if (a.logits != nullptr) {
      attention.write_logits(rows, [&](int g, int token, float logit) {
        if (g < a.of_pass) {
          a.logits[(unit.first_query_head + g) * a.logit_stride + tiles.position(i) + token] =
              logit;
        }
      });
    }
    __syncwarp();
    if (i + 1 < count) {
      fetch_k(i + 1);
    } else {
      commit_copies();  // an empty group, so that the one before the last is V
    }
    wait_for_copies<1>();  // V is there
    __syncwarp();
    attention.accumulate(v);
    __syncwarp();
    if (i + 1 < count) {
      fetch_v(i + 1);
      tiles.advance(i + 1);
    }
  }
  if (a.overlaps) {
    let_next_grid_start();
  }
  __syncthreads();  // the tiles' memory is free for the states
  auto* states = reinterpret_cast<WarpState<D>*>(memory);
  attention.store(a.of_pass, states[warp]);
  __syncthreads();
  merge_block<D, G, kWarps>(a, states, unit, chunks);
}

// -- Launches -----------------------------------------------------------------------------------

/// How a kernel fills the device.
struct Occupancy {
  int warps;   // of a block
  int blocks;  // of a multiprocessor
  int tile;    // tokens
  bool takes_one_wave = false;
};

/// Tokens of a block. Where all blocks shall run at once: as many chunks as there is room for. Else
/// all blocks at once, or several waves of them, cost about: waves x (what a block takes from its
/// launch to its last store + its tiles).
int chunk_of(int tokens, std::size_t units, int multiprocessors, const Occupancy& occupancy) {
  // In units of the time in which the device reads one tile a resident warp, measured on an H200.
  constexpr double kLatency = 2.5;
  constexpr double kLeastTile = 0.3;  // a tile that has the memory for itself
  constexpr double kMostWavesTried = 32.0;
  const int warps = occupancy.warps;
  const double slots = static_cast<double>(occupancy.blocks) * multiprocessors;
  const int tiles = (tokens + occupancy.tile - 1) / occupancy.tile;
  if (occupancy.takes_one_wave) {
    const int chunks = std::max(1, static_cast<int>(slots / static_cast<double>(units)));
    return (tiles + chunks - 1) / chunks * occupancy.tile;
  }
  double least = INFINITY;
  int chosen = tiles;
  for (int chunks = 1; chunks <= tiles; ++chunks) {
    const int of_warp = ((tiles + chunks - 1) / chunks + warps - 1) / warps;
    const double waves = static_cast<double>(units) * chunks / slots;
    const double share = std::min(1.0, waves);
    const double rounds = waves <= 2.0 ? std::ceil(waves) : waves + 0.5;
    const double merging = chunks > 1 ? 0.5 : 0.0;
    const double cost =
        rounds * (kLatency + of_warp * std::max(share, kLeastTile)) + merging + chunks * 0.005;
    if (cost < least) {
      least = cost;
      chosen = (tiles + chunks - 1) / chunks;
    }
    if (waves > kMostWavesTried) {
      break;
    }
  }
  return chosen * occupancy.tile;
}

/// Chunks that were worked out for earlier launches: a decode step costs no search.
class ChunkPlans {
 public:
  int chunk(int tokens, std::size_t units, int multiprocessors, const Occupancy& occupancy) {
    for (const Plan& plan : plans_) {
      if (plan.tokens == tokens && plan.units == units && plan.warps == occupancy.warps &&
          plan.tile == occupancy.tile) {
        return plan.chunk;
      }
    }
    constexpr std::size_t kMostPlans = 64;
    if (plans_.size() == kMostPlans) {
      plans_.clear();
    }
    plans_.push_back({tokens, units, occupancy.warps, occupancy.tile,
                      chunk_of(tokens, units, multiprocessors, occupancy)});
    return plans_.back().chunk;
  }

 private:
  struct Plan {
    int tokens;
    std::size_t units;
    int warps;
    int tile;
    int chunk;
  };
  std::vector<Plan> plans_;
};

struct Context {
  const DeviceFacts& device;
  ChunkPlans& plans;
  int row_bytes;  // K and V of a token
  cudaStream_t stream;
};

template <int D>
constexpr int kAttendShared = kWarps* std::max(2 * RowLayout<D>::tile_bytes,
                                               static_cast<int>(sizeof(WarpState<D>)));

/// Of KV that one launch reads. Above it a grid's early blocks take the room of the last grid's
/// late ones unevenly, which costs more (up to 8 % on an H200) than it gains (1 us).
constexpr double kMostBytesOfOverlap = 190e6;

struct KernelShape {
  void (*kernel)(Launch);
  Occupancy occupancy;
  int shared;
};

void launch_chunks(const KernelShape& shape, Launch launch, const BatchShape& batch, int most,
                   const Context& context) {
  const int heads =
      launch.source.is_per_query ? batch.kv_heads * batch.queries_per_kv_head : batch.kv_heads;
  const std::size_t units =
      static_cast<std::size_t>(batch.sequences) * static_cast<std::size_t>(heads);
  launch.chunk = context.plans.chunk(most, units, context.device.multiprocessors, shape.occupancy);
  launch.overlaps = static_cast<double>(units) * most * context.row_bytes < kMostBytesOfOverlap;
  const GridShape grid{
      .grid = dim3(static_cast<unsigned>((most + launch.chunk - 1) / launch.chunk),
                   static_cast<unsigned>(heads), static_cast<unsigned>(batch.sequences)),
      .threads = shape.occupancy.warps * kWarp,
      .shared = static_cast<std::size_t>(shape.shared)};
  launch_overlapping(shape.kernel, grid, context.device, context.stream, launch);
}

/// One query a KV head: blocks of 8 warps where there is little to read (8 % faster at batch 4 and
/// 512 tokens), else of 4 (2 to 3 % faster at batch 16).
template <int D>
KernelShape one_query_shape(std::size_t units, int most, const Context& context) {
  constexpr int kTokens = OneQueryLayout<D>::tile;
  constexpr double kLittle = 90e6;  // bytes of KV
  if (static_cast<double>(units) * most * context.row_bytes < kLittle) {
    return {attend_one<D, 8>, {8, kOneQueryBlocks<8>, kTokens}, kOneQueryShared<D, 8>};
  }
  return {attend_one<D, 4>, {4, kOneQueryBlocks<4>, kTokens, true}, kOneQueryShared<D, 4>};
}

/// Whether attend_one can be used; it is the faster kernel then, or as fast.
template <int D>
bool takes_one_query(const Launch& launch, const DeviceFacts& device) {
  constexpr int kTokens = OneQueryLayout<D>::tile;
  const bool is_in_order = launch.source.is_whole && launch.source.first_token % kTokens == 0 &&
                           static_cast<int>(launch.groups.tokens) % kTokens == 0;
  return launch.queries == 1 && is_in_order && device.is_hopper;
}

/// All queries of each unit, in passes. `most`: tokens of a unit.
template <int D>
void launch_attend(Launch launch, const BatchShape& shape, int most, const Context& context) {
  const int queries = launch.source.is_per_query ? 1 : launch.queries;
  if constexpr (D != 80) {  // whose pages are not whole tiles
    const std::size_t units =
        static_cast<std::size_t>(shape.sequences) * static_cast<std::size_t>(shape.kv_heads);
    if (takes_one_query<D>(launch, context.device)) {
      launch.of_pass = 1;
      return launch_chunks(one_query_shape<D>(units, most, context), launch, shape, most, context);
    }
  }
  for (launch.first_query = 0; launch.first_query < queries; launch.first_query += launch.of_pass) {
    launch.of_pass = std::min(queries - launch.first_query, kMostQueriesAPass);
    const auto kernel = launch.of_pass <= 4 ? attend<D, 4> : attend<D, 8>;
    launch_chunks({kernel, {kWarps, kBlocks, kTile}, kAttendShared<D>}, launch, shape, most,
                  context);
  }
}

void permit_shared(void (*kernel)(Launch), int bytes) {
  require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "cudaFuncSetAttribute");
}

/// Once: what would cost each launch a call of the driver.
template <int D>
void prepare_attend(const DeviceFacts& device) {
  permit_shared(attend<D, 4>, kAttendShared<D>);
  permit_shared(attend<D, 8>, kAttendShared<D>);
  if constexpr (D != 80) {
    if (device.is_hopper) {
      permit_shared(attend_one<D, 4>, kOneQueryShared<D, 4>);
      permit_shared(attend_one<D, 8>, kOneQueryShared<D, 8>);
    }
  }
}

/// Calls body.template operator()<D>() for the head size.
template <typename Body>
void for_head_size(int d_head, Body body) {
  switch (d_head) {
    case 64:
      return body.template operator()<64>();
    case 80:
      return body.template operator()<80>();
    default:
      return body.template operator()<128>();
  }
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
  std::int32_t* channels = nullptr;  // [query head][d_head]
  float* alpha = nullptr;            // [query head]
  float* logits = nullptr;           // [query head][logit_stride], for H2O
  float* max = nullptr;              // [query head]
  float* sum = nullptr;              // likewise
  DeviceFacts device;
  ChunkPlans plans;
};

struct DecodeAttention::Extras {
  const float* alpha = nullptr;
  float* logits = nullptr;
  int logit_stride = 0;
};

DecodeAttention::DecodeAttention(const PageGeometry& geometry, const BatchShape& largest,
                                 const KernelOptions& options)
    : geometry_(geometry), largest_(largest), options_(options), buffers_(new Buffers) {
  try {
    prepare();
  } catch (...) {
    release();
    throw;
  }
}

void DecodeAttention::prepare() {
  const int d = geometry_.d_head();
  if (d != 64 && d != 80 && d != 128) {
    throw std::invalid_argument("d_head: must be 64, 80 or 128, is " + std::to_string(d));
  }
  if (geometry_.page_bytes() % 16 != 0) {
    throw std::invalid_argument("page_bytes: must be a multiple of 16, is " +
                                std::to_string(geometry_.page_bytes()));
  }
  check_sizes(largest_);
  Buffers& b = *buffers_;
  b.device = DeviceFacts::of_current();
  prepare_selection(b.device);
  for_head_size(d, [&]<int D>() { prepare_attend<D>(b.device); });
  const std::size_t units = largest_.query_heads();
  // Chunks of all units: at most what chunk_of() aims at, and one more of each unit.
  const std::size_t blocks =
      static_cast<std::size_t>(b.device.multiprocessors) * kMostBlocks * kMostWaves + units;
  const std::size_t states = blocks * kMostQueriesAPass;
  if (!scores_fit(largest_.longest_context, b.device)) {
    const int cluster = cluster_of(largest_.longest_context, b.device);
    b.score_stride = floats_of_block(largest_.longest_context, cluster) * cluster;
  }
  allocate(b.partial, states * static_cast<std::size_t>(d + 2));
  allocate(b.arrivals, units);
  allocate(b.scores, units * static_cast<std::size_t>(b.score_stride));
  if (options_.selects) {
    allocate(b.tokens, units * static_cast<std::size_t>(largest_.longest_context));
    allocate(b.channels, units * static_cast<std::size_t>(d));
    allocate(b.alpha, units);
  }
  allocate(b.logits, units * static_cast<std::size_t>(options_.most_kept));
  allocate(b.max, units);
  allocate(b.sum, units);
  require(cudaMemset(b.arrivals, 0, units * sizeof(unsigned)), "cudaMemset");
  require(cudaDeviceSynchronize(), "cudaMemset");  // the first launch may be in any stream
}

void DecodeAttention::release() {
  for (void* memory : {static_cast<void*>(buffers_->partial),
                       static_cast<void*>(buffers_->arrivals), static_cast<void*>(buffers_->scores),
                       static_cast<void*>(buffers_->tokens), static_cast<void*>(buffers_->channels),
                       static_cast<void*>(buffers_->alpha), static_cast<void*>(buffers_->logits),
                       static_cast<void*>(buffers_->max), static_cast<void*>(buffers_->sum)}) {
    cudaFree(memory);
  }
  delete buffers_;
}

DecodeAttention::~DecodeAttention() { release(); }

void DecodeAttention::check_sizes(const BatchShape& shape) {
  if (shape.sequences < 1 || shape.kv_heads < 1 || shape.queries_per_kv_head < 1 ||
      shape.longest_context < 1) {
    throw std::invalid_argument("shape: all sizes must be at least 1");
  }
  constexpr int kMostGrid = 65535;
  if (shape.sequences > kMostGrid || shape.kv_heads > kMostGrid / shape.queries_per_kv_head) {
    throw std::invalid_argument("shape: sequences and query heads of a sequence must be at most " +
                                std::to_string(kMostGrid));
  }
}

void DecodeAttention::check_shape(const BatchShape& shape, const BatchTensors& tensors) const {
  check_sizes(shape);
  if (shape.query_heads() > largest_.query_heads() ||
      shape.longest_context > largest_.longest_context) {
    throw std::invalid_argument("shape: larger than the one that memory was taken for");
  }
  if (tensors.kv.k_pages == nullptr || tensors.kv.v_pages == nullptr ||
      tensors.kv.token_table == nullptr || tensors.contexts == nullptr ||
      tensors.queries == nullptr || tensors.output == nullptr) {
    throw std::invalid_argument("tensors: a pointer is null");
  }
  if ((tensors.max == nullptr) != (tensors.sum == nullptr)) {
    throw std::invalid_argument("tensors: max and sum go together");
  }
}

namespace {

void require_range(const char* name, int value, int least, int most) {
  if (value < least || value > most) {
    throw std::invalid_argument(std::string(name) + ": must be in " + std::to_string(least) +
                                " .. " + std::to_string(most) + ", is " + std::to_string(value));
  }
}

}  // namespace

void DecodeAttention::attend(const BatchShape& shape, const BatchTensors& tensors,
                             const Method& method, cudaStream_t stream) {
  check_shape(shape, tensors);
  if (const auto* sparq = std::get_if<SparqOptions>(&method)) {
    attend_selected(shape, tensors, *sparq, stream);
  } else if (const auto* sparf = std::get_if<SparfOptions>(&method)) {
    attend_selected(shape, tensors, *sparf, stream);  // they differ in what a drive reads
  } else if (const auto* h2o = std::get_if<H2oOptions>(&method)) {
    attend_kept(shape, tensors, *h2o, stream);
  } else if (const auto* dense = std::get_if<DenseOptions>(&method)) {
    require_range("first_token", dense->first_token, 0, shape.longest_context - 1);
    run({shape, tensors, stream},
        {.first_token = dense->first_token, .sinks = 0, .most = INT_MAX, .is_whole = true},
        shape.longest_context - dense->first_token, {});
  } else {
    StreamingOptions options{};
    if (const auto* streaming = std::get_if<StreamingOptions>(&method)) {
      options = *streaming;
    } else {
      options.window = std::get<WindowOptions>(method).window;
    }
    require_range("sinks", options.sinks, 0, INT_MAX);
    require_range("window", options.window, 1, INT_MAX);
    const int most = static_cast<int>(std::min<std::int64_t>(
        std::int64_t{options.sinks} + options.window, shape.longest_context));
    run({shape, tensors, stream}, {.first_token = 0, .sinks = options.sinks, .most = most}, most,
        {});
  }
}

void DecodeAttention::run(const Batch& batch, const TokenSource& source, int most,
                          const Extras& extras) {
  const Launch launch{.t = batch.tensors,
                      .source = source,
                      .groups = TokenGroups(geometry_.tokens_per_group()),
                      .page_elements = geometry_.page_elements(),
                      .queries = batch.shape.queries_per_kv_head,
                      .first_query = 0,
                      .of_pass = 0,
                      .chunk = 0,
                      .scale = scale(),
                      .overlaps = false,
                      .alpha = extras.alpha,
                      .logits = extras.logits,
                      .logit_stride = extras.logit_stride,
                      .partial = buffers_->partial,
                      .arrivals = buffers_->arrivals};
  const Context context{buffers_->device, buffers_->plans,
                        2 * geometry_.d_head() * PageGeometry::element_bytes, batch.stream};
  for_head_size(geometry_.d_head(),
                [&]<int D>() { launch_attend<D>(launch, batch.shape, most, context); });
}

float DecodeAttention::scale() const {
  const int channels = options_.channels == 0 ? geometry_.d_head() : options_.channels;
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
}

void DecodeAttention::attend_selected(const BatchShape& shape, const BatchTensors& tensors,
                                      const SelectOptions& options, cudaStream_t stream) {
  const int d = geometry_.d_head();
  if (!options_.selects) {
    throw std::invalid_argument("method: no memory was taken for SparQ and SparF (selects)");
  }
  if (tensors.kv.channel_pages == nullptr || tensors.kv.channel_table == nullptr ||
      tensors.kv.v_bar == nullptr) {
    throw std::invalid_argument("tensors: SparQ and SparF need channel pages and v_bar");
  }
  require_range("r", options.r, 1, d);
  require_range("k", options.k, 1, INT_MAX);
  require_range("local_window", options.local_window, 0, options.k);
  const int most = std::min(options.k, shape.longest_context);
  SelectLaunch select{};
  select.t = tensors;
  select.kv_heads = shape.kv_heads;
  select.queries = shape.queries_per_kv_head;
  select.d_head = d;
  select.page_elements = geometry_.page_elements();
  select.channels_per_group = geometry_.channels_per_group();
  select.chunk_tokens = geometry_.tokens_per_channel_page();
  select.r = options.r;
  select.k = options.k;
  select.local_window = options.local_window;
  select.scale = scale();
  select.scores = buffers_->scores;
  select.score_stride = buffers_->score_stride;
  select.channels = tensors.channels == nullptr ? buffers_->channels : tensors.channels;
  select.tokens = tensors.tokens == nullptr ? buffers_->tokens : tensors.tokens;
  select.channel_stride = d;
  select.token_stride = most;
  select.alpha = tensors.alpha == nullptr ? buffers_->alpha : tensors.alpha;
  launch_selection(select, shape, buffers_->device, stream);
  run({shape, tensors, stream},
      {.first_token = 0,
       .sinks = 0,
       .most = options.k,
       .list = select.tokens,
       .stride = most,
       .is_per_query = true},
      most, {.alpha = select.alpha});
}

void DecodeAttention::attend_kept(const BatchShape& shape, const BatchTensors& tensors,
                                  const H2oOptions& options, cudaStream_t stream) {
  require_range("heavy", options.heavy, 0, INT_MAX / 2);
  require_range("recent", options.recent, 1, INT_MAX / 2);
  const H2oState& state = tensors.h2o;
  if (state.tokens == nullptr || state.mass == nullptr || state.counts == nullptr) {
    throw std::invalid_argument("tensors: H2O needs tokens, mass and counts");
  }
  require_range("h2o.stride", state.stride, options.heavy + options.recent + 1, options_.most_kept);
  BatchTensors with_state = tensors;
  if (tensors.max == nullptr) {
    with_state.max = buffers_->max;
    with_state.sum = buffers_->sum;
  }
  const int most = std::min(options.heavy + options.recent + 1, shape.longest_context);
  run({shape, with_state, stream},
      {.first_token = 0,
       .sinks = 0,
       .most = most,
       .list = state.tokens,
       .stride = state.stride,
       .counts = state.counts},
      most, {.logits = buffers_->logits, .logit_stride = options_.most_kept});
  const H2oLaunch step{.t = with_state,
                       .queries = shape.queries_per_kv_head,
                       .heavy = options.heavy,
                       .recent = options.recent,
                       .logits = buffers_->logits,
                       .logit_stride = options_.most_kept};
  launch_h2o(step, shape, buffers_->device, stream);
}

}  // namespace nearkv::kernels::cuda
