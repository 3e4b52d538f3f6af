// Sweeps for tests, written to files of their own.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/sweep/sweep_plan.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv::test_sweep {

/// A plan over the emulated CSD with these axes; `more` are other keys of the file.
inline SweepPlan plan_of(const std::vector<nlohmann::json>& axes,
                         const nlohmann::json& more = nlohmann::json::object()) {
  const TestFolder folder;
  nlohmann::json document{
      {"title", "a test"},
      {"point", {{"extends", "nearkv:design_points/insti_dense_opt13b_a6000.json"}}},
      {"axes", axes}};
  document.update(more);
  return SweepPlan(load_sweep(folder.write("test.json", document.dump())));
}

}  // namespace nearkv::test_sweep
