// What VRAM is left for KV blocks, as vLLM finds out when it starts: it may use a share of the
// memory, runs the largest iteration, and cuts what that leaves into blocks. With several GPUs
// every one has equally many blocks, of its own layers and heads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "models/llm/operators.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct PagedVram {
  std::int64_t blocks = 0;
  Bytes block_size{};               // of all GPUs together
  std::vector<Bytes> block_shares;  // of one GPU of each stage

  [[nodiscard]] Bytes block_share(int stage) const {
    return block_shares[static_cast<std::size_t>(stage)];
  }
  [[nodiscard]] Bytes largest_share() const {
    return *std::max_element(block_shares.begin(), block_shares.end());
  }
};

struct PagedVramConfig {
  std::int64_t block_tokens = 0;        // tokens of a block
  double memory_utilization = 0;        // share of VRAM that may be used
  std::int64_t max_batched_tokens = 0;  // new tokens of an iteration

  void fields(FieldVisitor& v);

  /// Takes the workspace of an iteration (max_batched_tokens tokens of one prompt, and logits of
  /// `sequences`) and all blocks from every GPU, on which the weights are already. Throws
  /// Infeasible when there is no room for a block.
  [[nodiscard]] PagedVram place(Machine& machine, const ParallelModel& model,
                                AttentionKernel kernel, std::int64_t sequences) const;
};

}  // namespace nearkv
