#include "models/systems/parallel_model.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr const char* kDriverThread = "host/driver_thread";  // in the activity log

}  // namespace

ParallelModel::ParallelModel(Machine& machine, const DesignPoint& point)
    : machine_(machine),
      shape_(point.model),
      rank_shape_(point.model.tensor_shard(point.parallelism.tensor)),
      ranks_(point.parallelism.tensor),
      stages_(point.parallelism.pipeline),
      collective_overhead_(point.parallelism.collective_overhead) {}

int ParallelModel::stage_of(std::int64_t layer) const {
  // The first stages get one more where the layers do not divide.
  for (int stage = 0; stage < stages_; ++stage) {
    layer -= layers_of(stage);
    if (layer < 0) {
      return stage;
    }
  }
  check(false, "a layer that the model does not have");
  return 0;
}

std::int64_t ParallelModel::layers_of(int stage) const {
  return shape_.layers / stages_ + (stage < shape_.layers % stages_ ? 1 : 0);
}

Bytes ParallelModel::weight_bytes(int stage) const {
  const bool is_first = stage == 0;
  const bool is_last = stage == stages_ - 1;
  if (is_first && is_last) {
    return rank_shape_.weight_bytes();
  }
  std::int64_t parameters = layers_of(stage) * rank_shape_.parameters_per_layer();
  parameters += is_first ? rank_shape_.input_parameters() : 0;
  parameters += is_last ? rank_shape_.output_parameters() : 0;  // a copy of tied embeddings
  return rank_shape_.values(parameters);
}

void ParallelModel::allocate_weights() {
  for (int gpu = 0; gpu < machine_.gpu_count(); ++gpu) {
    CapacityLedger& memory = machine_.gpu(gpu).memory();
    const Bytes weights = weight_bytes(gpu / ranks_);
    if (weights > memory.available()) {
      throw Infeasible(fmt::format(
          "{}: the weights of {} take {} a GPU, {} are free; use more GPUs "
          "(parallelism/tensor, parallelism/pipeline) or a system that offloads weights",
          memory.resource(), shape_.name, format_short(weights), format_short(memory.available())));
    }
    memory.allocate("weights", weights);
  }
}

GpuAllocation ParallelModel::hold(std::string_view label, Bytes size_a_gpu) {
  GpuAllocation held;
  for (int gpu = 0; gpu < machine_.gpu_count(); ++gpu) {
    held.add(machine_.gpu(gpu).memory(), label, size_a_gpu);
  }
  return held;
}

GpuAllocation ParallelModel::hold_workspace(std::string_view label,
                                            std::span<const SequenceBatch> batch,
                                            AttentionKernel kernel) {
  return hold(label, layer_workspace(rank_shape_, batch, kernel).peak());
}

Bytes ParallelModel::rank_share(Bytes kv) const {
  return Bytes{ceil_div(kv.count() * rank_shape_.kv_heads, shape_.kv_heads)};
}

Bytes ParallelModel::free_memory() const {
  Bytes least = machine_.gpu(0).memory().available();
  for (int gpu = 1; gpu < machine_.gpu_count(); ++gpu) {
    least = std::min(least, machine_.gpu(gpu).memory().available());
  }
  return least;
}

void ParallelModel::compute(int stage, std::span<const OperatorWork> operators) {
  if (operators.empty()) {
    return;
  }
  const SimTime now = machine_.engine().now();
  const SimDuration ahead = issuer_ ? now - *issuer_ : SimDuration{};
  SimTime done = now;
  for (int rank = 0; rank < ranks_; ++rank) {
    const int index = stage * ranks_ + rank;
    const Grant granted = machine_.gpu(index).issue(now, operators, kernel_issue_, ahead);
    machine_.report_operators(
        index, granted, {.operators = operators, .kernel_issue = kernel_issue_, .ahead = ahead});
    done = std::max(done, granted.done);
  }
  if (issuer_) {
    for (const OperatorWork& work : operators) {
      *issuer_ += kernel_issue_ * work.kernels;
    }
  }
  machine_.engine().wait_until(done);
}

void ParallelModel::end_issuing_ahead() {
  wait_for_issuer();
  issuer_.reset();
}

void ParallelModel::keep_issuer_busy(SimDuration time) {
  if (issuer_) {
    *issuer_ += time;
  } else {
    machine_.spend(time, kDriverThread, "the program on the host");
  }
}

