// The one tidy table of a sweep, made of its journal.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/app/sweep/result_store.hpp"
#include "sim/app/sweep/sweep_plan.hpp"

namespace nearkv {

struct SweepTable {
  std::filesystem::path csv;
  std::filesystem::path units;  // JSON: what each column is, and its unit
  std::size_t rows = 0;
  std::vector<std::string> absent;  // of the metrics that the sweep keeps: those of no point
};

/// Writes points.csv and points.units.json to the folder: number, axes, status, detail, and the
/// metrics that the sweep keeps, in the order of the points. Equal results give equal bytes.
SweepTable write_sweep_table(const SweepPlan& plan, const ResultStore& journal,
                             const std::filesystem::path& folder);

/// The metrics that a sweep keeps of a point, by the names and "below/*" in `kept`; all where it
/// is empty.
[[nodiscard]] bool keeps_metric(const std::vector<std::string>& kept, const std::string& metric);

}  // namespace nearkv
