// SparF's steps 1 to 3 (kernels/api.hpp) on the device: scores of all tokens on the r largest
// channels of the query, the k largest of them, and the score mass that they hold.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/decode_attention.hpp"

namespace nearkv::kernels::cuda {

struct SelectLaunch {
  BatchTensors t;
  int kv_heads;
  int queries;  // of a KV head
  int d_head;
  int page_elements;
  int channels_per_group;
  int chunk_tokens;  // of a channel page
  int stride;        // row length of scores
  int r;
  int k;
  int local_window;
  float* scores;           // [query head][token]
  std::int32_t* channels;  // [query head][r], ascending
  std::int32_t* tokens;    // [query head][token_stride], ascending
  int token_stride;
  float* alpha;  // [query head]
};

constexpr int kSelectThreads = 1024;
constexpr int kEstimateThreads = 128;
constexpr int kTokensAThread = 8;  // one 16-byte access
constexpr int kMostChannels = 128;

struct alignas(16) Halves {
  __half2 of[4];
};

__device__ inline Halves load_halves(const std::uint16_t* at) {
  const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(at));  // read once: streaming
  Halves halves;
  __builtin_memcpy(&halves, &bits, sizeof(bits));
  return halves;
}

/// The r largest |q|, ascending; ties go to the smaller index. For blocks of at least d threads.
__device__ inline void choose_channels(const float* query, int d, int r,
                                       std::int32_t (&chosen)[kMostChannels],
                                       float (&magnitude)[kMostChannels],
                                       bool (&is_chosen)[kMostChannels]) {
  const int c = threadIdx.x;
  if (c < d) {
    magnitude[c] = fabsf(query[c]);
  }
  __syncthreads();
  if (c < d) {
    int larger = 0;
    for (int other = 0; other < d; ++other) {
      const bool before =
          magnitude[other] > magnitude[c] || (magnitude[other] == magnitude[c] && other < c);
      larger += before ? 1 : 0;
    }
    is_chosen[c] = larger < r;
  }
  __syncthreads();
  if (c < d && is_chosen[c]) {
    int place = 0;
    for (int other = 0; other < c; ++other) {
      place += is_chosen[other] ? 1 : 0;
    }
    chosen[place] = c;
  }
  __syncthreads();
}

/// Block (tokens, query head of the sequence, sequence): a thread scores 8 tokens, channel after
/// channel in ascending order, as the CPU does.
__global__ void __launch_bounds__(kEstimateThreads) estimate_scores(const SelectLaunch a) {
  __shared__ std::int32_t chosen[kMostChannels];
  __shared__ float magnitude[kMostChannels];
  __shared__ bool is_chosen[kMostChannels];
  const int context = a.t.contexts[blockIdx.z];
  const int first_of_block = static_cast<int>(blockIdx.x) * kEstimateThreads * kTokensAThread;
  if (first_of_block >= context) {
    return;
  }
  const std::size_t query_head =
      static_cast<std::size_t>(blockIdx.z) * a.kv_heads * a.queries + blockIdx.y;
  const float* query = a.t.queries + query_head * a.d_head;
  choose_channels(query, a.d_head, a.r, chosen, magnitude, is_chosen);
  if (blockIdx.x == 0 && threadIdx.x < a.r) {
    a.channels[query_head * a.d_head + threadIdx.x] = chosen[threadIdx.x];
  }
  const int token = first_of_block + static_cast<int>(threadIdx.x) * kTokensAThread;
  if (token >= context) {
    return;
  }
  const int chunk = token / a.chunk_tokens;
  const int offset = token - chunk * a.chunk_tokens;
  const int groups = a.d_head / a.channels_per_group;
  const std::size_t kv_head = query_head / a.queries;
  const std::int32_t* pages =
      a.t.kv.channel_table + (kv_head * a.t.kv.channel_chunks + chunk) * groups;
  float scores[kTokensAThread] = {};
#pragma unroll 8
  for (int i = 0; i < a.r; ++i) {
    const int channel = chosen[i];
    const int group = channel / a.channels_per_group;
    const std::size_t page = static_cast<std::size_t>(pages[group]);
    const std::uint16_t* at = a.t.kv.channel_pages + page * a.page_elements +
                              (channel - group * a.channels_per_group) * a.chunk_tokens + offset;
    const Halves k = load_halves(at);
    const float q = query[channel];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float2 pair = __half22float2(k.of[c]);
      scores[2 * c] = fmaf(q, pair.x, scores[2 * c]);  // q k is exact for FP16 values
      scores[2 * c + 1] = fmaf(q, pair.y, scores[2 * c + 1]);
    }
  }
  float* out = a.scores + query_head * a.stride + token;
