#include "traces/request_time.hpp"

#include <initializer_list>
#include <string>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;
using namespace nearkv::traces;

TEST_CASE("request time: decimal numbers are exact to the nanosecond") {
  CHECK(nanoseconds_of("0", kPlacesOfSecond) == 0);
  CHECK(nanoseconds_of("0.0", kPlacesOfSecond) == 0);
  CHECK(nanoseconds_of("4.314579", kPlacesOfSecond) == 4'314'579'000);
  CHECK(nanoseconds_of("0.000000001", kPlacesOfSecond) == 1);
  CHECK(nanoseconds_of("0.0000000014", kPlacesOfSecond) == 1);
  CHECK(nanoseconds_of("0.0000000015", kPlacesOfSecond) == 2);
  CHECK(nanoseconds_of("1.9999999999", kPlacesOfSecond) == 2'000'000'000);
  CHECK(nanoseconds_of("4611686017.999999999", kPlacesOfSecond) == 4'611'686'017'999'999'999);
  CHECK(nanoseconds_of("27000", kPlacesOfMillisecond) == 27'000'000'000);
  CHECK(nanoseconds_of("5.", kPlacesOfMillisecond) == 5'000'000);
  CHECK(nanoseconds_of("1e-05", kPlacesOfSecond) == 10'000);
  CHECK(nanoseconds_of("2.5E3", kPlacesOfSecond) == 2'500'000'000'000);
  for (const char* bad : {"", "-1", "+1", " 1", "1 ", "1.2.3", "1,2", ".5", "nan", "inf", "1e",
                          "1x", "0x1p3", "4611686019", "1e300", "99999999999999999999"}) {
    CAPTURE(bad);
    CHECK_FALSE(nanoseconds_of(bad, kPlacesOfSecond).has_value());
  }
}

TEST_CASE("request time: dates") {
  CHECK(nanoseconds_of_date("1970-01-01 00:00:00") == 0);
  CHECK(nanoseconds_of_date("1970-01-02T00:00:01.5") == 86'401'500'000'000);
  // 2023-11-16 00:00 UTC is day 19677
  CHECK(nanoseconds_of_date("2023-11-16 18:17:03.9799600") ==
        (std::int64_t{19'677} * 86'400 + 18 * 3600 + 17 * 60 + 3) * 1'000'000'000 + 979'960'000);
  CHECK(nanoseconds_of_date("2024-05-10 00:00:00.009930+00:00") ==
        nanoseconds_of_date("2024-05-10 00:00:00.00993Z"));
  for (const char* bad : {"", "2023-11-16", "2023-11-31 00:00:00", "2023-13-01 00:00:00",
                          "2023-11-16 24:00:00", "2023-11-16 00:60:00", "2023-11-16 00:00:60",
                          "2023-11-16 00:00:00+02:00", "23-11-16 00:00:00", "1969-12-31 00:00:00",
                          "9999-01-01 00:00:00", "2023-11-16 00:00:00.0000000001",
                          "2023-11-16 00:00", "2023-11-16x00:00:00", "2023-11-16 00:00:-1"}) {
    CAPTURE(bad);
    CHECK_FALSE(nanoseconds_of_date(bad).has_value());
  }
}

TEST_CASE("request time: what is written reads back") {
  CHECK(decimal_of(0, kPlacesOfSecond) == "0");
  CHECK(decimal_of(52'000'000, kPlacesOfSecond) == "0.052");
  CHECK(decimal_of(100'000'000'000, kPlacesOfSecond) == "100");
  CHECK(decimal_of(1, kPlacesOfMillisecond) == "0.000001");
  CHECK(date_of(946'684'800'000'000'000) == "2000-01-01 00:00:00.000000000");
  Rng rng(7, "traces/request_time_test");
  for (int i = 0; i < 10'000; ++i) {
    const auto time = static_cast<std::int64_t>(rng.next() >> (2 + rng.below(60)));
    CAPTURE(time);
    CHECK(nanoseconds_of(decimal_of(time, kPlacesOfSecond), kPlacesOfSecond) == time);
    CHECK(nanoseconds_of(decimal_of(time, kPlacesOfMillisecond), kPlacesOfMillisecond) == time);
    if (time < 4'000'000'000'000'000'000) {
      CHECK(nanoseconds_of_date(date_of(time)) == time);
    }
  }
}
