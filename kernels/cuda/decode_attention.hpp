// Decode attention of a batch on a CUDA device, from a paged KV cache in device memory. Formulas
// and methods are those of kernels/api.hpp and methods.hpp; here is what is particular to the
// device.
//
// Work is divided into chunks of tokens, so that few long sequences fill the device as well as many
// short ones; the last block of a head that finishes merges the chunks' AttentionStates. Nothing is
// allocated and no size is read back: a launch may be captured into a CUDA graph. Selected channels
// and tokens are those of cpu::select to the bit (FP16-valued queries): scores are summed in
// ascending channel order, ties go to the smaller index.
//
// Errors of arguments are std::invalid_argument, those of CUDA std::runtime_error with the name of
// the call. Values on the device are not checked by a launch, which cannot read them back: a
// context must be 1 to longest_context (and above first_token), all values must be finite. What a
// wrong one gives is undefined, but no memory outside the tensors is touched for it as long as
// contexts are right; check_finite.hpp finds values that are not finite.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/api.hpp"

namespace nearkv::kernels::cuda {

/// Pointers into device memory. A page p of a pool starts at element p x page_elements; the images
/// are those of KvPages. A pool has at most 64 GiB. Tables give -1 nowhere: all pages up to a
/// sequence's context are there, the one that is not full yet included.
struct PagedKv {
  const std::uint16_t* k_pages = nullptr;
  const std::uint16_t* v_pages = nullptr;        // same page numbers as K
  const std::uint16_t* channel_pages = nullptr;  // null: neither SparQ nor SparF
  const std::int32_t* token_table = nullptr;     // [sequence][KV head][token group]
  const std::int32_t* channel_table = nullptr;   // [sequence][KV head][token chunk][channel group]
  const float* v_bar = nullptr;                  // [sequence][KV head][d_head]; mean of the V rows
  int token_groups = 0;                          // row length of token_table
  int channel_chunks = 0;                        // rows of channel groups in channel_table
};

struct TokenSource;  // internal

struct BatchShape {
  int sequences = 0;
  int kv_heads = 0;
  int queries_per_kv_head = 0;
  int longest_context = 0;  // of any sequence; contexts on the device must not exceed it

  [[nodiscard]] std::size_t query_heads() const {
    return static_cast<std::size_t>(sequences) * static_cast<std::size_t>(kv_heads) *
           static_cast<std::size_t>(queries_per_kv_head);
  }
};

/// H2oHistory of each KV head, in device memory: read, and stepped, by H2O alone. A step's context
/// is one more than the tokens of the text that the history has seen.
struct H2oState {
  std::int32_t* tokens = nullptr;  // [sequence][KV head][stride], ascending
  float* mass = nullptr;           // likewise
  std::int32_t* counts = nullptr;  // [sequence][KV head], kept tokens, at most heavy + recent
  float* received = nullptr;  // [sequence][KV head][stride], null if not wanted: what each kept
                              // token and then the newest received in this step
  int stride = 0;             // at least heavy + recent + 1
};

/// Device memory of one launch. Query heads count as [sequence][KV head][query].
struct BatchTensors {
  PagedKv kv;
  const std::int32_t* contexts = nullptr;  // [sequence]
  const float* queries = nullptr;          // [query head][d_head]
  float* output = nullptr;                 // [query head][d_head]
  // Null if not wanted. The AttentionState of the attended tokens, before any mixing with v_bar:
  float* max = nullptr;        // [query head]
  float* sum = nullptr;        // likewise
  float* state_out = nullptr;  // [query head][d_head]
  // What SparQ and SparF selected, ascending, null if not wanted:
  std::int32_t* channels = nullptr;  // [query head][d_head], the first r of each
  std::int32_t* tokens = nullptr;    // [query head][min(k, longest_context)], cut to each context
  float* alpha = nullptr;            // [query head]
  H2oState h2o;
};

/// What memory is taken for beyond dense attention, and how heads are stored.
struct KernelOptions {
  bool selects = true;  ///< SparQ and SparF
  int most_kept = 0;    ///< H2O: the largest H2oState::stride; 0: no H2O
  int channels = 0;     ///< d of 1 / sqrt(d); 0: d_head. Fewer where heads were padded with zeros
                        ///< to a size that the kernels have
};

class DecodeAttention {
 public:
  /// Takes device memory for the largest shape, on the current device. d_head is 64, 80 or 128.
  DecodeAttention(const PageGeometry& geometry, const BatchShape& largest,
                  const KernelOptions& options = {});
  ~DecodeAttention();
  DecodeAttention(const DecodeAttention&) = delete;
  DecodeAttention& operator=(const DecodeAttention&) = delete;

  void attend(const BatchShape& shape, const BatchTensors& tensors, const Method& method,
              cudaStream_t stream);

 private:
  struct Buffers;
  struct Extras;
  struct Batch {
    const BatchShape& shape;
    const BatchTensors& tensors;
    cudaStream_t stream;
  };

  void prepare();
  void release();
  static void check_sizes(const BatchShape& shape);
  void check_shape(const BatchShape& shape, const BatchTensors& tensors) const;
  [[nodiscard]] float scale() const;
  void run(const Batch& batch, const TokenSource& source, int most, const Extras& extras);
  void attend_selected(const BatchShape& shape, const BatchTensors& tensors,
                       const SelectOptions& options, cudaStream_t stream);
  void attend_kept(const BatchShape& shape, const BatchTensors& tensors, const H2oOptions& options,
                   cudaStream_t stream);

  PageGeometry geometry_;
  BatchShape largest_;
  KernelOptions options_;
  Buffers* buffers_;
};

}  // namespace nearkv::kernels::cuda
