#include "sim/app/validation/suite.hpp"

#include <set>

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// A suite with a figure, two points and one claim.
json small_suite() {
  return json::parse(R"({
    "name": "mine", "title": "a title", "source": "a source", "tolerance": 0.1,
    "sets": {"short": {"/workload/output_tokens": 2, "/workload/batch": 3}},
    "runs": {
      "fig": {"figure": "nearkv:figures/fig14.json"},
      "one": {"point": {"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json"}},
      "two": {"point": {"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json"},
              "sets": ["short"], "set": {"/workload/batch": 5}}
    },
    "claims": [{"id": "A", "text": "two over one", "role": "test", "value": 2,
                "expression": "two.throughput / one.throughput", "source": "page 1"}]
  })");
}

Suite load(const json& document) {
  const TestFolder folder;
  return load_suite(folder.write("suite.json", document.dump()));
}

/// The message with which the suite is refused after a merge patch, without the file's name.
std::string problem_after(const std::string& patch) {
  json document = small_suite();
  document.merge_patch(json::parse(patch));
  try {
    const Suite suite = load(document);
    for (const PointName& point : points_of(suite.rows)) {
      static_cast<void>(prepare(suite, point));
    }
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    return message.substr(message.find(".json: ") + 7);
  }
  return "";
}

std::string problem_of_claim(const std::string& patch) {
  json claim = small_suite().at("claims").at(0);
  claim.merge_patch(json::parse(patch));
  return problem_after(json{{"claims", {claim}}}.dump());
}

/// The result of a claim over one.throughput = 10 and two.throughput = `two`.
RowResult result_of(const std::string& claim_patch, double two) {
  json document = small_suite();
  document.at("claims").at(0).merge_patch(json::parse(claim_patch));
  const Suite suite = load(document);
  const RecordView first = record_with({{"throughput", 10}});
  const RecordView second = record_with({{"throughput", two}});
  return evaluate(suite, suite.rows.front(),
                  [&](const PointName& point) { return point.run == "one" ? &first : &second; });
}

}  // namespace

TEST_CASE("suite: every shipped one is complete, and its points are valid") {
  const std::vector<std::string> names = known_suites();
  CHECK(std::find(names.begin(), names.end(), "paper") != names.end());
  for (const std::string& name : names) {
    CAPTURE(name);
    const Suite suite = load_suite(suite_file(name));
    CHECK(suite.name == name);
    CHECK_FALSE(suite.title.empty());
    for (const PointName& point : points_of(suite.rows)) {
      CHECK_FALSE(prepare(suite, point).config.empty());
    }
    for (const Reason& reason : suite.reasons) {
      CHECK_FALSE(reason.why.empty());
    }
  }
}

TEST_CASE("suite: all 29 claims of the paper are there, with the roles of their table") {
  // C16: fit for flexgen and insti, test for insti-2. A test claim never becomes a fit claim.
  const std::set<std::string> fit{"C01", "C03", "C06", "C16a", "C16b", "C24a", "C24b", "C24c"};
  std::set<std::string> claims;
  for (const Row& row : load_suite(suite_file("paper")).rows) {
    CAPTURE(row.id);
    CHECK((row.role == RowRole::fit) == fit.contains(row.id));
    claims.insert(row.id.substr(0, 3));
  }
  CHECK(claims.size() == 29);
  CHECK(claims.count("C01") + claims.count("C29") == 2);
}

TEST_CASE("suite: an unknown one is refused with the nearest") {
  CHECK_THROWS_WITH_AS(static_cast<void>(suite_file("papre")),
                       "papre: unknown suite; did you mean \"paper\"?", ConfigError);
}

TEST_CASE("suite: what a claim leaves out has the suite's or a plain value") {
  const Suite suite = load(small_suite());
  REQUIRE(suite.rows.size() == 1);
  const Row& row = suite.rows.front();
  CHECK(row.tolerance == 0.1);
  CHECK(row.unit == "1");
  CHECK(row.why.empty());
  CHECK(row.role == RowRole::test);
  CHECK(row.reference == 2.0);
  CHECK(points_of(suite.rows) == std::vector<PointName>{{"one"}, {"two"}});
}

TEST_CASE("suite: a run has the values of the sets that it names, and its own over them") {
  const Suite suite = load(small_suite());
  const json config = prepare(suite, {"two"}).config;
  CHECK(config.at("workload").at("output_tokens") == 2);
  CHECK(config.at("workload").at("batch") == 5);
  CHECK(prepare(suite, {"one"}).config.at("workload").at("batch") == 64);
  const PreparedPoint of_figure = prepare(suite, {"fig", "flexgen", "8"});
  CHECK(of_figure.config.at("workload").at("batch") == 8);
  CHECK(of_figure.origin == "mine, fig14, flexgen, batch 8");
}

TEST_CASE("suite: a value is set in all points that have its path, and in no other") {
  Suite suite = load(small_suite());
  set_in_points(suite, "host/pageable_h2d", "1GB/s");
  set_in_points(suite, "/ssd/0/capacity", "900GB");
  CHECK(prepare(suite, {"one"}).config.at("host").at("pageable_h2d").at("value") == "1GB/s");
  CHECK(prepare(suite, {"one"}).config.at("ssd").empty());
  const json flexgen = prepare(suite, {"fig", "flexgen", "8"}).config;
  CHECK(flexgen.at("ssd").at(0).at("capacity").at("value") == "900GB");
}

