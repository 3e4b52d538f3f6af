// What the paper claims about a figure (validation/claims.json), beside the figure's records.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/figure_results.hpp"
#include "sim/app/validation/suite.hpp"

namespace nearkv {

/// A claim of the suite "paper" and what came out for it.
struct FigureClaim {
  Row row;
  RowResult result;
};

/// The claims that can be told from a figure alone, in the suite's order.
[[nodiscard]] std::vector<Row> claims_about(const Suite& paper, const std::string& figure);

/// Throws ConfigError for a metric that no record has.
[[nodiscard]] std::vector<FigureClaim> evaluate_claims(const Suite& paper,
                                                       const std::vector<Row>& claims,
                                                       const FigureResults& results);

[[nodiscard]] nlohmann::json claim_as_json(const FigureClaim& claim);

/// The claims, those of role test first: text, paper, ours, difference, role.
[[nodiscard]] std::string claims_table(const std::vector<FigureClaim>& claims);

}  // namespace nearkv
