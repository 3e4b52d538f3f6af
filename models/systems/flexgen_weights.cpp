// FlexGenSchedule: weights on their way to the GPU.
#include <algorithm>

#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_schedule.hpp"

namespace nearkv {

// -- Weights ------------------------------------------------------------------------------------

std::int64_t FlexGenSchedule::layer_blocks(const RunContext& run) const {
  return separate_layers_ ? 2 * run.point.model.layers : run.point.model.layers;
}

std::int64_t FlexGenSchedule::input_block(const RunContext& run) const { return layer_blocks(run); }

std::int64_t FlexGenSchedule::output_block(const RunContext& run) const {
  return layer_blocks(run) + 1;
}

std::int64_t FlexGenSchedule::layer_of(std::int64_t block) const {
  return separate_layers_ ? block / 2 : block;
}

bool FlexGenSchedule::attends(std::int64_t block) const {
  return !separate_layers_ || block % 2 == 0;
}

bool FlexGenSchedule::feeds_forward(std::int64_t block) const {
  return !separate_layers_ || block % 2 == 1;
}

std::vector<const BlockWeights*> FlexGenSchedule::weights_of(const RunContext& run,
                                                             std::int64_t block) const {
  if (block >= input_block(run)) {
    return {block == input_block(run) ? &weights_.input : &weights_.output};
  }
  std::vector<const BlockWeights*> weights;
  if (attends(block)) {
    weights.push_back(&weights_.attention);
  }
  if (feeds_forward(block)) {
    weights.push_back(&weights_.ffn);
  }
  return weights;
}

Bytes FlexGenSchedule::weights_on_cpu(const RunContext& run, std::int64_t block) const {
  Bytes size{};
  for (const BlockWeights* weights : weights_of(run, block)) {
    size += weights->stored[Home::cpu];
  }
  return size;
}

/// All ranks' parts of a tensor lie in one file. A tied embedding table is the input embedding's
/// first file and the output embedding's last.
std::vector<Bytes> FlexGenSchedule::weight_file_sizes(const RunContext& run,
                                                      std::int64_t block) const {
  std::vector<Bytes> sizes;
  for (const BlockWeights* weights : weights_of(run, block)) {
    for (const Bytes of_rank : weights->files) {
      sizes.push_back(of_rank * run.model.ranks());
    }
  }
  if (block == output_block(run) && weights_.tied[Home::disk] > Bytes{}) {
    sizes.push_back(weights_.tied[Home::disk] * run.model.ranks());
  }
  return sizes;
}

int FlexGenSchedule::stage_of_block(const RunContext& run, std::int64_t block) const {
  if (block == input_block(run)) {
    return 0;
  }
  return block == output_block(run) ? run.model.stages() - 1 : run.model.stage_of(layer_of(block));
}

void FlexGenSchedule::copy_to_ranks(RunContext& run, int stage, Machine::CopyDirection direction,
                                    Bytes of_rank, ParallelModel::HostMemoryKind kind) {
  std::vector<std::function<void()>> copies;
  for (int rank = 0; rank < run.model.ranks(); ++rank) {
    copies.emplace_back([&run, direction, of_rank, kind, gpu = stage * run.model.ranks() + rank] {
      if (kind == ParallelModel::HostMemoryKind::pinned) {
        run.machine.pinned_copy(direction, of_rank, gpu);
      } else {
        run.machine.pageable_copy(direction, of_rank, gpu);
      }
    });
  }
  run.machine.together(copies);
}

void FlexGenSchedule::load_weights(RunContext& run, std::int64_t block) {
  const int stage = stage_of_block(run, block);
  std::vector<std::function<void()>> parts;
  const auto to_gpus = [this, &run, stage](Bytes of_rank) {
    copy_to_ranks(run, stage, Machine::CopyDirection::host_to_gpu, of_rank,
                  ParallelModel::HostMemoryKind::pinned);
  };
  if (const Bytes on_cpu = weights_on_cpu(run, block); pin_weights_ && on_cpu > Bytes{}) {
    parts.emplace_back([to_gpus, on_cpu] { to_gpus(on_cpu); });
  }
  const std::vector<Bytes> sizes = weight_file_sizes(run, block);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    parts.emplace_back([this, &run, to_gpus, size = sizes[i], file = weight_files_[block][i]] {
      const CopyThreads::Turn turn(*threads_, 1);
      threads_->open_file();
      threads_->open_file();  // of the bias beside a matrix
      Completion read;
      run.machine.host_storage().read_file(run.machine.engine().now(), {file, Bytes{}, size}, read);
      run.machine.engine().wait(read);
      to_gpus(size / run.model.ranks());
    });
  }
  run.machine.together(parts);
}

void FlexGenSchedule::post_weights(RunContext& run, std::int64_t block, int step) {
  if (weights_on_cpu(run, block) == Bytes{} && weight_files_[block].empty()) {
    return;
  }
  std::int64_t tensors = 0;
  for (const BlockWeights* weights : weights_of(run, block)) {
    tensors += weights->tensors_on_cpu;
  }
  compute(run, step, [&] { run.model.keep_issuer_busy(kernel_issue(run) * tensors); });
  if (!pin_weights_ && tensors > 0) {
    relay_weights(run, block, tensors / 2);  // matrices; what is beside them is small
  }
  weight_loader_->post([this, &run, block] { load_weights(run, block); }, new_job(weight_loads_));
}

/// Weights that are not pinned go through pinned memory as a cache on the CPU does, a matrix at a
/// time.
void FlexGenSchedule::relay_weights(RunContext& run, std::int64_t block, std::int64_t matrices) {
  const ScopedPhase phase(run.machine, kWeightWait);
  const HostConfig& host = run.point.host;
  const Bytes all = weights_on_cpu(run, block);
  const Bytes piece{ceil_div(all.count(), matrices)};
  for (Bytes at{}; at < all; at += piece) {
    const Bytes of_rank = std::min(piece, all - at);
    const Bytes size = of_rank * run.model.ranks();
    work_on_host(run, kernel_issue(run) * kCallsOfACopy + host.framework.team_start +
                          host_copy_time(host, size, size));
    weight_loader_->post(
        [this, &run, of_rank, stage = stage_of_block(run, block)] {
          copy_to_ranks(run, stage, Machine::CopyDirection::host_to_gpu, of_rank,
                        ParallelModel::HostMemoryKind::pinned);
        },
        new_job(weight_loads_));
  }
}

void FlexGenSchedule::assume_weights_loaded(RunContext& run, std::int64_t block) {
  const std::vector<Bytes> sizes = weight_file_sizes(run, block);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    run.machine.host_storage().assume_used({weight_files_[block][i], Bytes{}, sizes[i]},
                                           Access::read);
  }
}

void FlexGenSchedule::decompress(RunContext& run, std::int64_t block) {
  std::vector<OperatorWork> operators;
  const auto add = [&](const BlockWeights& weights) {
    const std::vector<OperatorWork> more = decompression(weights.packed, weights.unpacked);
    operators.insert(operators.end(), more.begin(), more.end());
  };
  for (const BlockWeights* weights : weights_of(run, block)) {
    add(*weights);
  }
  run.model.compute(stage_of_block(run, block), operators);
}

}  // namespace nearkv
