#include "models/systems/recording.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "models/systems/test_points.hpp"
#include "sim/core/critical_path.hpp"
#include "sim/core/test_trace.hpp"
#include "sim/core/trace_events.hpp"

using namespace nearkv;

namespace {

constexpr std::int64_t kMany = 10'000'000;
constexpr double kPicoseconds = 1e12;

struct Recorded {
  ActivityLog log{{.most_spans = kMany}};
  RunOutcome outcome;
  ReadTrace trace;
};

/// In this process; one a test case.
Recorded record(const DesignPoint& point, const RecordedPart& part) {
  Recorded recorded;
  recorded.outcome = record_design_point(point, part, recorded.log);
  INFO(recorded.outcome.status_detail);
  REQUIRE(recorded.outcome.status == RunStatus::ok);
  const std::string text = trace_events(recorded.log, {});
  recorded.trace = read_trace(text);
  return recorded;
}

/// Every window's path adds up, and everything on it has a name.
void check_paths(const ActivityLog& log) {
  for (const ActivityLog::Window& window : log.windows()) {
    SimDuration sum{};
    for (const PathShare& share : critical_path(log, window)) {
      CAPTURE(window.name);
      CAPTURE(share.what);
      CHECK(share.resource != "unrecorded");
      CHECK(share.resource != "before the recording");
      sum += share.time;
    }
    CHECK(sum == window.end - window.begin);
  }
}

RecordedPart all_steps(const DesignPoint& point) {
  return {.first = 0, .last = point.workload.output_tokens - 1, .chosen_by = "all"};
}

DesignPoint exact_point(const std::string& system, const Overrides& more = {}) {
  return small_point(system, Overrides{"simulation/fidelity=exact"} + more);
}

/// A whole run's decode steps: the same wake-ups, and the busy times that its record has.
Recorded check_whole_decode(const DesignPoint& point) {
  const RunResult plain = run_alone(point);
  Recorded recorded = record(point, all_steps(point));
  CHECK(recorded.outcome.digest == plain.digest);
  CHECK(recorded.outcome.wakeups == plain.wakeups);
  check_paths(recorded.log);
  const double decode = plain.at("decode_time");
  SimDuration steps{};
  for (const ActivityLog::Window& window : recorded.log.windows()) {
    steps += window.end - window.begin;
  }
  CHECK(to_seconds(steps) == doctest::Approx(decode).epsilon(1e-12));
  const auto check_busy = [&](const std::string& metric, const std::string& track, double busy_of) {
    if (plain.metrics.contains(metric)) {
      CAPTURE(metric);
      const double busy = static_cast<double>(recorded.trace.busy(track)) / kPicoseconds;
      CHECK(busy * busy_of == doctest::Approx(plain.at(metric) * decode).epsilon(1e-9));
    }
  };
  check_busy("utilization/gpu/0/compute", "gpu/0/compute", 1);
  check_busy("utilization/host/submitter", "host/submitter", 1);
  check_busy("utilization/host/cores", "host/cores", 1.0 / point.host.cores);
  for (const char* link :
       {"pcie/gpu/0/up", "pcie/gpu/0/down", "pcie/csd/0/up", "pcie/csd/0/down"}) {
    if (plain.metrics.contains(std::string("decode_traffic/") + link + "/bytes")) {
      CHECK(static_cast<double>(recorded.trace.sum_of(link, "bytes")) ==
            plain.at(std::string("decode_traffic/") + link + "/bytes"));
    }
  }
  if (!point.csd.empty()) {
    const CsdConfig& csd = point.csd.front();
    std::int64_t channels = 0;
    for (int i = 0; i < csd.flash.channels; ++i) {
      channels += recorded.trace.busy(fmt::format("csd/0/flash/channel/{}", i));
    }
    CHECK(static_cast<double>(channels) / kPicoseconds / csd.flash.channels ==
          doctest::Approx(plain.at("utilization/csd/0/flash/channels") * decode).epsilon(1e-9));
    check_busy("utilization/csd/0/controller_cores", "csd/0/controller_cores",
               1.0 / csd.controller.cores);
    check_busy("utilization/csd/0/gemv_units", "csd/0/gemv_units",
               csd.engine.feed.kind == FeedKind::pages
                   ? 1.0 / (csd.engine.attention_kernels * csd.engine.gemv_units_per_kernel)
                   : 1.0 / csd.engine.attention_kernels);
    if (csd.engine.feed.kind == FeedKind::blocks) {
      check_busy("utilization/csd/0/reading", "csd/0/reading", 1);
    }
  }
  // GPUDirect's reads and writes are spans of the link without bytes of their own.
  if (plain.metrics.contains("host/storage/read_bytes") &&
      plain.at("host/storage/read_bytes") > 0) {
    CHECK(static_cast<double>(recorded.trace.sum_of("ssd", "bytes")) >=
          plain.at("decode_traffic/ssd/read"));
  }
  return recorded;
}

const Overrides kPages{"csd/0/flash/policy=out_of_order",
                       R"(csd/0/engine/feed={"kind": "pages", "key_buffers": 256, )"
                       R"("value_buffers": 256, "heads_in_flight": 16})"};

}  // namespace

