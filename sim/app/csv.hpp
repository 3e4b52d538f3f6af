// Tidy CSV (RFC 4180, line feeds): one row a design point, units in the column names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sim/app/record_view.hpp"

namespace nearkv {

/// A record with the columns that say which point it is.
struct CsvRow {
  std::vector<std::string> keys;  // one for each key column
  const RecordView* record = nullptr;
};

/// Key columns; status, memory (what overflowed), fidelity, config_hash; the bounds of the
/// throughput; then every metric that a record has, in the order of first appearance. A metric
/// that a record lacks is an empty cell. A column is called "name [unit]", or "name" for a plain
/// number.
[[nodiscard]] std::string records_as_csv(const std::vector<std::string>& key_columns,
                                         const std::vector<CsvRow>& rows);

/// Quotes a cell where it must be.
[[nodiscard]] std::string csv_cell(std::string_view text);

}  // namespace nearkv
