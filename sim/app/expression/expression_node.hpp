// The tree of an expression, between its parser and its evaluation.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "sim/app/expression/expression.hpp"
#include "sim/app/expression/value_expression.hpp"

namespace nearkv {

struct Expression::Node {
  enum class Kind {
    number,
    text,     // an argument of overflows()
    points,   // an argument of runs() and overflows()
    value,    // of a name (value_expression.hpp)
    metric,   // of one point
    metrics,  // along an axis
    negate,
    arithmetic,
    comparison,  // a chain
    equality,    // of two numbers or two texts
    conjunction,
    disjunction,
    negation,
    call,
  };
  enum class Type { number, numbers, truth, points, text };

  Kind kind = Kind::number;
  Type type = Type::number;
  std::size_t column = 1;  // where it begins
  double value = 0;
  std::size_t index = 0;                 // of a value's name
  std::string text{};                    // of a text, the metric's or the function's name
  std::vector<PointName> points{};       // in the order of the axis
  std::vector<std::string> operators{};  // between the children
  std::vector<Node> children{};
};

/// Throws ConfigError "column 7: ...".
[[nodiscard]] Expression::Node parse_value_expression(const std::string& text,
                                                      const std::vector<ValueName>& names);

}  // namespace nearkv
