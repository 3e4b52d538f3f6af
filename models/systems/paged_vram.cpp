#include "models/systems/paged_vram.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "sim/core/capacity.hpp"

namespace nearkv {

void PagedVramConfig::fields(FieldVisitor& v) {
  constexpr int kMost = 1 << 20;              // not a constant: a limit of the input
  constexpr double kLeastUtilization = 0.01;  // not a constant: a limit of the input
  v.parameter("block_tokens", block_tokens, "tokens whose K and V a block holds", {1, kMost});
  v.parameter("memory_utilization", memory_utilization,
              "share of VRAM that may be used, weights and all else included",
              {kLeastUtilization, 1});
  v.parameter("max_batched_tokens", max_batched_tokens, "new tokens of an iteration", {1, kMost});
}

PagedVram PagedVramConfig::place(Machine& machine, const ParallelModel& model,
                                 AttentionKernel kernel, std::int64_t sequences) const {
  const ModelShape& shape = model.rank_shape();
  const SequenceBatch largest{1, max_batched_tokens, max_batched_tokens};
  const Bytes workspace =
      layer_workspace(shape, largest, kernel).peak() + logits_bytes(shape, sequences);
  const Bytes layer_block =
      model.rank_share(model.shape().kv_bytes_per_token_and_layer() * block_tokens);
  PagedVram placed;
  for (int gpu = 0; gpu < machine.gpu_count(); ++gpu) {
    const int stage = gpu / model.ranks();
    const CapacityLedger& memory = machine.gpu(gpu).memory();
    const Bytes share = layer_block * model.layers_of(stage);
    const Bytes usable{static_cast<std::int64_t>(static_cast<double>(memory.capacity().count()) *
                                                 memory_utilization)};
    const Bytes left = usable - memory.held() - workspace;
    const std::int64_t blocks = std::max<std::int64_t>(left / share, 0);
    if (left < Bytes{} || blocks == 0) {
      throw Infeasible(fmt::format(
          "{}: of {} that may be used, weights and CUDA context take {}, an iteration of {} tokens "
          "takes {}, and no KV block of {} fits; use more GPUs, a larger "
          "system/memory_utilization or a smaller system/max_batched_tokens",
          memory.resource(), format_short(usable), format_short(memory.held()), max_batched_tokens,
          format_short(workspace), format_short(share)));
    }
    placed.blocks = gpu == 0 ? blocks : std::min(placed.blocks, blocks);
    placed.block_size += share;
    if (gpu % model.ranks() == 0) {
      placed.block_shares.push_back(share);
    }
  }
  for (int gpu = 0; gpu < machine.gpu_count(); ++gpu) {
    CapacityLedger& memory = machine.gpu(gpu).memory();
    memory.allocate("workspace", workspace);
    memory.allocate("KV blocks", placed.blocks * placed.block_share(gpu / model.ranks()));
  }
  return placed;
}

}  // namespace nearkv
