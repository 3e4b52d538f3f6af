// What records say to an expression.
#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "sim/app/expression/expression_node.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

using Node = Expression::Node;

constexpr int kClaimDigits = 3;

Truth operator!(Truth truth) {
  return truth == Truth::yes ? Truth::no : truth == Truth::no ? Truth::yes : Truth::undecided;
}

Truth is_less(const Bounded& a, const Bounded& b) {
  return a.highest < b.lowest ? Truth::yes : a.lowest >= b.highest ? Truth::no : Truth::undecided;
}

Truth compare(const Bounded& a, const std::string& symbol, const Bounded& b) {
  if (symbol == "<") {
    return is_less(a, b);
  }
  if (symbol == ">") {
    return is_less(b, a);
  }
  return symbol == "<=" ? !is_less(b, a) : !is_less(a, b);
}

Bounded interval(double value, std::initializer_list<double> ends) {
  return {value, std::min(ends), std::max(ends)};
}

/// Nothing for a division by what may be zero.
std::optional<Bounded> combine(const Bounded& a, char symbol, const Bounded& b) {
  switch (symbol) {
    case '+':
      return Bounded{a.value + b.value, a.lowest + b.lowest, a.highest + b.highest};
    case '-':
      return Bounded{a.value - b.value, a.lowest - b.highest, a.highest - b.lowest};
    case '*':
      return interval(a.value * b.value, {a.lowest * b.lowest, a.lowest * b.highest,
                                          a.highest * b.lowest, a.highest * b.highest});
    default:
      break;
  }
  if (b.lowest <= 0 && b.highest >= 0) {
    return std::nullopt;
  }
  return interval(a.value / b.value, {a.lowest / b.lowest, a.lowest / b.highest,
                                      a.highest / b.lowest, a.highest / b.highest});
}

/// Names in an expression: those of its metrics are told only where there are several.
void add_names(const Node& node, std::set<std::string>& metrics, std::set<std::string>& runs) {
  if (node.kind == Node::Kind::metric || node.kind == Node::Kind::metrics) {
    metrics.insert(node.text);
  }
  for (const PointName& point : node.points) {
    runs.insert(point.run);
  }
  for (const Node& child : node.children) {
    add_names(child, metrics, runs);
  }
}

class Evaluation {
 public:
  Evaluation(const Node& root, const RecordOf& record_of) : record_of_(record_of) {
    std::set<std::string> metrics;
    std::set<std::string> runs;
    add_names(root, metrics, runs);
    tells_metric_ = metrics.size() > 1;
    tells_run_ = runs.size() > 1;
  }

  ExpressionValue value(const Node& root) {
    ExpressionValue result;
    if (root.type == Node::Type::truth) {
      result.truth = truth(root);
    } else {
      result.number = number(root);
    }
    const bool is_open = root.type == Node::Type::truth ? result.truth == Truth::undecided
                                                        : !result.number.has_value();
    if (is_open && !missing_.empty()) {
      result.detail = missing_;
    } else if (is_open) {
      result.detail = fmt::format("inside the error bounds: {}", fmt::join(against_, "; "));
    } else if (result.truth == Truth::no && !against_.empty()) {
      result.detail = fmt::format("{}", fmt::join(against_, "; "));
    } else {
      result.detail = fmt::format("{}", fmt::join(seen_, ", "));
    }
    return result;
  }

 private:
  struct NumberAt {
    PointName point;
    Bounded number;
  };

  // -- Numbers

  std::optional<Bounded> number(const Node& node) {
    switch (node.kind) {
      case Node::Kind::number:
        return Bounded{node.value, node.value, node.value};
      case Node::Kind::metric:
        return metric(node);
      case Node::Kind::negate: {
        const auto inner = number(node.children.front());
        return inner ? combine({0, 0, 0}, '-', *inner) : std::nullopt;
      }
      case Node::Kind::arithmetic:
        return arithmetic(node);
      default:
        check(node.kind == Node::Kind::call, "an expression whose types were not checked");
        return function(node);
    }
  }

  std::optional<Bounded> arithmetic(const Node& node) {
    std::optional<Bounded> result = number(node.children.front());
    for (std::size_t i = 0; i < node.operators.size(); ++i) {
      const std::optional<Bounded> next = number(node.children[i + 1]);
      if (!result || !next) {
        result.reset();
        continue;
      }
      result = combine(*result, node.operators[i].front(), *next);
      if (!result) {
        miss(fmt::format("column {}: a division by zero", node.children[i + 1].column));
      }
    }
    return result;
  }

