// What the tables of a validation say about a row, for the terminal and for REPORT.md.
#pragma once

#include <optional>
#include <string>

#include "sim/app/validation/report.hpp"

namespace nearkv {

struct RowCells {
  std::string id;
  std::string reference;
  std::string simulated;  // with the error bound of sampling
  std::string error;
  std::string tolerance;
  std::string verdict;  // "pass", "FAIL"
  std::string what;     // words, the numbers where they help, the reason of a failure
};
[[nodiscard]] RowCells cells_of(const Row& row, const RowResult& result);

/// "4.27 %"; "no number" for infinity, empty for nothing.
[[nodiscard]] std::string percent_text(std::optional<double> share);

/// "all" for the requirement of all rows.
[[nodiscard]] std::string name_of(const Requirement& requirement);

}  // namespace nearkv
