#include "sim/core/metrics.hpp"

#include <limits>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

using namespace nearkv;

TEST_CASE("metrics: reported once each, found by name, in the order of the reports") {
  Metrics metrics;
  metrics.add("throughput", 12.5, "token/s", "Generated tokens a second.");
  metrics.add("csd/0/flash/pages_read", 3, "1", "Pages read.");
  REQUIRE(metrics.all().size() == 2);
  CHECK(metrics.all()[0].name == "throughput");
  CHECK(metrics.all()[1].unit == "1");
  CHECK(metrics.at("throughput") == 12.5);
  CHECK(metrics.find("csd/0/flash/pages_read") == 3.0);
  CHECK_FALSE(metrics.find("throughput ").has_value());
  CHECK_THROWS_WITH_AS(static_cast<void>(metrics.at("power")), doctest::Contains("no metric power"),
                       CheckFailure);
  CHECK_THROWS_WITH_AS(metrics.add("throughput", 1, "1", "Again."),
                       doctest::Contains("the metric throughput was reported twice"), CheckFailure);
}

TEST_CASE("metrics: a value that JSON cannot hold is our bug") {
  Metrics metrics;
  for (const double value :
       {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
        std::numeric_limits<double>::quiet_NaN()}) {
    CHECK_THROWS_WITH_AS(metrics.add("ratio", value, "1", "A ratio."),
                         doctest::Contains("the metric ratio is no finite number"), CheckFailure);
  }
  CHECK(metrics.all().empty());
}

TEST_CASE("metrics: the names of statuses are those of the records") {
  CHECK(name_of(RunStatus::ok) == "ok");
  CHECK(name_of(RunStatus::out_of_memory) == "out_of_memory");
  CHECK(name_of(RunStatus::stopped) == "stopped");
}
