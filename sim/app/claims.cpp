#include "sim/app/claims.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr std::string_view kBest = "best";
constexpr int kDigits = 3;

/// A number of one point, or why there is none.
struct Found {
  std::optional<Bounded> number;
  std::string detail;
};

std::string metric_text(const FigureResults& results, std::string_view metric, double value) {
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      for (const Metric& known : results.at(s, i).metrics()) {
        if (known.name == metric) {
          return format_metric(value, known.unit, kDigits);
        }
      }
    }
  }
  return format_significant(value, kDigits);
}

void check_metric_exists(const FigureResults& results, const std::string& metric) {
  std::vector<std::string> names;
  bool some_ran = false;
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      some_ran = some_ran || results.at(s, i).is_ok();
      for (const Metric& known : results.at(s, i).metrics()) {
        if (known.name == metric) {
          return;
        }
        names.push_back(known.name);
      }
    }
  }
  if (some_ran) {
    const std::string nearest = nearest_name(metric, names);
    throw ConfigError(fmt::format("metric \"{}\": no record has it{}", metric,
                                  nearest.empty()
                                      ? "; see nearkv describe metrics"
                                      : fmt::format("; did you mean \"{}\"?", nearest)));
  }
}

/// Why a point has no number, or empty when it ran.
std::string why_not(const FigureResults& results, const std::string& series,
                    const std::string& at) {
  const RecordView* record = results.find(series, at);
  if (record == nullptr) {
    return fmt::format("needs {} at {}, which --quick leaves out", series, at);
  }
  return record->is_ok()
             ? ""
             : fmt::format("{} at {}: out of memory ({})", series, at, record->overflowed_memory());
}

Found find_best(const MetricAt& wanted, const FigureResults& results) {
  if (!results.is_whole()) {
    return {std::nullopt, fmt::format("needs {} on the whole axis, not --quick", wanted.series)};
  }
  Found best{std::nullopt, fmt::format("{} never ran", wanted.series)};
  for (const std::string& at : results.axis()) {
    const RecordView* record = results.find(wanted.series, at);
    const std::optional<Bounded> number = record->bounded(wanted.metric);
    if (number.has_value() && (!best.number || number->value > best.number->value)) {
      best = {number, fmt::format("{} {} at {}", wanted.series,
                                  metric_text(results, wanted.metric, number->value), at)};
    }
  }
  return best;
}

Found find_number(const MetricAt& wanted, const FigureResults& results) {
  check_metric_exists(results, wanted.metric);
  const std::string at = wanted.at.texts().front();
  if (at == kBest) {
    return find_best(wanted, results);
  }
  const std::string reason = why_not(results, wanted.series, at);
  if (!reason.empty()) {
    return {std::nullopt, reason};
  }
  const std::optional<Bounded> number = results.find(wanted.series, at)->bounded(wanted.metric);
  if (!number.has_value()) {
    return {std::nullopt, fmt::format("{} at {} has no {}", wanted.series, at, wanted.metric)};
  }
  return {number, fmt::format("{} {} at {}", wanted.series,
                              metric_text(results, wanted.metric, number->value), at)};
}

ClaimResult evaluate_kind(const RatioClaim& claim, const FigureResults& results) {
  const Found over = find_number(claim.numerator, results);
  const Found under = find_number(claim.denominator, results);
  ClaimResult result{claim.paper, std::nullopt, std::nullopt, {}};
  if (!over.number || !under.number) {
    result.detail = over.number ? under.detail : over.detail;
  } else if (under.number->lowest <= 0) {
    result.detail = fmt::format("{}: no ratio to zero", under.detail);
  } else {
    result.ours = Bounded{over.number->value / under.number->value,
                          over.number->lowest / under.number->highest,
                          over.number->highest / under.number->lowest};
    result.detail = fmt::format("{} / {}", over.detail, under.detail);
  }
  return result;
}

ClaimResult evaluate_kind(const ValueClaim& claim, const FigureResults& results) {
  const Found found = find_number(claim.value, results);
  return {claim.paper, found.number, std::nullopt, found.detail};
}

ClaimResult evaluate_kind(const MemoryClaim& claim, const FigureResults& results) {
  std::vector<std::string> seen;
  std::vector<std::string> against;
  const auto look = [&](const PointSet& points, const std::string& memory) {
    for (const std::string& at : points.at.texts()) {
      const RecordView* record = results.find(points.series, at);
      if (record == nullptr) {
        return why_not(results, points.series, at);
      }
      const std::string ours = record->overflowed_memory();
      const std::string what = fmt::format("{} at {} {}", points.series, at,
                                           ours.empty() ? "runs" : "overflows " + ours);
      (ours == memory ? seen : against).push_back(what);
    }
    return std::string();
  };
  std::string missing;
  for (const RunningPoints& points : claim.runs) {
    missing = missing.empty() ? look(points, "") : missing;
  }
  for (const OverflowingPoints& points : claim.overflows) {
    missing = missing.empty() ? look(points, points.memory) : missing;
  }
  if (!missing.empty()) {
    return {std::nullopt, std::nullopt, std::nullopt, missing};
  }
  return {std::nullopt, std::nullopt, against.empty(),
          against.empty() ? fmt::format("{}", fmt::join(seen, ", "))
                          : fmt::format("but {}", fmt::join(against, ", "))};
}

