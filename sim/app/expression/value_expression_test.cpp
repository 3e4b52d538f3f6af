#include "sim/app/expression/value_expression.hpp"

#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

using namespace nearkv;

namespace {

const std::vector<ValueName> kNames{
    {"batch"}, {"system", true}, {"throughput"}, {"utilization/csd/0"}};

std::optional<bool> holds(const std::string& text, const std::vector<NamedValue>& values) {
  return ValueExpression(text, kNames).holds(values);
}

std::string problem_of(const std::string& text) {
  try {
    static_cast<void>(ValueExpression(text, kNames));
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

}  // namespace

TEST_SUITE("values of a point in expressions") {
  TEST_CASE("arithmetic and functions") {
    const std::vector<NamedValue> values{64.0, "flexgen", 5.0, 0.25};
    const auto number = [&](const std::string& text) {
      return ValueExpression(text, kNames).number(values);
    };
    CHECK(number("batch * 2 - throughput / 2 + 1") == 126.5);
    CHECK(number("-batch + max(throughput, 7) * min(1, 2, 3)") == -57);
    CHECK(number("abs(throughput - 6) + \"utilization/csd/0\"") == 1.25);
    CHECK_FALSE(number("batch / (throughput - 5)").has_value());
  }

  TEST_CASE("conditions") {
    const std::vector<NamedValue> values{64.0, "flexgen", 5.0, 0.25};
    CHECK(holds("batch > 32 and system == \"flexgen\"", values) == true);
    CHECK(holds("system != \"flexgen\" or batch == 63", values) == false);
    CHECK(holds("1 < throughput <= 5 < batch", values) == true);
    CHECK(holds("1 < throughput < 5 < batch", values) == false);
    CHECK(holds("not (batch >= 65)", values) == true);
  }

  TEST_CASE("a value that is not known leaves open what needs it") {
    const std::vector<NamedValue> values{64.0, "flexgen", {}, {}};
    CHECK_FALSE(holds("throughput > 1", values).has_value());
    CHECK_FALSE(holds("throughput == 1", values).has_value());
    CHECK_FALSE(holds("not throughput > 1", values).has_value());
    CHECK(holds("throughput > 1 or batch > 1", values) == true);
    CHECK(holds("throughput > 1 and batch > 64", values) == false);
    CHECK_FALSE(holds("throughput > 1 and batch > 1", values).has_value());
    CHECK_FALSE(ValueExpression("min(throughput, 1)", kNames).number(values).has_value());
  }

  TEST_CASE("names that it uses") {
    CHECK(ValueExpression("throughput / batch + batch > 1", kNames).uses() ==
          std::vector<std::size_t>{0, 2});
    CHECK(ValueExpression("system == \"batch\"", {{"system", true}}).uses() ==
          std::vector<std::size_t>{0});
  }

  TEST_CASE("what is no expression over the names") {
    CHECK(problem_of("bacth > 1") ==
          "column 1: \"bacth\" is not known here; did you mean \"batch\"?");
    CHECK(problem_of("system > 1") == "column 1: > takes a number, and this is a text");
    CHECK(problem_of("system == 1") == "column 11: == takes a text, and this is a number");
    CHECK(problem_of("batch == \"64\"") == "column 10: == takes a number, and this is a text");
    CHECK(problem_of("system") == "column 1: the expression takes a number, and this is a text");
    CHECK(problem_of("best(batch)").find("column 6: best() takes numbers along an axis") == 0);
    CHECK(problem_of("1 +").find("column 4: expected a number") == 0);
  }
}
