// Keys of the decode steps of systems that attend in CSDs (step_sampler.hpp).
//
// What a step takes follows from the groups that still generate, from the pages that each has on
// flash, and from which of them fill pages in this step and filled some in the one before: these
// are programmed while others are read. All contexts grow by one a step, so that within a class one
// number tells the pages of all groups.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/systems/batch.hpp"
#include "models/systems/step_sampler.hpp"

namespace nearkv {

/// What matters about one group at one context.
struct GroupState {
  std::vector<int> kind;  // steps of another kind are not compared
  std::int64_t size = 0;  // never falls while the context grows; equal: equal pages
  int filled = 0;         // which pages the context's last token has filled; 0: none
};
using GroupStateAt = std::function<GroupState(const SequenceGroup& group, int context)>;

/// By step. Equal keys: equal steps. A ragged batch may have so many classes that a sampled run
/// would simulate all of its steps: when their ends are more than `most_steps`, all steps with the
/// same active groups become one class, or, if these are too many, all steps; then each step has a
/// key of its own.
[[nodiscard]] std::vector<StepKey> csd_step_keys(const Batch& batch, const GroupStateAt& state_at,
                                                 int most_steps);

}  // namespace nearkv
