// Decode attention on the KV cache of one KV head, held as the page image that a computational
// storage drive (CSD) stores. Includes nothing of ours outside kernels/.
//
// Layouts and SparF: InstInfer / InstAttention (arXiv 2409.04992, HPCA 2025); the methods and their
// sources are in methods.hpp.
//
// Conventions. K, V and queries are row-major. Tokens, channels, groups and pages count from 0.
// `context` is a number of tokens: a call with context c sees tokens 0 .. c - 1, so that one cache
// serves all decode steps of its prefixes. All sizes are bytes. Every error of a caller is a
// std::invalid_argument whose text names the argument, its value and what would have been right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention_state.hpp"
#include "kernels/kv_pages.hpp"
#include "kernels/kv_store.hpp"
#include "kernels/methods.hpp"
#include "kernels/page_geometry.hpp"

namespace nearkv::kernels {

/// The queries of one decode step that read one KV head: one for MHA, several for GQA.
struct AttentionRequest {
  std::span<const float> queries;  ///< heads x d_head; used as given, not rounded
  int context;                     ///< tokens 0 .. context - 1; 1 <= context <= appended tokens
  bool want_selection = false;     ///< also return the selected channels and tokens
  H2oHistory* history = nullptr;   ///< of this KV head; H2O needs it and steps it, others ignore it
};

/// The flash pages that one call reads, each list ascending and without duplicates; the union over
/// the query heads. Pages in the DRAM buffers are not in it: see the counts at the end.
struct TouchedPages {
  int context = 0;
  /// Step 1 of SparQ and SparF, channel-indexed K, numbered as appended:
  /// page = token chunk * channel groups + channel group.
  std::vector<std::uint32_t> channel_k;
  /// The attended tokens, token-indexed K and V. Page = token group.
  std::vector<std::uint32_t> token_k;
  std::vector<std::uint32_t> token_v;
  /// Channel groups whose buffered tokens were read from the channel group buffer (DRAM).
  int buffered_channel_groups = 0;
  /// Distinct tokens whose K and V were read from the token group buffer (DRAM).
  int buffered_tokens = 0;
  /// What a device that reads single rows and columns would read: distinct channels in step 1 and
  /// distinct attended tokens, in flash or buffers.
  int distinct_channels = 0;
  int distinct_tokens = 0;

  [[nodiscard]] std::size_t total() const {
    return channel_k.size() + token_k.size() + token_v.size();
  }
  bool operator==(const TouchedPages&) const = default;
};

/// What one query head selected, both ascending. Channels are SparQ's and SparF's alone; the tokens
/// are those that the method attends to.
struct HeadSelection {
  std::vector<int> channels;
  std::vector<int> tokens;
  bool operator==(const HeadSelection&) const = default;
};

struct SelectionResult {
  TouchedPages touched;
  std::vector<HeadSelection> heads;  ///< empty unless asked for
};

struct AttentionResult {
  std::vector<float> output;           ///< heads x d_head
  std::vector<AttentionState> states;  ///< of the attended tokens, before any mixing with v_bar
  std::vector<float> alpha;            ///< score mass given to the attended tokens; 1 where the
                                       ///< method does not mix
  TouchedPages touched;
  std::vector<HeadSelection> heads;  ///< empty unless asked for
};

// -- Kernels ----------------------------------------------------------------------------------
//
// Errors (std::invalid_argument): a query size that is no multiple of d_head or is 0, a query value
// that is not finite or outside FP16's range, a context outside 1 .. tokens, an option outside its
// range, SparQ or SparF on a cache without the channel-indexed copy, H2O without a history or with
// one of another context.

/// The pages that dense attention reads; needs no cache.
TouchedPages dense_pages(const PageGeometry& geometry, int context, const DenseOptions& options);

/// One call of a batch; contexts may differ.
struct AttentionCall {
  const KvPages* pages;
  AttentionRequest request;
};

/// SIMD (Highway, chosen at run time) and threads. Sums have a fixed order, so that results are
/// equal to the bit on every instruction set and for every number of threads.
namespace cpu {
AttentionResult attend(const KvPages& pages, const AttentionRequest& request, const Method& method);

/// The tokens and pages of attend() alone, without V and without a step of H2O's history.
SelectionResult select(const KvPages& pages, const AttentionRequest& request, const Method& method);

/// Calls in the order given; long contexts are divided. Threads: at least 1.
std::vector<AttentionResult> attend_batch(std::span<const AttentionCall> calls,
                                          const Method& method, int threads);
}  // namespace cpu

/// Straight from the formulas, in double, on Eigen matrices. Slow; what the others are tested
/// against. Scores in double: among tokens whose scores differ by less than float rounding it may
/// select another one than cpu.
namespace reference {
AttentionResult attend(const KvPages& pages, const AttentionRequest& request, const Method& method);
}  // namespace reference

}  // namespace nearkv::kernels
