#include "kernels/cuda/c_interface.h"

#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "kernels/cuda/check_finite.hpp"
#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/stream_read.hpp"

namespace {

using namespace nearkv::kernels;

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
          .max = t.max,
          .sum = t.sum,
          .state_out = t.state_out,
          .channels = t.channels,
          .tokens = t.tokens,
          .alpha = t.alpha,
          .h2o = {.tokens = t.h2o_tokens,
                  .mass = t.h2o_mass,
                  .counts = t.h2o_counts,
                  .received = nullptr,
                  .stride = t.h2o_stride}};
}

cuda::BatchShape batch_of(const nearkv_cuda_shape& shape) {
  return {shape.sequences, shape.kv_heads, shape.queries_per_kv_head, shape.longest_context};
}

PageGeometry geometry_of(const nearkv_cuda_shape& shape) {
  return PageGeometry({shape.d_head, shape.page_bytes, shape.channels_per_group});
}

Method method_of(const nearkv_cuda_method& m) {
  switch (m.method) {
    case NEARKV_DENSE:
      return DenseOptions{m.first_token};
    case NEARKV_SPARQ:
      return SparqOptions{{m.r, m.k, m.local_window}};
    case NEARKV_SPARF:
      return SparfOptions{{m.r, m.k, m.local_window}};
    case NEARKV_H2O:
      return H2oOptions{m.heavy, m.recent};
    case NEARKV_STREAMING:
      return StreamingOptions{m.sinks, m.window};
    case NEARKV_WINDOW:
      return WindowOptions{m.window};
    default:
      throw std::invalid_argument("method: must be 0 to 5, is " + std::to_string(m.method));
  }
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
    const cuda::BatchShape batch = batch_of(*shape);
    made = new Attention{batch, cuda::DecodeAttention(geometry_of(*shape), batch,
                                                      {.selects = shape->selects != 0,
                                                       .most_kept = shape->most_kept})};
  });
  return made;
}

void nearkv_cuda_destroy(void* attention) { delete static_cast<Attention*>(attention); }

int nearkv_cuda_attend(void* attention, const nearkv_cuda_tensors* tensors,
                       const nearkv_cuda_method* method, void* stream, char* error,
                       std::uint64_t error_size) {
  auto* self = static_cast<Attention*>(attention);
  return guarded({error, error_size}, [&] {
    self->kernels.attend(self->shape, tensors_of(*tensors), method_of(*method),
                         static_cast<cudaStream_t>(stream));
  });
}

int nearkv_cuda_check_finite(const nearkv_cuda_shape* shape, const nearkv_cuda_tensors* tensors,
                             void* stream, char* error, std::uint64_t error_size) {
  return guarded({error, error_size}, [&] {
    cuda::check_finite(geometry_of(*shape), batch_of(*shape), tensors_of(*tensors),
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
