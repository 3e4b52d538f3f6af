#include "sim/app/validation/report.hpp"

#include <cmath>

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"
#include "sim/app/validation/gate.hpp"
#include "sim/app/validation/report_page.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

const RunShapes kRuns{{"run", {}}};

Row row_of(const std::string& id, RowRole role, double reference, const std::string& expression) {
  return {.id = id,
          .path = "/claims/0",
          .is_from_table = false,
          .text = "text of " + id,
          .group = role == RowRole::test ? "g" : "",
          .source = {},
          .unit = "1",
          .why = {},
          .note = {},
          .role = role,
          .reference = reference,
          .holds = {},
          .tolerance = 0.1,
          .simulated = Expression(expression, kRuns)};
}

/// Test rows with errors of 0, 5, -20 % and one truth that does not hold; a fit row 50 % off.
Suite small_suite() {
  Suite suite;
  suite.name = "mine";
  suite.title = "a title";
  suite.source = "a source";
  suite.rows = {row_of("a", RowRole::test, 10, "run.throughput"),
                row_of("b", RowRole::test, 10, "run.throughput + 0.5"),
                row_of("c", RowRole::test, 10, "run.throughput - 2"),
                row_of("d", RowRole::test, 1, "run.throughput > 11"),
                row_of("e", RowRole::fit, 10, "run.throughput + 5")};
  suite.rows[3].reference.reset();
  suite.rows[3].holds = true;
  return suite;
}

