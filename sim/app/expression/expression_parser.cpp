// From the words of an expression to its tree: one function a level of precedence.
#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "sim/app/expression/expression_lexer.hpp"
#include "sim/app/expression/expression_node.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

using Node = Expression::Node;
using Type = Node::Type;

std::string or_nearest(const std::string& word, const std::vector<std::string>& known) {
  const std::string nearest = nearest_name(word, known);
  return nearest.empty() ? fmt::format("there are: {}", fmt::join(known, ", "))
                         : fmt::format("did you mean \"{}\"?", nearest);
}

std::string_view phrase(Type type) {
  switch (type) {
    case Type::number:
      return "a number";
    case Type::numbers:
      return "numbers along an axis (best() takes the highest; [AXIS VALUE] takes one)";
    case Type::truth:
      return "a truth";
    case Type::points:
      return "points without a metric (add .METRIC)";
    case Type::text:
      break;
  }
  return "a text";
}

void want(const Node& node, Type type, std::string_view who) {
  if (node.type != type) {
    const std::string_view wanted = type == Type::numbers  ? "numbers along an axis"
                                    : type == Type::points ? "a point without a metric"
                                                           : phrase(type);
    fail_at(node.column,
            fmt::format("{} takes {}, and this is {}", who, wanted, phrase(node.type)));
  }
}

class Parser {
 public:
  /// With `names`, these can be used, and no runs.
  Parser(const std::string& text, const RunShapes& runs, const std::vector<ValueName>* names)
      : tokens_(tokens_of(text)), runs_(runs), names_(names) {}

  Node parse() {
    Node root = disjunction();
    if (peek().kind != Token::Kind::end) {
      fail_at(peek().column, fmt::format("{} after the end of the expression; expected an operator",
                                         in_quotes(peek().text)));
    }
    if (root.type != Type::truth) {
      want(root, Type::number, "the expression");
    }
    return root;
  }

 private:
  // -- Levels of precedence, the loosest first

  Node disjunction() { return joined("or", Node::Kind::disjunction, &Parser::conjunction); }
  Node conjunction() { return joined("and", Node::Kind::conjunction, &Parser::negation); }

  Node joined(std::string_view word, Node::Kind kind, Node (Parser::*part)()) {
    Node first = (this->*part)();
    if (!is_name(word)) {
      return first;
    }
    Node node{.kind = kind, .type = Type::truth, .column = first.column};
    want(first, Type::truth, word);
    node.children.push_back(std::move(first));
    while (is_name(word)) {
      take();
      node.children.push_back((this->*part)());
      want(node.children.back(), Type::truth, word);
    }
    return node;
  }

  Node negation() {
    if (!is_name("not")) {
      return equality();
    }
    Node node{.kind = Node::Kind::negation, .type = Type::truth, .column = take().column};
    node.children.push_back(nested([this] { return negation(); }));
    want(node.children.front(), Type::truth, "not");
    return node;
  }

  Node equality() {
    Node first = comparison();
    if (!is_symbol("==") && !is_symbol("!=")) {
      return first;
    }
    if (names_ == nullptr) {
      fail_at(peek().column, "results of runs are not compared for equality; say abs(a - b) < c");
    }
    Node node{.kind = Node::Kind::equality, .type = Type::truth, .column = first.column};
    node.operators.push_back(take().text);
    node.children.push_back(std::move(first));
    node.children.push_back(comparison());
    const Type type = node.children.front().type == Type::text ? Type::text : Type::number;
    want(node.children.front(), type, node.operators.front());
    want(node.children.back(), type, node.operators.front());
    return node;
  }

  Node comparison() {
    return chain({"<", "<=", ">", ">="}, Node::Kind::comparison, Type::truth, &Parser::sum);
  }
  Node sum() { return chain({"+", "-"}, Node::Kind::arithmetic, Type::number, &Parser::product); }
  Node product() { return chain({"*", "/"}, Node::Kind::arithmetic, Type::number, &Parser::unary); }

  Node chain(const std::vector<std::string_view>& symbols, Node::Kind kind, Type type,
             Node (Parser::*part)()) {
    Node first = (this->*part)();
    const auto follows = [&] {
      return std::any_of(symbols.begin(), symbols.end(),
                         [this](std::string_view symbol) { return is_symbol(symbol); });
    };
    if (!follows()) {
      return first;
    }
    Node node{.kind = kind, .type = type, .column = first.column};
    want(first, Type::number, peek().text);
    node.children.push_back(std::move(first));
    while (follows()) {
      node.operators.push_back(take().text);
      node.children.push_back((this->*part)());
      want(node.children.back(), Type::number, node.operators.back());
    }
    return node;
  }

  Node unary() {
    if (!is_symbol("-")) {
      return primary();
    }
    Node node{.kind = Node::Kind::negate, .column = take().column};
    node.children.push_back(nested([this] { return unary(); }));
    want(node.children.front(), Type::number, "-");
    return node;
  }

