// What all implementations share around the arithmetic: checks of arguments, and which tokens the
// methods attend to that need no scores. Internal to kernels/.
#pragma once

#include <vector>

#include "kernels/api.hpp"

namespace nearkv::kernels {

/// Throws std::invalid_argument as api.hpp says; returns the number of query heads.
int checked_heads(const KvPages& pages, const AttentionRequest& request);

/// Throws std::invalid_argument if the method cannot be used for this request on these pages.
void check_method(const KvPages& pages, const AttentionRequest& request, const Method& method);

/// Throw std::invalid_argument if an option is outside its range.
void check_first_token(int context, const DenseOptions& options);
void check_options(const H2oOptions& options);

/// The tokens of StreamingLLM, a window or H2O, ascending; the same for all query heads.
std::vector<int> listed_tokens(const AttentionRequest& request, const Method& method);

}  // namespace nearkv::kernels
