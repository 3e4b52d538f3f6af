// Checks of the arguments of attention calls, shared by all implementations. Internal to kernels/.
#pragma once

#include "kernels/api.hpp"

namespace nearkv::kernels {

/// Throws std::invalid_argument as api.hpp says; returns the number of query heads.
int checked_heads(const KvPages& pages, const AttentionRequest& request);

/// Throws std::invalid_argument if an option is outside its range.
void check_options(const KvPages& pages, const SparfOptions& options);

}  // namespace nearkv::kernels
