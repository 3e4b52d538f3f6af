#include "sim/app/expression/expression.hpp"

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

const RunShapes kShapes{{"fig", {{"fast", "slow"}, {"4", "8", "16"}}},
                        {"cells", {{"slc"}, {"50us", "0.5"}}},
                        {"one", {}}};

/// fig.fast: 10, 12, 11; fig.slow: 5, 2, out of VRAM. one: 9 to 11 sampled. cells: 7, 8.
const RecordView* record_of(const PointName& point) {
  static const std::map<PointName, RecordView> kRecords{
      {{"fig", "fast", "4"}, record_with({{"throughput", 10}})},
      {{"fig", "fast", "8"}, record_with({{"throughput", 12}})},
      {{"fig", "fast", "16"}, record_with({{"throughput", 11}})},
      {{"fig", "slow", "4"}, record_with({{"throughput", 5}})},
      {{"fig", "slow", "8"}, record_with({{"throughput", 2}})},
      {{"fig", "slow", "16"}, record_out_of("VRAM")},
      {{"cells", "slc", "50us"}, record_with({{"throughput", 7}})},
      {{"cells", "slc", "0.5"}, record_with({{"throughput", 8}})},
      {{"one"}, record_with({{"decode_time", 10}, {"decode_time_bound", 1}, {"phase/wait", 3}})}};
  const auto found = kRecords.find(point);
  return found == kRecords.end() ? nullptr : &found->second;
}

ExpressionValue value_of(const std::string& text) {
  return Expression(text, kShapes).evaluate(record_of);
}

double number_of(const std::string& text) {
  INFO(text);
  const ExpressionValue value = value_of(text);
  REQUIRE(value.number.has_value());
  return value.number->value;
}

Truth truth_of(const std::string& text) {
  INFO(text);
  const ExpressionValue value = value_of(text);
  REQUIRE(value.truth.has_value());
  return *value.truth;
}

