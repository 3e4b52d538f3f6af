#include "models/systems/workload.hpp"

namespace nearkv {

void Workload::fields(FieldVisitor& v) {
  v.parameter("batch", batch, "sequences in the batch", {1, 65'536});
  v.parameter("prompt_tokens", prompt_tokens, "tokens of each prompt", {1, 1 << 20});
  v.parameter("output_tokens", output_tokens,
              "tokens generated for each sequence; the first comes from prefill", {2, 1 << 20});
}

}  // namespace nearkv
