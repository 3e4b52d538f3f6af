#include "sim/app/figure_claims.hpp"

#include <doctest/doctest.h>

#include "sim/app/figure_config.hpp"
#include "sim/app/figure_results.hpp"
#include "sim/app/test_records.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

RecordOf records_of(const FigureResults& results) {
  return [&results](const PointName& point) { return results.find(point.series, point.at); };
}

/// fast: 10, 12, 11; slow: 5, 2, out of VRAM; at 4, 8, 16.
FigureResults three_by_two() {
  return {{"fast", "slow"},
          {"4", "8", "16"},
          {record_with({{"throughput", 10}}), record_with({{"throughput", 12}}),
           record_with({{"throughput", 11}}), record_with({{"throughput", 5}}),
           record_with({{"throughput", 2}}), record_out_of("VRAM")}};
}

Row row_of(const std::string& id, RowRole role, const std::string& expression) {
  static const RunShapes kShapes{{"fig", {{"fast", "slow"}, {"4", "8", "16"}}}};
  Row row{.id = id,
          .path = "/claims/0",
          .is_from_table = false,
          .text = "text of " + id,
          .group = {},
          .source = {},
          .unit = "1",
          .why = {},
          .note = {},
          .role = role,
          .reference = 4,
          .holds = {},
          .tolerance = 0.1,
          .simulated = Expression(expression, kShapes)};
  if (row.simulated.is_truth()) {
    row.reference.reset();
    row.holds = true;
  }
  return row;
}

}  // namespace

TEST_CASE("figure claims: those of the paper that a figure alone can tell") {
  const Suite paper = load_suite(suite_file("paper"));
  const std::vector<Row> claims = claims_about(paper, "fig14");
  REQUIRE(claims.size() >= 9);
  CHECK(claims[0].id == "C01");
  CHECK(claims_about(paper, "no_figure").empty());
  CHECK(claims_about(paper, "no_figure", "accuracy").at(0).id == "C29a");
}

TEST_CASE("figure claims: the table has those of role test first") {
  const std::vector<Row> rows{
      row_of("C0", RowRole::fit, "fig.fast[4].throughput / fig.slow[4].throughput"),
      row_of("C1", RowRole::test, "fig.fast[4].throughput / fig.slow[8].throughput"),
      row_of("C2", RowRole::test, "fig.fast[4].throughput > fig.slow[4].throughput"),
      row_of("C3", RowRole::test, "runs(fig.slow)")};
  const FigureResults results = three_by_two();
  const std::vector<FigureClaim> claims = evaluate_claims({}, rows, records_of(results));
  CHECK(claims_table(claims) ==
        "claim  paper  ours  difference  role  what\n"
        "-----  -----  ----  ----------  ----  "
        "-----------------------------------------------------------\n"
        "C1         4  5.00     +25.0 %  test  "
        "text of C1 (fast 10.0 token/s at 4, slow 2.00 token/s at 8)\n"
        "C2       yes   yes              test  text of C2\n"
        "C3       yes    no              test  text of C3 (slow at 16 overflows VRAM)\n"
        "C0         4  2.00     -50.0 %  fit   "
        "text of C0 (fast 10.0 token/s at 4, slow 5.00 token/s at 4)\n");
}

TEST_CASE("figure claims: JSON of numbers and of truths") {
  const FigureResults results = three_by_two();
  const std::vector<FigureClaim> claims = evaluate_claims(
      {},
      {row_of("C1", RowRole::test, "fig.fast[4].throughput / fig.slow[8].throughput"),
       row_of("C2", RowRole::fit, "fig.fast[4].throughput > fig.slow[4].throughput")},
      records_of(results));
  CHECK(claim_as_json(claims[0]) ==
        json{{"id", "C1"},
             {"text", "text of C1"},
             {"role", "test"},
             {"source", ""},
             {"why", ""},
             {"pass", false},
             {"unit", "1"},
             {"tolerance", 0.1},
             {"detail", "fast 10.0 token/s at 4, slow 2.00 token/s at 8"},
             {"paper", 4.0},
             {"ours", 5.0},
             {"ours_lowest", 5.0},
             {"ours_highest", 5.0},
             {"relative_difference", 0.25}});
  CHECK(claim_as_json(claims[1]).at("holds") == true);
  CHECK(claim_as_json(claims[1]).at("paper_holds") == true);
  CHECK_FALSE(claim_as_json(claims[1]).contains("paper"));
}

TEST_CASE("figure claims: a quick figure leaves claims open that need the other points") {
  const FigureResults quick({"fast"}, {"4"}, {record_with({{"throughput", 10}})});
  const std::vector<FigureClaim> claims =
      evaluate_claims({},
                      {row_of("C1", RowRole::test, "best(fig.fast.throughput)"),
                       row_of("C2", RowRole::test, "fig.fast[8].throughput > 1")},
                      records_of(quick));
  CHECK(claims[0].result.detail == "needs fast on the whole axis, not --quick");
  CHECK_FALSE(claims[1].result.holds.has_value());
  CHECK(claim_as_json(claims[1]).at("holds").is_null());
}

}  // namespace nearkv
