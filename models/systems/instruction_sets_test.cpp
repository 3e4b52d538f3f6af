#include <doctest/doctest.h>

#include "kernels/cpu/simd.hpp"
#include "models/systems/test_points.hpp"

using namespace nearkv;

TEST_CASE("a run is the same on every instruction set that this machine has") {
  const auto sets = kernels::cpu::instruction_sets();
  for (const std::string system : {"insti_sparf", "flexgen_sparq"}) {
    CAPTURE(system);
    const DesignPoint point =
        small_point(system, {"workload/prompt_tokens=600", "simulation/fidelity=exact"});
    const RunResult best = run_alone(point);
    REQUIRE(best.status == RunStatus::ok);
    for (const char* set : sets) {
      CAPTURE(set);
      kernels::cpu::use_instruction_set(set);
      const RunResult other = run_alone(point);
      CHECK(other.digest == best.digest);
      CHECK(other.metrics == best.metrics);
    }
    kernels::cpu::use_instruction_set("");
  }
}
