// A plain streaming read of device memory: the bandwidth that memory-bound kernels are held
// against.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

namespace nearkv::kernels::cuda {

/// Reads `bytes` (a multiple of 16) once and adds all up into `sink`, so that nothing is left out.
void stream_read(const void* memory, std::size_t bytes, unsigned* sink, cudaStream_t stream);

}  // namespace nearkv::kernels::cuda
