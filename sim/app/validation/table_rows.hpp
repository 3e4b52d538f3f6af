// Suites whose rows are measurements in a table: readers turn the table into runs and rows. In the
// suite's file, in the place of claims:
//
//   "rows": {"kind": "mqsim", "file": "points.json"}
//   "rows": {"kind": "flexgen", "file": "rows.json", "point": {"extends": "..."}, "role": "test"}
//   "rows": {"kind": "h200_micro", "file": "rows.json", "point": {"extends": "..."},
//            "framework": {...}}
//
// `file` is relative to the suite's; `nearkv validate --suite S --points FILE` takes another file
// of the same form.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/validation/suite.hpp"

namespace nearkv {

/// "rows" of a suite's file.
struct TableSpec {
  std::string kind;
  std::string file;          // the table, to be opened as it is
  std::string role;          // of all rows; empty: the reader's rule
  nlohmann::json point;      // resolved design point that the rows change
  nlohmann::json framework;  // constants of the framework that was measured
};

/// One row, in the form of a claim.
struct TableRow {
  std::string id;
  std::string text;
  std::string group;
  std::string unit;
  std::string note;
  std::string expression;
  RowRole role = RowRole::test;
  double reference = 0;
  std::optional<double> tolerance;  // the suite's without
  std::string looser_if;            // a truth in which looser_tolerance holds; may be empty
  double looser_tolerance = 0;
};

struct Table {
  std::string source;  // what the references are from, as the table says; may be empty
  std::map<std::string, SuiteRun> runs;
  std::vector<TableRow> rows;
  std::vector<NotCovered> not_covered;
};

/// Reads "rows" of a suite in `folder`. Throws ConfigError whose lines start with "/rows".
[[nodiscard]] TableSpec read_table_spec(const nlohmann::json& rows,
                                        const std::filesystem::path& folder,
                                        const std::string& other_file);

/// Throws ConfigError whose lines start with the table's file.
[[nodiscard]] Table read_table(const TableSpec& spec);

// -- The readers; read_table() chooses.
[[nodiscard]] Table read_mqsim_table(const TableSpec& spec);
[[nodiscard]] Table read_flexgen_table(const TableSpec& spec);
[[nodiscard]] Table read_h200_micro_table(const TableSpec& spec);

}  // namespace nearkv
