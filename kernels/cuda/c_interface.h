/* The CUDA kernels for callers in other languages (Python's ctypes): plain C types, device pointers
 * as they come from the caller's allocator. Functions that take `error` write what went wrong into
 * its `error_size` bytes and return -1 (or null), else 0. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As BatchShape, PageGeometry and KernelOptions in decode_attention.hpp. */
typedef struct {
  int32_t d_head;
  int32_t page_bytes;
  int32_t channels_per_group;
  int32_t sequences;
  int32_t kv_heads;
  int32_t queries_per_kv_head;
  int32_t longest_context;
  int32_t selects;   /* 1: memory for SparQ and SparF */
  int32_t most_kept; /* 0: no H2O */
} nearkv_cuda_shape;

/* As BatchTensors in decode_attention.hpp; null where that says so. */
typedef struct {
  const void* k_pages;
  const void* v_pages;
  const void* channel_pages;
  const int32_t* token_table;
  const int32_t* channel_table;
  const float* v_bar;
  int32_t token_groups;
  int32_t channel_chunks;
  const int32_t* contexts;
  const float* queries;
  float* output;
  float* max;
  float* sum;
  float* state_out;
  int32_t* channels;
  int32_t* tokens;
  float* alpha;
  int32_t* h2o_tokens;
  float* h2o_mass;
  int32_t* h2o_counts;
  int32_t h2o_stride;
} nearkv_cuda_tensors;

/* As Method in methods.hpp. Options that a method does not have are ignored. */
enum { NEARKV_DENSE, NEARKV_SPARQ, NEARKV_SPARF, NEARKV_H2O, NEARKV_STREAMING, NEARKV_WINDOW };
typedef struct {
  int32_t method;
  int32_t first_token;
  int32_t r;
  int32_t k;
  int32_t local_window;
  int32_t heavy;
  int32_t recent;
  int32_t sinks;
  int32_t window;
} nearkv_cuda_method;

void* nearkv_cuda_create(const nearkv_cuda_shape* shape, char* error, uint64_t error_size);
void nearkv_cuda_destroy(void* attention);
/* One decode step in a stream (a cudaStream_t). */
int nearkv_cuda_attend(void* attention, const nearkv_cuda_tensors* tensors,
                       const nearkv_cuda_method* method, void* stream, char* error,
                       uint64_t error_size);
/* check_finite() of check_finite.hpp: waits for the stream. */
int nearkv_cuda_check_finite(const nearkv_cuda_shape* shape, const nearkv_cuda_tensors* tensors,
                             void* stream, char* error, uint64_t error_size);
/* Reads so many bytes of device memory once; `sink` is one unsigned on the device. */
int nearkv_cuda_stream_read(const void* memory, uint64_t bytes, void* sink, void* stream,
                            char* error, uint64_t error_size);

#ifdef __cplusplus
}
#endif
