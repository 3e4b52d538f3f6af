#include "models/ssd/nvme_arbiter.hpp"

#include <algorithm>
#include <bit>

#include "sim/core/check.hpp"

namespace nearkv {

NvmeArbiter::NvmeArbiter(const NvmeConfig& config) : burst_(config.arbitration_burst) {
  check(config.queue_pairs() > 0 && burst_ > 0, "an arbiter without queues or turns");
  for (const NvmeQueueGroup& group : config.queue_groups) {
    // Round robin is one class of all queues.
    const bool weighted = config.arbitration == NvmeArbitration::weighted_round_robin;
    priority_.insert(priority_.end(), static_cast<std::size_t>(group.queues),
                     weighted ? group.priority : NvmePriority::urgent);
  }
  const std::array<int, kNvmePriorities> weights{0, config.high_weight, config.medium_weight,
                                                 config.low_weight};
  for (std::size_t i = 0; i < classes_.size(); ++i) {
    classes_[i].ready.resize((priority_.size() + kBits - 1) / kBits);
    classes_[i].turn = static_cast<int>(priority_.size()) - 1;
    classes_[i].weight = weights[i];
    classes_[i].credit = weights[i];
  }
}

void NvmeArbiter::set_ready(int queue, bool is_ready) {
  Class& own = class_of(queue);
  std::uint64_t& word = own.ready[static_cast<std::size_t>(queue / kBits)];
  const std::uint64_t bit = std::uint64_t{1} << (queue % kBits);
  if (((word & bit) != 0) == is_ready) {
    return;
  }
  word ^= bit;
  const int change = is_ready ? 1 : -1;
  own.ready_queues += change;
  ready_queues_ += change;
}

int NvmeArbiter::take() {
  check(ready_queues_ > 0, "arbitration between queues that are all empty");
  Class& own = choose_class();
  const std::uint64_t word = own.ready[static_cast<std::size_t>(own.turn / kBits)];
  const bool goes_on = own.burst_left > 0 && ((word >> (own.turn % kBits)) & 1) != 0;
  if (!goes_on) {
    own.turn = next_ready(own, own.turn);
    own.burst_left = burst_;
  }
  --own.burst_left;
  --own.credit;
  return own.turn;
}

NvmeArbiter::Class& NvmeArbiter::choose_class() {
  if (classes_[0].ready_queues > 0) {
    return classes_[0];
  }
  const auto has_turn = [](const Class& c) { return c.ready_queues > 0 && c.credit > 0; };
  auto chosen = std::find_if(classes_.begin() + 1, classes_.end(), has_turn);
  if (chosen == classes_.end()) {
    for (Class& each : classes_) {
      each.credit = each.weight;
    }
    chosen = std::find_if(classes_.begin() + 1, classes_.end(), has_turn);
  }
  return *chosen;
}

int NvmeArbiter::next_ready(const Class& of, int behind) {
  const auto words = of.ready.size();
  const int first = behind + 1;
  std::size_t at = static_cast<std::size_t>(first / kBits) % words;
  // The bits behind the turn, then all other words and at last the bits before it.
  std::uint64_t word = first / kBits < static_cast<int>(words)
                           ? of.ready[at] & (~std::uint64_t{0} << (first % kBits))
                           : of.ready[at];
  while (word == 0) {
    at = at + 1 == words ? 0 : at + 1;
    word = of.ready[at];
  }
  return static_cast<int>(at) * kBits + std::countr_zero(word);
}

}  // namespace nearkv
