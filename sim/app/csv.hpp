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
  std::vector<Metric> derived{};  // numbers made of the record's, named as none of its metrics
};

/// Key columns; status, memory (what overflowed), fidelity, config_hash; the bounds of the
/// throughput; then derived numbers and every metric that a record has, in the order of first
/// appearance. A metric that a record lacks is an empty cell. A column is called "name [unit]", or
/// "name" for a plain number. Where records have samples of their constants, NAME_p5 and NAME_p95
/// of the metric `sampled` follow the throughput's bounds: 90 % of the samples are between them.
[[nodiscard]] std::string records_as_csv(const std::vector<std::string>& key_columns,
                                         const std::vector<CsvRow>& rows,
                                         const std::string& sampled = "");

/// Quotes a cell where it must be.
[[nodiscard]] std::string csv_cell(std::string_view text);

/// The cells as a line, with its line feed.
[[nodiscard]] std::string csv_line(const std::vector<std::string>& cells);

/// The name of a column, with its unit: "throughput [token/s]".
[[nodiscard]] std::string csv_column(std::string_view name, std::string_view unit);

/// The shortest text that reads back as the same number.
[[nodiscard]] std::string csv_number(double value);

}  // namespace nearkv
