#include "sim/app/explain.hpp"

#include <string>

#include <doctest/doctest.h>

#include "sim/app/timeline.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

PreparedPoint shipped(const std::string& name) {
  return prepare_point(shipped_configs() / "design_points" / (name + ".json"), {});
}

std::string text_at(const json& config, const char* path) {
  const json value = plain_value(config.at(json::json_pointer(path)));
  return value.is_string() ? value.get<std::string>() : value.dump();
}

StepPath example() {
  return {"decode step 7",
          10s,
          {{"csd_attention", "csd/0/flash/channels", "pages on the bus", Activity::working, 4s},
           {"csd_attention", "csd/1/flash/channels", "pages on the bus", Activity::working, 2s},
           {"gpu_compute", "gpu/0/compute", "qkv_projection", Activity::working, 3s},
           {"submission", "host/submitter", "attend commands", Activity::waiting, 999ms},
           {"submission", "workload", "nothing", Activity::waiting, 1ms}}};
}

}  // namespace

TEST_CASE("explain: equal parts are one resource, and the predictions follow from the shares") {
  const StepPath path = example();
  const std::vector<ResourceShare> shares = resource_shares(path);
  REQUIRE(shares.size() == 4);
  CHECK(shares[0].family == "csd/flash/channels");
  CHECK(shares[0].time == 6s);
  CHECK(shares[1].family == "gpu/compute");
  CHECK(predicted_time(path, "csd/flash/channels") == 7s);  // 10 s - 6 s / 2
  CHECK(predicted_time(path, "nothing") == 10s);
}

TEST_CASE("explain: the text is a tree whose shares add up") {
  const Explanation explanation{
      "point", "insti_dense", "hash", example(),
      Confirmation{
          "csd/flash/channels", 7s, 7200ms, {{"/csd/0/flash/mega_transfers", "1400", "2800"}}}};
  CHECK(explanation_text(explanation) ==
        R"(point (insti_dense): decode step 7 takes 10 s

step, phase, what     resource                         time    share
--------------------  --------------------  -------  ------  -------
decode step 7                                          10 s  100.0 %
  csd_attention                                         6 s   60.0 %
    pages on the bus  csd/0/flash/channels  working     4 s   40.0 %
    pages on the bus  csd/1/flash/channels  working     2 s   20.0 %
  gpu_compute                                           3 s   30.0 %
    qkv_projection    gpu/0/compute         working     3 s   30.0 %
  submission                                            1 s   10.0 %
    attend commands   host/submitter        waiting  999 ms   10.0 %
    others (1)                                         1 ms    0.0 %

resource            on the critical path          if twice as fast, at most
------------------  --------------------  ------  -------------------------
csd/flash/channels                   6 s  60.0 %                     1.429x
gpu/compute                          3 s  30.0 %                     1.176x
host/submitter                    999 ms  10.0 %                     1.053x

csd/flash/channels twice as fast: predicted 7 s (1.429x), simulated 7.2 s (1.389x)
  /csd/0/flash/mega_transfers: 1400 -> 2800
)");
  const json document = explanation_json(explanation);
  CHECK(document.at("ps") == 10'000'000'000'000);
  CHECK(document.at("twice_as_fast").at("simulated_ps") == 7'200'000'000'000);
  CHECK_FALSE(document.at("resources").at(3).contains("predicted_speedup"));  // of the workload
}

TEST_CASE("twice as fast: rates are doubled, times are halved") {
  const PreparedPoint point = shipped("insti_dense_opt13b_a6000");
  const FasterPoint faster = twice_as_fast(point.config, "csd/flash", "--twice csd/flash");
  CHECK(text_at(point.config, "/csd/0/flash/t_read") == "36us");
  CHECK(text_at(faster.config, "/csd/0/flash/t_read") == "18us");
  CHECK(text_at(faster.config, "/csd/0/flash/mega_transfers") == "2800");
  CHECK(faster.config.at("csd").at(0).at("flash").at("t_read").at("source") == "override");
  CHECK(text_at(faster.config, "/gpu/0/kernel_launch") ==
        text_at(point.config, "/gpu/0/kernel_launch"));
  bool has_read = false;
  for (const ChangedConstant& change : faster.changes) {
    has_read |=
        change.path == "/csd/0/flash/t_read" && change.from == "36us" && change.to == "18us";
  }
  CHECK(has_read);
}

