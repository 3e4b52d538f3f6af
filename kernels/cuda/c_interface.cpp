#include "kernels/cuda/c_interface.h"

#include <cstring>
#include <exception>

#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/stream_read.hpp"

namespace {

using nearkv::kernels::PageGeometry;
namespace cuda = nearkv::kernels::cuda;

struct Attention {
  cuda::BatchShape shape;
  cuda::DecodeAttention kernels;
};

cuda::BatchTensors tensors_of(const nearkv_cuda_tensors& t) {
  return {.kv = {.k_pages = static_cast<const std::uint16_t*>(t.k_pages),
                 .v_pages = static_cast<const std::uint16_t*>(t.v_pages),
                 .channel_pages = static_cast<const std::uint16_t*>(t.channel_pages),
                 .token_table = t.token_table,
                 .channel_table = t.channel_table,
                 .v_bar = t.v_bar,
                 .token_groups = t.token_groups,
                 .channel_chunks = t.channel_chunks},
          .contexts = t.contexts,
          .queries = t.queries,
          .output = t.output,
          .max = nullptr,
          .sum = nullptr};
}

struct ErrorText {
  char* text;
  std::uint64_t size;
};

template <typename Call>
int guarded(const ErrorText& error, Call call) {
  try {
    call();
    return 0;
  } catch (const std::exception& problem) {
    if (error.text != nullptr && error.size > 0) {
      std::strncpy(error.text, problem.what(), error.size - 1);
      error.text[error.size - 1] = '\0';
    }
    return -1;
  }
}

}  // namespace

void* nearkv_cuda_create(const nearkv_cuda_shape* shape, char* error, std::uint64_t error_size) {
  void* made = nullptr;
  guarded({error, error_size}, [&] {
    const cuda::BatchShape batch{shape->sequences, shape->kv_heads, shape->queries_per_kv_head,
                                 shape->longest_context};
    const PageGeometry geometry({shape->d_head, shape->page_bytes, shape->channels_per_group});
    made = new Attention{batch, cuda::DecodeAttention(geometry, batch)};
  });
  return made;
}

void nearkv_cuda_destroy(void* attention) { delete static_cast<Attention*>(attention); }

int nearkv_cuda_dense(void* attention, const nearkv_cuda_tensors* tensors, void* stream,
                      char* error, std::uint64_t error_size) {
  auto* self = static_cast<Attention*>(attention);
  return guarded({error, error_size}, [&] {
    self->kernels.dense(self->shape, tensors_of(*tensors), static_cast<cudaStream_t>(stream));
  });
}

int nearkv_cuda_sparf(void* attention, const nearkv_cuda_tensors* tensors, std::int32_t r,
                      std::int32_t k, std::int32_t local_window, std::int32_t* selected,
                      void* stream, char* error, std::uint64_t error_size) {
  auto* self = static_cast<Attention*>(attention);
  return guarded({error, error_size}, [&] {
    self->kernels.sparf(self->shape, tensors_of(*tensors), {r, k, local_window}, selected,
                        static_cast<cudaStream_t>(stream));
  });
}

int nearkv_cuda_stream_read(const void* memory, std::uint64_t bytes, void* sink, void* stream,
                            char* error, std::uint64_t error_size) {
  return guarded({error, error_size}, [&] {
    cuda::stream_read(memory, bytes, static_cast<unsigned*>(sink),
                      static_cast<cudaStream_t>(stream));
  });
}
