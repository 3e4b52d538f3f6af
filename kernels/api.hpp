// Decode attention on the KV cache of one KV head, held as the page image that a computational
// storage drive (CSD) stores. Includes nothing of ours outside kernels/.
//
// Layouts and algorithm: InstInfer / InstAttention (arXiv 2409.04992, HPCA 2025), sections on the
// dual KV layout and on SparF; SparF extends SparQ attention (Ribar et al., ICML 2024).
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

namespace nearkv::kernels {

// -- Geometry ---------------------------------------------------------------------------------

struct PageGeometrySpec {
  int d_head;              ///< channels of one head
  int page_bytes;          ///< flash page
  int channels_per_group;  ///< channels that share a page of the channel-indexed K copy
};

/// How the K and V of one head divide into flash pages of 2-byte elements.
///
/// Token group: `tokens_per_group` = floor(page / (2 d_head)) consecutive tokens, one page for
/// their K rows and one for their V rows (16 tokens for 4 KiB and d_head 128). Channel group:
/// `channels_per_group` consecutive channels; one page holds `tokens_per_channel_page` =
/// floor(page / (2 channels_per_group)) consecutive tokens of them (256 for 8 channels, 1024 for
/// 2). Where a size does not divide the page (d_head 80: 25 rows of 160 bytes in 4096), elements
/// never straddle pages and the end of each page is zero padding.
///
/// Only full pages go to flash. Younger tokens wait in the CSD's DRAM: the last
/// context mod tokens_per_group tokens in the token group buffer, the last
/// context mod tokens_per_channel_page tokens in the channel group buffer. Kernels read both, but
/// only flushed pages count as flash reads.
class PageGeometry {
 public:
  /// Throws std::invalid_argument unless all are at least 1, the page is even and holds one row of
  /// d_head elements, and channels_per_group divides d_head.
  explicit PageGeometry(const PageGeometrySpec& spec);

  [[nodiscard]] int d_head() const { return spec_.d_head; }
  [[nodiscard]] int page_bytes() const { return spec_.page_bytes; }
  [[nodiscard]] int channels_per_group() const { return spec_.channels_per_group; }
  [[nodiscard]] int page_elements() const { return spec_.page_bytes / element_bytes; }
  [[nodiscard]] int tokens_per_group() const { return page_elements() / spec_.d_head; }
  [[nodiscard]] int channel_groups() const { return spec_.d_head / spec_.channels_per_group; }
  [[nodiscard]] int tokens_per_channel_page() const {
    return page_elements() / spec_.channels_per_group;
  }

  // Counts at a context of `context` tokens >= 0; std::invalid_argument if negative.

  /// Token groups on flash: so many K pages and as many V pages.
  [[nodiscard]] int flushed_token_groups(int context) const;
  /// Tokens at the end that are in the token group buffer only, 0 .. tokens_per_group - 1.
  [[nodiscard]] int buffered_tokens(int context) const;
  /// Token chunks of the channel-indexed copy on flash: so many pages for each channel group.
  [[nodiscard]] int flushed_channel_chunks(int context) const;
  /// Tokens at the end whose channel-indexed copy is in the channel group buffer only.
  [[nodiscard]] int buffered_channel_tokens(int context) const;
  /// All channel-indexed pages on flash: channel_groups x flushed_channel_chunks.
  [[nodiscard]] int flushed_channel_pages(int context) const;
  /// CSD DRAM that the buffered tokens of this KV head fill: K and V rows in the token group buffer
  /// and K again in the channel group buffer. A device may share the two K parts.
  [[nodiscard]] std::int64_t buffered_bytes(int context) const;

  static constexpr int element_bytes = 2;  // FP16

 private:
  PageGeometrySpec spec_;
};

// -- The cache --------------------------------------------------------------------------------

/// The page image of one KV head in both layouts, FP16 bits in little-endian bytes.
///
/// In a token page, row i (token group * tokens_per_group + i) starts at byte 2 i d_head. In a
/// channel page, channel i of the group starts at byte 2 i tokens_per_channel_page, its tokens in
/// order. Bytes without an element are zero. The last page of each kind may be partly filled: that
/// is the image of the DRAM buffer, see PageGeometry.
class KvPages {
 public:
  explicit KvPages(const PageGeometry& geometry);

