// A validation suite: rows that compare one simulated number, or a truth, with a reference each.
//
// Suites are files: validation/claims.json is the suite "paper", validation/NAME/suite.json the
// suite NAME.
//
//   {
//     "name": "paper", "title": "...", "source": "...", "tolerance": 0.1,
//     "requirements": [{"group": "decode_step", "median": 0.1, "worst": 0.3}],
//     "runs": {
//       "fig14": {"figure": "nearkv:figures/fig14.json"},
//       "fast": {"point": {"extends": "nearkv:design_points/x.json"},
//                "set": {"/workload/batch": 64}}
//     },
//     "claims": [{
//       "id": "C01", "text": "...", "role": "fit", "source": "section 6.2",
//       "expression": "fig14.insti_dense[64].throughput / fig14.flexgen[64].throughput",
//       "value": 6.85
//     }]
//   }
//
// A run may also be numbers of a measurement that is kept in a file (stored_numbers.hpp).
//
// A claim has a `value` (a number), a `reference` (arithmetic without runs: a closed form), or
// `holds` (true or false; the expression is a truth). It may have a `unit` ("1" without), a
// `tolerance` of its relative error (the suite's without), a `group` (of the requirements), and
// `why`: the reason why it does not pass yet. sim/app/expression/expression.hpp has the
// expressions. "sets": {"infinite_gpu": {"/gpu/0/kernel_launch": "0ns"}} of the suite are values
// that runs take by name: "sets": ["infinite_gpu"]. Suites of measurements in a table have "rows"
// in the place of claims, which a reader turns into runs and claims (table_rows.hpp); "reasons":
// [{"rows": ["gemm_*"], "why": "..."}] are the `why` of those that fail.
//
// To calibrate against a suite: load_suite(), take the rows of role fit, set_in_points() for what
// is fitted, run the points_of() these rows as prepare() makes them (run_set.hpp), evaluate().
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/expression/expression.hpp"
#include "sim/app/figure_config.hpp"
#include "sim/app/point.hpp"

namespace nearkv {

/// fit: the row may be used to calibrate; test: never.
enum class RowRole { fit, test };
[[nodiscard]] std::string_view name_of(RowRole role);

/// One comparison. Exactly one of `reference` and `holds` is there.
struct Row {
  std::string id;
  std::string path;  // in the suite's file, for messages: "/claims/3"
  bool is_from_table = false;
  std::string text;    // what is compared, in words
  std::string group;   // of the requirements; may be empty
  std::string source;  // where the reference stands
  std::string unit;    // "1" for plain ratios and for truths
  std::string why;     // why it does not pass yet; empty when it should
  std::string note;    // what a reader should know of the reference: its spread
  RowRole role = RowRole::test;
  std::optional<double> reference;
  std::optional<bool> holds;
  double tolerance = 0;  // of the relative error
  Expression simulated;
  // Where this truth holds (garbage collection began), the tolerance is another one.
  std::optional<Expression> looser_if{};
  double looser_tolerance = 0;
};

/// A row of a table for which there is no model.
struct NotCovered {
  std::string row;
  std::string reason;
};

/// What a group of test rows must reach as a whole: limits of the absolute relative errors.
struct Requirement {
  std::string group;             // empty: all rows
  std::optional<double> median;  // most of their median
  std::optional<double> worst;   // most of any
  std::string why;               // why it is not reached yet
};

/// The `why` of rows that come from a table.
struct Reason {
  std::vector<std::string> rows;  // ids; "*" stands for any text
  std::string why;
};

/// A design point (or another thing that has a record), or a figure: one design point a series and
/// value of its axis.
struct SuiteRun {
  std::optional<PreparedPoint> point;
  std::optional<FigureConfig> figure;
  nlohmann::json set = nlohmann::json::object();  // values by path, set in each of its points
};

struct Suite {
  std::string name;
  std::string title;
  std::string source;
  std::filesystem::path file;
  double tolerance = 0;
  std::vector<Requirement> requirements;
  std::vector<Reason> reasons;
  std::map<std::string, SuiteRun> runs;
  std::vector<Row> rows;
  std::vector<NotCovered> not_covered;
  nlohmann::json overrides = nlohmann::json::object();  // by set_in_points()
};

/// Names of the shipped suites, sorted, and the file of one. Throws ConfigError for another name.
[[nodiscard]] std::vector<std::string> known_suites();
[[nodiscard]] std::filesystem::path suite_file(const std::string& name);

struct SuiteOptions {
  std::string table;  // the file of a table of rows in the place of the suite's own; may be empty
};

/// Reads and checks a suite. Throws ConfigError whose lines start with the file.
[[nodiscard]] Suite load_suite(const std::filesystem::path& file, const SuiteOptions& options = {});

/// Sets a value, or a constant's, in every point of the suite that has this path.
void set_in_points(Suite& suite, const std::string& path, const nlohmann::json& value);

/// The points that rows name, each once, sorted.
[[nodiscard]] std::vector<PointName> points_of(const std::vector<Row>& rows);

/// The design point of a name, with what is set in it. Throws ConfigError.
[[nodiscard]] PreparedPoint prepare(const Suite& suite, const PointName& name);

/// What came out for a row.
struct RowResult {
  std::optional<Bounded> simulated;
  std::optional<bool> holds;  // nothing when the records cannot tell
  std::string detail;         // the numbers behind it, or why there are none

  std::optional<double> error;  // simulated / reference - 1
  double tolerance = 0;         // of its absolute value
  bool passes = false;
};

/// Throws ConfigError, starting with the suite's file, for a metric that no record has.
[[nodiscard]] RowResult evaluate(const Suite& suite, const Row& row, const RecordOf& record_of);

}  // namespace nearkv
