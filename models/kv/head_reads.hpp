// What decode attention reads of one head's KV cache, as stream pages: the link between the real
// kernels and the flash model.
//
// Dense attention reads every flushed token group; that needs no tensors. SparF's pages come from
// the real selection of kernels/ on a KV cache. There is a pool of heads with synthetic Q, K and V
// (traces/synthetic_kv.hpp); every (sequence, KV head) pair of the run is given one of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/api.hpp"
#include "models/kv/kv_layout.hpp"
#include "sim/core/fields.hpp"
#include "traces/synthetic_kv.hpp"

namespace nearkv {

/// Pages that one attend command reads, by stream, ascending; and the engine's work on them.
struct HeadReads {
  std::vector<int> channel_pages;  // first step; empty for dense attention
  std::vector<int> key_pages;
  std::vector<int> value_pages;
  Flops estimate_flops{};           // first step: scores of all tokens on the selected channels
  Flops attention_flops{};          // second step, or all of dense attention
  std::int64_t query_elements = 0;  // compared by argtopk before the first step
  std::int64_t score_elements = 0;  // compared by argtopk after it

  [[nodiscard]] bool has_first_step() const { return score_elements > 0; }
  [[nodiscard]] std::int64_t pages() const {
    return static_cast<std::int64_t>(channel_pages.size() + key_pages.size() + value_pages.size());
  }
  [[nodiscard]] std::uint64_t hash() const;
};

/// SparF's parameters (config /system/sparsity). SparQ (Ribar et al., ICML 2024) counts what is
/// moved: compression = (S r + 2 k d_head) / (2 S d_head), so that r = 16 of 128 channels and
/// k = S / 16 tokens make 1/8.
struct SparsityConfig {
  int channels = 0;               // r
  double selected_share = 0;      // k / context S
  double local_window_share = 0;  // of the k, the youngest tokens, which are always selected

  void fields(FieldVisitor& v);
};

/// A pool of synthetic heads; their shape and length follow from the model and the workload.
struct SyntheticHeadsConfig {
  int heads = 0;    // size of the pool
  int queries = 0;  // of each head: those of its youngest positions
  traces::SyntheticKvSpec heads_like{};

  void fields(FieldVisitor& v);
};

/// Where the tensors come from (config /system/kv_source): synthetic heads, or those whose reads
/// nearkv record has written to a trace (models/kv/recorded_reads.hpp).
enum class KvSourceKind { synthetic, trace };
struct KvSourceConfig {
  KvSourceKind kind = KvSourceKind::synthetic;
  SyntheticHeadsConfig synthetic{};
  std::string trace{};  // file

  void fields(FieldVisitor& v);
};

/// Shape of one KV head and the query heads that share it.
struct HeadShape {
  int d_head;
  int queries_per_kv_head;
};

/// Reads of dense attention at a context; independent of the tensors. With a window, tokens before
/// `first_token` are not looked at: the pages that hold younger ones are read.
[[nodiscard]] HeadReads dense_reads(const kernels::PageGeometry& geometry, const HeadShape& shape,
                                    int context, int first_token = 0);

/// What a sparse method computes with at one step, in numbers.
struct SparseStep {
  int context;
  int channels;  // r of SparQ and SparF; 0: the method knows its tokens without a first step
  int attended;  // tokens
};
/// The engine's work on them, without pages.
[[nodiscard]] HeadReads sparse_work(const HeadShape& shape, const SparseStep& step);

/// Reads of SparF from a pool of heads, generated once up to `longest_context`.
class SparfReads {
 public:
  SparfReads(const kernels::PageGeometry& geometry, const HeadShape& shape,
             const SparsityConfig& sparsity, const SyntheticHeadsConfig& source, std::uint64_t seed,
             int longest_context);
  ~SparfReads();
  SparfReads(const SparfReads&) = delete;
  SparfReads& operator=(const SparfReads&) = delete;

  /// One entry for each query of each head of the pool, at a context up to the longest. Several
  /// queries a head stand for the many (sequence, head, layer) that a run has: with one, the whole
  /// run would follow the luck of a few selections.
  [[nodiscard]] std::vector<HeadReads> at(int context) const;

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
};

}  // namespace nearkv
