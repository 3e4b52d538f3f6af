#include "sim/core/gauges.hpp"

#include <doctest/doctest.h>

using namespace nearkv;

TEST_CASE("gauges: readings come in the order of adding, and are taken when asked for") {
  Gauges gauges;
  CHECK(gauges.all().empty());
  CHECK(gauges.read().empty());
  double bytes = 1;
  double busy = 0.5;
  gauges.add({"link/bytes", "B", "bytes over the link", [&bytes] { return bytes; }});
  gauges.add({"cores", "s", "busy cores", [&busy] { return busy; }, 4});
  CHECK(gauges.read() == std::vector<double>{1, 0.5});

  bytes = 7;
  busy = 2;
  CHECK(gauges.read() == std::vector<double>{7, 2});
  REQUIRE(gauges.all().size() == 2);
  CHECK(gauges.all()[0].name == "link/bytes");
  CHECK(gauges.all()[0].unit == "B");
  CHECK(gauges.all()[0].doc == "bytes over the link");
  CHECK(gauges.all()[0].servers == 0);  // not a busy time
  CHECK(gauges.all()[1].servers == 4);
}

TEST_CASE("gauges: a later gauge does not change the place of an earlier one") {
  Gauges gauges;
  for (int i = 0; i < 100; ++i) {
    gauges.add({std::to_string(i), "1", "", [i] { return static_cast<double>(i); }});
    const std::vector<double> values = gauges.read();
    REQUIRE(values.size() == static_cast<std::size_t>(i) + 1);
    CHECK(values.front() == 0);
    CHECK(values.back() == i);
  }
}