  [[nodiscard]] const PageGeometry& geometry() const { return geometry_; }
  /// Appended tokens.
  [[nodiscard]] int tokens() const { return tokens_; }

  /// Memory for so many tokens at once; only an optimisation.
  void reserve(int tokens);

  /// Appends one token: d_head floats each, rounded to FP16 (nearest, ties to even). Throws
  /// std::invalid_argument for a wrong size and for a value that is NaN, infinite or rounds to
  /// infinity (|x| >= 65520); the cache is then unchanged.
  void append(std::span<const float> k, std::span<const float> v);

  /// Mean of the first `context` V rows (as stored, after rounding), summed in double in token
  /// order: the running mean that a device keeps. 1 <= context <= tokens().
  [[nodiscard]] std::vector<float> v_bar(int context) const;

  // Whole pages, page_bytes each. A group that is not full yet is the image of its buffer.
  [[nodiscard]] std::span<const std::byte> k_page(int token_group) const;
  [[nodiscard]] std::span<const std::byte> v_page(int token_group) const;
  [[nodiscard]] std::span<const std::byte> channel_page(int channel_group, int token_chunk) const;

  // Elements, as FP16 bits. Not range-checked beyond the page: kernels call them per row.
  /// K or V of one token: d_head halves.
  [[nodiscard]] const std::uint16_t* k_row(int token) const { return row(k_pages_, token); }
  [[nodiscard]] const std::uint16_t* v_row(int token) const { return row(v_pages_, token); }
  /// One channel of K over the tokens of a chunk: tokens_per_channel_page halves.
  [[nodiscard]] const std::uint16_t* k_channel(int channel, int token_chunk) const;

 private:
  [[nodiscard]] std::size_t row_offset(int token) const;
  [[nodiscard]] std::size_t channel_offset(int channel, int token_chunk) const;
  [[nodiscard]] const std::uint16_t* row(const std::vector<std::uint16_t>& pages, int token) const {
    return pages.data() + row_offset(token);
  }
  [[nodiscard]] std::span<const std::byte> token_page(const std::vector<std::uint16_t>& pages,
                                                      int token_group) const;
  void add_pages_for_next_token();

  PageGeometry geometry_;
  int tokens_ = 0;
  std::vector<std::uint16_t> k_pages_;        // token group after token group
  std::vector<std::uint16_t> v_pages_;        // likewise
  std::vector<std::uint16_t> channel_pages_;  // chunk after chunk, in it group after group
  std::vector<double> v_sum_;                 // of all tokens
  std::vector<double> v_sum_before_group_;    // token groups x d_head
  std::vector<std::uint16_t> rounded_k_;      // scratch of append
  std::vector<std::uint16_t> rounded_v_;
};

// -- Partial attention ------------------------------------------------------------------------

/// Attention over a set of tokens as a value that merges with that of a disjoint set, on another
/// chunk, head shard or device: max = largest logit, sum = sum of e^(logit - max),
/// out = sum of e^(logit - max) V, d_head floats, not divided (the online softmax of Milakov and
/// Gimelshein 2018, as in FlashAttention). Logits are q.k / sqrt(d_head).
struct AttentionState {
  float max;
  float sum;
  std::vector<float> out;

