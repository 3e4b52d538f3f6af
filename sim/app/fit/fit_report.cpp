#include "sim/app/fit/fit_report.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "models/systems/request_metrics.hpp"
#include "sim/app/table.hpp"

namespace nearkv {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

using Align = TextTable::Align;

constexpr int kFitDigits = 4;
constexpr double kHighCorrelation = 0.95;
constexpr double kPartOfDirection = 0.1;  // of its largest logarithm

std::string text_of(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string value_text(const FittedConstant& constant, double value) {
  return text_of(FitProblem::written(constant, value));
}

std::string interval_text(const FittedConstant& constant, const Range& interval) {
  return fmt::format("{} to {}", value_text(constant, interval.lowest),
                     value_text(constant, interval.highest));
}

std::string remark(const FittedConstant& constant, const FitStatistics& statistics, std::size_t i) {
  std::vector<std::string> remarks;
  if (statistics.is_at_bound[i]) {
    remarks.emplace_back("at its bound");
  }
  if (statistics.is_unidentified[i]) {
    remarks.emplace_back(constant.parameter.prior
                             ? "not identified: its interval is mostly the prior's"
                             : "not identified: its interval is mostly the bounds'");
  }
  return fmt::format("{}", fmt::join(remarks, "; "));
}

std::string constants_table(const FitProblem& problem, const FitReport& report) {
  TextTable table({{"", Align::right},
                   {"constant", Align::left},
                   {"before", Align::right},
                   {"fitted", Align::right},
                   {"90 % interval", Align::left},
                   {"", Align::left}});
  for (std::size_t i = 0; i < problem.constants().size(); ++i) {
    const FittedConstant& constant = problem.constants()[i];
    table.row({fmt::format("{}", i + 1), constant.path, constant.use.value,
               value_text(constant, report.solution.values[i]),
               interval_text(constant, report.statistics.intervals[i]),
               remark(constant, report.statistics, i)});
  }
  return table.text();
}

std::string correlation_table(const FitProblem& problem, const FitStatistics& statistics) {
  const std::size_t count = problem.constants().size();
  if (count < 2) {
    return "";
  }
  std::vector<TextTable::Column> columns{{"correlation", Align::right}};
  for (std::size_t i = 0; i < count; ++i) {
    columns.push_back({fmt::format("{}", i + 1), Align::right});
  }
  TextTable table(columns);
  std::string warnings;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<std::string> cells{fmt::format("{}", i + 1)};
    for (std::size_t j = 0; j < count; ++j) {
      const double r = statistics.correlation[i][j];
      const bool is_high = i != j && std::abs(r) > kHighCorrelation;
      cells.push_back(fmt::format("{:.2f}{}", r, is_high ? "!" : ""));
      if (is_high && i < j) {
        warnings += fmt::format("! {} and {} are hardly told apart (correlation {:.3f})\n",
                                problem.constants()[i].path, problem.constants()[j].path, r);
      }
    }
    table.row(std::move(cells));
  }
  return "\n" + table.text() + warnings;
}

/// "/host/a x 3.1 with /host/b x 0.33".
std::string direction_text(const FitProblem& problem, const OpenDirection& direction) {
  double largest = 0;
  for (const double factor : direction.factors) {
    largest = std::max(largest, std::abs(std::log(factor)));
  }
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < direction.factors.size(); ++i) {
    if (std::abs(std::log(direction.factors[i])) > kPartOfDirection * largest) {
      parts.push_back(fmt::format("{} x {}", problem.constants()[i].path,
                                  format_significant(direction.factors[i], 2)));
    }
  }
  return fmt::format("{}", fmt::join(parts, " with "));
}

std::string open_text(const FitProblem& problem, const FitStatistics& statistics) {
  std::string text;
  for (const OpenDirection& direction : statistics.open) {
    text += fmt::format("the rows do not tell: {}, or the inverse\n",
                        direction_text(problem, direction));
  }
  return text.empty() ? "" : "\n" + text;
}

std::string number_text(const RowResult& result) {
  return result.simulated ? format_significant(result.simulated->value, kFitDigits) : "-";
}

std::string error_text(const RowResult& result) {
  return result.error ? fmt::format("{:+.1f} %", *result.error * 100) : "-";
}