  Node primary() {
    const Token& token = peek();
    if (token.kind == Token::Kind::number) {
      take();
      return Node{.column = token.column, .value = token.number};
    }
    if (is_symbol("(")) {
      take();
      Node inner = nested([this] { return disjunction(); });
      expect(")");
      return inner;
    }
    if (token.kind == Token::Kind::name || token.kind == Token::Kind::text) {
      take();
      const bool is_call = token.kind == Token::Kind::name && is_symbol("(");
      return is_call ? call(token) : names_ != nullptr ? value_or_text(token) : reference(token);
    }
    fail_at(token.column,
            fmt::format("expected a number, a name or \"(\", found {}", found_text(token)));
  }

  // -- Functions

  Node call(const Token& name) {
    static const std::vector<std::string> kFunctions{
        "min", "max", "best", "abs", "increasing", "decreasing", "runs", "overflows"};
    if (std::find(kFunctions.begin(), kFunctions.end(), name.text) == kFunctions.end()) {
      fail_at(name.column, fmt::format("{} is no function; {}", in_quotes(name.text),
                                       or_nearest(name.text, kFunctions)));
    }
    Node node{.kind = Node::Kind::call, .column = name.column, .text = name.text};
    expect("(");
    do {
      node.children.push_back(argument());
    } while (take_if(","));
    expect(")");
    check_arguments(node);
    return node;
  }

  Node argument() {
    // A text is an argument alone; as the first part of a name it is followed by a dot.
    if (names_ == nullptr && peek().kind == Token::Kind::text && !follows_symbol(".")) {
      const Token& token = take();
      return Node{
          .kind = Node::Kind::text, .type = Type::text, .column = token.column, .text = token.text};
    }
    return nested([this] { return disjunction(); });
  }

  static void check_arguments(Node& node) {
    const std::string who = node.text + "()";
    const auto count = [&](std::size_t wanted) {
      if (node.children.size() != wanted) {
        fail_at(node.column, fmt::format("{} takes {} argument{}, and this has {}", who, wanted,
                                         wanted == 1 ? "" : "s", node.children.size()));
      }
    };
    if (node.text == "runs" || node.text == "overflows") {
      node.type = Type::truth;
      count(node.text == "runs" ? 1 : 2);
      want(node.children.front(), Type::points, who);
      if (node.text == "overflows") {
        want(node.children.back(), Type::text, who);
      }
      return;
    }
    if (node.text == "increasing" || node.text == "decreasing") {
      node.type = Type::truth;
    }
    const bool takes_both = node.text == "min" || node.text == "max";
    if (!takes_both) {
      count(1);
    }
    if (takes_both && node.children.size() > 1) {
      for (const Node& child : node.children) {
        want(child, Type::number, who);
      }
    } else {
      want(node.children.front(), node.text == "abs" ? Type::number : Type::numbers, who);
    }
  }

  // -- Names of values

  /// What is in quotes and no name is a text.
  Node value_or_text(const Token& token) {
    const auto found = std::find_if(names_->begin(), names_->end(), [&](const ValueName& known) {
      return known.name == token.text;
    });
    if (found != names_->end()) {
      return Node{.kind = Node::Kind::value,
                  .type = found->is_text ? Type::text : Type::number,
                  .column = token.column,
                  .index = static_cast<std::size_t>(found - names_->begin()),
                  .text = token.text};
    }
    if (token.kind == Token::Kind::text) {
      return Node{
          .kind = Node::Kind::text, .type = Type::text, .column = token.column, .text = token.text};
    }
    std::vector<std::string> known;
    for (const ValueName& name : *names_) {
      known.push_back(name.name);
    }
    fail_at(token.column, fmt::format("{} is not known here; {}", in_quotes(token.text),
                                      or_nearest(token.text, known)));
  }

  // -- Names of runs, points and metrics

  Node reference(const Token& run) {
    const auto known = runs_.find(run.text);
    if (known == runs_.end()) {
      if (runs_.empty()) {
        fail_at(run.column,
                fmt::format("{} is no number; only arithmetic is possible here, as there "
                            "are no runs",
                            in_quotes(run.text)));
      }
      std::vector<std::string> names;
      for (const auto& [name, shape] : runs_) {
        names.push_back(name);
      }
      fail_at(run.column, fmt::format("{} is no run of this suite; {}", in_quotes(run.text),
                                      or_nearest(run.text, names)));
    }
    Node node{.kind = Node::Kind::points, .type = Type::points, .column = run.column};
    bool is_along_axis = false;
    if (known->second.series.empty()) {
      node.points.push_back({run.text});
    } else {
      is_along_axis = series_points(node, run, known->second);
    }
    if (!take_if(".")) {
      return node;
    }
    const Token& metric = name_after(".", "a metric");
    node.kind = is_along_axis ? Node::Kind::metrics : Node::Kind::metric;
    node.type = is_along_axis ? Type::numbers : Type::number;
    node.text = metric.text;
    node.column = metric.column;
    return node;
  }