#pragma unroll
  for (int i = 0; i < kTokensAThread; ++i) {
    if (token + i < context) {
      out[i] = scores[i];
    }
  }
}

/// An unsigned number with the order of the float.
__device__ inline std::uint32_t ordered_key(float score) {
  const std::uint32_t bits = __float_as_uint(score + 0.0F);  // -0 becomes +0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float score_of(std::uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}

constexpr int kWarpsOfSelect = kSelectThreads / kWarp;
constexpr int kBins = 2 * kSelectThreads;
constexpr int kMostCandidates = 512;  // compared with each other; more are sorted out by digits

struct SelectShared {
  std::uint32_t histogram[kBins];
  std::uint32_t candidates[kMostCandidates];
  std::uint32_t counts[2][kWarpsOfSelect];
  float floats[2][kWarpsOfSelect];
  std::uint32_t candidate_count;
  std::uint32_t bin;
  std::uint32_t wanted;
  std::uint32_t threshold;
};

struct Pair {
  float a;
  float b;
};

/// Both reduced over the block, the same in all threads.
template <typename Combine>
__device__ Pair block_reduce(Pair x, SelectShared& shared, Combine combine) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    x = combine(x, {__shfl_xor_sync(kAllLanes, x.a, mask), __shfl_xor_sync(kAllLanes, x.b, mask)});
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();
  if (lane == 0) {
    shared.floats[0][threadIdx.x / kWarp] = x.a;
    shared.floats[1][threadIdx.x / kWarp] = x.b;
  }
  __syncthreads();
  x = {shared.floats[0][lane], shared.floats[1][lane]};  // as many warps as lanes
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    x = combine(x, {__shfl_xor_sync(kAllLanes, x.a, mask), __shfl_xor_sync(kAllLanes, x.b, mask)});
  }
  return x;
}
static_assert(kWarpsOfSelect == kWarp);

__device__ inline Pair add(Pair x, Pair y) { return {x.a + y.a, x.b + y.b}; }

__device__ inline void clear_histogram(SelectShared& shared) {
  shared.histogram[threadIdx.x] = 0;
  shared.histogram[threadIdx.x + kSelectThreads] = 0;
  __syncthreads();
}

/// The bin of the wanted-th largest entry of the histogram; afterwards shared.bin is that bin and
/// shared.wanted how many of its entries are wanted.
__device__ inline void find_bin(SelectShared& shared) {
  __syncthreads();
  const std::uint32_t wanted = shared.wanted;
  const int upper_bin = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
  const std::uint32_t upper = shared.histogram[upper_bin];
  const std::uint32_t lower = shared.histogram[upper_bin - 1];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  std::uint32_t end = upper + lower;  // entries down to and with this thread's bins
  for (int step = 1; step < kWarp; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(kAllLanes, end, step);
    end += lane >= step ? other : 0U;
  }
  if (lane == kWarp - 1) {
    shared.counts[0][warp] = end;
  }
  __syncthreads();
  std::uint32_t before = lane < warp ? shared.counts[0][lane] : 0U;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    before += __shfl_xor_sync(kAllLanes, before, mask);
  }
  end += before;
  const std::uint32_t begin = end - upper - lower;
  if (begin < wanted && wanted <= end) {
    const bool is_upper = wanted <= begin + upper;
    shared.bin = static_cast<std::uint32_t>(is_upper ? upper_bin : upper_bin - 1);
    shared.wanted = wanted - begin - (is_upper ? 0U : upper);
  }
  __syncthreads();
}

/// The shared.wanted-th largest of all keys by digits of 11, 11 and 10 bits: whatever they are.
template <typename KeyOf>
__device__ void find_threshold_by_digits(int candidates, SelectShared& shared, KeyOf key_of) {
  std::uint32_t prefix = 0;
  for (int shift : {21, 10, 0}) {
    const int bits = shift == 0 ? 10 : 11;
    clear_histogram(shared);
    for (int t = static_cast<int>(threadIdx.x); t < candidates; t += kSelectThreads) {
      const std::uint32_t key = key_of(t);
      if (shift == 21 || key >> (shift + bits) == prefix) {
        atomicAdd(&shared.histogram[key >> shift & ((1U << bits) - 1)], 1U);
      }
    }
    find_bin(shared);
    prefix = prefix << bits | shared.bin;
  }
  if (threadIdx.x == 0) {
    shared.threshold = prefix;
  }
  __syncthreads();
}

