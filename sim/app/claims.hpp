// What a paper claims about a figure's points, and what our records say to it.
//
// A claim is of one kind:
//   ratio   one metric of a point over that of another; the paper gives a number
//   value   one metric of a point; the paper gives a number
//   memory  which points run and which overflow a memory; holds or not
//   order   a series is above its rivals at each axis value named; holds or not
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/axis_values.hpp"
#include "sim/app/figure_results.hpp"
#include "sim/app/record_view.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

/// In the place of an axis value: the highest of the axis.
inline constexpr std::string_view kBest = "best";

/// fit: the value may have been used to calibrate; test: never.
enum class ClaimRole { fit, test };

/// Points of a series.
struct PointSet {
  std::string series;
  AxisValues at;
};

/// One number out of a figure: a metric of a series at an axis value, or the highest of the axis.
struct MetricAt {
  std::string series;
  std::string metric;
  AxisValues at;  // one value, or "best"

  void fields(FieldVisitor& v);
};

struct RatioClaim {
  double paper = 0;
  MetricAt numerator;
  MetricAt denominator;

  void fields(FieldVisitor& v);
};

struct ValueClaim {
  double paper = 0;
  MetricAt value;

  void fields(FieldVisitor& v);
};

struct RunningPoints : PointSet {
  void fields(FieldVisitor& v);
};

struct OverflowingPoints : PointSet {
  std::string memory;

  void fields(FieldVisitor& v);
};

struct MemoryClaim {
  std::vector<RunningPoints> runs;
  std::vector<OverflowingPoints> overflows;

  void fields(FieldVisitor& v);
};

struct OrderClaim : MetricAt {
  AxisValues rivals;  // names of series

  void fields(FieldVisitor& v);
};

struct Claim {
  std::string id;
  std::string text;
  ClaimRole role = ClaimRole::test;
  std::variant<RatioClaim, ValueClaim, MemoryClaim, OrderClaim> statement;

  void fields(FieldVisitor& v);
};

/// What the records say. Neither a number nor a verdict: `detail` says why not.
struct ClaimResult {
  std::optional<double> paper;
  std::optional<Bounded> ours;
  std::optional<bool> holds;
  std::string detail;  // the numbers behind it

  /// (ours - paper) / paper.
  [[nodiscard]] std::optional<double> relative_difference() const;
};

/// Problems of a claim that names what the figure lacks; one line each, without the claim's path.
[[nodiscard]] std::vector<std::string> claim_problems(const Claim& claim,
                                                      const std::vector<std::string>& series,
                                                      const std::vector<std::string>& axis);

/// Throws ConfigError when a record lacks the metric.
[[nodiscard]] ClaimResult evaluate(const Claim& claim, const FigureResults& results);

[[nodiscard]] nlohmann::json claim_as_json(const Claim& claim, const ClaimResult& result);

/// The claims, those of role test first: text, paper, ours, difference, role.
[[nodiscard]] std::string claims_table(const std::vector<Claim>& claims,
                                       const std::vector<ClaimResult>& results);

}  // namespace nearkv
