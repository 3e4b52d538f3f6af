// What the paper claims about a figure (validation/claims.json), beside the figure's records.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/figure_results.hpp"
#include "sim/app/uncertainty/sampled_runs.hpp"
#include "sim/app/validation/suite.hpp"

namespace nearkv {

/// What samples of the uncertain constants say to a claim.
struct ClaimSamples {
  std::optional<Range> interval;  // 90 % of the numbers
  int told = 0;                   // samples that say something
  int hold = 0;                   // of a truth: those that say so
};

/// A claim of the suite "paper" and what came out for it.
struct FigureClaim {
  Row row;
  RowResult result;
  std::optional<ClaimSamples> samples{};
};

/// The claims that can be told from a figure alone, in the suite's order.
[[nodiscard]] std::vector<Row> claims_about(const Suite& paper, const std::string& figure);

/// Throws ConfigError for a metric that no record has.
[[nodiscard]] std::vector<FigureClaim> evaluate_claims(const Suite& paper,
                                                       const std::vector<Row>& claims,
                                                       const FigureResults& results);

/// Adds what samples say. `points` are those of `results`, in their order; sample i of all points
/// has the same constants. Does nothing without samples.
void add_samples(std::vector<FigureClaim>& claims, const Suite& paper, const FigureResults& results,
                 const std::vector<SampledOutcome>& points);

[[nodiscard]] nlohmann::json claim_as_json(const FigureClaim& claim);

/// The claims, those of role test first: text, paper, ours, difference, role.
[[nodiscard]] std::string claims_table(const std::vector<FigureClaim>& claims);

}  // namespace nearkv
