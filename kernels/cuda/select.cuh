// SparF's steps 1 to 3 (kernels/api.hpp) on the device, in one kernel: scores of all tokens on the
// r largest channels of the query, the k largest of them, and the score mass that they hold.
//
// A cluster of blocks works on one query head, each block on its part of the tokens; the scores
// stay in shared memory. Each block finds the head's threshold for itself, from the counts and the
// few candidates of all blocks.
//
// At batch 1, 40 heads, 32 K tokens on an H200 this kernel takes 29 us of SparF's 50. The first
// version of it took 58: 7 us were instructions of each warp (marks of 32 tokens in a word instead
// of a second look at all scores), 22 were loads that waited for each other: a load under a
// condition is waited for where its value is merged, so all loads here are unconditional, of
// clamped places. Blocks read counts of other blocks slowly: 512 bins, not 2048.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/device_launch.cuh"

namespace nearkv::kernels::cuda {

struct SelectLaunch {
  BatchTensors t;
  int kv_heads;
  int queries;  // of a KV head
  int d_head;
  int page_elements;
  int channels_per_group;
  int chunk_tokens;  // of a channel page
  int r;
  int k;
  int local_window;
  float scale;    // 1 / sqrt(d)
  float* scores;  // [query head][score_stride], where they do not fit into shared memory
  int score_stride;
  std::int32_t* channels;  // [query head][channel_stride], ascending
  int channel_stride;
  std::int32_t* tokens;  // [query head][token_stride], ascending
  int token_stride;
  float* alpha;  // [query head]
};

constexpr int kSelectThreads = 256;
constexpr int kSelectBlocks = 4;  // of a multiprocessor
constexpr int kSelectWarps = kSelectThreads / kWarp;
constexpr int kMostCluster = 8;    // blocks of a cluster that every device with clusters has
constexpr int kTokensAThread = 8;  // one 16-byte access
constexpr int kTokensAWarp = kWarp * kTokensAThread;
constexpr int kMostChannels = 128;
constexpr int kBinsAThread = 2;
constexpr int kBins = kBinsAThread * kSelectThreads;
constexpr int kMostCandidates = 1024;  // compared with each other; more are sorted out by digits

/// What the parts of a cluster know of themselves.
struct PartFacts {
  float range[2];           // largest score, largest negated score
  float mass[2];            // of all tokens, of those above the threshold
  std::uint32_t counts[2];  // tokens above the threshold, at it
};

struct SelectShared {
  // Read by the other blocks of the cluster.
  std::uint32_t histogram[kBins];
  float candidates[kMostCandidates];
  std::uint32_t candidate_count;
  // Written by the other blocks of the cluster.
  PartFacts parts[kMostCluster];
  // This block's own.
  float gathered[kMostCandidates];
  std::uint32_t warp_counts[2][kSelectWarps];
  float warp_floats[2][kSelectWarps];
  alignas(16) int magnitude[kMostChannels];
  // Of the chosen channels, ascending:
  std::int32_t group[kMostChannels];
  std::int32_t offset[kMostChannels];  // of the first token in the group's page
  float query[kMostChannels];
  float threshold;
  std::uint32_t ties;
  std::uint32_t bin;
  std::uint32_t bin_count;
  std::uint32_t wanted;
};

struct alignas(16) Halves {
  __half2 of[4];
};

__device__ inline Halves load_halves(const std::uint16_t* at) {
  const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(at));  // read once: streaming
  Halves halves;
  __builtin_memcpy(&halves, &bits, sizeof(bits));
  return halves;
}

/// An unsigned number with the order of the float.
__device__ inline std::uint32_t ordered_key(float score) {
  const std::uint32_t bits = __float_as_uint(score + 0.0F);  // -0 becomes +0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float score_of_key(std::uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}

struct Pair {
  float a;
  float b;
};
__device__ inline Pair add(Pair x, Pair y) { return {x.a + y.a, x.b + y.b}; }
__device__ inline Pair larger(Pair x, Pair y) { return {fmaxf(x.a, y.a), fmaxf(x.b, y.b)}; }

template <typename Combine>
__device__ Pair warp_reduce(Pair x, Combine combine) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    x = combine(x, {__shfl_xor_sync(kAllLanes, x.a, mask), __shfl_xor_sync(kAllLanes, x.b, mask)});
  }
  return x;
}