TEST_CASE("recording: insti_dense, all decode steps") {
  const DesignPoint point = exact_point("insti_dense");
  const Recorded recorded = check_whole_decode(point);
  // A driver, a worker of the drive, and its parts.
  for (const char* track : {"driver", "csd/0/driver", "gpu/0/compute", "host/submitter",
                            "pcie/gpu/0/up", "csd/0/commands", "csd/0/flash/channel/0",
                            "csd/0/flash/channel/7/dies", "csd/0/attention_kernels"}) {
    CAPTURE(track);
    CHECK(recorded.trace.tracks.contains(track));
  }
  // An arrow from each step and layer to its commands and on to a channel.
  const std::size_t batches = 8 * 3;
  CHECK(recorded.trace.arrows.size() == batches);
  for (const auto& [id, tracks] : recorded.trace.arrows) {
    REQUIRE(tracks.size() == 3);
    CHECK(std::count(tracks.begin(), tracks.end(), "csd/0/driver") == 1);
    CHECK(std::count(tracks.begin(), tracks.end(), "csd/0/commands") == 1);
  }
  CHECK(recorded.trace.tracks.at("csd/0/commands").size() == batches);
  CHECK(recorded.trace.counters.contains("VRAM [B]"));
  CHECK(recorded.trace.counters.contains("csd/0/commands under way [commands]"));
}

TEST_CASE("recording: insti_sparf, all decode steps") {
  check_whole_decode(exact_point("insti_sparf"));
}

TEST_CASE("recording: insti_dense with two lanes and drives") {
  check_whole_decode(
      exact_point("insti_dense", {"system/gpu_csd_overlap=two_batches", "csd/0/count=2"}));
}

TEST_CASE("recording: event-driven flash, engine fed by pages") {
  check_whole_decode(exact_point("insti_dense", kPages));
}

TEST_CASE("recording: event-driven flash, engine fed by pages, sparse") {
  check_whole_decode(exact_point("insti_sparf", kPages));
}

TEST_CASE("recording: event-driven flash, engine fed by blocks") {
  check_whole_decode(exact_point("insti_sparf", {"csd/0/flash/policy=out_of_order"}));
}

TEST_CASE("recording: near_storage_writeback, all decode steps") {
  check_whole_decode(shipped_point(
      "near_storage_writeback", {"model/layers=3", "workload/batch=4", "workload/prompt_tokens=96",
                                 "workload/output_tokens=40", "simulation/fidelity=exact"}));
}

TEST_CASE("recording: flexgen, all decode steps") {
  const Recorded recorded = check_whole_decode(exact_point("flexgen"));
  CHECK(recorded.trace.counters.contains("host/page cache [B]"));
}

TEST_CASE("recording: flexgen that reads from disk") {
  check_whole_decode(exact_point("flexgen", {"host/dram=25GiB", "host/reserved=16GiB",
                                             "workload/batch=32", "workload/prompt_tokens=512"}));
}

TEST_CASE("recording: flexgen_gds, all decode steps") {
  check_whole_decode(exact_point("flexgen_gds"));
}

TEST_CASE("recording: flexgen_sparq, all decode steps") {
  check_whole_decode(exact_point("flexgen_sparq"));
}

TEST_CASE("recording: flexgen with its host program, weights and cache on the CPU") {
  check_whole_decode(
      read_point("flexgen_h200.json", {"model/layers=2", "workload/prompt_tokens=64",
                                       "workload/output_tokens=6", "simulation/fidelity=exact"}));
}

TEST_CASE("recording: deepspeed, all decode steps") {
  check_whole_decode(exact_point("deepspeed"));
}

