/* The CUDA kernels for callers in other languages (Python's ctypes): plain C types, device pointers
 * as they come from the caller's allocator. Functions that take `error` write what went wrong into
 * its `error_size` bytes and return -1 (or null), else 0. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t d_head;
  int32_t page_bytes;
  int32_t channels_per_group;
  int32_t sequences;
  int32_t kv_heads;
  int32_t queries_per_kv_head;
  int32_t longest_context;
} nearkv_cuda_shape;

/* As BatchTensors in decode_attention.hpp. */
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
} nearkv_cuda_tensors;

void* nearkv_cuda_create(const nearkv_cuda_shape* shape, char* error, uint64_t error_size);
void nearkv_cuda_destroy(void* attention);
int nearkv_cuda_dense(void* attention, const nearkv_cuda_tensors* tensors, void* stream,
                      char* error, uint64_t error_size);
int nearkv_cuda_sparf(void* attention, const nearkv_cuda_tensors* tensors, int32_t r, int32_t k,
                      int32_t local_window, int32_t* selected, void* stream, char* error,
                      uint64_t error_size);
/* Reads so many bytes of device memory once; `sink` is one unsigned on the device. */
int nearkv_cuda_stream_read(const void* memory, uint64_t bytes, void* sink, void* stream,
                            char* error, uint64_t error_size);

#ifdef __cplusplus
}
#endif
