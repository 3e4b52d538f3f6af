#include "sim/app/validation/mqsim_suite.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "sim/app/validation/report.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/test_folder.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

const std::string kPoints = source_folder() + "/validation/mqsim/points.json";

nlohmann::json points() { return load_json(kPoints); }

MqsimParameters parameters_of(const nlohmann::json& suite, std::size_t point) {
  return {suite.at("shared_parameters"), suite.at("points").at(point).at("parameters"), "point"};
}

/// A point as MQSim's users keep it: all parameters, and the figures beside them.
nlohmann::json complete_point(const nlohmann::json& suite, const std::string& name) {
  for (const nlohmann::json& point : suite.at("points")) {
    if (point.at("name") == name) {
      nlohmann::json all = suite.at("shared_parameters");
      all.merge_patch(point.at("parameters"));
      nlohmann::json result = point.at("reference");
      result["name"] = name;
      result["all_parameters"] = all;
      return result;
    }
  }
  FAIL("no such point");
  return {};
}

/// The suite with another file of points, run in this process.
SuiteReport run_file(const std::string& file) {
  Suite suite = load_suite(suite_file("mqsim"), {.table = file});
  std::map<PointName, RecordView> records;
  for (const PointName& name : points_of(suite.rows)) {
    const PreparedPoint point = prepare(suite, name);
    records.emplace(name, RecordView(point.run(point).to_json("test")));
  }
  return report_on(std::move(suite),
                   [&records](const PointName& name) { return &records.at(name); });
}

SuiteReport run_suite(const nlohmann::json& suite) {
  const TestFolder folder;
  return run_file(folder.write("suite.json", suite.dump()).string());
}

const RowResult& result_of(const SuiteReport& report, const std::string& id) {
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    if (report.suite.rows[i].id == id) {
      return report.results[i];
    }
  }
  FAIL("no row ", id);
  return report.results.front();
}

bool all_pass(const SuiteReport& report) {
  return std::all_of(report.results.begin(), report.results.end(),
                     [](const RowResult& result) { return result.passes; });
}

}  // namespace

TEST_CASE("mqsim: the generator gives what MRG32k3a gives from its published start") {
  // Seed 0 is one step from the state (1, 1, 1), where all products are small: by hand,
  //   first state (1, 1, 1403580 - 810728), second (1, 1, 527612 - 1370589 + 4294944443).
  MqsimRandom random(0);
  const auto step = [](double a1, double a0, double b2, double b0) {
    const double p1 = 1403580.0 * a1 - 810728.0 * a0;
    const double p2 = 527612.0 * b2 - 1370589.0 * b0;
    const auto in = [](double x, std::int64_t m) {
      return ((static_cast<std::int64_t>(x) % m) + m) % m;
    };
    const std::int64_t p = in(p1, 4294967087) - in(p2, 4294944443);
    return static_cast<double>((p < 0 ? p + 4294967087 : p) + 1) * 2.328306549295728e-10;
  };
  CHECK(random.next() == step(1, 1, 4294101466.0, 1));
  MqsimRandom many(798);
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = many.next();
    REQUIRE(x > 0);
    REQUIRE(x <= 1);
    sum += x;
  }
  CHECK(sum / 100'000 == doctest::Approx(0.5).epsilon(0.01));
}

