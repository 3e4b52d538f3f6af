// From selected channels and tokens to pages. Internal to kernels/.
#pragma once

#include <span>
#include <vector>

#include "kernels/api.hpp"

namespace nearkv::kernels {

/// Collects what the query heads of one call select.
class PageCollector {
 public:
  PageCollector(const PageGeometry& geometry, int context);

  void add_channels(std::span<const int> channels);
  void add_tokens(std::span<const int> tokens);  // ascending

  [[nodiscard]] TouchedPages touched() const;

 private:
  PageGeometry geometry_;
  int context_;
  std::vector<char> channels_;
  std::vector<char> tokens_;
  std::vector<char> token_groups_;
  int distinct_tokens_ = 0;
};

}  // namespace nearkv::kernels
