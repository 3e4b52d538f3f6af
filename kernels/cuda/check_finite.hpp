// Looks for values that are not finite in the tensors of a batch. Launches cannot refuse them, as
// they read nothing back; a caller who doubts a cache or a model asks here.
#pragma once

#include "kernels/cuda/decode_attention.hpp"

namespace nearkv::kernels::cuda {

/// Reads the queries and each sequence's K and V rows once, and waits for the stream. Throws
/// std::invalid_argument that names the first NaN or infinity: tensor, sequence, head, token and
/// channel; the queries first, then K, then V, each in order. Also for a context outside 1 to
/// longest_context.
void check_finite(const PageGeometry& geometry, const BatchShape& shape,
                  const BatchTensors& tensors, cudaStream_t stream);

}  // namespace nearkv::kernels::cuda
