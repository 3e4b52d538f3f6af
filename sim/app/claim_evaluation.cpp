// What records say to a claim.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/claims.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

constexpr int kDigits = 3;

/// A number of one point, or why there is none.
struct Found {
  std::optional<Bounded> number;
  std::string detail;
};

std::string metric_text(const FigureResults& results, const std::string& metric, double value) {
  return format_metric(value, results.unit_of(metric).value_or(""), kDigits);
}

void check_metric_exists(const FigureResults& results, const std::string& metric) {
  std::vector<std::string> names;
  for (const RecordView& record : results.records()) {
    for (const Metric& known : record.metrics()) {
      names.push_back(known.name);
    }
  }
  const bool some_ran = std::any_of(results.records().begin(), results.records().end(),
                                    [](const RecordView& record) { return record.is_ok(); });
  if (some_ran && !results.unit_of(metric).has_value()) {
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
  return record->is_ok() ? "" : fmt::format("{} at {}: {}", series, at, record->why_not_run());
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
                                           record->is_ok() ? "runs"
                                           : ours.empty()  ? "is " + record->status()
                                                           : "overflows " + ours);
      const bool is_as_said = record->is_ok() ? memory.empty() : ours == memory && !ours.empty();
      (is_as_said ? seen : against).push_back(what);
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
                          : fmt::format("{}", fmt::join(against, ", "))};
}

ClaimResult evaluate_kind(const OrderClaim& claim, const FigureResults& results) {
  check_metric_exists(results, claim.metric);
  const auto text_of = [&](const std::optional<Bounded>& number) {
    return number ? metric_text(results, claim.metric, number->value) : "nothing";
  };
  std::vector<std::string> seen;
  for (const std::string& at : claim.at.texts()) {
    const RecordView* record = results.find(claim.series, at);
    const std::string reason = why_not(results, claim.series, at);
    if (!reason.empty()) {
      return {std::nullopt, std::nullopt,
              record == nullptr ? std::nullopt : std::optional<bool>(false), reason};
    }
    const std::optional<Bounded> ours = record->bounded(claim.metric);
    for (const std::string& rival : claim.rivals.texts()) {
      const std::optional<Bounded> theirs = results.find(rival, at)->bounded(claim.metric);
      const std::string numbers = fmt::format("at {} {} {}, {} {}", at, claim.series, text_of(ours),
                                              rival, text_of(theirs));
      // What does not run is below what runs; an order inside the error bounds is none.
      if (!ours || (theirs && ours->lowest <= theirs->highest)) {
        return {std::nullopt, std::nullopt, false, numbers};
      }
      seen.push_back(numbers);
    }
  }
  return {std::nullopt, std::nullopt, true, fmt::format("{}", fmt::join(seen, "; "))};
}

}  // namespace

ClaimResult evaluate(const Claim& claim, const FigureResults& results) {
  return std::visit([&results](const auto& kind) { return evaluate_kind(kind, results); },
                    claim.statement);
}

}  // namespace nearkv