ClaimResult evaluate_kind(const OrderClaim& claim, const FigureResults& results) {
  check_metric_exists(results, claim.metric);
  ClaimResult result{std::nullopt, std::nullopt, true, {}};
  std::vector<std::string> seen;
  for (const std::string& at : claim.at.texts()) {
    const std::string reason = why_not(results, claim.series, at);
    if (results.find(claim.series, at) == nullptr) {
      return {std::nullopt, std::nullopt, std::nullopt, reason};
    }
    if (!reason.empty()) {
      return {std::nullopt, std::nullopt, false, "but " + reason};
    }
    const std::optional<Bounded> ours = results.find(claim.series, at)->bounded(claim.metric);
    for (const std::string& rival : claim.rivals.texts()) {
      const RecordView* record = results.find(rival, at);
      const std::optional<Bounded> theirs = record->bounded(claim.metric);
      // What does not run is below what runs; an order inside the error bounds is none.
      const bool is_above = ours && (!theirs || ours->lowest > theirs->highest);
      std::string numbers =
          fmt::format("at {} {} {}, {} {}", at, claim.series,
                      ours ? metric_text(results, claim.metric, ours->value) : "nothing", rival,
                      theirs ? metric_text(results, claim.metric, theirs->value) : "nothing");
      if (!is_above) {
        return {std::nullopt, std::nullopt, false, "but " + numbers};
      }
      seen.push_back(std::move(numbers));
    }
  }
  result.detail = fmt::format("{}", fmt::join(seen, "; "));
  return result;
}

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
  const double bound = std::max(ours.highest - ours.value, ours.value - ours.lowest);
  return ours.is_exact() ? text : fmt::format("{} +- {}", text, format_significant(bound, 1));
}

}  // namespace

// -- Axis values ------------------------------------------------------------------------------

std::string axis_text(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::vector<std::string> AxisValues::texts() const {
  std::vector<std::string> all;
  for (const json& value : values) {
    all.push_back(axis_text(value));
  }
  return all;
}

bool AxisValues::contains(const std::string& text) const {
  return std::any_of(values.begin(), values.end(),
                     [&text](const json& value) { return axis_text(value) == text; });
}

json with_axis_values_as_text(const json& figure) {
  constexpr std::array<std::string_view, 4> kAxisValueKeys{"values", "quick", "at", "rivals"};
  json copy = figure;
  for (auto& [key, value] : copy.items()) {
    const bool holds_axis_values =
        figure.is_object() &&
        std::find(kAxisValueKeys.begin(), kAxisValueKeys.end(), key) != kAxisValueKeys.end();
    if (holds_axis_values) {
      value = (value.is_array() ? value : json::array({value})).dump();
    } else if (value.is_structured() && key != "point") {
      value = with_axis_values_as_text(value);
    }
  }
  return copy;
}

void axis_field(FieldVisitor& v, std::string_view name, AxisValues& values, std::string_view doc) {
  std::string text;
  v.parameter(name, text, doc);
  const json list = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool is_list = list.is_array() && !list.empty() &&
                       std::all_of(list.begin(), list.end(),
                                   [](const json& x) { return x.is_number() || x.is_string(); });
  v.require(is_list, name, "must be a list of at least one number, quantity or name");
  values.values.clear();
  if (is_list) {
    values.values.assign(list.begin(), list.end());
  }
}

// -- Fields -----------------------------------------------------------------------------------

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

// -- Results ----------------------------------------------------------------------------------

FigureResults::FigureResults(std::vector<std::string> series, std::vector<std::string> axis,
                             bool is_whole, std::vector<RecordView> records)
    : series_(std::move(series)),
      axis_(std::move(axis)),
      is_whole_(is_whole),
      records_(std::move(records)) {
  check(records_.size() == series_.size() * axis_.size(), "a figure lacks records");
}

const RecordView& FigureResults::at(std::size_t series, std::size_t position) const {
  return records_.at(series * axis_.size() + position);
}

const RecordView* FigureResults::find(const std::string& series, const std::string& at) const {
  const auto s = std::find(series_.begin(), series_.end(), series);
  const auto a = std::find(axis_.begin(), axis_.end(), at);
  if (s == series_.end() || a == axis_.end()) {
    return nullptr;
  }
  return &this->at(static_cast<std::size_t>(s - series_.begin()),
                   static_cast<std::size_t>(a - axis_.begin()));
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

ClaimResult evaluate(const Claim& claim, const FigureResults& results) {
  return std::visit([&results](const auto& kind) { return evaluate_kind(kind, results); },
                    claim.statement);
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
      table.row({claims[i].id, is_number ? fmt::format("{:g}", result.paper.value_or(0)) : "yes",
                 ours_text(result), difference ? fmt::format("{:+.1f} %", *difference * 100) : "",
                 role == ClaimRole::fit ? "fit" : "test",
                 fmt::format("{} ({})", claims[i].text, result.detail)});
    }
  }
  return table.text();
}

}  // namespace nearkv