std::string row_name(const FitProblem& problem, const FitRow& row) {
  return problem.suites().size() == 1
             ? row.row.id
             : fmt::format("{}: {}", problem.suites()[row.suite].name, row.row.id);
}

std::string rows_table(const FitProblem& problem, const FitReport& report) {
  TextTable table({{"row", Align::left},
                   {"reference", Align::right},
                   {"before", Align::right},
                   {"fitted", Align::right},
                   {"error before", Align::right},
                   {"error", Align::right},
                   {"residual", Align::right},
                   {"what", Align::left}});
  for (std::size_t i = 0; i < problem.rows().size(); ++i) {
    const FitRow& row = problem.rows()[i];
    table.row({row_name(problem, row), format_significant(*row.row.reference, kFitDigits),
               number_text(report.before[i]), number_text(report.after[i]),
               error_text(report.before[i]), error_text(report.after[i]),
               fmt::format("{:+.2f}", report.solution.residuals[i]), row.row.text});
  }
  return table.text();
}

/// "median 4.2 %, worst 9.1 % of 12 rows".
std::string errors_text(const std::vector<RowResult>& results) {
  std::vector<double> errors;
  for (const RowResult& result : results) {
    if (result.error) {
      errors.push_back(std::abs(*result.error));
    }
  }
  if (errors.empty()) {
    return "no errors";
  }
  std::sort(errors.begin(), errors.end());
  constexpr double kMiddle = 50;
  return fmt::format("median error {}, worst {}, of {} rows",
                     format_percent(percentile(errors, kMiddle)), format_percent(errors.back()),
                     errors.size());
}

std::string test_rows_table(const FitProblem& problem, const FitReport& report) {
  if (problem.test_rows().empty()) {
    return "";
  }
  TextTable table({{"test row", Align::left},
                   {"reference", Align::right},
                   {"simulated", Align::right},
                   {"error", Align::right},
                   {"what", Align::left}});
  for (std::size_t i = 0; i < problem.test_rows().size(); ++i) {
    const FitRow& row = problem.test_rows()[i];
    table.row({row_name(problem, row), format_significant(*row.row.reference, kFitDigits),
               number_text(report.test[i]), error_text(report.test[i]), row.row.text});
  }
  return fmt::format("\ntest rows, which the fit did not see: {}\n\n{}", errors_text(report.test),
                     table.text());
}

/// "C01, C24 of paper; ...".
std::string rows_by_suite(const FitProblem& problem) {
  std::vector<std::string> suites;
  for (std::size_t s = 0; s < problem.suites().size(); ++s) {
    std::vector<std::string> ids;
    for (const FitRow& row : problem.rows()) {
      if (row.suite == s) {
        ids.push_back(row.row.id);
      }
    }
    if (!ids.empty()) {
      suites.push_back(fmt::format("{} of {}", fmt::join(ids, ", "), problem.suites()[s].name));
    }
  }
  return fmt::format("{}", fmt::join(suites, "; "));
}

json row_as_json(const FitProblem& problem, const FitRow& row, const RowResult& result) {
  return {{"suite", problem.suites()[row.suite].name},
          {"id", row.row.id},
          {"role", name_of(row.row.role)},
          {"reference", *row.row.reference},
          {"simulated", result.simulated ? json(result.simulated->value) : json()},
          {"error", result.error ? json(*result.error) : json()}};
}

}  // namespace

std::string fit_plan_text(const FitSpec& spec, const FitProblem& problem) {
  std::string text =
      fmt::format("{}: {} constants, {} rows, {} points\n\n", spec.name, problem.constants().size(),
                  problem.rows().size(), problem.point_names().size());
  TextTable constants({{"constant", Align::left},
                       {"now", Align::right},
                       {"bounds", Align::left},
                       {"prior", Align::left}});
  for (const FittedConstant& constant : problem.constants()) {
    const FitParameter& parameter = constant.parameter;
    const auto& prior = parameter.prior;
    constants.row({constant.path, constant.use.value,
                   interval_text(constant, {parameter.lowest, parameter.highest}),
                   prior ? fmt::format("{} within a factor of {:g}",
                                       value_text(constant, prior->value), prior->factor)
                         : ""});
  }
  TextTable rows({{"row", Align::left},
                  {"reference", Align::right},
                  {"sigma", Align::right},
                  {"what", Align::left}});
  for (const FitRow& row : problem.rows()) {
    rows.row({row_name(problem, row), format_significant(*row.row.reference, kFitDigits),
              format_percent(row.sigma), row.row.text});
  }
  return fmt::format("{}{}\n{}\npoints: {}\n", text, constants.text(), rows.text(),
                     fmt::join(problem.point_names(), ", "));
}

