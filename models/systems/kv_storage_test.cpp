// The drives' KV FTL and the ways in which pages are scheduled and fed, in whole runs.
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/systems/test_points.hpp"

using namespace nearkv;

namespace {

const Overrides kOutOfOrder{"csd/0/flash/policy=out_of_order"};
const Overrides kPages{
    "csd/0/flash/policy=out_of_order",
    R"(csd/0/engine/feed={"kind": "pages", "key_buffers": 24, "value_buffers": 24, )"
    R"("heads_in_flight": 16})"};
/// 256 planes of 5 blocks of 32 pages, of which a fifth is bad: planes run full at different times.
const Overrides kCrowded{"csd/0/flash/blocks_per_plane=5", "csd/0/flash/pages_per_block=32",
                         "csd/0/kv_ftl/bad_blocks/factory_share=0.2"};
const Overrides kAcrossChunks{"workload/prompt_tokens=495", "workload/output_tokens=60"};

std::vector<std::pair<std::string, double>> ftl_metrics(const RunResult& run) {
  std::vector<std::pair<std::string, double>> found;
  for (const auto& [name, value] : run.metrics) {
    if (name.starts_with("kv_ftl/") || name.ends_with("/group buffers")) {
      found.emplace_back(name, value);
    }
  }
  return found;
}

RunResult run_of(const std::string& system, const Overrides& all, const std::string& fidelity) {
  return run_alone(small_point(system, all + Overrides{"simulation/fidelity=" + fidelity}));
}

}  // namespace

TEST_CASE("kv storage: the FTL ends in the same state however much of the run is simulated") {
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    for (const Overrides& variant :
         {Overrides{}, Overrides{"csd/0/count=2"}, kCrowded, kCrowded + kOutOfOrder}) {
      CAPTURE(system);
      CAPTURE(variant.empty() ? "" : variant.front());
      const Overrides all = kAcrossChunks + variant;
      const RunResult exact = run_of(system, all, "exact");
      REQUIRE_MESSAGE(exact.status == RunStatus::ok, exact.detail);
      const auto expected = ftl_metrics(exact);
      REQUIRE(expected.size() >= 12);
      CHECK(exact.at("kv_ftl/csd/0/programs") > 5'000);
      const bool is_crowded = variant.size() > 1;
      CHECK((exact.at("kv_ftl/csd/0/redirected_pages") > 0) == is_crowded);
      CHECK(ftl_metrics(run_of(system, all, "reuse")) == expected);
      const RunResult sampled = run_alone(small_point(
          system, all + Overrides{"simulation/fidelity=sampled", "simulation/most_sampled_steps=8",
                                  "simulation/sampling_tolerance=0.5"}));
      CHECK(sampled.at("decode_steps_simulated") < sampled.at("decode_steps"));
      CHECK(ftl_metrics(sampled) == expected);
    }
  }
}

TEST_CASE("kv storage: reuse equals exact with redirected pages and event-driven flash") {
  for (const std::string system : {"insti_dense", "insti_sparf"}) {
    for (const Overrides& variant :
         {kOutOfOrder, Overrides{"csd/0/flash/policy=data_out_first"}, kPages, kCrowded,
          kCrowded + kPages, kPages + Overrides{"csd/0/flash/t_program=20ms"},
          kOutOfOrder + Overrides{"csd/0/flash/array_unit=die", "csd/0/flash/multi_plane=true"}}) {
      CAPTURE(system);
      CAPTURE(variant.front());
      const Overrides all = Overrides{"workload/prompt_tokens=505"} + variant;
      const RunResult exact = run_of(system, all, "exact");
      const RunResult reuse = run_of(system, all, "reuse");
      REQUIRE_MESSAGE(exact.status == RunStatus::ok, exact.detail);
      CHECK(exact.digest == reuse.digest);
      CHECK(exact.metrics == reuse.metrics);
    }
  }
}

TEST_CASE("kv storage: pages that lie unevenly are read more slowly") {
  const RunResult even = run_of("insti_dense", kAcrossChunks, "reuse");
  const RunResult crowded = run_of("insti_dense", kAcrossChunks + kCrowded, "reuse");
  CHECK(crowded.at("kv_ftl/csd/0/programs") == even.at("kv_ftl/csd/0/programs"));
  CHECK(crowded.at("decode_traffic/csd/0/flash/read") ==
        even.at("decode_traffic/csd/0/flash/read"));
  CHECK(crowded.at("decode_time") > even.at("decode_time"));
  CHECK(crowded.at("kv_ftl/csd/0/bad_pages") > 0);
  // Too many bad blocks: what does not fit is a result.
  const RunResult full = run_of(
      "insti_dense",
      kAcrossChunks + kCrowded + Overrides{"csd/0/kv_ftl/bad_blocks/factory_share=0.7"}, "reuse");
  CHECK(full.status == RunStatus::out_of_memory);
  CHECK_MESSAGE(full.detail.starts_with("out_of_memory: CSD flash: KV cache needs "), full.detail);
}

TEST_CASE("kv storage: a page-fed engine overlaps reading and computing") {
  const Overrides longer{"workload/prompt_tokens=1000", "workload/output_tokens=3"};
  const RunResult blocks = run_of("insti_dense", longer + kOutOfOrder, "reuse");
  const RunResult pages = run_of("insti_dense", longer + kPages, "reuse");
  CHECK(pages.at("decode_time") < blocks.at("decode_time"));
  CHECK(blocks.at("utilization/csd/0/flash/stalled_channels") == 0);
  // Kernels at a 20th of their rate: now the flash waits for them.
  const RunResult slow = run_of(
      "insti_dense", longer + kPages + Overrides{"csd/0/engine/gemv_rate=0.6GFLOP/s"}, "reuse");
  CHECK(slow.at("utilization/csd/0/flash/stalled_channels") > 0.3);
  CHECK(slow.at("utilization/csd/0/gemv_units_idle") <
        pages.at("utilization/csd/0/gemv_units_idle"));
  CHECK(slow.at("decode_time") > pages.at("decode_time"));
}
