#include "sim/app/validation/table_rows.hpp"

#include <algorithm>

#include <doctest/doctest.h>

#include "sim/app/record_view.hpp"
#include "sim/app/validation/framework_call.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// The rows of a shipped suite with another table.
class OtherTable {
 public:
  OtherTable(const std::string& suite, const json& table)
      : file_(folder_.write("table.json", table.dump())) {
    const fs::path shipped = suite_file(suite);
    const json rows = load_config(shipped).at("rows");
    spec_ = read_table_spec(rows, shipped.parent_path(), file_.string());
  }

  [[nodiscard]] TableSpec& spec() { return spec_; }
  [[nodiscard]] Table read() const { return read_table(spec_); }
  [[nodiscard]] std::string problem() const {
    try {
      static_cast<void>(read());
    } catch (const ConfigError& error) {
      const std::string message = error.what();
      CHECK(message.starts_with(file_.string() + ": "));
      return message.substr(file_.string().size() + 2);
    }
    return "";
  }

 private:
  TestFolder folder_;
  fs::path file_;
  TableSpec spec_;
};

json flexgen_row() {
  return json::parse(R"({"model": "opt-6.7b", "percent": [100, 0, 0, 100, 100, 0], "gbs": 16,
    "nb": 4, "prompt": 512, "gen": 10, "cpu_cache_compute": true, "overlap": false,
    "sparsity": 1.0, "decode_step_s": 0.5, "prefill_best_s": 2,
    "runs": [{"prefill_s": 2, "decode_s": [9, 0.5, 0.4]},
             {"prefill_s": 2.2, "decode_s": [0.7, 0.6, 0.1]}]})");
}

double seconds_of(const json& operation, const std::string& call) {
  OtherTable table("h200_micro", {{"gemm_fp16", json::array()}});
  json config = table.spec().point;
  config["operation"] = operation;
  const json time{{"value", call}, {"source", "assumed"}, {"citation", "a test"}};
  config["framework"] = {{"kernel_call", time}, {"copy_call", time}};
  const RunRecord record = simulate_operation(
      {.origin = "test", .name = "test", .config = config, .run = simulate_operation});
  return record.outcome.metrics.at("time");
}

}  // namespace

TEST_CASE("table rows: a FlexGen run is a design point with its policy") {
  const OtherTable table("flexgen_h200", {{"what", "measured"}, {"rows", {flexgen_row()}}});
  const Table read = table.read();
  CHECK(read.source == "measured");
  REQUIRE(read.runs.size() == 1);
  const json& config = read.runs.at("row_0").point->config;
  const json& policy = config.at("system").at("policy");
  CHECK(config.at("model").at("name") ==
        load_config(shipped_configs() / "models/opt-6.7b.json").at("name"));
  CHECK(plain_value(policy.at("cache_gpu")) == 0);
  CHECK(plain_value(policy.at("cache_cpu")) == 100);
  CHECK(plain_value(policy.at("gpu_batch_size")) == 16);
  CHECK(plain_value(policy.at("num_gpu_batches")) == 4);
  CHECK(plain_value(policy.at("overlap")) == false);
  CHECK(plain_value(policy.at("cpu_attention")) == true);
  CHECK(config.at("workload").at("batch") == 64);
  CHECK(config.at("workload").at("prompt_tokens") == 512);
  CHECK(config.at("workload").at("output_tokens") == 10);
}

TEST_CASE("table rows: a FlexGen run gives a decode step and prefill, with the spread") {
  const OtherTable table("flexgen_h200", {{"rows", {flexgen_row(), flexgen_row()}}});
  const Table read = table.read();
  REQUIRE(read.rows.size() == 4);
  CHECK(read.rows[0].id == "row_0 decode_step");
  CHECK(read.rows[0].group == "decode_step");
  CHECK(read.rows[0].reference == 0.5);
  CHECK(read.rows[0].expression == "row_0.decode_step_median");
  CHECK(read.rows[0].note == "measured 2 times: 500 ms to 600 ms (spread 20 %)");
  CHECK(read.rows[1].group == "prefill");
  CHECK(read.rows[1].reference == 2);
  CHECK(read.rows[1].note == "measured 2 times: 2.00 s to 2.20 s (spread 10 %)");
  CHECK(read.rows[0].role == RowRole::test);  // even
  CHECK(read.rows[2].role == RowRole::fit);   // odd
}

TEST_CASE("table rows: a row may have a role of its own") {
  json row = flexgen_row();
  row["role"] = "fit";
  CHECK(OtherTable("flexgen_h200", {{"rows", {row}}}).read().rows[0].role == RowRole::fit);
}

TEST_CASE("table rows: a role of the suite is that of all rows") {
  OtherTable table("flexgen_h200", {{"rows", {flexgen_row(), flexgen_row()}}});
  table.spec().role = "test";
  for (const TableRow& row : table.read().rows) {
    CHECK(row.role == RowRole::test);
  }
}

