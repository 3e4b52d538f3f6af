// What the paper claims about a figure (validation/claims.json), beside the figure's records.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

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

/// The claims that can be told from a figure alone, in the suite's order: from its points, or from
/// `run`, the suite's run that a figure without an axis shows (may be empty).
[[nodiscard]] std::vector<Row> claims_about(const Suite& paper, const std::string& figure,
                                            const std::string& run = "");

/// Throws ConfigError for a metric that no record has.
[[nodiscard]] std::vector<FigureClaim> evaluate_claims(const Suite& paper,
                                                       const std::vector<Row>& claims,
                                                       const RecordOf& record_of);

/// The place of a point among a figure's; nothing when it is none of them.
using PositionOf = std::function<std::optional<std::size_t>(const PointName&)>;

/// Adds what samples say: sample i of all points has the same constants. Does nothing without
/// samples.
void add_samples(std::vector<FigureClaim>& claims, const Suite& paper,
                 const PositionOf& position_of, const std::vector<SampledOutcome>& points);

[[nodiscard]] nlohmann::json claim_as_json(const FigureClaim& claim);

/// The claims, those of role test first: text, paper, ours, difference, role.
[[nodiscard]] std::string claims_table(const std::vector<FigureClaim>& claims);

}  // namespace nearkv
