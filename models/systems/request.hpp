// A request and what became of it.
#pragma once

#include <optional>

#include "sim/core/units.hpp"

namespace nearkv {

struct Request {
  SimTime arrival{};
  int prompt_tokens = 0;
  int output_tokens = 0;  // the first of them comes from prefill
};

/// When a request came, had its first token, and had its last one. A request of one token has both
/// at once; one that was turned away has them kNever.
struct RequestTimes {
  SimTime arrival{};
  SimTime first_token{};
  SimTime finished{};
  std::optional<SimTime> started{};  // its prefill; nothing where a system does not say

  [[nodiscard]] bool is_served() const { return finished != kNever; }
};

}  // namespace nearkv