TEST_CASE("mqsim: requests are aligned, inside the working set, and of the asked kinds") {
  MqsimWorkload workload{.requests = 20'000,
                         .sectors = 10'000,
                         .working_set = 0.5,
                         .reads = 0.7,
                         .pattern = MqsimWorkload::Pattern::random_uniform,
                         .request_sectors = 16,
                         .alignment = 8,
                         .seed = 5};
  for (const bool streams : {false, true}) {
    workload.pattern =
        streams ? MqsimWorkload::Pattern::streaming : MqsimWorkload::Pattern::random_uniform;
    MqsimRequests requests(workload);
    BlockRequest request;
    std::int64_t count = 0;
    std::int64_t writes = 0;
    Bytes before{-1};
    while (requests.next(request)) {
      const bool is_write = request.op == BlockOp::write;
      REQUIRE((request.id & ~MqsimRequests::kIsWrite) == static_cast<std::uint64_t>(count++));
      REQUIRE((request.id & MqsimRequests::kIsWrite) == (is_write ? MqsimRequests::kIsWrite : 0));
      REQUIRE(request.first.count() % (8 * 512) == 0);
      REQUIRE(request.first + request.size <= Bytes{5000 * 512});
      if (streams && before >= Bytes{0} && request.first != Bytes{0}) {
        REQUIRE(request.first == before + request.size);
      }
      before = request.first;
      writes += request.op == BlockOp::write ? 1 : 0;
    }
    CHECK(count == 20'000);
    CHECK(static_cast<double>(writes) / 20'000 == doctest::Approx(0.3).epsilon(0.05));
  }
}

TEST_CASE("mqsim: parameters become the command times that MQSim computes") {
  const nlohmann::json suite = points();
  const BlockSsdConfig config = mqsim_ssd(parameters_of(suite, 0), read_mqsim_file(kPoints).timing);
  CHECK(config.flash.command_time(PageOp::read, 1) == 290ns);
  CHECK(config.flash.command_time(PageOp::read, 2) == 940ns);
  CHECK(config.flash.command_time(PageOp::program, 1) == 361ns);
  CHECK(config.flash.command_time(PageOp::program, 2) == 1177ns);
  CHECK(config.flash.command_time(PageOp::erase, 1) == 220ns);
  CHECK(config.flash.transfer_time(4096) == 12'288ns);
  CHECK(config.flash.array_time(PageOp::read, 1) == 75us);
  CHECK(config.link.message_time(4_KiB) == 1248ns);
}

TEST_CASE("mqsim: a drive can be described as a config") {
  BlockSsdConfig config;
  const std::vector<FieldDescription> all =
      describe_fields([&config](FieldVisitor& v) { config.fields(v); });
  std::set<std::string> paths;
  for (const FieldDescription& field : all) {
    CHECK_MESSAGE(paths.insert(field.path).second, field.path);
    CHECK_FALSE(field.doc.empty());
  }
  CHECK(paths.count("/flash/read_command/further_plane") == 1);
  CHECK(paths.count("/nvme/fetch_limit") == 1);
}

TEST_CASE("mqsim: unloaded latencies are the sums that MQSim prints") {
  // 8 + 8 + 25 on the link, 290 + tR + 20 + data-out in the flash, data + 11 on the link
  const SuiteReport report = run_file(kPoints);
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    INFO(report.suite.rows[i].id);
    CHECK(report.results[i].passes);
  }
  CHECK(result_of(report, "L1 least response").simulated->value ==
        doctest::Approx(88.898).epsilon(1e-9));
  CHECK(result_of(report, "L5 least response").simulated->value ==
        doctest::Approx(8.706).epsilon(1e-9));
  CHECK(report.suite.not_covered.empty());
  // The tolerance is that of the point's kind: unloaded, reads, writes, garbage collection.
  CHECK(result_of(report, "L1 mean response").tolerance == 0.001);
  CHECK(result_of(report, "S1 mean response").tolerance == 0.005);
  CHECK(result_of(report, "M1 mean response").tolerance == 0.02);
  CHECK(result_of(report, "G1 mean response").tolerance == 0.1);
  CHECK(result_of(report, "G1 least response").tolerance == 0.001);
}

TEST_CASE("mqsim: garbage collection is followed to the last digit at depth 1") {
  const nlohmann::json shipped = points();
  nlohmann::json suite = shipped;
  suite["points"] = nlohmann::json::array();
  for (const nlohmann::json& point : shipped.at("points")) {
    const std::string name = point.at("name");
    if (name == "G1" || name == "G11") {  // with moves; until MQSim stops
      suite["points"].push_back(point);
    }
  }
  const SuiteReport report = run_suite(suite);
  REQUIRE(report.results.size() == 8);
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    INFO(report.suite.rows[i].id);
    CHECK(std::abs(report.results[i].error.value()) < 1e-9);
  }
}

TEST_CASE("mqsim: a preconditioned drive starts as in MQSim") {
  nlohmann::json suite = points();
  const nlohmann::json point = complete_point(suite, "G10");
  const MqsimParameters p(nlohmann::json::object(), point.at("all_parameters"), "point");
  BlockSsd ssd(mqsim_ssd(p, read_mqsim_file(kPoints).timing), 0, "test");
  precondition_as_mqsim(ssd, p);
  ssd.ftl().audit();
  const PageFtl::PageCounts pages = ssd.ftl().pages();
  const std::int64_t logical = ssd.ftl().logical_pages();
  CHECK(std::abs(static_cast<double>(pages.valid) - 0.7 * static_cast<double>(logical)) < 2);
  // The shares of blocks are cut to whole blocks: a part of the drive stays free.
  CHECK(pages.free >= 5 * ssd.ftl().geometry().planes() * 64);
  CHECK(pages.invalid > pages.valid / 10);
}

TEST_CASE("mqsim: files of complete points are read, too") {
  nlohmann::json shipped = points();
  nlohmann::json suite{{"tool", "MQSim somewhere"},
                       {"timing_constants", {{"t_CS", 20}}},  // the rest is the shipped file's
                       {"points", {complete_point(shipped, "L1"), complete_point(shipped, "G1")}}};
  const SuiteReport report = run_suite(suite);
  CHECK(report.suite.source.ends_with("\nMQSim somewhere"));
  CHECK(all_pass(report));
  REQUIRE(report.results.size() == 8);
  CHECK(report.results[0].simulated->value == doctest::Approx(88.906).epsilon(1e-6));
  CHECK(report.suite.rows[3].group == "mean read");
  CHECK(report.suite.rows[7].group == "mean write");
  suite["timing_constants"]["t_CS"] = 120;  // a command 100 ns longer
  CHECK(run_suite(suite).results[0].simulated->value == doctest::Approx(89.006).epsilon(1e-6));
}

TEST_CASE("mqsim: what is not covered says why") {
  nlohmann::json suite = points();
  nlohmann::json& own = suite.at("points").at(0).at("parameters");
  CHECK(reason_not_covered(parameters_of(suite, 0)).empty());
  own["device"]["Ideal_Mapping_Table"] = "false";
  CHECK(reason_not_covered(parameters_of(suite, 0)) ==
        "the mapping cache is not modelled (Ideal_Mapping_Table is false)");
  own["device"]["Ideal_Mapping_Table"] = "true";
  own["workload"]["Chip_IDs"] = "0,1";
  CHECK(reason_not_covered(parameters_of(suite, 0)) ==
        "the flow is bound to some of the channels, chips, dies or planes");
}

TEST_CASE("mqsim: a file of points that is not as it should be is the user's error") {
  const nlohmann::json shipped = points();
  const nlohmann::json good{{"tool", "MQSim"},
                            {"timing_constants", nlohmann::json::object()},
                            {"points", {complete_point(shipped, "L1")}}};
  const auto problem = [](const nlohmann::json& suite) -> std::string {
    try {
      run_suite(suite);
    } catch (const ConfigError& error) {
      const std::string text = error.what();
      const std::string file = "/suite.json: ";
      const std::size_t at = text.find(file);
      return at == std::string::npos ? text : text.substr(at + file.size());
    }
    return "";
  };
  CHECK(problem(good).empty());
  nlohmann::json bad = good;
  bad.erase("timing_constants");
  CHECK(problem(bad) == "/timing_constants: is missing");
  bad = good;
  bad["timing_constants"]["t_CS"] = -1;
  CHECK(problem(bad) == "/timing_constants/t_CS: must be a number that is not negative");
  bad = good;
  bad["points"] = 3;
  CHECK(problem(bad) == "/points: must be a list");
  bad = good;
  bad["points"][0].erase("min_us");
  CHECK(problem(bad) == "/points/0/min_us: is missing");
  bad = good;
  nlohmann::json& all = bad["points"][0]["all_parameters"];
  all["device"]["Queue_Fetch_Size"] = "many";
  CHECK(problem(bad) ==
        "/points/0/all_parameters/device/Queue_Fetch_Size: \"many\" is no number that is not "
        "negative");
  all["device"]["Queue_Fetch_Size"] = "0";
  CHECK(problem(bad) == "/points/0/all_parameters/device/Queue_Fetch_Size: must be 1 to 16777216");
  all["device"].erase("Queue_Fetch_Size");
  CHECK(problem(bad) == "/points/0/all_parameters/device/Queue_Fetch_Size: is missing");
  bad = good;
  bad["points"][0]["all_parameters"]["flash"]["Block_No_Per_Plane"] = "16777216";
  CHECK(problem(bad) ==
        "/points/0/all_parameters/flash/Block_No_Per_Plane: the drive would have 2^32 pages or "
        "more");
  bad = shipped;
  bad["points"][0].erase("reference");
  CHECK(problem(bad) == "/points/0/reference: is missing");
  bad = shipped;
  bad["shared_parameters"]["device"]["Queue_Fetch_Size"] = "1.5";
  CHECK(problem(bad) ==
        "/points/0/parameters/device/Queue_Fetch_Size: must be whole, and at most 10^15");
}
