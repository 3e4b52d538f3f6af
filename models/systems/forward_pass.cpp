#include "models/systems/forward_pass.hpp"

#include <algorithm>
#include <array>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// In the activity log, by Part.
constexpr std::array<std::string_view, 4> kPartNames{"embedding",
                                                     "projections and FFN (alike layers as one)",
                                                     "hop to the next stage", "next token"};

}  // namespace

ForwardPass::ForwardPass(Machine& machine, ParallelModel& model, AttentionKernel kernel)
    : machine_(machine), model_(model), kernel_(kernel) {}

std::vector<SequenceBatch> ForwardPass::decode_groups(std::int64_t sequences,
                                                      std::int64_t context) {
  check(sequences > 0 && context >= sequences, "a decode batch without sequences or contexts");
  const std::int64_t shorter = context / sequences;
  const std::int64_t with_one_more = context % sequences;
  std::vector<SequenceBatch> groups{{sequences - with_one_more, 1, shorter}};
  if (with_one_more > 0) {
    groups.push_back({with_one_more, 1, shorter + 1});
  }
  return groups;
}

std::vector<PassBatch> ForwardPass::micro_batches(const PassBatch& batch) const {
  const std::int64_t parts = model_.stages();
  std::vector<PassBatch> micro(static_cast<std::size_t>(parts));
  for (std::size_t piece = 0; piece < batch.prefill.size(); ++piece) {
    PassBatch& part = micro[piece % micro.size()];
    part.prefill.push_back(batch.prefill[piece]);
    part.last_piece_goes_on = batch.last_piece_goes_on && piece + 1 == batch.prefill.size();
  }
  const auto contexts_of = [&batch](std::int64_t sequences) {
    return batch.decode_sequences == 0 ? 0
                                       : batch.decode_context * sequences / batch.decode_sequences;
  };
  for (std::int64_t i = 0; i < parts; ++i) {
    const std::int64_t first = batch.decode_sequences * i / parts;
    const std::int64_t past_last = batch.decode_sequences * (i + 1) / parts;
    micro[static_cast<std::size_t>(i)].decode_sequences = past_last - first;
    micro[static_cast<std::size_t>(i)].decode_context = contexts_of(past_last) - contexts_of(first);
  }
  std::erase_if(micro, [](const PassBatch& part) { return part.tokens() == 0; });
  return micro;
}

void ForwardPass::run(const PassBatch& batch, std::int64_t times) {
  check(batch.tokens() > 0 && times > 0, "a pass without tokens");
  const SimTime begin = machine_.engine().now();
  pending_.assign(machine_.gauges().all().size(), 0);
  not_simulated_.clear();
  std::vector<SimDuration> of_stage(static_cast<std::size_t>(model_.stages()));
  SimDuration longest{};
  const bool is_whole = model_.stages() == 1;
  const std::vector<PassBatch> parts = is_whole ? std::vector<PassBatch>{} : micro_batches(batch);
  for (const PassBatch& part : is_whole ? std::span(&batch, 1) : std::span(parts)) {
    SimDuration through_all{};
    for (int stage = 0; stage < model_.stages(); ++stage) {
      const SimDuration time = stage_time(stage, part, times);
      through_all += time;
      of_stage[static_cast<std::size_t>(stage)] += time;
    }
    longest = std::max(longest, through_all);
  }
  longest = std::max(longest, *std::max_element(of_stage.begin(), of_stage.end()));
  const SimDuration simulated = machine_.engine().now() - begin;
  check(simulated <= longest * times, "more was simulated than the pass consists of");
  const SimDuration rest = longest * times - simulated;
  explain_rest(rest);
  machine_.extrapolate(
      {.times = 1, .time = rest, .increments = pending_, .bound = {}, .is_explained = true});
}

