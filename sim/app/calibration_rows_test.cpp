#include "sim/app/calibration_rows.hpp"

#include <string>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

using namespace nearkv;
using nlohmann::json;

namespace {

Measurements example() {
  Measurements all;
  all.environment = {{"device", "Test"}, {"date", "2026-01-31"}};
  all.add("gemm", {{"rows", 16}, {"library", "cuBLAS"}}, {1.23456789e-5, 1e-5, 2e-5, 40});
  all.add_stated("memory_capacity", "B", 150109880320.0);
  return all;
}

std::string problem_with(const char* pointer, const json& value) {
  json document = json::parse(measurements_text(example()));
  document[json::json_pointer(pointer)] = value;
  try {
    static_cast<void>(parse_measurements(document, "x.json"));
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("calibration rows: a file is read back as it was written") {
  const std::string text = measurements_text(example());
  const Measurements read = parse_measurements(json::parse(text), "x.json");
  CHECK(measurements_text(read) == text);
  REQUIRE(read.rows.size() == 2);
  CHECK(read.rows[0].spread.median == 1.23457e-5);
  CHECK(read.rows[0].spread.runs == 40);
  CHECK(read.rows[0].number("rows") == 16);
  CHECK(read.rows[0].is("library", "cuBLAS"));
  CHECK(!read.rows[0].is("library", "Eigen"));
  CHECK(!read.rows[0].has("columns"));
  CHECK_THROWS_AS(static_cast<void>(read.rows[0].number("columns")), CheckFailure);
  CHECK(read.rows[1].spread.median == 150109880320.0);
  CHECK(read.select("gemm").size() == 1);
  CHECK(read.select("gemm", [](const CalibrationRow& row) { return row.number("rows") > 16; })
            .empty());
}

TEST_CASE("calibration rows: each fault is named with its path") {
  CHECK(problem_with("/calibration_format", 1).empty());
  CHECK(problem_with("/calibration_format", 2) == "x.json: /calibration_format: must be 1");
  CHECK(problem_with("/environment", json::object()) == "x.json: /environment: misses \"device\"");
  CHECK(problem_with("/rows/0/median", -1) == "x.json: /rows/0/median: must be a number above 0");
  CHECK(problem_with("/rows/1/p90", 1) == "x.json: /rows/1: must have p10 <= median <= p90");
  CHECK(problem_with("/rows/0/runs", 0.5) ==
        "x.json: /rows/0/runs: must be an integer in 1 .. 1000000");
  CHECK(problem_with("/rows/0/parameters/rows", 1.5) ==
        "x.json: /rows/0/parameters/rows: must be an integer or a text");
  CHECK(problem_with("/rows/0/mean", 1) ==
        "x.json: /rows/0/mean: unknown key; there are: what, parameters, unit, median, p10, p90, "
        "runs");
  CHECK(problem_with("/rows", 1) == "x.json: /rows: must be a list");
}

TEST_CASE("calibration rows: files are named after devices") {
  CHECK(device_file_name("NVIDIA H200") == "nvidia_h200");
  CHECK(device_file_name("Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz") == "intel_xeon_gold_6338");
  CHECK(device_file_name("AMD EPYC 7763 64-Core Processor") == "amd_epyc_7763_64_core");
  CHECK(device_file_name("../\n") == "device");
}
