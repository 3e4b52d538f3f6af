// A fit of constants of the simulator: the rows that it uses, the constants with their bounds, and
// the residuals that the solver asks for.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "sim/app/fit/fit_spec.hpp"
#include "sim/app/fit/least_squares.hpp"
#include "sim/app/validation/run_set.hpp"
#include "sim/app/validation/suite.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

/// A row of one of the fit's suites.
struct FitRow {
  std::size_t suite = 0;
  Row row;
  double sigma = 0;
};

/// A constant in terms of the runs.
struct FittedConstant {
  std::string path;
  ConstantUse use;  // in the first run that has it
  FitParameter parameter;
  std::string prior_citation;
};

class FitProblem {
 public:
  /// Reads the suites and looks at all points. Throws ConfigError whose lines start with the
  /// spec's file, or with a suite's.
  FitProblem(const FitSpec& spec, RunSetOptions runs);

  [[nodiscard]] const std::vector<FitRow>& rows() const { return rows_; }
  /// Of role test and with a number, in the same groups; never used by the fit.
  [[nodiscard]] const std::vector<FitRow>& test_rows() const { return test_rows_; }
  [[nodiscard]] const std::vector<FittedConstant>& constants() const { return constants_; }
  [[nodiscard]] std::vector<FitParameter> parameters() const;
  [[nodiscard]] const std::vector<Suite>& suites() const { return suites_; }
  /// Names of the design points that the rows need, "SUITE: fast".
  [[nodiscard]] std::vector<std::string> point_names() const;

  /// See ResidualFunction. Runs the points, or takes them from the cache.
  [[nodiscard]] std::vector<std::vector<double>> residuals(
      const std::vector<std::vector<double>>& sets);
  /// Sets of constants that were asked for.
  [[nodiscard]] std::size_t sets() const { return sets_; }

  /// What rows say with these constants. Rows that cannot be told have no number.
  [[nodiscard]] std::vector<RowResult> results(const std::vector<FitRow>& rows,
                                               const std::vector<double>& constants);

  /// A value of a constant as its config writes it, to four significant digits.
  [[nodiscard]] static nlohmann::json written(const FittedConstant& constant, double value);
  /// The value that `written` stands for.
  [[nodiscard]] static double rounded(const FittedConstant& constant, double value);

 private:
  using Points = std::map<std::pair<std::size_t, PointName>, PreparedPoint>;

  void choose_rows(const FitSpec& spec);
  void choose_named_rows(const FitSpec& spec);
  void check_rows(const FitSpec& spec) const;
  void find_constants(const FitSpec& spec);
  [[nodiscard]] Points points_of_rows(const std::vector<FitRow>& rows,
                                      const std::vector<double>& constants);
  [[nodiscard]] std::vector<std::vector<RowResult>> results_of_sets(
      const std::vector<FitRow>& rows, const std::vector<std::vector<double>>& sets);
  [[nodiscard]] std::string constants_text(const std::vector<double>& constants) const;

  RunSetOptions runs_;
  std::vector<Suite> suites_;
  std::vector<FitRow> rows_;
  std::vector<FitRow> test_rows_;
  std::vector<FittedConstant> constants_;
  std::size_t sets_ = 0;
};

}  // namespace nearkv
