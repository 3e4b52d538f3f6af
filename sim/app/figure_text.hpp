// What `nearkv figure` prints about figures that ran.
#pragma once

#include <string>
#include <vector>

#include "sim/app/figure_claims.hpp"
#include "sim/app/figure_config.hpp"
#include "sim/app/figure_results.hpp"

namespace nearkv {

/// What a quantities or shares figure shows of a record, in addition to its metrics: "share/NAME"
/// or "quantity/LABEL". Nothing for a grid, and for what did not run.
[[nodiscard]] std::vector<Metric> derived_metrics(const FigureConfig& figure,
                                                  const RecordView& record);

/// The table of a figure that is a grid of points, with what its marks mean.
[[nodiscard]] std::string results_table(const FigureConfig& figure, const FigureResults& results);

/// What a reader must know, once each with the series that say it; empty when there is nothing.
[[nodiscard]] std::string notes_text(const FigureResults& results);

/// Title, tables, claims, notes. Ends with a line break.
[[nodiscard]] std::string figure_text(const FigureHeading& heading, const std::string& tables,
                                      const std::vector<FigureClaim>& claims,
                                      const std::string& notes);

}  // namespace nearkv