/// Selection of one block; all of its functions are called by all threads of the cluster.
class Selection {
 public:
  /// `scores` has room for the block's part, `masks` for two words of 32 tokens of it.
  __device__ Selection(const SelectLaunch& launch, SelectShared& shared, float* scores,
                       uint2* masks)
      : a_(launch),
        shared_(shared),
        scores_(scores),
        masks_(masks),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % kWarp),
        warp_(thread_ / kWarp),
        query_head_(static_cast<std::size_t>(blockIdx.z) * gridDim.y + blockIdx.y),
        context_(launch.t.contexts[blockIdx.z]) {
    const int of_cluster = static_cast<int>(cluster_size()) * kTokensAWarp;
    const int part = (context_ + of_cluster - 1) / of_cluster * kTokensAWarp;
    first_ = static_cast<int>(cluster_rank()) * part;
    count_ = max(0, min(context_ - first_, part));
    const bool takes_all = a_.k >= context_;
    candidates_ = takes_all ? 0 : context_ - a_.local_window;
    wanted_ = takes_all ? 0 : a_.k - a_.local_window;
  }

  /// The r largest |q|, ascending; ties go to the smaller index. Two threads a channel.
  __device__ void choose_channels() {
    static_assert(kSelectThreads == 2 * kMostChannels);
    constexpr int kHalf = kMostChannels / 2;
    const float* query = a_.t.queries + query_head_ * a_.d_head;
    const int channel = thread_ / 2;
    const float value = channel < a_.d_head ? query[channel] : 0.0F;
    // Magnitudes as integers: of the same order; channels that are not there come last.
    const int magnitude =
        channel < a_.d_head ? static_cast<int>(__float_as_uint(fabsf(value))) : -1;
    if (thread_ % 2 == 0) {
      shared_.magnitude[channel] = magnitude;
    }
    __syncthreads();
    int before = 0;
    const int begin = thread_ % 2 * kHalf;
#pragma unroll 4
    for (int i = 0; i < kHalf; i += 4) {
      const int other = begin + i;
      const int4 four = *reinterpret_cast<const int4*>(shared_.magnitude + other);
      before += four.x + (other < channel ? 1 : 0) > magnitude ? 1 : 0;
      before += four.y + (other + 1 < channel ? 1 : 0) > magnitude ? 1 : 0;
      before += four.z + (other + 2 < channel ? 1 : 0) > magnitude ? 1 : 0;
      before += four.w + (other + 3 < channel ? 1 : 0) > magnitude ? 1 : 0;
    }
    before += __shfl_xor_sync(kAllLanes, before, 1);
    const bool is_chosen = thread_ % 2 == 0 && channel < a_.d_head && before < a_.r;
    const unsigned chosen = __ballot_sync(kAllLanes, is_chosen);
    const Pair norm =
        warp_reduce({thread_ % 2 == 0 ? fabsf(value) : 0.0F, is_chosen ? fabsf(value) : 0.0F}, add);
    if (lane_ == 0) {
      shared_.warp_counts[0][warp_] = __popc(chosen);
      shared_.warp_floats[0][warp_] = norm.a;
      shared_.warp_floats[1][warp_] = norm.b;
    }
    __syncthreads();
    if (is_chosen) {
      int place = __popc(chosen & ((1U << lane_) - 1));
      for (int w = 0; w < warp_; ++w) {
        place += static_cast<int>(shared_.warp_counts[0][w]);
      }
      const int group = channel / a_.channels_per_group;
      shared_.group[place] = group;
      shared_.offset[place] = (channel - group * a_.channels_per_group) * a_.chunk_tokens;
      shared_.query[place] = value;
      if (cluster_rank() == 0) {
        a_.channels[query_head_ * a_.channel_stride + place] = channel;
      }
    }
    Pair whole{0.0F, 0.0F};
#pragma unroll
    for (int w = 0; w < kSelectWarps; ++w) {
      whole = add(whole, {shared_.warp_floats[0][w], shared_.warp_floats[1][w]});
    }
    const float ratio = whole.a > 0.0F ? whole.b / whole.a : 1.0F;
    scale_ = kLog2e * a_.scale * rsqrtf(ratio);
    __syncthreads();
  }

  /// Scores of the block's tokens, 8 a thread, channel after channel in ascending order as the CPU
  /// does; and the range of all scores of the head.
  __device__ void score() {
    const bool is_even = a_.chunk_tokens % kTokensAWarp == 0;
    Pair range{-INFINITY, -INFINITY};
    for (int t = thread_ * kTokensAThread; t < count_ + lane_ * kTokensAThread;
         t += kSelectThreads * kTokensAThread) {
      float scores[kTokensAThread] = {};
      if (is_even) {
        score_tokens_of_warp(first_ + t, scores);
      } else if (t < count_) {
        score_tokens(first_ + t, scores);
      }
#pragma unroll
      for (int i = 0; i < kTokensAThread; ++i) {
        scores[i] = fmaxf(scores[i], -INFINITY);  // NaN has no order: it must not reach a count
        if (t + i < count_) {
          range = larger(range, {scores[i], -scores[i]});
        }
      }
      auto* to = reinterpret_cast<float4*>(scores_ + t);
      to[0] = {scores[0], scores[1], scores[2], scores[3]};
      to[1] = {scores[4], scores[5], scores[6], scores[7]};
    }
    range = block_reduce(range, larger);
    cluster_wait();  // all of its blocks have begun: their memory may be written
    if (thread_ < static_cast<int>(cluster_size())) {
      float* there = in_block(shared_.parts[cluster_rank()].range, threadIdx.x);
      there[0] = range.a;
      there[1] = range.b;
    }
    cluster_sync();
    range = {-INFINITY, -INFINITY};
    for (unsigned rank = 0; rank < cluster_size(); ++rank) {
      range = larger(range, {shared_.parts[rank].range[0], shared_.parts[rank].range[1]});
    }
    high_ = range.a;
    low_ = -range.b;
  }

  /// The wanted-th largest score of the candidates: threshold_, and in ties_ how many scores equal
  /// to it are wanted. Evenly wide bins between the lowest and the highest score find few that have
  /// to be compared with each other.
  __device__ void find_threshold() {
    if (wanted_ == 0) {
      return;
    }
    // Rounded operations are monotone: a larger score never has a smaller bin.
    const float scale = high_ > low_ ? static_cast<float>(kBins) / (high_ - low_) : 0.0F;
    const auto bin_of = [&](float score) {
      const float place = (score - low_) * scale;
      return min(static_cast<std::uint32_t>(place), static_cast<std::uint32_t>(kBins - 1));
    };
    clear_histogram();
    const int count = min(count_, candidates_ - first_);
#pragma unroll 4
    for (int t = thread_; t < count; t += kSelectThreads) {
      atomicAdd(&shared_.histogram[bin_of(scores_[t])], 1U);
    }
    find_bin(static_cast<std::uint32_t>(wanted_));
    if (shared_.bin_count > kMostCandidates) {
      find_threshold_by_digits(count);
      return;
    }
    const std::uint32_t bin = shared_.bin;
#pragma unroll 4
    for (int t = thread_; t < count; t += kSelectThreads) {
      const float score = scores_[t];
      if (bin_of(score) == bin) {
        shared_.candidates[atomicAdd(&shared_.candidate_count, 1U)] = score;
      }
    }
    cluster_sync();
    choose_among_candidates();
  }

  /// Writes the chosen tokens, ascending, and the score mass that they hold.
  __device__ void list_tokens() {
    mark_tokens();
    cluster_sync();
    write_tokens();
    if (cluster_rank() == 0 && thread_ == 0) {
      Pair whole{0.0F, 0.0F};
      for (unsigned rank = 0; rank < cluster_size(); ++rank) {
        whole = add(whole, {shared_.parts[rank].mass[0], shared_.parts[rank].mass[1]});
      }
      // Equal scores have equal weights.
      const float chosen =
          whole.b + (ties_ > 0 ? static_cast<float>(ties_) * weight_of(threshold_) : 0.0F);
      a_.alpha[query_head_] = a_.k >= context_ ? 1.0F : chosen / whole.a;
    }
  }

 private:
  template <typename Combine>
  __device__ Pair block_reduce(Pair x, Combine combine) {
    x = warp_reduce(x, combine);
    __syncthreads();
    if (lane_ == 0) {
      shared_.warp_floats[0][warp_] = x.a;
      shared_.warp_floats[1][warp_] = x.b;
    }
    __syncthreads();
    x = {shared_.warp_floats[0][0], shared_.warp_floats[1][0]};
#pragma unroll
    for (int w = 1; w < kSelectWarps; ++w) {
      x = combine(x, {shared_.warp_floats[0][w], shared_.warp_floats[1][w]});
    }
    return x;
  }

  static __device__ void add_channel(float q, const Halves& k, float (&scores)[kTokensAThread]) {
#pragma unroll
    for (int c = 0; c < kTokensAThread / 2; ++c) {
      const float2 pair = __half22float2(k.of[c]);
      scores[2 * c] = fmaf(q, pair.x, scores[2 * c]);  // q k is exact for FP16 values
      scores[2 * c + 1] = fmaf(q, pair.y, scores[2 * c + 1]);
    }
  }

  [[nodiscard]] __device__ const std::int32_t* pages_of_chunk(int chunk) const {
    const int groups = a_.d_head / a_.channels_per_group;
    const std::size_t kv_head = query_head_ / a_.queries;
    return a_.t.kv.channel_table + (kv_head * a_.t.kv.channel_chunks + chunk) * groups;
  }

  /// Where the warp's tokens are in one chunk: each lane reads the place of a channel. Places count
  /// in vectors of 8 halves, so that 32 bits reach 64 GiB.
  __device__ void score_tokens_of_warp(int token, float (&scores)[kTokensAThread]) const {
    constexpr int kBatch = 8;  // loads on their way together
    const int first = token - lane_ * kTokensAThread;
    const int chunk = first / a_.chunk_tokens;
    const std::int32_t* pages = pages_of_chunk(chunk);
    const auto* vectors = reinterpret_cast<const uint4*>(a_.t.kv.channel_pages);
    const std::uint32_t in_chunk =
        static_cast<std::uint32_t>(token - chunk * a_.chunk_tokens) / kTokensAThread;
    for (int begin = 0; begin < a_.r; begin += kWarp) {
      const int end = min(a_.r - begin, kWarp);
      const int mine = begin + min(lane_, end - 1);
      const std::uint32_t place = static_cast<std::uint32_t>(pages[shared_.group[mine]]) *
                                      (a_.page_elements / kTokensAThread) +
                                  static_cast<std::uint32_t>(shared_.offset[mine]) / kTokensAThread;
      for (int i = 0; i < end; i += kBatch) {
        uint4 bits[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          const std::uint32_t at = __shfl_sync(kAllLanes, place, min(i + b, end - 1)) + in_chunk;
          bits[b] = __ldcs(vectors + at);  // read once: streaming
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if (i + b < end) {
            Halves k;
            __builtin_memcpy(&k, &bits[b], sizeof(k));
            add_channel(shared_.query[begin + i + b], k, scores);
          }
        }
      }
    }
  }

  /// Anywhere else.
  __device__ void score_tokens(int token, float (&scores)[kTokensAThread]) const {
    const int chunk = token / a_.chunk_tokens;
    const std::int32_t* pages = pages_of_chunk(chunk);
    const int offset = token - chunk * a_.chunk_tokens;
#pragma unroll 4
    for (int i = 0; i < a_.r; ++i) {
      const std::size_t page = static_cast<std::size_t>(pages[shared_.group[i]]);
      const Halves k =
          load_halves(a_.t.kv.channel_pages + page * a_.page_elements + shared_.offset[i] + offset);
      add_channel(shared_.query[i], k, scores);
    }
  }

  __device__ void clear_histogram() {
#pragma unroll
    for (int i = 0; i < kBinsAThread; ++i) {
      shared_.histogram[thread_ + i * kSelectThreads] = 0;
    }
    if (thread_ == 0) {
      shared_.candidate_count = 0;
    }
    __syncthreads();
  }

  /// The bin of the wanted-th largest entry of the cluster's histograms: shared.bin, its entries
  /// shared.bin_count, and shared.wanted of them are wanted. Each block finds it for itself.
  __device__ void find_bin(std::uint32_t wanted) {
    cluster_sync();
    const int last = kBins - kBinsAThread * (thread_ + 1);  // thread 0 has the highest bins
    uint2 remote[kMostCluster];
#pragma unroll
    for (unsigned rank = 0; rank < kMostCluster; ++rank) {
      const unsigned there = min(rank, cluster_size() - 1);
      remote[rank] = *reinterpret_cast<const uint2*>(in_block(shared_.histogram, there) + last);
    }
    std::uint32_t bins[kBinsAThread] = {};
#pragma unroll
    for (unsigned rank = 0; rank < kMostCluster; ++rank) {
      bins[0] += rank < cluster_size() ? remote[rank].y : 0U;
      bins[1] += rank < cluster_size() ? remote[rank].x : 0U;
    }
    static_assert(kBinsAThread == 2);
    std::uint32_t mine = 0;
#pragma unroll
    for (const std::uint32_t bin : bins) {
      mine += bin;
    }
    std::uint32_t begin = entries_before(mine);
    if (begin < wanted && wanted <= begin + mine) {
#pragma unroll
      for (int i = 0; i < kBinsAThread; ++i) {
        if (begin < wanted && wanted <= begin + bins[i]) {
          shared_.bin = static_cast<std::uint32_t>(last + kBinsAThread - 1 - i);
          shared_.bin_count = bins[i];
          shared_.wanted = wanted - begin;
        }
        begin += bins[i];
      }
    }
    __syncthreads();
  }

  /// Sum of `mine` over the threads before this one.
  __device__ std::uint32_t entries_before(std::uint32_t mine) {
    std::uint32_t end = mine;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const std::uint32_t other = __shfl_up_sync(kAllLanes, end, step);
      end += lane_ >= step ? other : 0U;
    }
    __syncthreads();
    if (lane_ == kWarp - 1) {
      shared_.warp_counts[0][warp_] = end;
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kSelectWarps; ++w) {
      end += w < warp_ ? shared_.warp_counts[0][w] : 0U;
    }
    return end - mine;
  }

  /// The wanted-th largest score by digits of 8 bits: whatever the scores are.
  __device__ void find_threshold_by_digits(int count) {
    std::uint32_t prefix = 0;
    auto wanted = static_cast<std::uint32_t>(wanted_);
    for (int shift = 24; shift >= 0; shift -= 8) {
      cluster_sync();  // the histograms have been read
      clear_histogram();
      for (int t = thread_; t < count; t += kSelectThreads) {
        const std::uint32_t key = ordered_key(scores_[t]);
        if (shift == 24 || key >> (shift + 8) == prefix) {
          atomicAdd(&shared_.histogram[key >> shift & 0xffU], 1U);
        }
      }
      find_bin(wanted);
      prefix = prefix << 8U | shared_.bin;
      wanted = shared_.wanted;
    }
    threshold_ = score_of_key(prefix);
    ties_ = wanted;
  }

  /// Each block compares all candidates of the cluster.
  __device__ void choose_among_candidates() {
    std::uint32_t counts[kMostCluster];
#pragma unroll
    for (unsigned rank = 0; rank < kMostCluster; ++rank) {
      counts[rank] = rank < cluster_size() ? *in_block(&shared_.candidate_count, rank) : 0U;
    }
    std::uint32_t total = 0;
#pragma unroll
    for (unsigned rank = 0; rank < kMostCluster; ++rank) {
      if (rank % kSelectWarps == static_cast<unsigned>(warp_)) {
        const float* remote = in_block(shared_.candidates, rank);
        for (std::uint32_t i = lane_; i < counts[rank]; i += kWarp) {
          shared_.gathered[total + i] = remote[i];
        }
      }
      total += counts[rank];
    }
    __syncthreads();
    const std::uint32_t wanted = shared_.wanted;
    for (std::uint32_t c = threadIdx.x; c < total; c += kSelectThreads) {
      const float mine = shared_.gathered[c];
      std::uint32_t larger_ones = 0;
      std::uint32_t equal = 0;
      for (std::uint32_t i = 0; i < total; ++i) {
        larger_ones += shared_.gathered[i] > mine ? 1U : 0U;
        equal += shared_.gathered[i] == mine ? 1U : 0U;
      }
      if (larger_ones < wanted && wanted <= larger_ones + equal) {
        shared_.threshold = mine;  // equal candidates write equal values
        shared_.ties = wanted - larger_ones;
      }
    }
    __syncthreads();
    threshold_ = shared_.threshold;
    ties_ = shared_.ties;
  }

  [[nodiscard]] __device__ float weight_of(float score) const {
    return exp2f((score - high_) * scale_);
  }

  /// A bit a token that is above the threshold, and one that is at it; tells the cluster how many
  /// there are and what mass the block has.
  __device__ void mark_tokens() {
    const int candidates = candidates_ - first_;  // of this part
    const bool compares = wanted_ > 0;
    Pair mass{0.0F, 0.0F};
#pragma unroll 4
    for (int t = thread_; t < count_ + lane_; t += kSelectThreads) {
      const bool exists = t < count_;
      const float score = exists ? scores_[t] : -INFINITY;
      const bool competes = t < candidates;
      const bool is_above = exists && (!competes || (compares && score > threshold_));
      const bool is_tie = exists && competes && compares && score == threshold_;
      const uint2 mask{__ballot_sync(kAllLanes, is_above), __ballot_sync(kAllLanes, is_tie)};
      if (lane_ == 0) {
        masks_[t / kWarp] = mask;
      }
      const float weight = exists ? weight_of(score) : 0.0F;
      mass = add(mass, {weight, is_above ? weight : 0.0F});
    }
    mass = block_reduce(mass, add);  // a barrier: the masks are there
    words_ = (count_ + kWarp - 1) / kWarp;
    const int of_thread = (words_ + kSelectThreads - 1) / kSelectThreads;
    first_word_ = thread_ * of_thread;
    end_word_ = min(words_, first_word_ + of_thread);
    std::uint32_t above = 0;
    std::uint32_t tied = 0;
    for (int word = first_word_; word < end_word_; ++word) {
      above += __popc(masks_[word].x);
      tied += __popc(masks_[word].y);
    }
    above_before_ = entries_before(above);
    tied_before_ = entries_before(tied);
    if (thread_ == kSelectThreads - 1) {
      shared_.warp_counts[1][0] = above_before_ + above;
      shared_.warp_counts[1][1] = tied_before_ + tied;
    }
    __syncthreads();
    if (thread_ < static_cast<int>(cluster_size())) {
      PartFacts& there = *in_block(&shared_.parts[cluster_rank()], threadIdx.x);
      there.mass[0] = mass.a;
      there.mass[1] = mass.b;
      there.counts[0] = shared_.warp_counts[1][0];
      there.counts[1] = shared_.warp_counts[1][1];
    }
  }

  __device__ void write_tokens() {
    std::uint32_t above = above_before_;
    std::uint32_t tied = tied_before_;
    for (unsigned rank = 0; rank < cluster_rank(); ++rank) {
      above += shared_.parts[rank].counts[0];
      tied += shared_.parts[rank].counts[1];
    }
    std::int32_t* tokens = a_.tokens + query_head_ * a_.token_stride;
    for (int word = first_word_; word < end_word_; ++word) {
      const uint2 mask = masks_[word];
      const int token = first_ + word * kWarp;
      for (std::uint32_t left = mask.x | mask.y; left != 0; left &= left - 1) {
        const int bit = __ffs(static_cast<int>(left)) - 1;
        const bool is_tie = (mask.y >> bit & 1U) != 0;
        if (!is_tie || tied < ties_) {
          tokens[above + min(tied, ties_)] = token + bit;
        }
        above += is_tie ? 0U : 1U;
        tied += is_tie ? 1U : 0U;
      }
    }
  }

  const SelectLaunch& a_;
  SelectShared& shared_;
  float* scores_;  // of the block's tokens
  uint2* masks_;
  int thread_;
  int lane_;
  int warp_;
  std::size_t query_head_;
  int context_;
  int first_;       // token of the block
  int count_;       // tokens of the block
  int candidates_;  // tokens that compete; the younger ones are chosen anyhow
  int wanted_;      // of the candidates
  float scale_ = 0.0F;
  float high_ = 0.0F;
  float low_ = 0.0F;
  float threshold_ = INFINITY;
  std::uint32_t ties_ = 0;
  int words_ = 0;
  int first_word_ = 0;
  int end_word_ = 0;
  std::uint32_t above_before_ = 0;
  std::uint32_t tied_before_ = 0;
};