  std::optional<Bounded> function(const Node& node) {
    if (node.text == "abs") {
      const std::optional<Bounded> inner = number(node.children.front());
      if (!inner) {
        return std::nullopt;
      }
      const bool has_zero = inner->lowest < 0 && inner->highest > 0;
      const double low = std::abs(inner->lowest);
      const double high = std::abs(inner->highest);
      return Bounded{std::abs(inner->value), has_zero ? 0 : std::min(low, high),
                     std::max(low, high)};
    }
    const bool is_min = node.text == "min";
    if (node.children.front().kind == Node::Kind::metrics) {
      return extreme_along_axis(node.children.front(), is_min);
    }
    std::optional<Bounded> result;
    bool is_whole = true;
    for (const Node& child : node.children) {
      const std::optional<Bounded> next = number(child);
      is_whole = is_whole && next.has_value();
      if (next && result) {
        const auto pick = [is_min](double a, double b) {
          return is_min ? std::min(a, b) : std::max(a, b);
        };
        result = Bounded{pick(result->value, next->value), pick(result->lowest, next->lowest),
                         pick(result->highest, next->highest)};
      } else if (next) {
        result = next;
      }
    }
    return is_whole ? result : std::nullopt;
  }

  std::optional<Bounded> extreme_along_axis(const Node& node, bool is_min) {
    const std::vector<NumberAt> all = numbers(node);
    if (all.empty()) {
      return std::nullopt;
    }
    const auto is_lower = [](const NumberAt& a, const NumberAt& b) {
      return a.number.value < b.number.value;
    };
    const NumberAt& chosen = is_min ? *std::min_element(all.begin(), all.end(), is_lower)
                                    : *std::max_element(all.begin(), all.end(), is_lower);
    see(number_text(node, chosen.point, chosen.number.value));
    return chosen.number;
  }

  std::optional<Bounded> metric(const Node& node) {
    const PointName& point = node.points.front();
    const RecordView* record = record_of_(point);
    if (record == nullptr) {
      miss(fmt::format("needs {}, which --quick leaves out", name_of(point)));
      return std::nullopt;
    }
    if (!record->is_ok()) {
      miss(fmt::format("{}: {}", name_of(point), record->why_not_run()));
      return std::nullopt;
    }
    const std::optional<Bounded> found = record->bounded(node.text);
    if (!found) {
      refuse_metric(node, {record});
    }
    see(number_text(node, point, found->value));
    return found;
  }

  /// Along the axis, without what did not run; empty with a reason when there are none.
  std::vector<NumberAt> numbers(const Node& node) {
    std::vector<NumberAt> all;
    std::vector<const RecordView*> ran;
    for (const PointName& point : node.points) {
      const RecordView* record = record_of_(point);
      if (record == nullptr) {
        miss(fmt::format("needs {} on the whole axis, not --quick", series_of(point)));
        return {};
      }
      if (!record->is_ok()) {
        continue;
      }
      ran.push_back(record);
      if (const std::optional<Bounded> found = record->bounded(node.text)) {
        all.push_back({point, *found});
      }
    }
    if (ran.empty()) {
      miss(fmt::format("{} never ran", series_of(node.points.front())));
    } else if (all.size() < ran.size()) {
      refuse_metric(node, ran);
    }
    return all;
  }

  [[noreturn]] void refuse_metric(const Node& node, const std::vector<const RecordView*>& records) {
    std::vector<std::string> names;
    for (const RecordView* record : records) {
      for (const Metric& known : record->metrics()) {
        names.push_back(known.name);
      }
    }
    const std::string nearest = nearest_name(node.text, names);
    throw ConfigError(fmt::format("column {}: {} has no metric {}{}", node.column,
                                  name_of(node.points.front()), in_quotes(node.text),
                                  nearest.empty()
                                      ? "; see nearkv describe metrics"
                                      : fmt::format("; did you mean \"{}\"?", nearest)));
  }

  // -- Truths

