// What holds for every system, the ones of the table that a new system joins.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "models/systems/system.hpp"
#include "models/systems/test_points.hpp"

namespace nearkv {

namespace {

std::vector<std::string> every_system() {
  std::vector<std::string> names;
  for (const SystemKind& kind : system_kinds()) {
    names.emplace_back(kind.name);
  }
  return names;
}

/// Three requests, the last one late, in batches of two.
constexpr std::string_view kThreeRequests =
    R"(workload={"kind": "lengths", "requests": 3,
        "prompt": {"kind": "uniform", "least": 20, "most": 60},
        "output": {"kind": "uniform", "least": 3, "most": 9},
        "longest": {"prompt_tokens": 64, "output_tokens": 16, "beyond": "refuse"},
        "arrivals": {"kind": "constant", "rate": 0.01},
        "batching": {"order": "arrival", "sequences": 2, "padded": false, "wait": "0s"},
        "limits": [{"of": "ttft", "at_most": "1000s"}]})";

}  // namespace

TEST_CASE("every system: the energy of the parts is that of the run, and costs add up") {
  for (const std::string& system : every_system()) {
    CAPTURE(system);
    const RunResult run = run_alone(small_point(system));
    REQUIRE(run.status == RunStatus::ok);
    double sum = 0;
    for (const auto& [name, value] : run.metrics) {
      sum += name.starts_with("energy/") ? value : 0;
    }
    CHECK(run.at("energy") > 0);
    CHECK(sum == doctest::Approx(run.at("energy")).epsilon(1e-9));
    CHECK(run.at("energy_per_token") == doctest::Approx(run.at("energy") / (2 * 9)).epsilon(1e-9));
    CHECK(run.at("cost/capital") + run.at("cost/electricity") ==
          doctest::Approx(run.at("cost_per_million_tokens")).epsilon(1e-9));
  }
}

TEST_CASE("every system: more VRAM is never slower") {
  for (const std::string& system : every_system()) {
    CAPTURE(system);
    double last = 0;
    for (const char* vram : {"4GiB", "6GiB", "48GiB"}) {
      CAPTURE(vram);
      const RunResult run =
          run_alone(small_point(system, {std::string("gpu/0/memory_capacity=") + vram}));
      REQUIRE(run.status == RunStatus::ok);
      CHECK(run.at("throughput") >= last);
      last = run.at("throughput");
    }
  }
}

TEST_CASE("every system: serves requests of different lengths that come one after another") {
  for (const std::string& system : every_system()) {
    CAPTURE(system);
    const RunResult run = run_alone(small_point(system, {std::string(kThreeRequests)}));
    REQUIRE(run.status == RunStatus::ok);
    CHECK(run.at("requests") == 3);
    CHECK(run.at("requests_turned_away") == 0);
    CHECK(run.at("requests_in_limits") == 1);
    CHECK(run.at("makespan") > 200);  // the third one arrives then
    CHECK(run.at("ttft/p50") > 0);
    CHECK(run.at("end_to_end/p99") >= run.at("end_to_end/p50"));
  }
}

TEST_CASE("every system: two GPUs share the heads or the layers") {
  for (const std::string& system : every_system()) {
    CAPTURE(system);
    const RunResult one = run_alone(small_point(system));
    for (const char* how : {"tensor", "pipeline"}) {
      CAPTURE(how);
      const RunResult two = run_alone(small_point(system, {fmt::format("parallelism/{}=2", how)}));
      REQUIRE(two.status == RunStatus::ok);
      CHECK(two.at("high_water/VRAM of gpu/1") < one.at("high_water/VRAM"));
      CHECK(two.at("utilization/gpu/1/compute") > 0);
    }
  }
}

TEST_CASE("every system: a model with grouped queries, experts and a window runs") {
  const std::vector<std::pair<std::string, Overrides>> models{
      {"grouped queries", {"model/kv_heads=8"}},
      {"experts", {"model/experts=8", "model/experts_per_token=2"}},
      {"window", {"model/attention_window=64"}}};
  for (const std::string& system : every_system()) {
    for (const auto& [what, overrides] : models) {
      CAPTURE(system);
      CAPTURE(what);
      if (system == "insti_sparf" && what == "window") {  // SparF selects among all tokens
        CHECK_THROWS_AS(small_point(system, overrides), ConfigError);
        continue;
      }
      const RunResult run = run_alone(small_point(system, overrides));
      CHECK_MESSAGE(run.status == RunStatus::ok, run.detail);
    }
  }
}

TEST_CASE("every system: the same run twice gives the same digest and metrics") {
  for (const std::string& system : every_system()) {
    CAPTURE(system);
    const RunResult first = run_alone(small_point(system, {std::string(kThreeRequests)}));
    const RunResult second = run_alone(small_point(system, {std::string(kThreeRequests)}));
    CHECK(first.digest == second.digest);
    CHECK(first.metrics == second.metrics);
  }
}

}  // namespace nearkv