/// One after the other. Stages that work at the same time share the whole in proportion.
void ForwardPass::explain_rest(SimDuration rest) {
  ActivityLog* log = machine_.engine().activity();
  if (log == nullptr) {
    return;
  }
  SimDuration sum{};
  for (const NotSimulated& part : not_simulated_) {
    sum += part.time;
  }
  if (sum == SimDuration{}) {
    return;
  }
  const SimTime begin = machine_.engine().now();
  SimTime at = begin;
  SimDuration so_far{};
  for (const NotSimulated& part : not_simulated_) {
    so_far += part.time;
    const SimTime done =
        begin +
        SimDuration{static_cast<std::int64_t>(Int128{rest.count()} * so_far.count() / sum.count())};
    const char* resource = "gpu/0/compute";
    log->service({.resource = resource, .what = part.what, .start = at, .done = done});
    log->explain(resource, part.what, at, done);
    at = done;
  }
}

SimDuration ForwardPass::stage_time(int stage, const PassBatch& batch, std::int64_t times) {
  const std::int64_t tokens = batch.tokens();
  const std::int64_t layers = model_.layers_of(stage);
  SimDuration time{};
  if (stage == 0) {
    time += take(Part::embedding, stage, tokens, times);
  }
  time += take(Part::layer_but_attention, stage, tokens, layers * times) * layers;
  if (!batch.prefill.empty()) {
    time += attention(stage, batch.prefill, layers * times) * layers;
  }
  if (batch.decode_sequences > 0) {
    time += attention(stage, decode_groups(batch.decode_sequences, batch.decode_context),
                      layers * times) *
            layers;
  }
  if (stage + 1 < model_.stages()) {
    time += take(Part::stage_step, stage, tokens, times);
  } else if (batch.sampled() > 0) {
    time += take(Part::next_token, stage, batch.sampled(), times);
  }
  return time;
}

SimDuration ForwardPass::attention(int stage, std::span<const SequenceBatch> groups,
                                   std::int64_t times) {
  const std::vector<OperatorWork> operators =
      nearkv::attention(model_.rank_shape(), groups, kernel_);
  Gpu::Counters work;
  SimDuration sum{};
  for (const OperatorWork& one : operators) {
    const SimDuration time = machine_.gpu().time_of(one);
    sum += time;
    work.busy[static_cast<std::size_t>(one.kind)] += time * times;
    work.flops += Int128{one.flops.count()} * times;
    work.bytes += one.bytes * times;
    work.kernels += one.kernels * times;
  }
  for (int rank = 0; rank < model_.ranks(); ++rank) {
    machine_.gpu(stage * model_.ranks() + rank).add(work);
  }
  not_simulated_.push_back({"attention (alike layers as one)", sum * times});
  return sum;
}

std::int64_t ForwardPass::first_layer(int stage) const {
  std::int64_t layer = 0;
  for (int before = 0; before < stage; ++before) {
    layer += model_.layers_of(before);
  }
  return layer;
}

SimDuration ForwardPass::take(Part part, int stage, std::int64_t amount, std::int64_t times) {
  const auto [found, is_new] = costs_.try_emplace({part, stage, amount});
  Cost& cost = found->second;
  if (is_new) {
    const std::vector<double> before = machine_.read_gauges();
    const SimTime begin = machine_.engine().now();
    simulate(part, stage, amount);
    cost.time = machine_.engine().now() - begin;
    const std::vector<double> after = machine_.read_gauges();
    for (std::size_t i = 0; i < after.size(); ++i) {
      if (after[i] != before[i]) {
        cost.increments.push_back({i, after[i] - before[i]});
      }
    }
    --times;
  }
  if (times > 0) {
    not_simulated_.push_back({kPartNames[static_cast<std::size_t>(part)], cost.time * times});
  }
  for (const Increment& one : cost.increments) {
    pending_[one.gauge] += one.value * static_cast<double>(times);
  }
  return cost.time;
}

void ForwardPass::simulate(Part part, int stage, std::int64_t amount) {
  switch (part) {
    case Part::embedding:
      return model_.embed(amount);
    case Part::layer_but_attention:
      model_.before_attention(first_layer(stage), amount);
      return model_.after_attention(first_layer(stage), amount);
    case Part::stage_step:
      return model_.enter_layer(first_layer(stage + 1), amount);
    case Part::next_token:
      return model_.next_token(amount);
  }
  check(false, "an unknown part of a pass");
}

}  // namespace nearkv