SuiteReport report_of(Suite suite) {
  static const RecordView kRecord = record_with({{"throughput", 10}});
  return report_on(std::move(suite), [](const PointName&) { return &kRecord; });
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("report: statistics are those of a role, medians and worst of numbers only") {
  const SuiteReport report = report_of(small_suite());
  const RowStatistics test = statistics_of(report, RowRole::test);
  CHECK(test.rows == 4);
  CHECK(test.passing == 2);
  CHECK(test.median == doctest::Approx(0.05));
  CHECK(test.worst == doctest::Approx(0.2));
  CHECK(statistics_of(report, RowRole::fit).worst == doctest::Approx(0.5));
  CHECK(statistics_of(report, RowRole::test, "other").rows == 0);
  CHECK_FALSE(statistics_of(report, RowRole::test, "other").median.has_value());
}

TEST_CASE("report: the median of an even number of rows is between the two in the middle") {
  Suite suite = small_suite();
  suite.rows.erase(suite.rows.begin());
  CHECK(statistics_of(report_of(suite), RowRole::test).median == doctest::Approx(0.125));
}

TEST_CASE("report: a row that has no number is as bad as can be") {
  static const RecordView kRecord = record_out_of("VRAM");
  const SuiteReport report = report_on(small_suite(), [](const PointName&) { return &kRecord; });
  CHECK(std::isinf(*statistics_of(report, RowRole::test).worst));
  CHECK(contains(report_text({report}), "no number"));
}

TEST_CASE("report: what is required of all rows is reached or not") {
  Suite suite = small_suite();
  const auto reached = [&](std::optional<double> median, std::optional<double> worst) {
    return is_reached(report_of(suite),
                      {.group = "g", .median = median, .worst = worst, .why = {}});
  };
  CHECK(reached(0.051, 0.21));
  CHECK_FALSE(reached(0.049, 0.21));
  CHECK_FALSE(reached(0.051, 0.19));
  CHECK(reached(0.051, std::nullopt));
  CHECK(reached(std::nullopt, 0.21));
  CHECK_FALSE(reached(std::nullopt, 0.19));
}

TEST_CASE("report: the table has the test rows first, with verdict and numbers") {
  const std::string text = report_text({report_of(small_suite())});
  CHECK(contains(text,
                 "suite  test rows  pass  median error   worst  fit rows  pass\n"
                 "-----  ---------  ----  ------------  ------  --------  ----\n"
                 "mine           4     2        5.00 %  20.0 %         1     0\n"));
  CHECK(
      contains(text, "b           10      10.50    +5.0 %     10.0 %  test  pass     text of b\n"));
  CHECK(
      contains(text, "c           10          8   -20.0 %     10.0 %  test  FAIL     text of c\n"));
  CHECK(contains(text,
                 "d          yes         no                       test  FAIL     "
                 "text of d; run 10.0 token/s\n"));
  CHECK(text.find("text of d") < text.find("text of e"));
}

TEST_CASE("report: rows of a table that fail get the reason of their pattern") {
  Suite suite = small_suite();
  suite.rows[2].id = "copy 4096 B";
  suite.reasons = {{.rows = {"copy * B"}, .why = "no such model"},
                   {.rows = {"a", "x*"}, .why = "never needed"}};
  const SuiteReport report = report_of(suite);
  CHECK(report.suite.rows[2].why == "no such model");
  CHECK(report.suite.rows[0].why.empty());
  CHECK(report.warnings ==
        std::vector<std::string>{"warning: a reason is given for a, where nothing fails",
                                 "warning: a reason is given for x*, where nothing fails"});
}

TEST_CASE("report: a why on a row that passes is a warning") {
  Suite suite = small_suite();
  suite.rows[0].why = "it was slow";
  suite.requirements = {{.group = "", .median = 1, .worst = 1, .why = "too far off"}};
  const SuiteReport report = report_of(suite);
  CHECK(report.warnings ==
        std::vector<std::string>{
            "warning: a passes, so that its why must go",
            "warning: what is required of all test rows is reached, so that its why must go"});
  CHECK(contains(report_text({report}), "text of a; warning: passes"));
}

TEST_CASE("report: JSON has ten fields a row, in the suite's order") {
  Suite suite = small_suite();
  suite.rows[2].why = "a reason";
  const json rows = report_as_json({report_of(suite)});
  REQUIRE(rows.size() == 5);
  CHECK(rows[2].at("error").get<double>() == doctest::Approx(-0.2));
  CHECK(rows[2].at("note") == "text of c; run 10.0 token/s; why: a reason");
  json truth = rows[3];
  truth.erase("note");
  CHECK(truth == json{{"suite", "mine"},
                      {"id", "d"},
                      {"role", "test"},
                      {"reference", true},
                      {"simulated", false},
                      {"unit", "1"},
                      {"error", nullptr},
                      {"tolerance", nullptr},
                      {"pass", false}});
}

TEST_CASE("report: the Markdown escapes what would end a cell") {
  Suite suite = small_suite();
  suite.rows[0].text = "one | two";
  suite.source = "a\nb";
  const std::string text = report_markdown({report_of(suite)}, "picture.png");
  CHECK(contains(text, "| a | 10 | 10 | +0.000 % | 10.0 % | pass | one \\| two |\n"));
  CHECK(contains(text, "Source: a b\n"));
  CHECK_FALSE(contains(text, "&"));
  CHECK(contains(text, "(picture.png)"));
  CHECK(contains(text, "**FAIL**"));
}

TEST_CASE("report: the Markdown has no element of HTML, whatever the suite's texts are") {
  const std::string attack = "</td><script>alert(1)</script>\"onmouseover=&lt;|\n<b>";
  const std::string shown = "&lt;/td>&lt;script>alert(1)&lt;/script>\"onmouseover=&amp;lt;";
  Suite suite = small_suite();
  suite.name = suite.title = suite.source = attack;
  suite.requirements = {{.group = attack, .median = 0.01, .worst = std::nullopt, .why = attack}};
  suite.not_covered = {{.row = attack, .reason = attack}};
  for (Row& row : suite.rows) {
    row.id = row.text = row.group = row.note = row.why = attack;
  }
  const std::string text = report_markdown({report_of(suite)}, "picture.png");
  CHECK_FALSE(contains(text, "<"));
  CHECK(contains(text, "\n## " + shown + "| &lt;b>\n"));
  CHECK(contains(text, "| " + shown + "\\| &lt;b> |"));
  CHECK(contains(text, " is not covered: " + shown + "| &lt;b>\n"));
}

TEST_CASE("report: the page gets the rows as claims, and what a suite requires and leaves out") {
  Suite suite = small_suite();
  suite.rows[2].why = "a reason";
  suite.requirements = {{.group = "", .median = 0.01, .worst = std::nullopt, .why = "too far off"}};
  suite.not_covered = {{.row = "z", .reason = "no model"}};
  const json page = report_for_page({report_of(suite)});
  const json& found = page.at("suites").at(0);
  CHECK(found.at("name") == "mine");
  CHECK(found.at("statistics").at("test") ==
        json{{"rows", 4}, {"passing", 2}, {"median", "5.00 %"}, {"worst", "20.0 %"}});
  CHECK(found.at("requirements").at(0) == json{{"group", "all"},
                                               {"median", "5.00 %"},
                                               {"most_median", "1.00 %"},
                                               {"worst", "20.0 %"},
                                               {"most_worst", ""},
                                               {"pass", false},
                                               {"why", "too far off"}});
  CHECK(found.at("not_covered") == json{{{"row", "z"}, {"reason", "no model"}}});
  const json& row = found.at("rows").at(2);
  CHECK(row.at("ours") == 8.0);
  CHECK(row.at("why") == "a reason");
  CHECK(row.at("cells").at("what") == "text of c; why: a reason");
  CHECK(found.at("rows").at(3).at("holds") == false);
}

// -- The gate -----------------------------------------------------------------------------------

TEST_CASE("gate: what fails needs a reason") {
  Suite suite = small_suite();
  suite.requirements = {{.group = "g", .median = 0.01, .worst = 0.3, .why = {}}};
  CHECK(gate_problems({report_of(suite)}, {}) ==
        std::vector<std::string>{"mine, c: fails without a reason; give one in /claims/0/why",
                                 "mine, d: fails without a reason; give one in /claims/0/why",
                                 "mine, e: fails without a reason; give one in /claims/0/why",
                                 "mine: what is required of g test rows is not reached; say why in "
                                 "/requirements/0/why"});
  for (Row& row : suite.rows) {
    row.why = "a reason";
  }
  suite.requirements.front().why = "a reason";
  CHECK(gate_problems({report_of(suite)}, {}).empty());
}

TEST_CASE("gate: what passed before must pass, and stay a test row") {
  Suite suite = small_suite();
  const Passing before = accept({report_of(suite)}, {});
  CHECK(before.rows.at("mine") == std::vector<std::string>{"a", "b"});
  suite.rows[0].reference = 20;
  suite.rows[1].role = RowRole::fit;
  const std::vector<std::string> problems = gate_problems({report_of(suite)}, before);
  REQUIRE(problems.size() == 5);  // c, d and e have no reason
  CHECK(problems[0] == "mine, a: passed before and fails now");
  CHECK(problems[1] == "mine, b: passed before and is no test row any more");
}

TEST_CASE("gate: a requirement that was reached must be reached") {
  Suite suite = small_suite();
  suite.requirements = {{.group = "", .median = 0.06, .worst = 0.3, .why = {}}};
  const Passing before = accept({report_of(suite)}, {});
  CHECK(before.requirements.at("mine") == std::vector<std::string>{"all"});
  suite.requirements.front().median = 0.04;
  CHECK(gate_problems({report_of(suite)}, before).back() ==
        "mine: what is required of all test rows was reached before and is not now");
}

TEST_CASE("gate: accepting leaves suites alone that did not run") {
  Passing before;
  before.rows["other"] = {"x"};
  const Passing after = accept({report_of(small_suite())}, before);
  CHECK(after.rows.at("other") == std::vector<std::string>{"x"});
  CHECK(passing_as_json(after).at("rows").at("mine") == json{"a", "b"});
}

TEST_CASE("gate: the shipped file of what passes is one of this program") {
  CHECK_FALSE(read_passing(passing_file()).rows.empty());
}

}  // namespace nearkv
