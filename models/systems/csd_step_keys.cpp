#include "models/systems/csd_step_keys.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace nearkv {

namespace {

struct StepState {
  std::vector<int> code;  // equal in steps of one class
  std::int64_t size = 0;
};

/// Numbers the classes in the order of their codes.
std::vector<StepKey> number(const std::vector<StepState>& steps) {
  std::map<std::vector<int>, int> classes;
  for (const StepState& step : steps) {
    classes.try_emplace(step.code, 0);
  }
  int next = 0;
  for (auto& [code, index] : classes) {
    index = next++;
  }
  std::vector<StepKey> keys;
  keys.reserve(steps.size());
  for (const StepState& step : steps) {
    keys.push_back({classes.at(step.code), step.size});
  }
  return keys;
}

std::size_t ends_of(const std::vector<StepKey>& keys) {
  std::map<int, std::pair<std::int64_t, std::int64_t>> sizes;  // least and most, by class
  for (const StepKey& key : keys) {
    auto& [least, most] =
        sizes.try_emplace(key.step_class, std::pair{key.size, key.size}).first->second;
    least = std::min(least, key.size);
    most = std::max(most, key.size);
  }
  std::size_t ends = 0;
  for (const auto& [step_class, range] : sizes) {
    ends += range.first == range.second ? 1 : 2;
  }
  return ends;
}

StepState state_of(const Batch& batch, const GroupStateAt& state_at, int step) {
  StepState state;
  const std::vector<SequenceGroup>& groups = batch.groups();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const SequenceGroup& group = groups[i];
    const bool is_active = Batch::is_active(group, step);
    const bool was_active = step > 0 && Batch::is_active(group, step - 1);
    if (!is_active && !was_active) {
      continue;
    }
    if (!batch.is_uniform()) {
      state.code.push_back(static_cast<int>(i));
      state.code.push_back(is_active ? 1 : 0);
    }
    int filled_now = 0;
    if (is_active) {
      const GroupState now = state_at(group, group.context_of(step));
      state.code.insert(state.code.end(), now.kind.begin(), now.kind.end());
      state.size += now.size;
      filled_now = now.filled;
    }
    // Prefill leaves the drives idle.
    state.code.push_back(was_active ? state_at(group, group.context_of(step - 1)).filled : 0);
    state.code.push_back(filled_now);
  }
  return state;
}

}  // namespace

std::vector<StepKey> csd_step_keys(const Batch& batch, const GroupStateAt& state_at,
                                   int most_steps) {
  std::vector<StepState> steps;
  for (int step = 0; step < batch.decode_steps(); ++step) {
    steps.push_back(state_of(batch, state_at, step));
  }
  std::vector<StepKey> keys = number(steps);
  if (batch.is_uniform() || ends_of(keys) <= static_cast<std::size_t>(most_steps)) {
    return keys;
  }
  for (int step = 0; step < batch.decode_steps(); ++step) {
    // Groups only ever leave: their number tells which are there.
    steps[static_cast<std::size_t>(step)] = {{static_cast<int>(batch.at_step(step).size())}, step};
  }
  keys = number(steps);
  if (ends_of(keys) <= static_cast<std::size_t>(most_steps)) {
    return keys;
  }
  for (StepState& step : steps) {
    step.code.clear();
  }
  return number(steps);
}

}  // namespace nearkv