/// Tokens of one block of a cluster at a context.
__host__ __device__ inline int part_of_block(int context, int cluster) {
  const int of_cluster = cluster * kTokensAWarp;
  return (context + of_cluster - 1) / of_cluster * kTokensAWarp;
}

/// Block (rank in the cluster, query head of the sequence, sequence).
template <bool kInShared>
__global__ void __launch_bounds__(kSelectThreads, kSelectBlocks)
    select_tokens(const __grid_constant__ SelectLaunch a) {
  extern __shared__ __align__(16) float part_memory[];  // scores, masks
  __shared__ __align__(16) SelectShared shared;
  cluster_arrive();
  wait_for_previous_grid();
  let_next_grid_start();
  float* scores = part_memory;
  uint2* masks = nullptr;
  if constexpr (kInShared) {
    masks = reinterpret_cast<uint2*>(
        part_memory + part_of_block(a.t.contexts[blockIdx.z], static_cast<int>(cluster_size())));
  } else {
    const std::size_t head = static_cast<std::size_t>(blockIdx.z) * gridDim.y + blockIdx.y;
    const int stride =
        a.score_stride / static_cast<int>(cluster_size());  // of a block: scores, then masks
    scores = a.scores + head * a.score_stride + static_cast<std::size_t>(cluster_rank()) * stride;
    masks = reinterpret_cast<uint2*>(
        scores + part_of_block(a.t.contexts[blockIdx.z], static_cast<int>(cluster_size())));
  }
  Selection selection(a, shared, scores, masks);
  selection.choose_channels();
  selection.score();
  selection.find_threshold();
  selection.list_tokens();
}