  /// The points of FIGURE.SERIES or FIGURE.SERIES[AT]; whether they lie along the axis.
  bool series_points(Node& node, const Token& run, const RunShape& shape) {
    if (!take_if(".")) {
      fail_at(run.column, fmt::format("{} is a figure; name one of its series: {}", run.text,
                                      fmt::join(shape.series, ", ")));
    }
    const Token& series = name_after(".", "a series");
    if (std::find(shape.series.begin(), shape.series.end(), series.text) == shape.series.end()) {
      fail_at(series.column, fmt::format("{} is no series of {}; {}", in_quotes(series.text),
                                         run.text, or_nearest(series.text, shape.series)));
    }
    if (!take_if("[")) {
      for (const std::string& at : shape.axis) {
        node.points.push_back({run.text, series.text, at});
      }
      return true;
    }
    const Token& at = take();
    const bool is_value = at.kind == Token::Kind::number || at.kind == Token::Kind::name ||
                          at.kind == Token::Kind::text;
    const auto found = std::find_if(shape.axis.begin(), shape.axis.end(), [&](const auto& value) {
      return value == at.text || (at.kind == Token::Kind::number && is_number(value, at.number));
    });
    if (!is_value || found == shape.axis.end()) {
      fail_at(at.column, fmt::format("{} is no value of the axis of {}; there are: {}",
                                     found_text(at), run.text, fmt::join(shape.axis, ", ")));
    }
    expect("]");
    node.points.push_back({run.text, series.text, *found});
    return false;
  }

  static bool is_number(const std::string& text, double value) {
    double number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc{} && rest == text.data() + text.size() && number == value;
  }

  // -- Tokens

  const Token& peek() const { return tokens_[at_]; }
  const Token& take() {
    const Token& token = tokens_[at_];
    at_ = std::min(at_ + 1, tokens_.size() - 1);
    return token;
  }
  bool is_symbol(std::string_view symbol) const {
    return peek().kind == Token::Kind::symbol && peek().text == symbol;
  }
  bool follows_symbol(std::string_view symbol) const {
    const Token& following = tokens_[std::min(at_ + 1, tokens_.size() - 1)];
    return following.kind == Token::Kind::symbol && following.text == symbol;
  }
  bool is_name(std::string_view word) const {
    return peek().kind == Token::Kind::name && peek().text == word;
  }
  bool take_if(std::string_view symbol) {
    if (!is_symbol(symbol)) {
      return false;
    }
    take();
    return true;
  }
  void expect(std::string_view symbol) {
    if (!take_if(symbol)) {
      fail_at(peek().column, fmt::format("expected \"{}\", found {}", symbol, found_text(peek())));
    }
  }
  const Token& name_after(std::string_view symbol, std::string_view what) {
    const Token& token = take();
    if (token.kind != Token::Kind::name && token.kind != Token::Kind::text) {
      fail_at(token.column,
              fmt::format("expected {} after \"{}\", found {}", what, symbol, found_text(token)));
    }
    return token;
  }
  static std::string found_text(const Token& token) {
    return token.kind == Token::Kind::end ? "the end" : in_quotes(token.text);
  }

  template <class Part>
  Node nested(Part part) {
    constexpr int kDeepest = 64;
    if (++depth_ > kDeepest) {
      fail_at(peek().column, fmt::format("more than {} levels of brackets", kDeepest));
    }
    Node node = part();
    --depth_;
    return node;
  }

  std::vector<Token> tokens_;
  const RunShapes& runs_;
  const std::vector<ValueName>* names_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

void add_points(const Node& node, std::vector<PointName>& points) {
  points.insert(points.end(), node.points.begin(), node.points.end());
  for (const Node& child : node.children) {
    add_points(child, points);
  }
}

}  // namespace

std::string text_of(const PointName& point) {
  return point.series.empty() ? point.run : fmt::format("{} at {}", point.series, point.at);
}

Expression::Expression(const std::string& text, const RunShapes& runs)
    : root_(std::make_shared<const Node>(Parser(text, runs, nullptr).parse())) {}

Node parse_value_expression(const std::string& text, const std::vector<ValueName>& names) {
  return Parser(text, {}, &names).parse();
}

bool Expression::is_truth() const { return root_->type == Node::Type::truth; }

std::vector<PointName> Expression::points() const {
  std::vector<PointName> points;
  add_points(*root_, points);
  std::sort(points.begin(), points.end());
  points.erase(std::unique(points.begin(), points.end()), points.end());
  return points;
}

double evaluate_arithmetic(const std::string& text) {
  const Expression expression(text, {});
  const ExpressionValue value = expression.evaluate([](const PointName&) { return nullptr; });
  if (expression.is_truth() || !value.number.has_value()) {
    throw ConfigError("must be a number" + (value.detail.empty() ? "" : ": " + value.detail));
  }
  return value.number->value;
}

}  // namespace nearkv
