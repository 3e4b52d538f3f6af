// What `nearkv figure` prints about a figure that ran.
#pragma once

#include <string>
#include <vector>

#include "sim/app/figure_claims.hpp"
#include "sim/app/figure_config.hpp"

namespace nearkv {

/// Title, table of the figure's metric, claims, notes. Ends with a line break.
[[nodiscard]] std::string figure_text(const FigureConfig& figure, const FigureResults& results,
                                      const std::vector<FigureClaim>& claims);

}  // namespace nearkv
