#include "sim/app/claims.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr int kDigits = 3;

void add_series_problem(std::vector<std::string>& problems, const std::string& field,
                        const std::string& name, const std::vector<std::string>& series) {
  if (std::find(series.begin(), series.end(), name) == series.end()) {
    problems.push_back(fmt::format("{}: \"{}\" is no series of this figure; there are: {}", field,
                                   name, fmt::join(series, ", ")));
  }
}

void add_at_problems(std::vector<std::string>& problems, const std::string& field,
                     const AxisValues& at, const std::vector<std::string>& axis) {
  for (const std::string& text : at.texts()) {
    if (std::find(axis.begin(), axis.end(), text) == axis.end()) {
      problems.push_back(fmt::format("{}/at: {} is no value of the axis; there are: {}", field,
                                     text, fmt::join(axis, ", ")));
    }
  }
}

void add_metric_at_problems(std::vector<std::string>& problems, const std::string& field,
                            const MetricAt& wanted, const std::vector<std::string>& series,
                            const std::vector<std::string>& axis) {
  add_series_problem(problems, field + "/series", wanted.series, series);
  if (wanted.at.values.size() != 1) {
    problems.push_back(field + "/at: must be one axis value or \"best\"");
  } else if (wanted.at.texts().front() != kBest) {
    add_at_problems(problems, field, wanted.at, axis);
  }
}

std::string ours_text(const ClaimResult& result) {
  if (result.holds.has_value()) {
    return *result.holds ? "yes" : "no";
  }
  if (!result.ours.has_value()) {
    return "-";
  }
  const Bounded& ours = *result.ours;
  const std::string text = format_significant(ours.value, kDigits);
  return ours.is_exact() ? text
                         : fmt::format("{} +- {}", text, format_significant(ours.bound(), 1));
}

}  // namespace

void MetricAt::fields(FieldVisitor& v) {
  v.parameter("series", series, "which series of the figure");
  v.parameter("metric", metric, "which metric of its records");
  axis_field(v, "at", at, "one axis value, or \"best\" for the highest of the whole axis");
}

void RatioClaim::fields(FieldVisitor& v) {
  v.parameter("paper", paper, "the ratio that the paper gives");
  v.group("numerator", numerator, "what is divided");
  v.group("denominator", denominator, "by what");
}

void ValueClaim::fields(FieldVisitor& v) {
  v.parameter("paper", paper, "the value that the paper gives");
  v.group("value", value, "ours");
}

void RunningPoints::fields(FieldVisitor& v) {
  v.parameter("series", series, "which series of the figure");
  axis_field(v, "at", at, "axis values at which it runs");
}

void OverflowingPoints::fields(FieldVisitor& v) {
  v.parameter("series", series, "which series of the figure");
  axis_field(v, "at", at, "axis values at which it overflows");
  v.parameter("memory", memory, "the memory that overflows, as records call it");
}

void MemoryClaim::fields(FieldVisitor& v) {
  v.list_of("runs", runs, "points that run");
  v.list_of("overflows", overflows, "points that run out of a memory");
}

void OrderClaim::fields(FieldVisitor& v) {
  v.parameter("series", series, "the series that is above the others");
  v.parameter("metric", metric, "in which metric");
  axis_field(v, "at", at, "axis values at which it is");
  axis_field(v, "rivals", rivals, "the series below it");
}

void Claim::fields(FieldVisitor& v) {
  v.parameter("id", id, "identifier in the table of claims");
  v.parameter("text", text, "the claim in words");
  v.one_of("role", role, {"fit", "test"},
           "fit: may be used to calibrate; test: never enters a calibration");
  std::size_t kind = statement.index();
  v.variant({"kind", "what is claimed"}, {"ratio", "value", "memory", "order"}, kind,
            [this](std::size_t chosen, FieldVisitor& fields) {
              const auto visit = [&fields](auto& claim) { claim.fields(fields); };
              switch (chosen) {
                case 0:
                  visit(statement.emplace<RatioClaim>());
                  break;
                case 1:
                  visit(statement.emplace<ValueClaim>());
                  break;
                case 2:
                  visit(statement.emplace<MemoryClaim>());
                  break;
                default:
                  visit(statement.emplace<OrderClaim>());
                  break;
              }
            });
}

