#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "models/systems/test_points.hpp"

using namespace nearkv;

namespace {

FaultConfig fault_at(FaultKind kind, double seconds, const std::string& device) {
  constexpr double kPicoseconds = 1e12;  // unit: a second's
  FaultConfig fault;
  fault.kind = kind;
  fault.device = device;
  fault.when.time = SimDuration{std::llround(seconds * kPicoseconds)};
  return fault;
}

RunResult run_with(const std::string& system, const Overrides& overrides,
                   const std::vector<FaultConfig>& faults) {
  DesignPoint point = small_point(system, overrides);
  point.faults = faults;
  return run_alone(point);
}

/// The middle of the decode time of the point without faults.
double middle_of_decode(const std::string& system, const Overrides& overrides) {
  const RunResult plain = run_alone(small_point(system, overrides));
  REQUIRE(plain.status == RunStatus::ok);
  return plain.at("prefill_time") + plain.at("decode_time") / 2;
}

const Overrides kFourDrives{"csd/0/count=4"};
const Overrides kLong{"workload/output_tokens=200", "simulation/fidelity=sampled"};

}  // namespace

TEST_CASE("a fault after the end of a run changes nothing but the events of the engine") {
  for (const std::string system : {"insti_dense", "flexgen"}) {
    CAPTURE(system);
    const RunResult plain = run_alone(small_point(system));
    const RunResult late =
        run_with(system, {}, {fault_at(FaultKind::thermal_throttling, 1e5, "gpu/0")});
    CHECK(late.at("throughput") == doctest::Approx(plain.at("throughput")).epsilon(1e-12));
    CHECK(late.at("faults/0/count") == 0);
    CHECK(late.metrics.contains("faults/throughput_before"));
    CHECK_FALSE(late.metrics.contains("faults/throughput_during"));
  }
}

TEST_CASE("a GPU that is throttled from the start is a GPU of a lower tensor peak") {
  for (const std::string fidelity : {"reuse", "sampled"}) {
    CAPTURE(fidelity);
    const Overrides fixed{"simulation/fidelity=" + fidelity};
    FaultConfig fault = fault_at(FaultKind::thermal_throttling, 0, "gpu/0");
    fault.speed = 0.5;
    const RunResult throttled = run_with("insti_dense", fixed, {fault});
    const DesignPoint normal = small_point("insti_dense", fixed);
    const RunResult slower = run_alone(
        small_point("insti_dense",
                    fixed + Overrides{"gpu/0/tensor_peak=" +
                                      format_exact(scaled(normal.gpu.front().tensor_peak, 0.5))}));
    CHECK(throttled.at("prefill_time") == doctest::Approx(slower.at("prefill_time")).epsilon(1e-9));
    CHECK(throttled.at("decode_time") == doctest::Approx(slower.at("decode_time")).epsilon(1e-9));
  }
}

TEST_CASE("read retries on all drives from the start are slower flash") {
  std::vector<FaultConfig> faults;
  for (const char* device : {"csd/0", "csd/1", "csd/2", "csd/3"}) {
    faults.push_back(fault_at(FaultKind::read_retries, 0, device));
    faults.back().further_reads = 2;
  }
  const RunResult retries = run_with("insti_dense", kFourDrives, faults);
  const SimDuration normal = small_point("insti_dense").csd.front().flash.t_read.lsb;
  const RunResult slower = run_alone(small_point(
      "insti_dense", kFourDrives + Overrides{"csd/0/flash/t_read=" + format_exact(normal * 3)}));
  CHECK(retries.at("decode_time") == doctest::Approx(slower.at("decode_time")).epsilon(1e-9));
}

