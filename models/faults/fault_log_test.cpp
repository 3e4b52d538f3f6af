#include "models/faults/fault_log.hpp"

#include <doctest/doctest.h>

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

SimTime at(SimDuration since_start) { return SimTime{} + since_start; }

}  // namespace

TEST_CASE("fault log: tokens count where they came out, pauses count nowhere") {
  FaultLog log({"thermal_throttling of gpu/0"});
  log.pause(at(10s));        // prefill
  log.tokens(at(20s), 100);  // 10 a second
  log.begins(0, at(25s));    // in the middle of a step
  log.tokens(at(30s), 40);   // 8 a second
  log.ends(0, at(30s));
  log.tokens(at(40s), 120);  // 12 a second
  Metrics metrics;
  log.report(metrics, at(40s));
  CHECK(metrics.at("faults/throughput_before") == doctest::Approx((100 + 20) / 15.0));
  CHECK(metrics.at("faults/throughput_during") == doctest::Approx(4));
  CHECK(metrics.at("faults/throughput_after") == doctest::Approx(12));
  CHECK(metrics.at("faults/time_during") == doctest::Approx(5));
  CHECK(metrics.at("faults/decoded_tokens") == 260);
  CHECK(metrics.at("faults/0/count") == 1);
  CHECK(metrics.at("faults/0/first_time") == doctest::Approx(25));
}

TEST_CASE("fault log: recovering is time without tokens, and part of the fault") {
  FaultLog log({"drive_failure of csd/1"});
  log.tokens(at(10s), 10);
  log.begins(0, at(8s));
  log.tokens(at(15s), 0);
  log.recovered(0, {.begin = at(10s), .end = at(15s), .recomputed_tokens = 64, .lost_pages = 7});
  log.tokens(at(25s), 5);
  Metrics metrics;
  log.report(metrics, at(25s));
  CHECK(metrics.at("faults/throughput_before") == doctest::Approx(1));
  CHECK(metrics.at("faults/throughput_during") == doctest::Approx(2 / 7.0));
  CHECK(metrics.at("faults/throughput_after") == doctest::Approx(0.5));
  CHECK(metrics.at("faults/recovery_time") == doctest::Approx(5));
  CHECK(metrics.at("faults/recomputed_tokens") == 64);
  CHECK(metrics.at("faults/lost_pages") == 7);
}

TEST_CASE("fault log: faults that overlap are one time, and one may last to the end") {
  FaultLog log({"a", "b"});
  log.begins(0, at(2s));
  log.begins(1, at(3s));
  log.ends(0, at(4s));
  log.tokens(at(10s), 10);
  Metrics metrics;
  log.report(metrics, at(10s));
  CHECK(metrics.at("faults/time_during") == doctest::Approx(8));
  CHECK(metrics.at("faults/throughput_during") == doctest::Approx(1));
  CHECK_FALSE(metrics.find("faults/throughput_after").has_value());
}

TEST_CASE("fault log: without a fault all is before") {
  FaultLog log({"a"});
  log.tokens(at(10s), 10);
  Metrics metrics;
  log.report(metrics, at(10s));
  CHECK(metrics.at("faults/throughput_before") == doctest::Approx(1));
  CHECK_FALSE(metrics.find("faults/throughput_during").has_value());
  CHECK(metrics.at("faults/time_during") == 0);
  CHECK_FALSE(metrics.find("faults/0/first_time").has_value());
}