TEST_CASE("suite: a number passes within the tolerance of its relative error") {
  CHECK(result_of("{}", 21).passes);
  CHECK(result_of("{}", 21).error == doctest::Approx(0.05));
  CHECK(result_of("{}", 18.1).passes);
  CHECK_FALSE(result_of("{}", 17.9).passes);
  CHECK_FALSE(result_of(R"({"tolerance": 0.04})", 21).passes);
  CHECK(result_of(R"({"value": null, "reference": "4 / 2"})", 20).error == 0.0);
}

TEST_CASE("suite: a truth passes when it holds or not, as is said") {
  const std::string more = R"({"value": null, "expression": "two.throughput > one.throughput", )";
  CHECK(result_of(more + R"("holds": true})", 21).passes);
  CHECK_FALSE(result_of(more + R"("holds": true})", 9).passes);
  CHECK(result_of(more + R"("holds": false})", 9).passes);
  CHECK(result_of(more + R"("holds": false})", 9).holds == false);
}

TEST_CASE("suite: a metric that no record has is refused with the claim's path") {
  std::string message;
  try {
    static_cast<void>(result_of(R"({"expression": "two.troughput"})", 1));
  } catch (const ConfigError& error) {
    message = error.what();
  }
  CHECK(
      message.ends_with(".json: /claims/0/expression: column 5: two has no metric "
                        "\"troughput\"; did you mean \"throughput\"?"));
}

TEST_CASE("suite: mistakes in a claim are refused with their path") {
  CHECK(problem_of_claim("{}").empty());
  CHECK(
      problem_of_claim(R"({"expression": "thre.throughput"})") ==
      "/claims/0/expression: column 1: \"thre\" is no run of this suite; there are: fig, one, two");
  CHECK(problem_of_claim(R"({"rol": "fit"})") ==
        "/claims/0/rol: unknown key; did you mean \"role\"?");
  CHECK(problem_of_claim(R"({"role": "tset"})") ==
        "/claims/0/role: is \"tset\"; must be one of fit, test; did you mean \"test\"?");
  CHECK(problem_of_claim(R"({"value": 0})") ==
        "/claims/0/value: is 0; a relative error needs another number, or a claim with holds and a "
        "comparison");
  const std::string one_of =
      "/claims/0/value: a claim has one of value (a number), reference (arithmetic without runs) "
      "and holds (true or false)";
  CHECK(problem_of_claim(R"({"value": null})") == one_of);
  CHECK(problem_of_claim(R"({"holds": true})") == one_of);
  CHECK(problem_of_claim(R"({"value": null, "reference": "1 - 1"})") ==
        "/claims/0/reference: is 0; a relative error needs another number");
  CHECK(problem_of_claim(R"({"expression": "1 < 2"})") ==
        "/claims/0/expression: is a truth; it needs holds (true or false)");
  CHECK(problem_of_claim(R"({"role": "fit"})") ==
        "/claims: none has the role test; a suite is judged by its test rows");
  CHECK(problem_of_claim(R"({"tolerance": -1})") ==
        "/claims/0/tolerance: -1 is out of range; must be 0 to 10");
}

TEST_CASE("suite: mistakes in its runs are refused with their path") {
  CHECK(problem_after(R"({"runs": {"two": {"set": {"/workload/bach": 5}}}})") ==
        "/runs/two: /workload/bach: no such path; did you mean \"batch\"? (/runs/two/set)");
  CHECK(problem_after(R"({"runs": {"two": {"set": {"/workload/batch": "x"}}}})")
            .starts_with("/runs/two: /workload/batch: is \"x\""));
  CHECK(problem_after(R"({"runs": {"two": {"sets": ["shrt"]}}})") ==
        "/runs/two/sets: \"shrt\" is no set of this suite; did you mean \"short\"?");
  CHECK(problem_after(R"({"runs": {"two": {"set": 3}}})") ==
        "/runs/two/set: must be an object of values by path");
  CHECK(problem_after(R"({"sets": {"short": 3}})") ==
        "/sets: must be an object of objects of values by path");
  CHECK(problem_after(R"({"runs": {"fig": {"figure": "nearkv:figures/fig41.json"}}})")
            .ends_with("fig41.json: no such file; name a JSON file"));
  CHECK(problem_after(R"({"requirements": [{"group": "g", "median": 0.1, "worst": 0.2}]})") ==
        "/requirements/0/group: no test row is in the group \"g\"");
  CHECK(problem_after(R"({"requirements": [{"median": 0.1}, {"worst": 0.2}]})").empty());
  CHECK(problem_after(R"({"requirements": [{}]})") ==
        "/requirements/0/median: a requirement limits the median, the worst, or both");
  CHECK(problem_after(R"({"reasons": [{"rows": [], "why": "x"}]})") ==
        "/reasons/0/rows: must be a list of at least one row's id");
}

}  // namespace nearkv