/// The shared.wanted-th largest of the keys of tokens 0 .. candidates - 1: shared.threshold, and
/// in shared.wanted how many keys equal to it are wanted. Scores lie between `low` and `high`:
/// evenly wide bins find few candidates, which are compared with each other.
template <typename KeyOf>
__device__ void find_threshold(int candidates, float low, float high, SelectShared& shared,
                               KeyOf key_of) {
  // Rounded operations are monotone: a larger score never has a smaller bin.
  const float scale = high > low ? static_cast<float>(kBins) / (high - low) : 0.0F;
  const auto bin_of = [&](std::uint32_t key) {
    const float place = (score_of(key) - low) * scale;
    return min(static_cast<std::uint32_t>(place), static_cast<std::uint32_t>(kBins - 1));
  };
  const std::uint32_t wanted = shared.wanted;
  clear_histogram(shared);
  for (int t = static_cast<int>(threadIdx.x); t < candidates; t += kSelectThreads) {
    atomicAdd(&shared.histogram[bin_of(key_of(t))], 1U);
  }
  find_bin(shared);
  const std::uint32_t bin = shared.bin;
  if (shared.histogram[bin] > kMostCandidates) {
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.wanted = wanted;
    }
    __syncthreads();
    find_threshold_by_digits(candidates, shared, key_of);
    return;
  }
  if (threadIdx.x == 0) {
    shared.candidate_count = 0;
  }
  __syncthreads();
  for (int t = static_cast<int>(threadIdx.x); t < candidates; t += kSelectThreads) {
    const std::uint32_t key = key_of(t);
    if (bin_of(key) == bin) {
      shared.candidates[atomicAdd(&shared.candidate_count, 1U)] = key;
    }
  }
  __syncthreads();
  const std::uint32_t left = shared.wanted;
  const std::uint32_t count = shared.candidate_count;
  std::uint32_t larger = 0;
  std::uint32_t equal = 0;
  const std::uint32_t mine = threadIdx.x < count ? shared.candidates[threadIdx.x] : 0U;
  for (std::uint32_t i = 0; i < count; ++i) {
    larger += shared.candidates[i] > mine ? 1U : 0U;
    equal += shared.candidates[i] == mine ? 1U : 0U;
  }
  __syncthreads();
  if (threadIdx.x < count && larger < left && left <= larger + equal) {
    shared.threshold = mine;  // equal candidates write equal values
    shared.wanted = left - larger;
  }
  __syncthreads();
}

