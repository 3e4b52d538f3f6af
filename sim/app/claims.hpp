// What a paper claims about a figure's points, and what our records say to it.
//
// A claim is of one kind:
//   ratio   one metric of a point over that of another; the paper gives a number
//   value   one metric of a point; the paper gives a number
//   memory  which points run and which overflow a memory; holds or not
//   order   a series is above its rivals at each axis value named; holds or not
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/record_view.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

/// A plain JSON value, or a list of them, as its text: axis values are numbers or quantities.
struct AxisValues {
  std::vector<nlohmann::json> values;

  [[nodiscard]] std::vector<std::string> texts() const;
  [[nodiscard]] bool contains(const std::string& text) const;
};

/// "64" for 64 and "50us" for "50us".
[[nodiscard]] std::string axis_text(const nlohmann::json& value);

/// Field lists know no list of numbers and strings. This replaces what is under "values",
/// "quick", "at" and "rivals" (not inside "point") by its JSON text, which axis_field() reads.
[[nodiscard]] nlohmann::json with_axis_values_as_text(const nlohmann::json& figure);
void axis_field(FieldVisitor& v, std::string_view name, AxisValues& values, std::string_view doc);

/// The records of a figure by series and axis value.
class FigureResults {
 public:
  /// Records in the order of figure_points(); `is_whole` is false for a quick figure.
  FigureResults(std::vector<std::string> series, std::vector<std::string> axis, bool is_whole,
                std::vector<RecordView> records);

  [[nodiscard]] const std::vector<std::string>& series() const { return series_; }
  [[nodiscard]] const std::vector<std::string>& axis() const { return axis_; }
  [[nodiscard]] bool is_whole() const { return is_whole_; }
  [[nodiscard]] const RecordView& at(std::size_t series, std::size_t position) const;
  /// Nothing when the figure has no such point.
  [[nodiscard]] const RecordView* find(const std::string& series, const std::string& at) const;

 private:
  std::vector<std::string> series_;
  std::vector<std::string> axis_;
  bool is_whole_;
  std::vector<RecordView> records_;
};

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