TEST_CASE("a link that is trained down from the start is a narrower link") {
  const Overrides one{"workload/prompt_tokens=512"};
  FaultConfig fault = fault_at(FaultKind::link_degraded, 0, "");
  fault.link = "csd/0";
  fault.generation = 3;
  fault.lanes = 1;
  const RunResult degraded = run_with("insti_dense", one, {fault});
  const RunResult plain = run_alone(small_point("insti_dense", one));
  DesignPoint narrow = small_point("insti_dense", one);
  for (PciePortConfig& port : narrow.pcie.ports) {
    if (port.serves("csd/0")) {
      port.link.lanes = 1;
      port.link.generation = 3;
    }
  }
  const RunResult expected = run_alone(narrow);
  CHECK(degraded.at("decode_time") > plain.at("decode_time"));
  CHECK(degraded.at("decode_time") == doctest::Approx(expected.at("decode_time")).epsilon(1e-6));
  CHECK(degraded.at("prefill_time") == doctest::Approx(expected.at("prefill_time")).epsilon(1e-6));
}

TEST_CASE("a link may lose lanes or generations, and gains none") {
  const PcieConfig pcie = small_point("insti_dense", {}).pcie;
  const auto port = std::find_if(pcie.ports.begin(), pcie.ports.end(),
                                 [](const PciePortConfig& each) { return each.serves("csd/0"); });
  REQUIRE(port != pcie.ports.end());
  const auto is_allowed = [](int lanes, int generation) {
    try {
      static_cast<void>(small_point(
          "insti_dense",
          {fmt::format(R"(faults=[{{"kind":"link_degraded","link":"csd/0","generation":{},)"
                       R"("lanes":{},"lasts":"0s","when":{{"kind":"at","time":"1s"}}}}])",
                       generation, lanes)}));
      return true;
    } catch (const ConfigError&) {
      return false;
    }
  };
  const PcieLinkConfig& link = port->link;
  REQUIRE(link.lanes > 1);
  REQUIRE(link.generation > 3);
  CHECK(is_allowed(link.lanes, 3));
  CHECK(is_allowed(1, link.generation));
  CHECK_FALSE(is_allowed(link.lanes * 2, 3));
  CHECK_FALSE(is_allowed(1, link.generation + 1));
}

TEST_CASE("a condition that ends leaves the throughput as it was") {
  const Overrides overrides = kFourDrives + kLong;
  const RunResult plain = run_alone(small_point("insti_dense", overrides));
  const double middle = plain.at("prefill_time") + plain.at("decode_time") / 2;
  FaultConfig fault = fault_at(FaultKind::thermal_throttling, middle, "csd/1");
  fault.speed = 0.25;
  fault.lasts = SimDuration{static_cast<std::int64_t>(plain.at("decode_time") / 10 * 1e12)};
  const RunResult hot = run_with("insti_dense", overrides, {fault});
  REQUIRE(hot.status == RunStatus::ok);
  CHECK(hot.at("faults/0/count") == 1);
  CHECK(hot.at("faults/0/first_time") == doctest::Approx(middle).epsilon(1e-9));
  CHECK(hot.at("faults/throughput_during") < 0.9 * hot.at("faults/throughput_before"));
  CHECK(hot.at("faults/throughput_after") > 0.9 * hot.at("faults/throughput_before"));
  CHECK(hot.at("faults/time_during") ==
        doctest::Approx(plain.at("decode_time") / 10).epsilon(1e-6));
  CHECK(hot.at("decode_time") > plain.at("decode_time"));
  CHECK(hot.at("faults/recovery_time") == 0);
}

TEST_CASE("sampled and exact runs with faults agree within the bound") {
  const Overrides overrides = kFourDrives + Overrides{"workload/output_tokens=120"};
  const double middle = middle_of_decode("insti_dense", overrides);
  std::vector<FaultConfig> faults{fault_at(FaultKind::die_failure, middle, "csd/2"),
                                  fault_at(FaultKind::read_retries, middle * 0.8, "csd/0")};
  faults[1].further_reads = 3;
  faults[1].lasts = SimDuration{static_cast<std::int64_t>(middle / 20 * 1e12)};
  const RunResult exact =
      run_with("insti_dense", overrides + Overrides{"simulation/fidelity=exact"}, faults);
  const RunResult reuse = run_with("insti_dense", overrides, faults);
  const RunResult sampled =
      run_with("insti_dense", overrides + Overrides{"simulation/fidelity=sampled"}, faults);
  CHECK(exact.at("decode_time") == reuse.at("decode_time"));
  CHECK(exact.at("faults/recovery_time") == reuse.at("faults/recovery_time"));
  CHECK(sampled.at("decode_steps_simulated") < exact.at("decode_steps_simulated"));
  CHECK(sampled.at("decode_time") == doctest::Approx(exact.at("decode_time")).epsilon(0.01));
  CHECK(sampled.at("faults/recovery_time") ==
        doctest::Approx(exact.at("faults/recovery_time")).epsilon(0.01));
  CHECK(sampled.at("faults/recomputed_tokens") ==
        doctest::Approx(exact.at("faults/recomputed_tokens")).epsilon(0.01));
}

