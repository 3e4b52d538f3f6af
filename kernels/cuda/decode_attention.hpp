// Decode attention of a batch on a CUDA device, from a paged KV cache in device memory. The
// formulas are those of kernels/api.hpp; here is what is particular to the device.
//
// Work is divided into chunks of tokens, so that few long sequences fill the device as well as many
// short ones; the last block of a head that finishes merges the chunks' AttentionStates. Nothing is
// allocated and no size is read back: a launch may be captured into a CUDA graph. Selected channels
// and tokens are those of cpu::sparf_select to the bit (FP16-valued queries): scores are summed in
// ascending channel order, ties go to the smaller index.
//
// Errors of arguments are std::invalid_argument, those of CUDA std::runtime_error with the name of
// the call.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/api.hpp"

namespace nearkv::kernels::cuda {

/// Pointers into device memory. A page p of a pool starts at element p x page_elements; the images
/// are those of KvPages. Tables give -1 nowhere: all pages up to a sequence's context are there,
/// the one that is not full yet included.
struct PagedKv {
  const std::uint16_t* k_pages = nullptr;
  const std::uint16_t* v_pages = nullptr;        // same page numbers as K
  const std::uint16_t* channel_pages = nullptr;  // null: no sparse attention
  const std::int32_t* token_table = nullptr;     // [sequence][KV head][token group]
  const std::int32_t* channel_table = nullptr;   // [sequence][KV head][token chunk][channel group]
  const float* v_bar = nullptr;                  // [sequence][KV head][d_head]; mean of the V rows
  int token_groups = 0;                          // row length of token_table
  int channel_chunks = 0;                        // rows of channel groups in channel_table
};

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

/// Device memory of one launch. Query heads count as [sequence][KV head][query].
struct BatchTensors {
  PagedKv kv;
  const std::int32_t* contexts = nullptr;  // [sequence], each >= 1
  const float* queries = nullptr;          // [query head][d_head]
  float* output = nullptr;                 // [query head][d_head]
  float* max = nullptr;                    // [query head], null if not wanted: AttentionState
  float* sum = nullptr;                    // likewise; out = output x sum for dense attention
};

class DecodeAttention {
 public:
  /// Takes device memory for the largest shape, on the current device. d_head is 64, 80 or 128.
  DecodeAttention(const PageGeometry& geometry, const BatchShape& largest);
  ~DecodeAttention();
  DecodeAttention(const DecodeAttention&) = delete;
  DecodeAttention& operator=(const DecodeAttention&) = delete;

  /// All tokens of each sequence.
  void dense(const BatchShape& shape, const BatchTensors& tensors, cudaStream_t stream);
  /// SparF; `selected` (may be null) receives the tokens, ascending, [query head][k] with k cut to
  /// the context of each sequence.
  void sparf(const BatchShape& shape, const BatchTensors& tensors, const SparfOptions& options,
             std::int32_t* selected, cudaStream_t stream);

 private:
  struct Buffers;

  void check_shape(const BatchShape& shape, const BatchTensors& tensors) const;

  PageGeometry geometry_;
  BatchShape largest_;
  Buffers* buffers_;
};

}  // namespace nearkv::kernels::cuda
