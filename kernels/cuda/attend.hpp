// The CUDA kernels behind the interface of the other implementations.
#pragma once

#include "kernels/api.hpp"

namespace nearkv::kernels::cuda {

/// Whether there is a device that the kernels run on.
bool is_available();

/// As cpu::attend. Copies the cache to the device, runs, and copies the results back: for tests and
/// comparisons; who wants speed keeps the cache on the device (decode_attention.hpp). Heads of
/// other sizes than 64, 80 and 128, and at most 128, are padded with zeros.
AttentionResult attend(const KvPages& pages, const AttentionRequest& request, const Method& method);

}  // namespace nearkv::kernels::cuda
