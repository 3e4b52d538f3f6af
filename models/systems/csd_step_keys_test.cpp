#include "models/systems/csd_step_keys.hpp"

#include <map>
#include <set>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/units.hpp"

using namespace nearkv;

namespace {

/// Pages of four tokens; the size is their number.
GroupState pages_of_four(const SequenceGroup& /*group*/, int context) {
  return {.kind = {}, .size = context / 4, .filled = context % 4 == 0 ? 1 : 0};
}

std::size_t classes_of(const std::vector<StepKey>& keys) {
  std::set<int> classes;
  for (const StepKey& key : keys) {
    classes.insert(key.step_class);
  }
  return classes.size();
}

}  // namespace

TEST_CASE("csd step keys: of equal sequences by what the step and the one before it fill") {
  const Batch batch({{8, 10, 13}});  // contexts 11 to 22; 12, 16 and 20 fill a page
  const std::vector<StepKey> keys = csd_step_keys(batch, pages_of_four, 3);
  REQUIRE(keys.size() == 12);
  const auto at = [&keys](int context) { return keys[static_cast<std::size_t>(context - 11)]; };
  CHECK(at(11) != at(13));  // fewer pages, nothing before it
  CHECK(at(14) == at(15));
  CHECK(at(11).step_class == at(14).step_class);
  CHECK(at(12).step_class == at(16).step_class);
  CHECK(at(13).step_class == at(17).step_class);
  CHECK(classes_of(keys) == 3);
  CHECK(at(18).size == 4);
}

TEST_CASE("csd step keys: equal keys of a ragged batch mean equal pages of every group") {
  const Batch batch({{8, 10, 40}, {2, 7, 80}, {1, 30, 20}});
  const std::vector<StepKey> keys = csd_step_keys(batch, pages_of_four, 1000);
  std::map<StepKey, std::vector<std::vector<int>>> states;
  for (int step = 0; step < batch.decode_steps(); ++step) {
    std::vector<int> state;
    for (const SequenceGroup& group : batch.groups()) {
      const int context = group.context_of(step);
      const bool is_active = Batch::is_active(group, step);
      state.push_back(is_active ? context / 4 : -1);
      state.push_back(is_active && context % 4 == 0 ? 1 : 0);
      state.push_back(step > 0 && Batch::is_active(group, step - 1) && (context - 1) % 4 == 0);
    }
    states[keys[static_cast<std::size_t>(step)]].push_back(state);
  }
  CHECK(states.size() > 10);
  CHECK(states.size() < keys.size());
  for (const auto& [key, found] : states) {
    for (const std::vector<int>& state : found) {
      CHECK(state == found.front());
    }
  }
}

TEST_CASE("csd step keys: a batch with too many classes has a key for each step") {
  std::vector<SequenceGroup> groups;
  for (int i = 0; i < 5; ++i) {
    groups.push_back({1, 10 + 3 * i, 40 + 10 * i});
  }
  const Batch batch(groups);
  const auto keys = [&](int most) { return csd_step_keys(batch, pages_of_four, most); };
  CHECK(classes_of(keys(1000)) > 5);
  CHECK(classes_of(keys(10)) == 5);  // by the groups that are left
  CHECK(classes_of(keys(9)) == 1);
  const std::vector<StepKey> all = keys(9);
  CHECK(std::set<StepKey>(all.begin(), all.end()).size() == all.size());
}