TEST_CASE("a die that fails costs the CSD a recomputation, and it goes on without the die") {
  const double middle = middle_of_decode("insti_dense", kFourDrives);
  FaultConfig fault = fault_at(FaultKind::die_failure, middle, "csd/1");
  fault.channel = 1;
  const RunResult plain = run_alone(small_point("insti_dense", kFourDrives));
  const RunResult failed = run_with("insti_dense", kFourDrives, {fault});
  REQUIRE(failed.status == RunStatus::ok);
  CHECK(failed.at("faults/lost_pages") > 0);
  CHECK(failed.at("faults/recovery_time") > 0);
  // Sequences with a page on the die pass again, with prompt and what they have generated.
  CHECK(failed.at("faults/recomputed_tokens") > 96);
  CHECK(failed.at("faults/recomputed_tokens") < 2 * (96 + 9));
  CHECK(failed.at("throughput") < plain.at("throughput"));
  CHECK(failed.at("decode_time") == doctest::Approx(plain.at("decode_time")).epsilon(0.1));
}

TEST_CASE("a channel that fails takes the pages of all of its dies, and no others") {
  const double middle = middle_of_decode("insti_dense", kFourDrives);
  const DesignPoint point = small_point("insti_dense", kFourDrives);
  const FlashConfig& flash = point.csd.front().flash;
  FaultConfig fault = fault_at(FaultKind::channel_failure, middle, "csd/1");
  REQUIRE(flash.channels > 2);
  fault.channel = 1;
  const RunResult of_channel = run_with("insti_dense", kFourDrives, {fault});
  REQUIRE(of_channel.status == RunStatus::ok);
  double of_dies = 0;
  fault.kind = FaultKind::die_failure;
  for (fault.die = 0; fault.die < flash.chips_per_channel * flash.dies_per_chip; ++fault.die) {
    of_dies += run_with("insti_dense", kFourDrives, {fault}).at("faults/lost_pages");
  }
  CHECK(of_channel.at("faults/lost_pages") > 0);
  CHECK(of_channel.at("faults/lost_pages") == of_dies);
}

