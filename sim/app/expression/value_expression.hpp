// Expressions over the named values of one point: conditions, constraints and objectives of sweeps.
//
//   batch * prompt_tokens > 65536        names of axes and metrics
//   system == "flexgen" and batch >= 32  == and != compare numbers or texts
//   "utilization/csd/0/reading" < 0.8    names with other characters in quotes
//   + - * / ( )   < <= > >= (chains: a > b > c)   and or not   min(a, b)  max(a, b)  abs(a)
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace nearkv {

struct ValueName {
  std::string name;
  bool is_text = false;  // else a number
};

/// Nothing where the value is not known (a metric of a point that did not run).
using NamedValue = std::variant<std::monostate, double, std::string>;

/// A parsed expression. Copies share the parse.
class ValueExpression {
 public:
  struct Tree;

  /// Throws ConfigError "column 7: ..." for what is no expression over these names.
  ValueExpression(const std::string& text, const std::vector<ValueName>& names);

  [[nodiscard]] bool is_truth() const;
  /// Names that it uses, as indices into the names, ascending.
  [[nodiscard]] std::vector<std::size_t> uses() const;

  /// `values` are in the order of the names. Nothing where a value that it needs is not known, or
  /// for a division by zero.
  [[nodiscard]] std::optional<bool> holds(const std::vector<NamedValue>& values) const;
  [[nodiscard]] std::optional<double> number(const std::vector<NamedValue>& values) const;

 private:
  std::shared_ptr<const Tree> tree_;
};

}  // namespace nearkv