std::string problem_of(const std::string& text) {
  try {
    static_cast<void>(value_of(text));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("expression: arithmetic binds as in mathematics") {
  CHECK(number_of("1 + 2 * 3 - 4 / 8") == 6.5);
  CHECK(number_of("(1 + 2) * 3") == 9);
  CHECK(number_of("-2 * -(3 - 5)") == -4);
  CHECK(number_of("8 / 4 / 2") == 1);
  CHECK(number_of("2e3 + 0.5") == 2000.5);
  CHECK(number_of("min(3, 1 + 1, 4) + max(1, 0) + abs(-7)") == 10);
  CHECK(evaluate_arithmetic("2 * 5120 / 4") == 2560);
}

TEST_CASE("expression: numbers come from runs, figures and along an axis") {
  CHECK(number_of("fig.fast[4].throughput / fig.slow[8].throughput") == 5);
  CHECK(number_of("best(fig.fast.throughput) - min(fig.slow.throughput)") == 10);
  CHECK(number_of("one.\"phase/wait\"") == 3);
  CHECK(number_of("\"one\".decode_time") == 10);
  CHECK(number_of("cells.slc[\"50us\"].throughput + cells.slc[0.50].throughput") == 15);
  CHECK(value_of("best(fig.slow.throughput) / fig.fast[8].throughput").detail ==
        "slow 5.00 token/s at 4, fast 12.0 token/s at 8");
  CHECK(value_of("one.decode_time - one.\"phase/wait\"").detail ==
        "one decode_time 10.0 s, one phase/wait 3.00 token/s");
  CHECK(value_of("fig.fast[4].throughput / cells.slc[0.5].throughput").detail ==
        "fig fast 10.0 token/s at 4, cells slc 8.00 token/s at 0.5");
}

TEST_CASE("expression: what did not run has no number and says why") {
  const ExpressionValue value = value_of("fig.slow[16].throughput / fig.fast[4].throughput");
  CHECK_FALSE(value.number.has_value());
  CHECK(value.detail == "slow at 16: out of memory (VRAM)");
  CHECK(value_of("1 / (fig.fast[4].throughput - 10)").detail == "column 18: a division by zero");
}

TEST_CASE("expression: error bounds go through as intervals") {
  const auto bounds = [](const std::string& text, double lowest, double highest) {
    const Bounded number = value_of(text).number.value();
    CHECK(number.lowest == doctest::Approx(lowest));
    CHECK(number.highest == doctest::Approx(highest));
  };
  bounds("one.decode_time", 9, 11);
  bounds("2 * one.decode_time + 1", 19, 23);
  bounds("99 / one.decode_time", 9, 11);
  bounds("100 - one.decode_time", 89, 91);
  bounds("-one.decode_time", -11, -9);
  bounds("abs(10.5 - one.decode_time)", 0, 1.5);
  bounds("max(one.decode_time, 10)", 10, 11);
  bounds("one.decode_time * -1", -11, -9);
}

TEST_CASE("expression: an order inside the error bounds is undecided") {
  CHECK(truth_of("one.decode_time > 8") == Truth::yes);
  CHECK(truth_of("one.decode_time > 9.5") == Truth::undecided);
  CHECK(truth_of("one.decode_time < 9") == Truth::no);
  CHECK(truth_of("one.decode_time <= 9.5") == Truth::undecided);
  CHECK(truth_of("not one.decode_time > 9.5") == Truth::undecided);
  CHECK(truth_of("one.decode_time > 9.5 and 2 < 1") == Truth::no);
  CHECK(truth_of("one.decode_time > 9.5 or 1 < 2") == Truth::yes);
  CHECK(value_of("one.decode_time > 9.5").detail == "inside the error bounds: one 10.0 s");
}

TEST_CASE("expression: truths") {
  CHECK(truth_of("3 > 2 > 1 and 1 <= 1 and 1 >= 1") == Truth::yes);
  CHECK(truth_of("3 > 2 > 2") == Truth::no);
  CHECK(truth_of("1 < 1 or not 1 < 2") == Truth::no);
  CHECK(truth_of("increasing(fig.fast.throughput)") == Truth::no);  // 10, 12, 11
  CHECK(truth_of("decreasing(fig.slow.throughput)") == Truth::yes);
  CHECK(truth_of("increasing(cells.slc.throughput)") == Truth::yes);
  CHECK(truth_of("runs(fig.slow[4]) and overflows(fig.slow[16], \"VRAM\")") == Truth::yes);
  CHECK(truth_of("overflows(fig.slow[16], \"host DRAM\")") == Truth::no);
  CHECK(truth_of("runs(fig.fast)") == Truth::yes);
  CHECK(truth_of("runs(fig.slow)") == Truth::no);
  CHECK(truth_of("fig.slow[16].throughput < 1") == Truth::undecided);
  CHECK(value_of("runs(fig.fast) and runs(fig.slow)").detail == "slow at 16 overflows VRAM");
  CHECK(value_of("runs(one) and fig.slow[4].throughput > fig.fast[4].throughput").detail ==
        "fig slow 5.00 token/s at 4, fig fast 10.0 token/s at 4");
}

TEST_CASE("expression: what a quick figure leaves out stays open") {
  const Expression best("best(fig.fast.throughput)", kShapes);
  const Expression one("fig.fast[8].throughput > 1", kShapes);
  const RecordOf quick = [](const PointName& point) {
    return point.at == "8" ? nullptr : record_of(point);
  };
  CHECK_FALSE(best.evaluate(quick).number.has_value());
  CHECK(best.evaluate(quick).detail == "needs fast on the whole axis, not --quick");
  CHECK(one.evaluate(quick).truth == Truth::undecided);
  CHECK(one.evaluate(quick).detail == "needs fast at 8, which --quick leaves out");
}

TEST_CASE("expression: the points that it names, each once") {
  const Expression expression(
      "fig.fast[8].throughput / one.decode_time + fig.fast[8].ttft "
      "+ best(fig.slow.throughput)",
      kShapes);
  CHECK(expression.points() == std::vector<PointName>{{"fig", "fast", "8"},
                                                      {"fig", "slow", "16"},
                                                      {"fig", "slow", "4"},
                                                      {"fig", "slow", "8"},
                                                      {"one"}});
}

TEST_CASE("expression: unknown names are refused with the nearest") {
  CHECK(problem_of("fgi.fast[4].throughput") ==
        "column 1: \"fgi\" is no run of this suite; did you mean \"fig\"?");
  CHECK(problem_of("nothing_like_it.x") ==
        "column 1: \"nothing_like_it\" is no run of this suite; there are: cells, fig, one");
  CHECK(problem_of("1 + fig.fats[4].throughput") ==
        "column 9: \"fats\" is no series of fig; did you mean \"fast\"?");
  CHECK(problem_of("fig.fast[5].throughput") ==
        "column 10: \"5\" is no value of the axis of fig; there are: 4, 8, 16");
  CHECK(problem_of("fig.fast[4].troughput") ==
        "column 13: fast at 4 has no metric \"troughput\"; did you mean \"throughput\"?");
  CHECK(problem_of("maxi(1, 2)") == "column 1: \"maxi\" is no function; did you mean \"max\"?");
  CHECK(problem_of("fig > 1") == "column 1: fig is a figure; name one of its series: fast, slow");
}

TEST_CASE("expression: mistakes in writing are refused with their column") {
  CHECK(problem_of("") == "column 1: expected a number, a name or \"(\", found the end");
  CHECK(problem_of("1 +") == "column 4: expected a number, a name or \"(\", found the end");
  CHECK(problem_of("(1 + 2") == "column 7: expected \")\", found the end");
  CHECK(problem_of("1 2") ==
        "column 3: \"2\" after the end of the expression; expected an operator");
  CHECK(problem_of("1 = 2") ==
        "column 3: \"=\" has no meaning here; the operators are + - * / ( ) < <= > >= and or not");
  CHECK(problem_of("one.\"phase") == "column 5: a quote that is not closed");
  CHECK(problem_of("1e999") == "column 1: a number that is too large or too small");
  CHECK(problem_of("overflows(fig.slow[16])") ==
        "column 1: overflows() takes 2 arguments, and this has 1");
  CHECK(problem_of("max(1 > 2)") ==
        "column 5: max() takes numbers along an axis, and this is a truth");
  CHECK(problem_of("fig.fast.throughput / 2") ==
        "column 10: / takes a number, and this is numbers along an axis (best() takes the highest; "
        "[AXIS VALUE] takes one)");
  CHECK(problem_of("runs(fig.fast[4].throughput)") ==
        "column 18: runs() takes a point without a metric, and this is a number");
  CHECK(problem_of("fig.fast[4]") ==
        "column 1: the expression takes a number, and this is points without a metric (add "
        ".METRIC)");
  CHECK(problem_of("1 and 2 > 1") == "column 1: and takes a truth, and this is a number");
  CHECK(problem_of(std::string(100, '(') + "1") == "column 66: more than 64 levels of brackets");
  CHECK_THROWS_WITH_AS(static_cast<void>(evaluate_arithmetic("fast.x")),
                       "column 1: \"fast\" is no number; only arithmetic is possible here, as "
                       "there are no runs",
                       ConfigError);
  CHECK_THROWS_WITH_AS(static_cast<void>(evaluate_arithmetic("1 < 2")), "must be a number",
                       ConfigError);
  CHECK_THROWS_WITH_AS(static_cast<void>(evaluate_arithmetic("1 / 0")),
                       "must be a number: column 5: a division by zero", ConfigError);
}

TEST_CASE("expression: results of runs are not equal") {
  CHECK(problem_of("one.throughput == 1") ==
        "column 16: results of runs are not compared for equality; say abs(a - b) < c");
}

}  // namespace nearkv