TEST_CASE("the heads of a drive that fails move to the others") {
  for (const std::string system : {"insti_dense", "insti_sparf", "near_storage_writeback"}) {
    for (const std::string division : {"heads", "sequences"}) {
      CAPTURE(system);
      CAPTURE(division);
      const Overrides overrides =
          kFourDrives + Overrides{"system/division=" + division, "workload/batch=8"};
      const RunResult plain = run_alone(small_point(system, overrides));
      const double middle = plain.at("prefill_time") + plain.at("decode_time") / 2;
      FaultConfig fault = fault_at(FaultKind::drive_failure, middle, "csd/3");
      fault.notice = SimDuration{1'000'000'000};
      const RunResult failed = run_with(system, overrides, {fault});
      REQUIRE(failed.status == RunStatus::ok);
      const int sequences = division == "heads" ? 8 : 2;
      CHECK(failed.at("faults/recomputed_tokens") >= sequences * 96);
      CHECK(failed.at("faults/recomputed_tokens") < sequences * (96 + 9));
      CHECK(failed.at("faults/recovery_time") > 1e-3);
      CHECK(failed.at("decode_time") > plain.at("decode_time"));
      CHECK(failed.at("high_water/csd/0/flash") > plain.at("high_water/csd/0/flash"));
    }
  }
}

TEST_CASE("drives may fail one after another until none is left") {
  const Overrides overrides{"csd/0/count=3", "workload/output_tokens=40"};
  const RunResult plain = run_alone(small_point("insti_dense", overrides));
  std::vector<FaultConfig> faults;
  for (int drive = 0; drive < 3; ++drive) {
    faults.push_back(fault_at(FaultKind::drive_failure,
                              plain.at("prefill_time") + plain.at("decode_time") * (drive + 1) / 5,
                              "csd/" + std::to_string(drive)));
  }
  const RunResult two = run_with("insti_dense", overrides, {faults[0], faults[1]});
  REQUIRE(two.status == RunStatus::ok);
  CHECK(two.at("faults/recomputed_tokens") >= 4 * 96);
  const RunResult all = run_with("insti_dense", overrides, faults);
  CHECK(all.status == RunStatus::data_lost);
  CHECK(all.detail == "data_lost: no CSD is left");
  CHECK(all.at("faults/decoded_tokens") > 0);
  CHECK(all.at("faults/decoded_tokens") < 2 * 39);
}

TEST_CASE("a baseline that loses an SSD stops with a result that says so") {
  for (const std::string system : {"flexgen", "deepspeed"}) {
    CAPTURE(system);
    const RunResult plain = run_alone(small_point(system));
    const RunResult failed = run_with(
        system, {}, {fault_at(FaultKind::drive_failure, plain.at("prefill_time") * 1.01, "ssd/0")});
    if (failed.status == RunStatus::ok) {  // it never used the drive
      CHECK(plain.at("prefill_traffic/ssd/read") + plain.at("prefill_traffic/ssd/written") == 0);
      continue;
    }
    CHECK(failed.status == RunStatus::data_lost);
    CHECK(failed.detail ==
          "data_lost: drive_failure of ssd/0: its data are lost, as the SSDs are striped without "
          "redundancy, and " +
              system + " has no copy");
  }
}

TEST_CASE("an SSD that is lost before it was used ends the run when it is used") {
  // The KV of few tokens fits the page cache, and outgrows it.
  const Overrides overrides{"workload/batch=64", "workload/prompt_tokens=64",
                            "workload/output_tokens=200", "host/dram=9728MiB",
                            "host/reserved=1GiB"};
  const RunResult plain = run_alone(small_point("flexgen", overrides));
  REQUIRE(plain.status == RunStatus::ok);
  REQUIRE(plain.at("prefill_traffic/ssd/written") == 0);
  REQUIRE(plain.at("decode_traffic/ssd/written") > 0);
  const RunResult failed =
      run_with("flexgen", overrides, {fault_at(FaultKind::drive_failure, 0, "ssd/0")});
  CHECK(failed.status == RunStatus::data_lost);
  CHECK(failed.at("faults/decoded_tokens") > 0);
  CHECK(failed.at("faults/decoded_tokens") < 64 * 199);
}

TEST_CASE("uncorrectable pages are as many as asked for, and the same for one seed") {
  const double middle = middle_of_decode("insti_dense", kFourDrives);
  FaultConfig fault = fault_at(FaultKind::uncorrectable_pages, middle, "csd/0");
  fault.pages = 5;
  const RunResult once = run_with("insti_dense", kFourDrives, {fault});
  const RunResult again = run_with("insti_dense", kFourDrives, {fault});
  CHECK(once.at("faults/lost_pages") == 5);
  CHECK(once.digest == again.digest);
  CHECK(once.metrics == again.metrics);
}

TEST_CASE("losses that come faster than the system recovers end the run") {
  FaultConfig fault = fault_at(FaultKind::uncorrectable_pages, 0, "csd/0");
  fault.pages = 5;
  fault.when.kind = FaultTimes::Kind::rate;
  fault.when.mean_interval = SimDuration{1'000'000'000};  // 1 ms
  const RunResult run = run_with("insti_dense", kFourDrives, {fault});
  CHECK(run.status == RunStatus::data_lost);
  CHECK(run.detail ==
        "data_lost: uncorrectable_pages of csd/0: 1000 losses without a token between them; they "
        "come faster than the system recovers");
}

TEST_CASE("a stalled controller holds up the drives' attention for as long") {
  const RunResult plain = run_alone(small_point("insti_dense"));
  FaultConfig fault = fault_at(FaultKind::controller_stall,
                               plain.at("prefill_time") + plain.at("decode_time") / 3, "csd/0");
  fault.lasts = SimDuration{50'000'000'000};
  const RunResult stalled = run_with("insti_dense", {}, {fault});
  CHECK(stalled.at("decode_time") == doctest::Approx(plain.at("decode_time") + 0.05).epsilon(0.01));
}

TEST_CASE("host memory that something else takes sends the page cache's KV to the SSD") {
  // All KV fits the page cache, but not what is left of it.
  const Overrides overrides{"workload/batch=64", "workload/prompt_tokens=64",
                            "workload/output_tokens=200", "host/dram=10GiB", "host/reserved=1GiB"};
  const RunResult plain = run_alone(small_point("flexgen", overrides));
  REQUIRE(plain.status == RunStatus::ok);
  REQUIRE(plain.at("decode_traffic/ssd/read") == 0);
  FaultConfig fault = fault_at(FaultKind::host_memory_pressure, 0, "");
  fault.size = 512_MiB;
  const RunResult pressed = run_with("flexgen", overrides, {fault});
  REQUIRE(pressed.status == RunStatus::ok);
  CHECK(pressed.at("decode_traffic/ssd/read") > 0);
  CHECK(pressed.at("decode_time") > 1.1 * plain.at("decode_time"));
  fault.size = Bytes{std::int64_t{1} << 50};
  const RunResult too_much = run_with("flexgen", overrides, {fault});
  CHECK(too_much.status == RunStatus::out_of_memory);
  CHECK(too_much.detail.find("memory pressure") != std::string::npos);
}

TEST_CASE("faults at a rate come again and again") {
  const Overrides overrides = kFourDrives + kLong;
  const RunResult plain = run_alone(small_point("insti_dense", overrides));
  FaultConfig fault = fault_at(FaultKind::uncorrectable_pages, 0, "csd/1");
  fault.when.kind = FaultTimes::Kind::rate;
  fault.when.mean_interval =
      SimDuration{static_cast<std::int64_t>(plain.at("decode_time") / 6 * 1e12)};
  fault.pages = 1;
  const RunResult worn = run_with("insti_dense", overrides, {fault});
  REQUIRE(worn.status == RunStatus::ok);
  CHECK(worn.at("faults/0/count") > 1);
  CHECK(worn.at("faults/lost_pages") == worn.at("faults/0/count"));
  CHECK(worn.at("throughput") < plain.at("throughput"));
}

TEST_CASE("conditions reach a system that serves requests itself") {
  FaultConfig fault = fault_at(FaultKind::thermal_throttling, 0, "gpu/0");
  fault.speed = 0.2;
  const RunResult plain = run_alone(small_point("continuous_batching"));
  const RunResult hot = run_with("continuous_batching", {}, {fault});
  CHECK(hot.at("throughput") < plain.at("throughput"));
  CHECK(hot.at("faults/throughput_during") > 0);
}

TEST_CASE("a system that serves from VRAM goes on when a drive that it does not use fails") {
  DesignPoint point = small_point("continuous_batching");
  point.ssd = small_point("flexgen").ssd;
  const RunResult plain = run_alone(point);
  REQUIRE(plain.status == RunStatus::ok);
  point.faults = {fault_at(FaultKind::drive_failure, plain.at("ttft") / 2, "ssd/0")};
  const RunResult failed = run_alone(point);
  REQUIRE(failed.status == RunStatus::ok);
  CHECK(failed.at("faults/0/count") == 1);
  CHECK(failed.at("throughput") == doctest::Approx(plain.at("throughput")).epsilon(1e-9));
  CHECK(failed.at("faults/recovery_time") == 0);
}