void ParallelModel::wait_for_issuer() {
  if (issuer_) {
    const SimTime now = machine_.engine().now();
    issuer_ = std::max(*issuer_, now);
    machine_.wait_for({now, *issuer_}, kDriverThread, "the program on the host");
  }
}

void ParallelModel::embed(std::int64_t tokens) {
  compute(0, std::vector{embedding(rank_shape_, tokens)});
  all_reduce(0, shape_.hidden_bytes_per_token() * tokens);
}

void ParallelModel::enter_layer(std::int64_t layer, std::int64_t tokens) {
  const int stage = stage_of(layer);
  if (layer > 0 && stage_of(layer - 1) != stage) {
    step_to_next_stage(stage - 1, tokens);
  }
}

void ParallelModel::before_attention(std::int64_t layer, std::int64_t tokens,
                                     AttentionKernel kernel) {
  compute(stage_of(layer), nearkv::before_attention(rank_shape_, tokens, kernel));
}

void ParallelModel::attention(std::int64_t layer, std::span<const SequenceBatch> batch,
                              AttentionKernel kernel) {
  compute(stage_of(layer), nearkv::attention(rank_shape_, batch, kernel));
}

/// The first operators give a part of a sum over the ranks, which the others need.
void ParallelModel::compute_and_sum(std::int64_t layer, std::span<const OperatorWork> before,
                                    std::span<const OperatorWork> behind, std::int64_t tokens) {
  compute(stage_of(layer), before);
  all_reduce(stage_of(layer), shape_.hidden_bytes_per_token() * tokens);
  compute(stage_of(layer), behind);
}

void ParallelModel::attention_output(std::int64_t layer, std::int64_t tokens) {
  const std::vector<OperatorWork> operators = nearkv::attention_output(rank_shape_, tokens);
  const std::span<const OperatorWork> all(operators);
  compute_and_sum(layer, all.first(1), all.subspan(1), tokens);  // 1: the output projection
}

void ParallelModel::feed_forward_block(std::int64_t layer, std::int64_t tokens) {
  const std::vector<OperatorWork> operators = nearkv::feed_forward_block(rank_shape_, tokens);
  const std::span<const OperatorWork> all(operators);
  compute_and_sum(layer, all, {}, tokens);
}

void ParallelModel::after_attention(std::int64_t layer, std::int64_t tokens) {
  if (ranks_ == 1) {
    compute(stage_of(layer), nearkv::after_attention(rank_shape_, tokens));
    return;
  }
  attention_output(layer, tokens);
  feed_forward_block(layer, tokens);
}

void ParallelModel::attention_block(std::int64_t layer, std::span<const SequenceBatch> batch,
                                    AttentionKernel kernel) {
  const std::int64_t tokens = tokens_of(batch);
  enter_layer(layer, tokens);
  if (ranks_ == 1) {
    std::vector<OperatorWork> operators = nearkv::before_attention(rank_shape_, tokens, kernel);
    for (const std::vector<OperatorWork>& part : {nearkv::attention(rank_shape_, batch, kernel),
                                                  nearkv::attention_output(rank_shape_, tokens)}) {
      operators.insert(operators.end(), part.begin(), part.end());
    }
    compute(stage_of(layer), operators);
    return;
  }
  before_attention(layer, tokens, kernel);
  attention(layer, batch, kernel);
  attention_output(layer, tokens);
}

void ParallelModel::layer(std::int64_t layer, std::span<const SequenceBatch> batch,
                          AttentionKernel kernel) {
  const std::int64_t tokens = tokens_of(batch);
  enter_layer(layer, tokens);
  if (ranks_ == 1) {
    compute(stage_of(layer), layer_operators(rank_shape_, batch, kernel));
    return;
  }
  before_attention(layer, tokens, kernel);
  attention(layer, batch, kernel);
  after_attention(layer, tokens);
}

void ParallelModel::next_token(std::int64_t sequences) {
  const int stage = stages_ - 1;
  compute(stage, nearkv::next_token(rank_shape_, sequences));
  if (ranks_ > 1) {  // every rank has the scores of its part of the vocabulary
    const int steps = ranks_ - 1;
    run_ring(stage, {logits_bytes(rank_shape_, sequences) * steps, steps});
  }
}

// -- Communication ------------------------------------------------------------------------------

ParallelModel::RingStep ParallelModel::all_reduce_ring(Bytes size) const {
  const int steps = 2 * (ranks_ - 1);
  return {Bytes{ceil_div(size.count() * steps, std::int64_t{ranks_})}, steps};
}

