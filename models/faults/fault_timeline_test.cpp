#include "models/faults/fault_timeline.hpp"

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

FaultConfig hot(SimDuration at, SimDuration lasts) {
  FaultConfig fault;
  fault.kind = FaultKind::thermal_throttling;
  fault.when.time = at;
  fault.lasts = lasts;
  return fault;
}

std::vector<FaultTimeline::Event> first_events(FaultTimeline& timeline, std::size_t count) {
  std::vector<FaultTimeline::Event> events;
  while (events.size() < count && timeline.next() != kNever) {
    events.push_back(timeline.take());
  }
  return events;
}

}  // namespace

TEST_CASE("fault timeline: beginnings and ends come in the order of their times") {
  FaultTimeline timeline({hot(5s, 10s), hot(1s, 4s), hot(7s, 0s)}, 1);
  const auto events = first_events(timeline, 10);
  REQUIRE(events.size() == 5);  // one lasts to the end of the run
  using Event = FaultTimeline::Event;
  CHECK(events[0] == Event{SimTime{1s}, 1, true});
  CHECK(events[1] == Event{SimTime{5s}, 0, true});
  CHECK(events[2] == Event{SimTime{5s}, 1, false});
  CHECK(events[3] == Event{SimTime{7s}, 2, true});
  CHECK(events[4] == Event{SimTime{15s}, 0, false});
  CHECK(timeline.next() == kNever);
}

TEST_CASE("fault timeline: a rate gives the same times for a seed, with the mean that was asked") {
  FaultConfig fault = hot(0s, 0s);
  fault.when.kind = FaultTimes::Kind::rate;
  fault.when.mean_interval = 10s;
  constexpr std::size_t kCount = 20'000;
  FaultTimeline timeline({fault}, 7);
  FaultTimeline again({fault}, 7);
  FaultTimeline other({fault}, 8);
  const auto events = first_events(timeline, kCount);
  REQUIRE(events.size() == kCount);
  CHECK(events == first_events(again, kCount));
  CHECK(events != first_events(other, kCount));
  CHECK(to_seconds(events.back().at) / kCount == doctest::Approx(10).epsilon(0.03));
}

TEST_CASE("fault timeline: a rate ends before times that no run has") {
  FaultConfig fault = hot(0s, 0s);
  fault.when.kind = FaultTimes::Kind::rate;
  fault.when.mean_interval = std::chrono::hours(24 * 19);
  FaultTimeline timeline({fault}, 3);
  CHECK(first_events(timeline, 1000).size() < 10);
}

TEST_CASE("fault timeline: a trace has a duration a line") {
  const TestFolder folder;
  const auto file = folder.write("times.txt", "# after a field study\n3s\n\n1500ms  \r\n1min\n");
  FaultConfig fault = hot(0s, 0s);
  fault.when.kind = FaultTimes::Kind::trace;
  fault.when.file = file.string();
  FaultTimeline timeline({fault}, 1);
  const auto events = first_events(timeline, 10);
  REQUIRE(events.size() == 3);
  CHECK(events[0].at == SimTime{1500ms});
  CHECK(events[2].at == SimTime{60s});
}

TEST_CASE("fault timeline: what is wrong with a trace is said with its line") {
  const TestFolder folder;
  const auto message_of = [&](const std::string& text) -> std::string {
    const auto file = folder.write("times.txt", text);
    try {
      static_cast<void>(read_fault_times(file.string()));
    } catch (const ConfigError& error) {
      return std::string(error.what()).substr(file.string().size());
    }
    return "";
  };
  CHECK(message_of("1s\nsoon\n").starts_with(":2: "));
  CHECK(message_of("500h\n") == ":1: is more than 20 days, longer than any run");
  CHECK_THROWS_AS(static_cast<void>(read_fault_times((folder.path() / "none").string())),
                  ConfigError);
}
