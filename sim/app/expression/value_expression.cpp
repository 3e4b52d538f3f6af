#include "sim/app/expression/value_expression.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "sim/app/expression/expression_node.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

struct ValueExpression::Tree {
  Expression::Node root;
};

namespace {

using Node = Expression::Node;
using Values = std::vector<NamedValue>;

std::optional<double> number_of(const Node& node, const Values& values);

std::optional<double> arithmetic(const Node& node, const Values& values) {
  std::optional<double> result = number_of(node.children.front(), values);
  for (std::size_t i = 0; result && i < node.operators.size(); ++i) {
    const std::optional<double> next = number_of(node.children[i + 1], values);
    const char symbol = node.operators[i].front();
    if (!next || (symbol == '/' && *next == 0)) {
      return std::nullopt;
    }
    result = symbol == '+'   ? *result + *next
             : symbol == '-' ? *result - *next
             : symbol == '*' ? *result * *next
                             : *result / *next;
  }
  return result;
}

std::optional<double> call(const Node& node, const Values& values) {
  std::optional<double> result = number_of(node.children.front(), values);
  if (node.text == "abs") {
    return result ? std::optional(std::abs(*result)) : std::nullopt;
  }
  for (const Node& child : node.children) {
    const std::optional<double> next = number_of(child, values);
    if (!next) {
      return std::nullopt;
    }
    result = node.text == "min" ? std::min(*result, *next) : std::max(*result, *next);
  }
  return result;
}

std::optional<double> number_of(const Node& node, const Values& values) {
  switch (node.kind) {
    case Node::Kind::number:
      return node.value;
    case Node::Kind::value: {
      const double* number = std::get_if<double>(&values[node.index]);
      return number != nullptr ? std::optional(*number) : std::nullopt;
    }
    case Node::Kind::negate: {
      const std::optional<double> inner = number_of(node.children.front(), values);
      return inner ? std::optional(-*inner) : std::nullopt;
    }
    case Node::Kind::arithmetic:
      return arithmetic(node, values);
    default:
      check(node.kind == Node::Kind::call, "an expression whose types were not checked");
      return call(node, values);
  }
}

NamedValue value_of(const Node& node, const Values& values) {
  if (node.kind == Node::Kind::text) {
    return node.text;
  }
  if (node.kind == Node::Kind::value) {
    return values[node.index];
  }
  const std::optional<double> number = number_of(node, values);
  return number ? NamedValue(*number) : NamedValue();
}

bool is_in_order(double a, const std::string& symbol, double b) {
  return symbol == "<" ? a < b : symbol == "<=" ? a <= b : symbol == ">" ? a > b : a >= b;
}

std::optional<bool> comparison(const Node& node, const Values& values) {
  std::optional<double> left = number_of(node.children.front(), values);
  bool holds = true;
  for (std::size_t i = 0; i < node.operators.size(); ++i) {
    const std::optional<double> right = number_of(node.children[i + 1], values);
    if (!left || !right) {
      return std::nullopt;
    }
    holds = holds && is_in_order(*left, node.operators[i], *right);
    left = right;
  }
  return holds;
}

std::optional<bool> truth_of(const Node& node, const Values& values) {
  switch (node.kind) {
    case Node::Kind::conjunction:
    case Node::Kind::disjunction: {
      // One part can decide alone; what is not known leaves it open.
      const bool decides = node.kind == Node::Kind::disjunction;
      bool is_open = false;
      for (const Node& child : node.children) {
        const std::optional<bool> next = truth_of(child, values);
        if (next == decides) {
          return decides;
        }
        is_open = is_open || !next;
      }
      return is_open ? std::nullopt : std::optional(!decides);
    }
    case Node::Kind::negation: {
      const std::optional<bool> inner = truth_of(node.children.front(), values);
      return inner ? std::optional(!*inner) : std::nullopt;
    }
    case Node::Kind::equality: {
      const NamedValue left = value_of(node.children.front(), values);
      const NamedValue right = value_of(node.children.back(), values);
      if (left.index() == 0 || right.index() == 0) {
        return std::nullopt;
      }
      return (left == right) == (node.operators.front() == "==");
    }
    default:
      check(node.kind == Node::Kind::comparison, "an expression whose types were not checked");
      return comparison(node, values);
  }
}

void add_uses(const Node& node, std::set<std::size_t>& used) {
  if (node.kind == Node::Kind::value) {
    used.insert(node.index);
  }
  for (const Node& child : node.children) {
    add_uses(child, used);
  }
}

}  // namespace

ValueExpression::ValueExpression(const std::string& text, const std::vector<ValueName>& names)
    : tree_(std::make_shared<const Tree>(Tree{parse_value_expression(text, names)})) {}

bool ValueExpression::is_truth() const { return tree_->root.type == Node::Type::truth; }

std::vector<std::size_t> ValueExpression::uses() const {
  std::set<std::size_t> used;
  add_uses(tree_->root, used);
  return {used.begin(), used.end()};
}

std::optional<bool> ValueExpression::holds(const std::vector<NamedValue>& values) const {
  check(is_truth(), "a number is asked whether it holds");
  return truth_of(tree_->root, values);
}

std::optional<double> ValueExpression::number(const std::vector<NamedValue>& values) const {
  check(!is_truth(), "a truth is asked for its number");
  return number_of(tree_->root, values);
}

}  // namespace nearkv
