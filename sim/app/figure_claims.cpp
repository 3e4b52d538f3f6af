#include "sim/app/figure_claims.hpp"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr int kDigits = 3;

std::string ours_text(const RowResult& result) {
  if (result.holds.has_value()) {
    return *result.holds ? "yes" : "no";
  }
  if (!result.simulated.has_value()) {
    return "-";
  }
  const Bounded& ours = *result.simulated;
  const std::string text = format_significant(ours.value, kDigits);
  return ours.is_exact() ? text
                         : fmt::format("{} +- {}", text, format_significant(ours.bound(), 1));
}

std::string paper_text(const Row& row) {
  return row.holds ? (*row.holds ? "yes" : "no") : fmt::format("{:g}", *row.reference);
}

}  // namespace

std::vector<Row> claims_about(const Suite& paper, const std::string& figure) {
  const auto is_of_figure = [&](const PointName& point) {
    const SuiteRun& run = paper.runs.at(point.run);
    return run.figure && run.figure->name == figure && run.set.empty();
  };
  std::vector<Row> claims;
  for (const Row& row : paper.rows) {
    const std::vector<PointName> points = row.simulated.points();
    if (!points.empty() && std::all_of(points.begin(), points.end(), is_of_figure)) {
      claims.push_back(row);
    }
  }
  return claims;
}

std::vector<FigureClaim> evaluate_claims(const Suite& paper, const std::vector<Row>& claims,
                                         const FigureResults& results) {
  std::vector<FigureClaim> evaluated;
  for (const Row& row : claims) {
    evaluated.push_back({row, evaluate(paper, row, [&results](const PointName& point) {
                           return results.find(point.series, point.at);
                         })});
  }
  return evaluated;
}

json claim_as_json(const FigureClaim& claim) {
  const auto or_null = [](const auto& value) { return value ? json(*value) : json(); };
  const auto& [row, result] = claim;
  json document{
      {"id", row.id}, {"text", row.text}, {"role", name_of(row.role)}, {"detail", result.detail}};
  if (row.holds) {
    document["holds"] = or_null(result.holds);
  } else {
    const std::optional<Bounded>& ours = result.simulated;
    document["paper"] = or_null(row.reference);
    document["ours"] = ours ? json(ours->value) : json();
    document["ours_lowest"] = ours ? json(ours->lowest) : json();
    document["ours_highest"] = ours ? json(ours->highest) : json();
    document["relative_difference"] = or_null(result.error);
  }
  return document;
}

std::string claims_table(const std::vector<FigureClaim>& claims) {
  using Align = TextTable::Align;
  TextTable table({{"claim", Align::left},
                   {"paper", Align::right},
                   {"ours", Align::right},
                   {"difference", Align::right},
                   {"role", Align::left},
                   {"what", Align::left}});
  for (const RowRole role : {RowRole::test, RowRole::fit}) {
    for (const auto& [row, result] : claims) {
      if (row.role != role) {
        continue;
      }
      // What was said and holds needs no numbers; the JSON has them.
      const bool needs_detail = !row.holds || !result.passes;
      table.row({row.id, paper_text(row), ours_text(result),
                 result.error ? fmt::format("{:+.1f} %", *result.error * 100) : "",
                 std::string(name_of(role)),
                 needs_detail ? fmt::format("{} ({})", row.text, result.detail) : row.text});
    }
  }
  return table.text();
}

}  // namespace nearkv