TEST_CASE("twice as fast: a PCIe link gets a generation of its own, the others stay") {
  const PreparedPoint point = shipped("insti_dense_opt13b_a6000");
  const FasterPoint faster = twice_as_fast(point.config, "pcie/csd/down", "--twice");
  const json& ports = faster.config.at("pcie").at("ports");
  const std::size_t generations = point.config.at("pcie").at("generations").size();
  REQUIRE(faster.config.at("pcie").at("generations").size() == generations + 1);
  const int old = point.config.at("pcie").at("ports").at(2).at("link").at("generation");
  CHECK(ports.at(2).at("link").at("generation") == 1000 + old);
  CHECK(ports.at(0).at("link").at("generation") == old);
  DesignPoint before = design_point_of(point);
  PreparedPoint changed = point;
  changed.config = faster.config;
  const DesignPoint after = design_point_of(changed);
  const auto rate = [](const DesignPoint& of) {
    return static_cast<double>(of.pcie.bandwidth_of(of.pcie.ports[2].link).per_second());
  };
  CHECK(rate(after) == doctest::Approx(2 * rate(before)));
  CHECK(after.pcie.ports[2].link.latency == before.pcie.ports[2].link.latency / 2);
}

TEST_CASE("twice as fast: every resource of the table is in some shipped design point") {
  std::vector<json> configs;
  for (const char* name : {"insti_dense_opt13b_a6000", "flexgen_opt13b_a6000", "flexgen_h200",
                           "flexgen_gds_opt13b_a6000", "continuous_batching_opt13b_a6000",
                           "near_storage_writeback_opt13b_a6000"}) {
    configs.push_back(shipped(name).config);
  }
  for (const std::string& family : known_resources()) {
    CAPTURE(family);
    int changed = 0;
    for (const json& config : configs) {
      try {
        changed += twice_as_fast(config, family, "--twice").changes.empty() ? 0 : 1;
      } catch (const ConfigError& error) {
        CHECK(std::string(error.what()).find("has no such resource") != std::string::npos);
      }
    }
    CHECK(changed > 0);
  }
}

TEST_CASE("timeline: which part of a run is meant") {
  const DesignPoint batch = design_point_of(shipped("insti_dense_opt13b_a6000"));  // 1023 steps
  const DesignPoint server = design_point_of(shipped("continuous_batching_opt13b_a6000"));
  const RecordedPart middle = recorded_part("", batch, "--timeline-steps");
  CHECK(middle.first == 511);
  CHECK(middle.last == 512);
  const RecordedPart given = recorded_part("0:3", batch, "--timeline-steps");
  CHECK(given.first == 0);
  CHECK(given.last == 3);
  CHECK(recorded_part("prefill", batch, "--timeline-steps").prefill);
  CHECK(recorded_part("", server, "--timeline-steps").last == 8);
  for (const char* wrong : {"3", "3:3", "4:3", "a:b", "-1:2", "1:2:3", "1:99999999999", ":",
                            ""
                            " 1:2"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH_AS(static_cast<void>(recorded_part(wrong, batch, "--timeline-steps")),
                         doctest::Contains("must be A:B with A below B"), ConfigError);
  }
  CHECK_THROWS_WITH_AS(static_cast<void>(recorded_part("1022:1024", batch, "--timeline-steps")),
                       "--timeline-steps 1022:1024: there are 1023 decode steps, 0 to 1022",
                       ConfigError);
  CHECK_THROWS_WITH_AS(static_cast<void>(recorded_part("prefill", server, "--timeline-steps")),
                       doctest::Contains("has no prefill of its own"), ConfigError);
}