ParallelModel::RingStep ParallelModel::gather_ring(std::int64_t tokens) const {
  const Bytes hidden = shape_.hidden_bytes_per_token() * tokens;
  const int steps = ranks_ - 1;
  return {Bytes{ceil_div(hidden.count() * steps, std::int64_t{ranks_})}, steps};
}

std::vector<Machine::Transfer> ParallelModel::ring_transfers(int stage, Bytes sent) const {
  std::vector<Machine::Transfer> transfers;
  for (int rank = 0; rank < ranks_; ++rank) {
    const int next = (rank + 1) % ranks_;
    transfers.push_back(
        {machine_.gpu_node(stage * ranks_ + rank), machine_.gpu_node(stage * ranks_ + next), sent});
  }
  return transfers;
}

std::vector<Machine::Transfer> ParallelModel::stage_transfers(int stage,
                                                              std::int64_t tokens) const {
  const Bytes hidden = shape_.hidden_bytes_per_token() * tokens;
  const Bytes part{ceil_div(hidden.count(), std::int64_t{ranks_})};
  std::vector<Machine::Transfer> transfers;
  for (int rank = 0; rank < ranks_; ++rank) {
    transfers.push_back({machine_.gpu_node(stage * ranks_ + rank),
                         machine_.gpu_node((stage + 1) * ranks_ + rank), part});
  }
  return transfers;
}

void ParallelModel::run_ring(int stage, const RingStep& ring) {
  const std::vector<Machine::Transfer> transfers = ring_transfers(stage, ring.sent);
  // A transfer pays the latency of the first step.
  const SimDuration further = machine_.longest_latency(transfers) * (ring.steps - 1);
  machine_.spend(collective_overhead_ + further, "parallelism", "overhead of a collective");
  machine_.transfer_together(transfers);
}

SimDuration ParallelModel::ring_time(int stage, const RingStep& ring) const {
  const std::vector<Machine::Transfer> transfers = ring_transfers(stage, ring.sent);
  return collective_overhead_ + machine_.longest_latency(transfers) * (ring.steps - 1) +
         machine_.time_together(transfers);
}

void ParallelModel::all_reduce(int stage, Bytes size) {
  if (ranks_ > 1) {
    run_ring(stage, all_reduce_ring(size));
  }
}

void ParallelModel::step_to_next_stage(int stage, std::int64_t tokens) {
  machine_.spend(collective_overhead_, "parallelism", "overhead of a hop between stages");
  machine_.transfer_together(stage_transfers(stage, tokens));
  if (ranks_ > 1) {
    run_ring(stage + 1, gather_ring(tokens));
  }
}

SimDuration ParallelModel::all_reduce_time(int stage, Bytes size) const {
  return ranks_ > 1 ? ring_time(stage, all_reduce_ring(size)) : SimDuration{};
}

SimDuration ParallelModel::stage_step_time(int stage, std::int64_t tokens) const {
  const SimDuration step =
      collective_overhead_ + machine_.time_together(stage_transfers(stage, tokens));
  return ranks_ > 1 ? step + ring_time(stage + 1, gather_ring(tokens)) : step;
}

// -- KV data ------------------------------------------------------------------------------------

void ParallelModel::copy(Machine::CopyDirection direction, std::int64_t layer, Bytes kv,
                         HostMemoryKind kind) {
  const Bytes share = rank_share(kv);
  std::vector<std::function<void()>> copies;
  for (int rank = 0; rank < ranks_; ++rank) {
    copies.emplace_back([this, direction, share, kind, gpu = gpu_of(layer, rank)] {
      if (kind == HostMemoryKind::pinned) {
        machine_.pinned_copy(direction, share, gpu);
      } else {
        machine_.pageable_copy(direction, share, gpu);
      }
    });
  }
  machine_.together(copies);
}

std::vector<ParallelModel::Share> ParallelModel::shares(std::int64_t layer) const {
  std::vector<Share> shares;
  // More ranks than KV heads: equally many neighbours hold each head.
  const int ranks_a_head = static_cast<int>(ranks_ * rank_shape_.kv_heads / shape_.kv_heads);
  for (int rank = 0; rank < ranks_; rank += ranks_a_head) {
    const std::int64_t first = rank / ranks_a_head * rank_shape_.kv_heads;
    shares.push_back({machine_.gpu_node(gpu_of(layer, rank)), first, first + rank_shape_.kv_heads});
  }
  return shares;
}

}  // namespace nearkv
