#include "sim/app/run_limits.hpp"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/record_view.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

RunRecord record_of(const PreparedPoint& point) {
  RunRecord record;
  record.name = point.name;
  record.config = point.config;
  return record;
}

RunRecord slow(const PreparedPoint& point) {
  std::this_thread::sleep_for(std::chrono::minutes(10));
  return record_of(point);
}

RunRecord large(const PreparedPoint& point) {
  constexpr std::size_t kSize = 1000 << 20;
  const std::string much(kSize, 'x');
  CHECK(much.size() == kSize);
  return record_of(point);
}

}  // namespace

TEST_CASE("limits are quantities above zero, and messages repeat them as they were written") {
  const RunLimits none = limits_of({});
  CHECK(none.child.most_seconds == 0);
  CHECK(none.child.most_bytes == 0);
  const RunLimits both = limits_of({.wall = "10min", .memory = "4GiB"});
  CHECK(both.child.most_seconds == 600);
  CHECK(both.child.most_bytes == std::int64_t{4} << 30);
  CHECK(stopped_detail(ChildEnd::timed_out, both) == "stopped: ran longer than 10min (--max-wall)");
  CHECK(stopped_detail(ChildEnd::over_memory, both) ==
        "stopped: took more than 4GiB of memory (--max-memory)");
  CHECK(stopped_detail(ChildEnd::over_memory, none) ==
        "stopped: took more memory than this machine gives");
  CHECK_THROWS_AS(static_cast<void>(stopped_detail(ChildEnd::crashed, both)), CheckFailure);
  CHECK(as_arguments({}).empty());
  CHECK(as_arguments({.wall = "90s", .memory = "1GB"}) ==
        std::vector<std::string>{"--max-wall", "90s", "--max-memory", "1GB"});

  CHECK_THROWS_WITH_AS(static_cast<void>(limits_of({.wall = "10", .memory = {}})),
                       "--max-wall: \"10\" has no unit; write a duration such as \"50us\" (units: "
                       "ps, ns, us, ms, s, min, h)",
                       ConfigError);
  CHECK_THROWS_WITH_AS(static_cast<void>(limits_of({.wall = {}, .memory = "0GiB"})),
                       "--max-memory: \"0GiB\" leaves nothing to run with; leave the option out "
                       "for no limit",
                       ConfigError);
}

TEST_CASE("a run that a limit ends has a record that says so, and others are as they were") {
  const PreparedPoint fine{.origin = "a", .name = "fine", .config = {{"x", 1}}, .run = record_of};
  const auto run = [&fine](const PreparedPoint& point, const RunLimitOptions& limits) {
    return run_points({fine, point}, {.jobs = 2,
                                      .label = "test",
                                      .progress = Progress::Style::silent,
                                      .limits = limits_of(limits)});
  };
  const PreparedPoint takes_long{.origin = "b", .name = "slow", .config = {{"x", 2}}, .run = slow};
  const PreparedPoint takes_much{
      .origin = "b", .name = "large", .config = {{"x", 3}}, .run = large};
  const auto check_stopped = [](const PreparedPoint& point,
                                const std::vector<PointOutcome>& outcomes,
                                const std::string& detail) {
    CHECK(outcomes[0].has_finished());
    CHECK_FALSE(outcomes[1].has_finished());
    REQUIRE(outcomes[1].has_record());
    CHECK(outcomes[1].problem == "b: " + detail);
    const RecordView record(json::parse(outcomes[1].record_text));
    CHECK(record.name() == point.name);
    CHECK(record.status() == "stopped");
    CHECK(record.status_detail() == detail);
    CHECK(record.why_not_run() == "stopped");
    CHECK(record.metrics().empty());
    CHECK(record.config() == point.config);
    CHECK(report_problems(outcomes) == kExitPointsFailed);
  };
  check_stopped(takes_long, run(takes_long, {.wall = "3s", .memory = {}}),
                "stopped: ran longer than 3s (--max-wall)");
  check_stopped(takes_much, run(takes_much, {.wall = {}, .memory = "700MiB"}),
                "stopped: took more than 700MiB of memory (--max-memory)");
}

}  // namespace nearkv