TEST_CASE("recording: two GPUs that share the model") {
  check_whole_decode(exact_point("deepspeed", {"parallelism/tensor=2"}));
}

TEST_CASE("recording: recompute_static, whose passes are alike") {
  const DesignPoint point =
      shipped_point("recompute_static", {"model/layers=3", "workload/output_tokens=6"});
  const Recorded recorded = record(point, {.first = 1, .last = 3, .chosen_by = "steps"});
  check_paths(recorded.log);
  CHECK(recorded.log.windows().size() == 2);
}

TEST_CASE("recording: passes of continuous_batching") {
  const DesignPoint point =
      shipped_point("continuous_batching", {"model/layers=3", "workload/output_tokens=6"});
  const Recorded recorded = record(point, {.first = 1, .last = 4, .chosen_by = "passes"});
  check_paths(recorded.log);
  REQUIRE(recorded.log.windows().size() == 3);
  CHECK(recorded.log.windows().front().name == "pass 1");
}

TEST_CASE("recording: more passes than a run has are refused") {
  const DesignPoint point =
      shipped_point("continuous_batching", {"model/layers=3", "workload/output_tokens=6"});
  ActivityLog log({.most_spans = kMany});
  CHECK_THROWS_WITH_AS(
      static_cast<void>(record_design_point(
          point, {.first = 1, .last = 400, .chosen_by = "--timeline-steps 1:400"}, log)),
      doctest::Contains("--timeline-steps 1:400: there are "), ConfigError);
}

TEST_CASE("recording: more steps than a batch has are refused") {
  ActivityLog log({.most_spans = kMany});
  CHECK_THROWS_WITH_AS(static_cast<void>(record_design_point(
                           small_point("insti_dense"),
                           {.first = 8, .last = 9, .chosen_by = "--timeline-steps 8:9"}, log)),
                       "--timeline-steps 8:9: there are 8 decode steps, counted from 0; the last "
                       "one before 9 is not among them",
                       ConfigError);
}

TEST_CASE("recording: prefill") {
  const DesignPoint point = exact_point("insti_dense");
  const RunResult plain = run_alone(point);
  const Recorded recorded = record(point, {.prefill = true, .chosen_by = "prefill"});
  check_paths(recorded.log);
  REQUIRE(recorded.log.windows().size() == 1);
  const ActivityLog::Window& window = recorded.log.windows().front();
  CHECK(to_seconds(window.end - window.begin) ==
        doctest::Approx(plain.at("prefill_time")).epsilon(1e-12));
  CHECK(static_cast<double>(recorded.trace.busy("gpu/0/compute")) / kPicoseconds ==
        doctest::Approx(plain.at("prefill_busy/gpu/0/compute")).epsilon(1e-9));
}

TEST_CASE("recording: a step in the middle of a sampled run is simulated whole") {
  // It takes the time that it takes in an exact run: insti warms up exactly.
  const DesignPoint point = exact_point("insti_dense");
  const RunResult plain = run_alone(exact_point("insti_dense", {"workload/output_tokens=6"}));
  const RunResult shorter = run_alone(exact_point("insti_dense", {"workload/output_tokens=5"}));
  const DesignPoint sampled = small_point("insti_dense", {"simulation/fidelity=sampled"});
  const Recorded recorded = record(sampled, {.first = 4, .last = 5, .chosen_by = "step"});
  check_paths(recorded.log);
  const ActivityLog::Window& window = recorded.log.windows().front();
  CHECK(window.name == "decode step 4");
  CHECK(to_seconds(window.end - window.begin) ==
        doctest::Approx(plain.at("decode_time") - shorter.at("decode_time")).epsilon(1e-9));
  CHECK(static_cast<int>(recorded.trace.tracks.at("csd/0/commands").size()) == point.model.layers);
}

TEST_CASE("recording: the critical path finds what is slow") {
  const std::string family = "csd/flash/channels";
  const DesignPoint point = exact_point("insti_dense", {"csd/0/flash/mega_transfers=14"});
  const Recorded recorded = record(point, {.first = 2, .last = 3, .chosen_by = "step"});
  SimDuration of_family{};
  const ActivityLog::Window& window = recorded.log.windows().front();
  for (const PathShare& share : critical_path(recorded.log, window)) {
    of_family += family_of(share.resource) == family ? share.time : SimDuration{};
  }
  CHECK(to_seconds(of_family) / to_seconds(window.end - window.begin) > 0.9);
}
