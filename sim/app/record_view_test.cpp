#include "sim/app/record_view.hpp"

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

TEST_CASE("a record view gives metrics by name and by prefix") {
  const RecordView record = record_with({{"throughput", 5}, {"utilization/a", 0.5}});
  CHECK(record.is_ok());
  CHECK(record.metric("throughput") == 5);
  CHECK_FALSE(record.metric("no such").has_value());
  REQUIRE(record.metrics_below("utilization/").size() == 1);
  CHECK(record.metrics_below("utilization/").front().name == "a");
  CHECK(record.overflowed_memory().empty());
}

TEST_CASE("a record view names the memory that overflowed") {
  CHECK(record_out_of("VRAM").overflowed_memory() == "VRAM");
  CHECK(record_out_of("host DRAM and swap").overflowed_memory() == "host DRAM and swap");
  CHECK_FALSE(record_out_of("VRAM").is_ok());
  CHECK(record_out_of("VRAM").why_not_run() == "out of memory (VRAM)");
  CHECK(infeasible_record().overflowed_memory().empty());
  CHECK(infeasible_record().why_not_run() == "infeasible");
  CHECK(record_with({}).why_not_run().empty());
}

TEST_CASE("a bound of the decode time becomes one of what depends on it") {
  // 100 tokens in 1 s of prefill and 9 +- 1 s of decode: 100/10, from 100/11 to 100/9.
  const RecordView record = record_with({{"throughput", 10},
                                         {"decode_throughput", 11},
                                         {"decode_time", 9},
                                         {"decode_time_bound", 1},
                                         {"else", 3}});
  const Bounded throughput = record.bounded("throughput").value();
  CHECK(throughput.value == 10);
  CHECK(throughput.lowest == doctest::Approx(100.0 / 11));
  CHECK(throughput.highest == doctest::Approx(100.0 / 9));
  const Bounded decode = record.bounded("decode_throughput").value();  // 99 tokens in 8 to 10 s
  CHECK(decode.lowest == doctest::Approx(99.0 / 10));
  CHECK(decode.highest == doctest::Approx(99.0 / 8));
  CHECK(record.bounded("decode_time")->lowest == doctest::Approx(8));
  CHECK(record.bounded("decode_time")->highest == doctest::Approx(10));
  CHECK(record.bounded("prefill_time")->is_exact());
  CHECK(record.bounded("else")->is_exact());
  CHECK_FALSE(record.bounded("no such").has_value());
}

TEST_CASE("what is no record is refused") {
  CHECK_THROWS_AS(RecordView(nlohmann::json{{"record_format", 99}}), ConfigError);
  CHECK_THROWS_AS(RecordView(nlohmann::json::array()), ConfigError);
}

}  // namespace nearkv