TEST_CASE("table rows: mistakes in a table of FlexGen runs are refused with their path") {
  const auto problem = [](const std::string& patch) {
    json row = flexgen_row();
    row.merge_patch(json::parse(patch));
    return OtherTable("flexgen_h200", {{"rows", {row}}}).problem();
  };
  CHECK(problem("{}").empty());
  CHECK(problem(R"({"gbs": null})") ==
        "/rows/0: lacks a number, or has something else in its place; "
        "validation/flexgen_h200/rows.json has the form");
  CHECK(problem(R"({"percent": [100, 0]})") == "/rows/0: percent: must have 6 numbers");
  CHECK(problem(R"({"gen": 1})") ==
        "/rows/0: gen: must be 2 or more, so that there is a decode step");
  CHECK(problem(R"({"decode_step_s": 0})") ==
        "/rows/0: decode_step_s: the times must be above zero");
  CHECK(problem(R"({"model": "opt-6.7"})").starts_with("/rows/0: "));
  CHECK(OtherTable("flexgen_h200", {{"row", 1}}).problem() == "/rows: must be a list of runs");
}

TEST_CASE("table rows: sparse attention of FlexGen is not covered") {
  json row = flexgen_row();
  row["sparsity"] = 0.1;
  const Table read = OtherTable("flexgen_h200", {{"rows", {row}}}).read();
  CHECK(read.rows.empty());
  REQUIRE(read.not_covered.size() == 1);
  CHECK(read.not_covered[0].row == "row_0");
}

TEST_CASE("table rows: every third micro benchmark of a list is a test row") {
  json gemms = json::array();
  for (int i = 0; i < 6; ++i) {
    gemms.push_back({{"m", 1 << i}, {"n", 64}, {"k", 64}, {"s", 1e-5}});
  }
  const json decode{{"b", 1},   {"heads", 40},    {"d", 128},
                    {"s", 512}, {"sdpa_s", 1e-5}, {"bmm_s", 2e-5}};
  json other_heads = decode;
  other_heads["heads"] = 32;
  const Table read = OtherTable("h200_micro", {{"gemm_fp16", gemms},
                                               {"decode_attention_fp16", {decode, other_heads}}})
                         .read();
  REQUIRE(read.rows.size() == 8);
  for (int i = 0; i < 6; ++i) {
    CHECK(read.rows[i].role == (i % 3 == 2 ? RowRole::test : RowRole::fit));
  }
  CHECK(read.rows[0].id == "gemm 1x64x64");
  CHECK(read.rows[6].group == "fused_decode_attention");
  CHECK(read.rows[7].group == "unfused_decode_attention");
  CHECK(read.not_covered.size() == 2);
}

TEST_CASE("table rows: a micro benchmark without a number is refused with its path") {
  CHECK(OtherTable("h200_micro", {{"pcie", {{{"bytes", 1}}}}}).problem() ==
        "/pcie/0: lacks a number, or has something else in its place; "
        "validation/h200_micro/rows.json has the form");
}

TEST_CASE("framework call: the first call of several is seen, the others hide behind kernels") {
  const json one{{"kind", "decode_attention"}, {"kernel", "fused"}, {"batch", 1}, {"context", 64}};
  json three = one;
  three["kernel"] = "unfused";
  const double kernel = seconds_of(one, "0ns");
  const double kernels = seconds_of(three, "0ns");
  CHECK(kernels > kernel);
  CHECK(seconds_of(one, "1ms") == doctest::Approx(1e-3 + kernel).epsilon(1e-9));
  // Calls longer than kernels: three calls, and the last kernel behind them.
  CHECK(seconds_of(three, "1ms") > 3e-3);
  CHECK(seconds_of(three, "1ms") < 3e-3 + kernels);
  // Calls shorter than kernels: the first call, and all kernels behind it.
  CHECK(seconds_of(three, "1us") == doctest::Approx(1e-6 + kernels).epsilon(1e-9));
}

TEST_CASE("framework call: copies take the link's time or the pageable rate") {
  const json pinned{
      {"kind", "copy"}, {"direction", "h2d"}, {"memory", "pinned"}, {"bytes", 1 << 30}};
  json pageable = pinned;
  pageable["memory"] = "pageable";
  const double slow = seconds_of(pageable, "1ms");
  CHECK(seconds_of(pinned, "1ms") < slow);
  // configs/calibration/nvidia_h200_host.json: 9137 MB/s
  CHECK(slow == doctest::Approx(1e-3 + (1 << 30) / 9.137e9).epsilon(1e-3));
}

TEST_CASE("table rows: fields of another reader are refused") {
  const auto problem = [](json rows) -> std::string {
    try {
      static_cast<void>(read_table_spec(rows, ".", ""));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(problem({{"kind", "mqsim"}, {"file", "x.json"}}).empty());
  CHECK(problem({{"kind", "mqsin"}, {"file", "x.json"}}) ==
        "/kind: is \"mqsin\"; must be one of mqsim, flexgen, h200_micro; did you mean \"mqsim\"?");
  CHECK(problem({{"kind", "mqsim"}, {"file", "x.json"}, {"role", "both"}}) ==
        "/role: is \"both\"; must be fit or test");
  CHECK(problem({{"kind", "mqsim"}, {"file", "x.json"}, {"point", 1}})
            .starts_with("/point: unknown key"));
}

}  // namespace nearkv