/// Block (query head of the sequence, sequence). Keys are kept in shared memory when they fit.
template <bool kInShared>
__global__ void __launch_bounds__(kSelectThreads) select_tokens(const SelectLaunch a) {
  extern __shared__ __align__(16) std::uint32_t keys[];
  __shared__ SelectShared shared;
  const int context = a.t.contexts[blockIdx.y];
  const std::size_t query_head =
      static_cast<std::size_t>(blockIdx.y) * a.kv_heads * a.queries + blockIdx.x;
  const float* scores = a.scores + query_head * a.stride;
  std::int32_t* tokens = a.tokens + query_head * a.token_stride;
  const auto key_of = [&](int t) { return kInShared ? keys[t] : ordered_key(__ldcg(scores + t)); };
  const int thread = static_cast<int>(threadIdx.x);

  Pair range{-INFINITY, -INFINITY};  // largest score, largest negated score
  for (int t = thread; t < context; t += kSelectThreads) {
    const float score = __ldcg(scores + t);
    if constexpr (kInShared) {
      keys[t] = ordered_key(score);
    }
    range = {fmaxf(range.a, score), fmaxf(range.b, -score)};
  }
  range = block_reduce(range, shared, [](Pair x, Pair y) {
    return Pair{fmaxf(x.a, y.a), fmaxf(x.b, y.b)};
  });

  // The temperature of s_hat.
  const float* query = a.t.queries + query_head * a.d_head;
  const std::int32_t* channels = a.channels + query_head * a.d_head;
  const Pair norm = block_reduce({thread < a.d_head ? fabsf(query[thread]) : 0.0F,
                                  thread < a.r ? fabsf(query[channels[thread]]) : 0.0F},
                                 shared, add);
  const float ratio = norm.a > 0.0F ? norm.b / norm.a : 1.0F;
  const float scale = 1.44269504088896340736F * rsqrtf(static_cast<float>(a.d_head) * ratio);

  const bool takes_all = a.k >= context;
  const int candidates = takes_all ? 0 : context - a.local_window;
  const int count = takes_all ? 0 : a.k - a.local_window;
  std::uint32_t threshold = ~0U;
  std::uint32_t ties = 0;
  if (count > 0) {
    if (thread == 0) {
      shared.wanted = static_cast<std::uint32_t>(count);
    }
    __syncthreads();
    find_threshold(candidates, -range.b, range.a, shared, key_of);
    threshold = shared.threshold;
    ties = shared.wanted;
  }

  // Each warp lists the tokens of its part; first how many there are before it.
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int part = (context + kSelectThreads - 1) / kSelectThreads * kWarp;
  const int first = warp * part;
  const int end = min(context, first + part);
  const unsigned lower = (1U << lane) - 1;
  const auto is_above = [&](int t, std::uint32_t key) {
    return t < end && (t >= candidates || (count > 0 && key > threshold));
  };
  const auto is_tie = [&](int t, std::uint32_t key) {
    return t < end && t < candidates && count > 0 && key == threshold;
  };
  std::uint32_t above = 0;
  std::uint32_t tied = 0;
  for (int start = first; start < end; start += kWarp) {
    const int t = start + lane;
    const std::uint32_t key = t < end ? key_of(t) : 0U;
    above += __popc(__ballot_sync(kAllLanes, is_above(t, key)));
    tied += __popc(__ballot_sync(kAllLanes, is_tie(t, key)));
  }
  __syncthreads();
  if (lane == 0) {
    shared.counts[0][warp] = above;
    shared.counts[1][warp] = tied;
  }
  __syncthreads();
  above = lane < warp ? shared.counts[0][lane] : 0U;
  tied = lane < warp ? shared.counts[1][lane] : 0U;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    above += __shfl_xor_sync(kAllLanes, above, mask);
    tied += __shfl_xor_sync(kAllLanes, tied, mask);
  }
  Pair mass{0.0F, 0.0F};  // of all tokens, of the chosen ones
  for (int start = first; start < end; start += kWarp) {
    const int t = start + lane;
    const std::uint32_t key = t < end ? key_of(t) : 0U;
    const unsigned above_here = __ballot_sync(kAllLanes, is_above(t, key));
    const unsigned tied_here = __ballot_sync(kAllLanes, is_tie(t, key));
    const std::uint32_t tied_before = tied + __popc(tied_here & lower);
    const bool is_chosen =
        (above_here >> lane & 1U) != 0 || ((tied_here >> lane & 1U) != 0 && tied_before < ties);
    if (is_chosen) {
      tokens[above + __popc(above_here & lower) + min(tied_before, ties)] = t;
    }
    if (t < end) {
      const float weight = exp2f((score_of(key) - range.a) * scale);
      mass.a += weight;
      mass.b += is_chosen ? weight : 0.0F;
    }
    above += __popc(above_here);
    tied += __popc(tied_here);
  }
  mass = block_reduce(mass, shared, add);
  if (thread == 0) {
    a.alpha[query_head] = takes_all ? 1.0F : mass.b / mass.a;
  }
}

inline void launch_selection(const SelectLaunch& a, const BatchShape& shape, cudaStream_t stream) {
  if (a.chunk_tokens % kTokensAThread != 0) {
    throw std::invalid_argument("geometry: a channel page must hold a multiple of 8 tokens");
  }
  const auto heads = static_cast<unsigned>(shape.kv_heads * shape.queries_per_kv_head);
  const auto sequences = static_cast<unsigned>(shape.sequences);
  const int of_block = kEstimateThreads * kTokensAThread;
  const auto blocks = static_cast<unsigned>((shape.longest_context + of_block - 1) / of_block);
  estimate_scores<<<dim3(blocks, heads, sequences), kEstimateThreads, 0, stream>>>(a);
  constexpr std::size_t kMostShared = 200U << 10U;
  const std::size_t bytes = static_cast<std::size_t>(shape.longest_context) * sizeof(std::uint32_t);
  int device = 0;
  int most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (bytes <= kMostShared && bytes + sizeof(SelectShared) <= static_cast<std::size_t>(most)) {
    cudaFuncSetAttribute(select_tokens<true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(bytes));
    select_tokens<true><<<dim3(heads, sequences), kSelectThreads, bytes, stream>>>(a);
  } else {
    select_tokens<false><<<dim3(heads, sequences), kSelectThreads, 0, stream>>>(a);
  }
}

}  // namespace nearkv::kernels::cuda