std::optional<double> ClaimResult::relative_difference() const {
  if (!paper.has_value() || !ours.has_value() || *paper == 0) {
    return std::nullopt;
  }
  return ours->value / *paper - 1;
}

std::vector<std::string> claim_problems(const Claim& claim, const std::vector<std::string>& series,
                                        const std::vector<std::string>& axis) {
  std::vector<std::string> problems;
  if (const auto* ratio = std::get_if<RatioClaim>(&claim.statement)) {
    add_metric_at_problems(problems, "/numerator", ratio->numerator, series, axis);
    add_metric_at_problems(problems, "/denominator", ratio->denominator, series, axis);
  } else if (const auto* value = std::get_if<ValueClaim>(&claim.statement)) {
    add_metric_at_problems(problems, "/value", value->value, series, axis);
  } else if (const auto* memory = std::get_if<MemoryClaim>(&claim.statement)) {
    const auto add = [&](const std::string& list, const auto& sets) {
      for (std::size_t i = 0; i < sets.size(); ++i) {
        const std::string field = fmt::format("/{}/{}", list, i);
        add_series_problem(problems, field + "/series", sets[i].series, series);
        add_at_problems(problems, field, sets[i].at, axis);
      }
    };
    add("runs", memory->runs);
    add("overflows", memory->overflows);
  } else if (const auto* order = std::get_if<OrderClaim>(&claim.statement)) {
    add_series_problem(problems, "/series", order->series, series);
    add_at_problems(problems, "", order->at, axis);
    for (const std::string& rival : order->rivals.texts()) {
      add_series_problem(problems, "/rivals", rival, series);
    }
  }
  return problems;
}

json claim_as_json(const Claim& claim, const ClaimResult& result) {
  const auto or_null = [](const auto& value) { return value ? json(*value) : json(); };
  json document{{"id", claim.id},
                {"text", claim.text},
                {"role", claim.role == ClaimRole::fit ? "fit" : "test"},
                {"detail", result.detail}};
  if (std::holds_alternative<RatioClaim>(claim.statement) ||
      std::holds_alternative<ValueClaim>(claim.statement)) {
    document["paper"] = or_null(result.paper);
    document["ours"] = result.ours ? json(result.ours->value) : json();
    document["ours_lowest"] = result.ours ? json(result.ours->lowest) : json();
    document["ours_highest"] = result.ours ? json(result.ours->highest) : json();
    document["relative_difference"] = or_null(result.relative_difference());
  } else {
    document["holds"] = or_null(result.holds);
  }
  return document;
}

std::string claims_table(const std::vector<Claim>& claims,
                         const std::vector<ClaimResult>& results) {
  using Align = TextTable::Align;
  TextTable table({{"claim", Align::left},
                   {"paper", Align::right},
                   {"ours", Align::right},
                   {"difference", Align::right},
                   {"role", Align::left},
                   {"what", Align::left}});
  for (const ClaimRole role : {ClaimRole::test, ClaimRole::fit}) {
    for (std::size_t i = 0; i < claims.size(); ++i) {
      if (claims[i].role != role) {
        continue;
      }
      const ClaimResult& result = results[i];
      const std::optional<double> difference = result.relative_difference();
      const bool is_number = std::holds_alternative<RatioClaim>(claims[i].statement) ||
                             std::holds_alternative<ValueClaim>(claims[i].statement);
      // What was said and holds needs no numbers; the JSON has them.
      const std::string what = result.holds == true
                                   ? claims[i].text
                                   : fmt::format("{} ({})", claims[i].text, result.detail);
      table.row({claims[i].id, is_number ? fmt::format("{:g}", result.paper.value_or(0)) : "yes",
                 ours_text(result), difference ? fmt::format("{:+.1f} %", *difference * 100) : "",
                 role == ClaimRole::fit ? "fit" : "test", what});
    }
  }
  return table.text();
}

}  // namespace nearkv