  /// Of no token at all: the neutral element of merge (max -infinity, sum 0, out 0).
  static AttentionState neutral(int d_head);
};

/// Associative up to rounding, commutative to the bit, `neutral` neutral to the bit. Throws
/// std::invalid_argument if the sizes of out differ.
AttentionState merge(const AttentionState& a, const AttentionState& b);

/// The attention output out / sum. Throws std::invalid_argument if the state covers no token.
std::vector<float> finish(const AttentionState& state);

// -- Requests and results ---------------------------------------------------------------------

/// The queries of one decode step that read one KV head: one for MHA, several for GQA.
struct AttentionRequest {
  std::span<const float> queries;  ///< heads x d_head; used as given, not rounded
  int context;                     ///< tokens 0 .. context - 1; 1 <= context <= appended tokens
  bool want_selection = false;     ///< also return the selected channels and tokens
};

/// Dense attention to tokens first_token .. context - 1. A first_token above 0 gives the state of
/// one chunk, to be merged with the others.
struct DenseOptions {
  int first_token = 0;
};

/// A "compression ratio" is traffic in elements, (S r + 2 k d_head) / (2 S d_head), SparQ's count
/// without its constant part: r = d_head / 8 with k = S / 16 is exactly 1/8; with k = S / 8 it is
/// 3/16.
struct SparfOptions {
  int r;             ///< channels of q used to estimate the scores, 1 .. d_head
  int k;             ///< tokens attended to exactly, >= 1; a k above the context means all tokens
  int local_window;  ///< of the k, so many are always the youngest tokens, 0 .. k
};

/// The flash pages that one call reads, each list ascending and without duplicates; the union over
/// the query heads. Pages in the DRAM buffers are not in it: see the counts at the end.
struct TouchedPages {
  int context = 0;
  /// Flushed pages of each channel group at this context (PageGeometry::flushed_channel_chunks).
  int pages_per_channel_group = 0;
  /// Step 1, channel-indexed K. Page = channel group * pages_per_channel_group + token chunk.
  std::vector<std::uint32_t> channel_k;
  /// Step 2, token-indexed K and V. Page = token group.
  std::vector<std::uint32_t> token_k;
  std::vector<std::uint32_t> token_v;
  /// Channel groups whose buffered tokens were read from the channel group buffer (DRAM).
  int buffered_channel_groups = 0;
  /// Distinct tokens whose K and V were read from the token group buffer (DRAM).
  int buffered_tokens = 0;

  [[nodiscard]] std::size_t total() const {
    return channel_k.size() + token_k.size() + token_v.size();
  }
  bool operator==(const TouchedPages&) const = default;
};

/// What one query head selected, both ascending. For dense attention: no channels, all tokens.
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
  std::vector<float> alpha;            ///< score mass given to the attended tokens; 1 if dense
  TouchedPages touched;
  std::vector<HeadSelection> heads;  ///< empty unless asked for
};

// -- Kernels ----------------------------------------------------------------------------------
//
// SparF for one query head, with S = context:
//   1. i = the r largest |q_c|.
//   2. s_hat = softmax(q[i] . K[:, i]^T / sqrt(d_head |q[i]|_1 / |q|_1)); every channel page of a
//      group that holds a channel of i is read.
//   3. j = the k largest of s_hat, the last local_window tokens first among them; alpha = sum of
//      s_hat[j].
//   4. s = softmax(q . K[j, :]^T / sqrt(d_head)); K and V page of every token group that holds a
//      token of j are read; out = alpha s . V[j, :] + (1 - alpha) v_bar.
// Ties go to the smaller index. The tokens are chosen by the products q[i] . K[:, i]^T themselves
// (softmax and the temperature keep their order), accumulated in float in ascending channel order:
// the selection is the same on every machine, whatever its exp. (Where the queries are FP16 values
// the products are exact in float, so that a fused multiply-add changes nothing.) If q is all zero,
// the temperature's ratio counts as 1.
//
// Errors (std::invalid_argument): a query size that is no multiple of d_head or is 0, a query value
// that is not finite or outside FP16's range, a context outside 1 .. tokens, an option outside its
// range.

/// The pages that dense attention reads; needs no cache.
TouchedPages dense_pages(const PageGeometry& geometry, int context, const DenseOptions& options);

/// Plain C++ with float accumulation.
namespace cpu {
AttentionResult dense_attention(const KvPages& pages, const AttentionRequest& request,
                                const DenseOptions& options);
AttentionResult sparf_attention(const KvPages& pages, const AttentionRequest& request,
                                const SparfOptions& options);
/// Steps 1 to 3 alone, without V: the same selection and pages as sparf_attention, to the bit.
SelectionResult sparf_select(const KvPages& pages, const AttentionRequest& request,
                             const SparfOptions& options);
}  // namespace cpu

/// Straight from the formulas, in double, on Eigen matrices. Slow; what the others are tested
/// against. Scores in double: among tokens whose scores differ by less than float rounding it may
/// select another one than cpu.
namespace reference {
AttentionResult dense_attention(const KvPages& pages, const AttentionRequest& request,
                                const DenseOptions& options);
AttentionResult sparf_attention(const KvPages& pages, const AttentionRequest& request,
                                const SparfOptions& options);
}  // namespace reference

}  // namespace nearkv::kernels
