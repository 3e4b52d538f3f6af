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

std::string ours_text(const FigureClaim& claim) {
  const RowResult& result = claim.result;
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

/// "10.2 to 12.6"; of a truth "32 of 32".
std::string samples_text(const FigureClaim& claim) {
  if (!claim.samples || claim.samples->told == 0) {
    return "";
  }
  const auto& [interval, told, hold] = *claim.samples;
  return claim.row.holds ? fmt::format("{} of {}", hold, told)
                         : format_metric_range(interval->lowest, interval->highest, "1", kDigits);
}

std::string paper_text(const Row& row) {
  return row.holds ? (*row.holds ? "yes" : "no") : fmt::format("{:g}", *row.reference);
}

}  // namespace

std::vector<Row> claims_about(const Suite& paper, const std::string& figure,
                              const std::string& run) {
  const auto is_of_figure = [&](const PointName& point) {
    const SuiteRun& asked = paper.runs.at(point.run);
    return asked.figure ? asked.figure->name == figure && asked.set.empty() : point.run == run;
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
                                         const RecordOf& record_of) {
  std::vector<FigureClaim> evaluated;
  for (const Row& row : claims) {
    evaluated.push_back({row, evaluate(paper, row, record_of)});
  }
  return evaluated;
}

void add_samples(std::vector<FigureClaim>& claims, const Suite& paper,
                 const PositionOf& position_of, const std::vector<SampledOutcome>& points) {
  const std::size_t samples = points.empty() ? 0 : points.front().samples.size();
  for (FigureClaim& claim : claims) {
    std::vector<double> values;
    for (std::size_t i = 0; i < samples; ++i) {
      const auto record_of = [&](const PointName& name) -> const RecordView* {
        const std::optional<std::size_t> position = position_of(name);
        if (!position || !points[*position].samples[i].record) {
          return nullptr;
        }
        return &*points[*position].samples[i].record;
      };
      const RowResult result = evaluate(paper, claim.row, record_of);
      ClaimSamples& found = claim.samples ? *claim.samples : claim.samples.emplace();
      if (result.simulated) {
        values.push_back(result.simulated->value);
      }
      found.told += result.simulated || result.holds ? 1 : 0;
      found.hold += result.holds.value_or(false) ? 1 : 0;
    }
    if (!values.empty()) {
      claim.samples->interval = interval_of(values);
    }
  }
}

json claim_as_json(const FigureClaim& claim) {
  const auto or_null = [](const auto& value) { return value ? json(*value) : json(); };
  const Row& row = claim.row;
  const RowResult& result = claim.result;
  json document{{"id", row.id},         {"text", row.text},        {"role", name_of(row.role)},
                {"source", row.source}, {"detail", result.detail}, {"pass", result.passes},
                {"why", row.why}};
  if (row.holds) {
    document["paper_holds"] = *row.holds;
    document["holds"] = or_null(result.holds);
  } else {
    document["unit"] = row.unit;
    document["tolerance"] = result.simulated ? result.tolerance : row.tolerance;
    const std::optional<Bounded>& ours = result.simulated;
    document["paper"] = or_null(row.reference);
    document["ours"] = ours ? json(ours->value) : json();
    document["ours_lowest"] = ours ? json(ours->lowest) : json();
    document["ours_highest"] = ours ? json(ours->highest) : json();
    document["relative_difference"] = or_null(result.error);
  }
  if (claim.samples) {
    document["samples"] = {{"told", claim.samples->told}};
    if (row.holds) {
      document["samples"]["hold"] = claim.samples->hold;
    } else if (const auto& interval = claim.samples->interval) {
      document["samples"]["interval"] = {interval->lowest, interval->highest};
    }
  }
  return document;
}

std::string claims_table(const std::vector<FigureClaim>& claims) {
  using Align = TextTable::Align;
  const bool has_samples = std::any_of(claims.begin(), claims.end(), [](const FigureClaim& claim) {
    return claim.samples.has_value();
  });
  std::vector<TextTable::Column> columns{{"claim", Align::left}, {"paper", Align::right},
                                         {"ours", Align::right}, {"difference", Align::right},
                                         {"role", Align::left},  {"what", Align::left}};
  if (has_samples) {
    columns.insert(columns.begin() + 3, {"90 % of samples", Align::left});
  }
  TextTable table(columns);
  for (const RowRole role : {RowRole::test, RowRole::fit}) {
    for (const FigureClaim& claim : claims) {
      const auto& [row, result, samples] = claim;
      if (row.role != role) {
        continue;
      }
      // What was said and holds needs no numbers; the JSON has them.
      const bool needs_detail = !row.holds || !result.passes;
      std::vector<std::string> cells{
          row.id,
          paper_text(row),
          ours_text(claim),
          result.error ? fmt::format("{:+.1f} %", *result.error * 100) : "",
          std::string(name_of(role)),
          needs_detail ? fmt::format("{} ({})", row.text, result.detail) : row.text};
      if (has_samples) {
        cells.insert(cells.begin() + 3, samples_text(claim));
      }
      table.row(std::move(cells));
    }
  }
  return table.text();
}

}  // namespace nearkv
