#include "sim/app/csv.hpp"

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"

namespace nearkv {

TEST_CASE("cells are quoted where they must be") {
  CHECK(csv_cell("plain text") == "plain text");
  CHECK(csv_cell("a,b") == "\"a,b\"");
  CHECK(csv_cell("say \"x\"") == "\"say \"\"x\"\"\"");
  CHECK(csv_cell("two\nlines") == "\"two\nlines\"");
  CHECK(csv_cell("").empty());
}

TEST_CASE("a table has one row a record, units in its header, and gaps where a metric lacks") {
  const RecordView ran = record_with({{"throughput", 10}, {"decode_time", 0.1}});
  const RecordView full = record_out_of("VRAM");
  const std::string hash = ran.json().at("config_hash");
  CHECK(records_as_csv({"series", "batch [sequences]"},
                       {{{"fast", "4"}, &ran}, {{"slow", "8"}, &full}}) ==
        "series,batch [sequences],status,memory,fidelity,config_hash,throughput_lowest [token/s],"
        "throughput_highest [token/s],prefill_time [s],throughput [token/s],decode_time [s],"
        "high_water/VRAM [B]\n"
        "fast,4,ok,,sampled," +
            hash +
            ",10,10,1,10,0.1,\n"
            "slow,8,out_of_memory,VRAM,sampled," +
            hash + ",,,,,,3000000000\n");
}

TEST_CASE("a table of sampled records has the interval of one metric") {
  nlohmann::json sampled = record_with({{"throughput", 10}}).json();
  sampled["samples"] = {{"intervals", {{"throughput", {8.5, 11}}}}};
  const RecordView ran{sampled};
  const RecordView full = record_out_of("VRAM");
  const std::string text =
      records_as_csv({"series"}, {{{"fast"}, &ran}, {{"slow"}, &full}}, "throughput");
  CHECK(
      text.find("throughput_highest [token/s],throughput_p5 [token/s],throughput_p95 [token/s]") !=
      std::string::npos);
  CHECK(text.find(",10,10,8.5,11,1,10,") != std::string::npos);
  CHECK(text.find("out_of_memory,VRAM,sampled,") != std::string::npos);
}

}  // namespace nearkv
