// Expressions over run records: what a claim says about its runs.
//
//   fast.throughput                      a metric of a run that is a design point
//   fig14.flexgen[64].throughput         a metric of a point of a figure
//   fig14.flexgen.throughput             the same along the axis, without what did not run
//   fast."phase/kv_wait"                 names with other characters in quotes
//   + - * / ( )   < <= > >= (chains: a > b > c)   and or not
//   min(a, b), max(...), best(along axis), abs(a), increasing(along axis), decreasing(along axis)
//   runs(fig14.flexgen[64]), overflows(fig14.flexgen[128], "VRAM")
//
// Numbers carry the error bounds of sampled runs. An order inside the bounds is undecided, and so
// is what needs a number of a point that did not run.
#pragma once

#include <compare>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/app/record_view.hpp"

namespace nearkv {

/// A design point as expressions name it.
struct PointName {
  std::string run;
  std::string series{};  // of a figure; empty for a design point
  std::string at{};      // the value of the figure's axis, as axis_text() writes it

  auto operator<=>(const PointName&) const = default;
};

/// "fast", or "flexgen at 64".
[[nodiscard]] std::string text_of(const PointName& point);

/// What may be named below a run; a design point has neither series nor axis.
struct RunShape {
  std::vector<std::string> series;
  std::vector<std::string> axis;
};
using RunShapes = std::map<std::string, RunShape>;

/// The record of a point; nullptr when the point was left out (a quick figure).
using RecordOf = std::function<const RecordView*(const PointName&)>;

enum class Truth { no, undecided, yes };

/// What records say: a number, a truth, or neither, and then `detail` says why.
struct ExpressionValue {
  std::optional<Bounded> number;
  std::optional<Truth> truth;
  std::string detail;  // the numbers behind it
};

/// A parsed expression. Copies share the parse.
class Expression {
 public:
  struct Node;

  /// Throws ConfigError "column 7: ..." for what is no expression over these runs.
  Expression(const std::string& text, const RunShapes& runs);

  [[nodiscard]] bool is_truth() const;
  /// The points that it names, each once, sorted.
  [[nodiscard]] std::vector<PointName> points() const;
  /// Throws ConfigError "column 7: ..." for a metric that no record has.
  [[nodiscard]] ExpressionValue evaluate(const RecordOf& record_of) const;

 private:
  std::shared_ptr<const Node> root_;
};

/// The value of arithmetic without runs ("2 * 5120 / 768e9"). Throws ConfigError as above.
[[nodiscard]] double evaluate_arithmetic(const std::string& text);

}  // namespace nearkv