std::string fit_report_text(const FitProblem& problem, const FitReport& report) {
  const FitStatistics& statistics = report.statistics;
  return fmt::format(
      "{} ({} sets of constants); sum of squares {}, residual variance {} with {} degrees of "
      "freedom\n\n{}{}{}\nrows of the fit: {}; before: {}\n\n{}{}",
      report.solution.ending, problem.sets(), format_significant(report.solution.sum_of_squares, 3),
      format_significant(statistics.residual_variance, 3), statistics.degrees_of_freedom,
      constants_table(problem, report), correlation_table(problem, statistics),
      open_text(problem, statistics), errors_text(report.after), errors_text(report.before),
      rows_table(problem, report), test_rows_table(problem, report));
}

json fit_report_as_json(const FitSpec& spec, const FitProblem& problem, const FitReport& report) {
  json document{{"name", spec.name},
                {"converged", report.solution.has_converged},
                {"ending", report.solution.ending},
                {"iterations", report.solution.iterations},
                {"sum_of_squares", report.solution.sum_of_squares},
                {"residual_variance", report.statistics.residual_variance},
                {"degrees_of_freedom", report.statistics.degrees_of_freedom},
                {"correlation", report.statistics.correlation},
                {"constants", json::array()},
                {"open", json::array()},
                {"rows", json::array()},
                {"test_rows", json::array()}};
  for (std::size_t i = 0; i < problem.constants().size(); ++i) {
    const FittedConstant& constant = problem.constants()[i];
    const Range& interval = report.statistics.intervals[i];
    document["constants"].push_back(
        {{"path", constant.path},
         {"before", constant.use.value},
         {"value", FitProblem::written(constant, report.solution.values[i])},
         {"interval",
          {FitProblem::written(constant, interval.lowest),
           FitProblem::written(constant, interval.highest)}},
         {"is_at_bound", static_cast<bool>(report.statistics.is_at_bound[i])},
         {"is_identified", !report.statistics.is_unidentified[i]}});
  }
  for (const OpenDirection& direction : report.statistics.open) {
    document["open"].push_back(direction.factors);
  }
  for (std::size_t i = 0; i < problem.rows().size(); ++i) {
    document["rows"].push_back(row_as_json(problem, problem.rows()[i], report.after[i]));
    document["rows"].back()["residual"] = report.solution.residuals[i];
  }
  for (std::size_t i = 0; i < problem.test_rows().size(); ++i) {
    document["test_rows"].push_back(row_as_json(problem, problem.test_rows()[i], report.test[i]));
  }
  return document;
}

ordered_json fitted_config(const FitSpec& spec, const FitProblem& problem,
                           const FitReport& report) {
  ordered_json document{
      {"comment", fmt::format("Written by nearkv fit {}; extend it in a config of {}. {}",
                              spec.file.filename().string(), spec.part, report.solution.ending)}};
  const std::string rows = rows_by_suite(problem);
  for (std::size_t i = 0; i < problem.constants().size(); ++i) {
    const FittedConstant& constant = problem.constants()[i];
    const Range& interval = report.statistics.intervals[i];
    const std::string remarks = remark(constant, report.statistics, i);
    ordered_json entry{{"value", FitProblem::written(constant, report.solution.values[i])}};
    entry["interval"] = {FitProblem::written(constant, interval.lowest),
                         FitProblem::written(constant, interval.highest)};
    entry["source"] = "fit";
    entry["citation"] = fmt::format(
        "nearkv fit {} on rows {}; 90 % interval from the Jacobian{}{}",
        spec.file.filename().string(), rows,
        constant.parameter.prior ? fmt::format("; prior: {}", constant.prior_citation) : "",
        remarks.empty() ? "" : "; " + remarks);
    const std::string below = constant.path.substr(spec.part.size() + 1);
    document[ordered_json::json_pointer(below)] = std::move(entry);
  }
  return document;
}

}  // namespace nearkv