/// Floats of one block: a score a token, and two words of marks for 32 of them.
inline int floats_of_block(int context, int cluster) {
  const int part = part_of_block(context, cluster);
  return part + part / kWarp * 2;
}

/// Blocks of a cluster: enough for one access of each thread, and all of them on long contexts.
inline int cluster_of(int context, const DeviceFacts& device) {
  int cluster = 1;
  while (device.is_hopper && cluster < kMostCluster &&
         context > cluster * kSelectThreads * kTokensAThread) {
    cluster *= 2;
  }
  return cluster;
}

inline std::size_t select_shared(int context, const DeviceFacts& device) {
  return static_cast<std::size_t>(floats_of_block(context, cluster_of(context, device))) *
         sizeof(float);
}

inline bool scores_fit(int context, const DeviceFacts& device) {
  return select_shared(context, device) + sizeof(SelectShared) + 1024 <=
         static_cast<std::size_t>(device.most_shared);
}

/// Once a device: permits the shared memory that launches may ask for.
inline void prepare_selection(const DeviceFacts& device) {
  require(cudaFuncSetAttribute(select_tokens<true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               device.most_shared - static_cast<int>(sizeof(SelectShared)) - 1024),
          "cudaFuncSetAttribute");
}

inline void launch_selection(const SelectLaunch& a, const BatchShape& shape,
                             const DeviceFacts& device, cudaStream_t stream) {
  const bool fits = scores_fit(shape.longest_context, device);
  const int cluster = cluster_of(shape.longest_context, device);
  const GridShape grid{
      .grid = dim3(static_cast<unsigned>(cluster),
                   static_cast<unsigned>(shape.kv_heads * shape.queries_per_kv_head),
                   static_cast<unsigned>(shape.sequences)),
      .threads = kSelectThreads,
      .shared = fits ? select_shared(shape.longest_context, device) : 0,
      .cluster = cluster};
  launch_overlapping(fits ? select_tokens<true> : select_tokens<false>, grid, device, stream, a);
}

}  // namespace nearkv::kernels::cuda