  Truth truth(const Node& node) {
    switch (node.kind) {
      case Node::Kind::conjunction:
      case Node::Kind::disjunction: {
        const bool is_and = node.kind == Node::Kind::conjunction;
        Truth result = is_and ? Truth::yes : Truth::no;
        for (const Node& child : node.children) {
          const Truth next = truth(child);
          result = is_and ? std::min(result, next) : std::max(result, next);
        }
        return result;
      }
      case Node::Kind::negation:
        return !truth(node.children.front());
      case Node::Kind::comparison:
        return with_notes([&] { return comparison(node); });
      default:
        check(node.kind == Node::Kind::call, "an expression whose types were not checked");
        return node.text == "runs" || node.text == "overflows"
                   ? runs_or_overflows(node)
                   : with_notes([&] { return monotonic(node); });
    }
  }

  /// Moves the notes of a part that does not hold to those against.
  template <class Part>
  Truth with_notes(Part part) {
    const std::size_t before = seen_.size();
    const Truth result = part();
    if (result != Truth::yes) {
      const auto first = seen_.begin() + static_cast<std::ptrdiff_t>(before);
      against_.push_back(fmt::format("{}", fmt::join(first, seen_.end(), ", ")));
      seen_.erase(first, seen_.end());
    }
    return result;
  }

  Truth comparison(const Node& node) {
    Truth result = Truth::yes;
    std::optional<Bounded> left = number(node.children.front());
    for (std::size_t i = 0; i < node.operators.size(); ++i) {
      const std::optional<Bounded> right = number(node.children[i + 1]);
      const Truth next =
          left && right ? compare(*left, node.operators[i], *right) : Truth::undecided;
      result = std::min(result, next);
      left = right;
    }
    return result;
  }

  Truth monotonic(const Node& node) {
    const Node& along = node.children.front();
    const std::vector<NumberAt> all = numbers(along);
    Truth result = all.empty() ? Truth::undecided : Truth::yes;
    for (std::size_t i = 0; i < all.size(); ++i) {
      see(number_text(along, all[i].point, all[i].number.value));
      if (i > 0) {
        const Truth rises = is_less(all[i - 1].number, all[i].number);
        const Truth falls = is_less(all[i].number, all[i - 1].number);
        result = std::min(result, node.text == "increasing" ? rises : falls);
      }
    }
    return result;
  }

  Truth runs_or_overflows(const Node& node) {
    Truth result = Truth::yes;
    const std::string wanted = node.text == "runs" ? "" : node.children.back().text;
    for (const PointName& point : node.children.front().points) {
      const RecordView* record = record_of_(point);
      if (record == nullptr) {
        miss(fmt::format("needs {}, which --quick leaves out", name_of(point)));
        result = std::min(result, Truth::undecided);
        continue;
      }
      const std::string ours = record->overflowed_memory();
      const std::string what = fmt::format("{} {}", name_of(point),
                                           record->is_ok() ? "runs"
                                           : ours.empty()  ? "is " + record->status()
                                                           : "overflows " + ours);
      const bool is_as_said = node.text == "runs" ? record->is_ok() : ours == wanted;
      if (is_as_said) {
        see(what);
      } else {
        against_.push_back(what);
        result = Truth::no;
      }
    }
    return result;
  }

  // -- Notes

  void miss(const std::string& reason) { missing_ = missing_.empty() ? reason : missing_; }
  void see(std::string note) {
    if (std::find(seen_.begin(), seen_.end(), note) == seen_.end()) {
      seen_.push_back(std::move(note));
    }
  }
  std::string in_run(const PointName& point, const std::string& text) const {
    return tells_run_ && !point.series.empty() ? fmt::format("{} {}", point.run, text) : text;
  }
  std::string name_of(const PointName& point) const { return in_run(point, text_of(point)); }
  std::string series_of(const PointName& point) const { return in_run(point, point.series); }

  std::string number_text(const Node& node, const PointName& point, double value) const {
    const RecordView* record = record_of_(point);
    std::string unit;
    for (const Metric& metric : record->metrics()) {
      unit = metric.name == node.text ? metric.unit : unit;
    }
    const std::string number = format_metric(value, unit, kClaimDigits);
    const std::string what = tells_metric_ ? node.text + " " + number : number;
    return point.series.empty() ? fmt::format("{} {}", point.run, what)
                                : fmt::format("{} {} at {}", series_of(point), what, point.at);
  }

  const RecordOf& record_of_;
  bool tells_metric_ = false;
  bool tells_run_ = false;
  std::vector<std::string> seen_;
  std::vector<std::string> against_;
  std::string missing_;
};

}  // namespace

ExpressionValue Expression::evaluate(const RecordOf& record_of) const {
  return Evaluation(*root_, record_of).value(*root_);
}

}  // namespace nearkv
