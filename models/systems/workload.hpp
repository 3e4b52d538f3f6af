// The requests of a run. Config /workload.
#pragma once

#include <vector>

#include "models/systems/batch.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct Request {
  SimTime arrival{};
  int prompt_tokens = 0;
  int output_tokens = 0;  // the first of them comes from prefill
};

/// When a request came, had its first token, and had its last one.
struct RequestTimes {
  SimTime arrival{};
  SimTime first_token{};
  SimTime finished{};
};

/// A batch of equal requests, all there at the start.
struct Workload {
  int batch = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;  // the first of them comes from prefill

  [[nodiscard]] int decode_steps() const { return output_tokens - 1; }
  [[nodiscard]] int longest_context() const { return prompt_tokens + decode_steps(); }

  void fields(FieldVisitor& v);
};

}  // namespace nearkv
