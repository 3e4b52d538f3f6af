#include "kernels/requests.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/half.hpp"

namespace nearkv::kernels {

int checked_heads(const KvPages& pages, const AttentionRequest& request) {
  const auto d_head = static_cast<std::size_t>(pages.geometry().d_head());
  if (request.queries.empty() || request.queries.size() % d_head != 0) {
    throw std::invalid_argument("attention: queries has " + std::to_string(request.queries.size()) +
                                " values; must be a positive multiple of d_head, which is " +
                                std::to_string(d_head));
  }
  if (request.context < 1 || request.context > pages.tokens()) {
    throw std::invalid_argument("attention: context is " + std::to_string(request.context) +
                                "; must be 1 to the " + std::to_string(pages.tokens()) +
                                " appended tokens");
  }
  for (std::size_t i = 0; i < request.queries.size(); ++i) {
    if (!(std::fabs(request.queries[i]) <= half_max)) {
      throw std::invalid_argument("attention: query head " + std::to_string(i / d_head) +
                                  ", channel " + std::to_string(i % d_head) + " is " +
                                  std::to_string(request.queries[i]) +
                                  "; must be finite and at most 65504, the range of FP16");
    }
  }
  return static_cast<int>(request.queries.size() / d_head);
}

void check_options(const KvPages& pages, const SparfOptions& options) {
  const int d_head = pages.geometry().d_head();
  if (options.r < 1 || options.r > d_head) {
    throw std::invalid_argument("sparf: r is " + std::to_string(options.r) +
                                "; must be 1 to d_head, which is " + std::to_string(d_head));
  }
  if (options.k < 1) {
    throw std::invalid_argument("sparf: k is " + std::to_string(options.k) +
                                "; must be at least 1");
  }
  if (options.local_window < 0 || options.local_window > options.k) {
    throw std::invalid_argument("sparf: local_window is " + std::to_string(options.local_window) +
                                "; must be 0 to k, which is " + std::to_string(options.k));
  }
}

}  // namespace nearkv::kernels
