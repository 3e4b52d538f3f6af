#include "models/flash/flash_config.hpp"

#include <string>

#include <doctest/doctest.h>

#include "models/flash/flash_array.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

const char* const kTlc = R"({
  "channels": 2, "chips_per_channel": 2, "dies_per_chip": 2, "planes_per_die": 4,
  "blocks_per_plane": 8, "pages_per_block": 16, "page_size": "4KiB", "spare_size": "224B",
  "bus_width": 1, "mega_transfers": 1400, "transfer_step": "0ns",
  "policy": "out_of_order", "array_unit": "die",
  "read_priority": true, "cache_read": false, "multi_plane": true,
  "cell": "tlc",
  "t_read_lsb": {"value": "40us", "source": "assumed", "citation": "of this test"},
  "t_read_csb": {"value": "50us", "source": "assumed", "citation": "of this test"},
  "t_read_msb": {"value": "60us", "source": "assumed", "citation": "of this test"},
  "t_program_lsb": {"value": "400us", "source": "assumed", "citation": "of this test"},
  "t_program_csb": {"value": "500us", "source": "assumed", "citation": "of this test"},
  "t_program_msb": {"value": "600us", "source": "assumed", "citation": "of this test"},
  "t_erase": {"value": "3ms", "source": "assumed", "citation": "of this test"},
  "array_spread": {"value": 0.05, "source": "assumed", "citation": "of this test"},
  "read_command": {
    "bus": {"value": "300ns", "source": "assumed", "citation": "of this test"},
    "further_plane": {"value": "200ns", "source": "assumed", "citation": "of this test"},
    "ready": {"value": "20ns", "source": "assumed", "citation": "of this test"}},
  "program_command": {
    "bus": {"value": "300ns", "source": "assumed", "citation": "of this test"},
    "further_plane": {"value": "200ns", "source": "assumed", "citation": "of this test"},
    "ready": {"value": "0ns", "source": "assumed", "citation": "of this test"}},
  "erase_command": {
    "bus": {"value": "300ns", "source": "assumed", "citation": "of this test"},
    "further_plane": {"value": "200ns", "source": "assumed", "citation": "of this test"},
    "ready": {"value": "0ns", "source": "assumed", "citation": "of this test"}},
  "read_retry": {"kind": "weights", "weights": [90, 8, 2]},
  "suspend": {
    "kind": "program",
    "t_program": {"value": "5us", "source": "assumed", "citation": "of this test"},
    "least_remaining": "100us", "at_most": 2}
})";

FlashConfig parse(const nlohmann::json& json) {
  FlashConfig config;
  read_fields(json, [&](FieldVisitor& v) { config.fields(v); });
  return config;
}

/// An SLC array with a recurrence, from the one above.
nlohmann::json plain() {
  nlohmann::json json = nlohmann::json::parse(kTlc);
  json["t_read"] = json["t_read_lsb"];
  json["t_program"] = json["t_program_lsb"];
  for (const std::string type : {"lsb", "csb", "msb"}) {
    json.erase("t_read_" + type);
    json.erase("t_program_" + type);
  }
  json["cell"] = "slc";
  json["policy"] = "first_gap";
  json["read_priority"] = json["multi_plane"] = false;
  json["array_spread"]["value"] = 0;
  json["read_retry"] = {{"kind", "never"}};
  json["suspend"] = {{"kind", "never"}};
  return json;
}

std::string problem(nlohmann::json json, const char* path, const nlohmann::json& value) {
  json[nlohmann::json::json_pointer(path)] = value;
  try {
    parse(json);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("flash config: page types, retries and suspension have the fields of their kind") {
  const FlashConfig config = parse(nlohmann::json::parse(kTlc));
  CHECK(config.bits_per_cell == 3);
  CHECK(config.array_time(PageOp::read, 0) == 40us);
  CHECK(config.array_time(PageOp::read, 6) == 50us);
  CHECK(config.array_time(PageOp::program, 12) == 600us);
  CHECK(config.read_retry.mean() == doctest::Approx(0.12));
  CHECK(config.suspend.program);
  CHECK_FALSE(config.suspend.erase);
  CHECK(config.command_time(PageOp::read, 4) == 900ns);
  CHECK(config.capacity() == 4_KiB * 16 * 8 * 32);

  const FlashConfig slc = parse(plain());
  CHECK(slc.bits_per_cell == 1);
  CHECK(slc.array_time(PageOp::program, 7) == 400us);
  CHECK_FALSE(slc.read_retry.is_on());
}

TEST_CASE("flash config: the recurrence of an array of planes or dies") {
  // A page: (4096 + 224) B at 1400 MT/s x 1 B = 3,085,714.29 ps, rounded up.
  FlashConfig config = parse(plain());
  FlashArrayConfig array = config.recurrence();
  CHECK(array.transfer == 3'085'715_ps);
  CHECK(array.units_per_channel == 4);
  CHECK(array.t_read == 40us + 20ns);
  CHECK(array.bus_order == BusOrder::first_gap);
  const SimTime done = FlashArray(array).read(SimTime{}, 0, 0).done;
  CHECK(done == SimTime{300ns + 40us + 20ns + 3'085'715_ps});
  config.array_unit = ArrayUnit::plane;
  CHECK(config.recurrence().units_per_channel == 16);
  config.policy = FlashPolicy::out_of_order;
  CHECK_THROWS_AS((void)config.recurrence(), CheckFailure);
}

TEST_CASE("flash config: mistakes are reported with their path") {
  const nlohmann::json tlc = nlohmann::json::parse(kTlc);
  CHECK(problem(tlc, "/cell", "qlc").starts_with("/cell: "));
  CHECK(problem(tlc, "/cell", "mlc").starts_with("/t_program_csb: unknown key"));
  CHECK(problem(tlc, "/policy", "fifo").starts_with("/policy: fifo and first_gap need cell slc"));
  CHECK(problem(tlc, "/policy", "lifo").starts_with("/policy: "));
  CHECK(problem(tlc, "/read_priority", false) == "/suspend: needs read_priority");
  CHECK(problem(tlc, "/array_unit", "plane") == "/multi_plane: needs array_unit die");
  CHECK(problem(tlc, "/read_retry/weights", {5}).starts_with("/read_retry/weights: must have an"));
  CHECK(problem(tlc, "/array_spread/value", 1).starts_with("/array_spread"));
  CHECK(problem(tlc, "/mega_transfers", 0).starts_with("/mega_transfers"));
  for (const char* change : {"/read_priority", "/multi_plane"}) {
    CHECK(problem(plain(), change, true).starts_with("/policy: fifo and first_gap need"));
  }
  CHECK(problem(plain(), "/transfer_step", "1ns").starts_with("/policy: fifo and first_gap need"));
}
