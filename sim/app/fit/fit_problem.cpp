#include "sim/app/fit/fit_problem.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

std::vector<ConstantUse> constants_of(const json& config) {
  DesignPoint point;
  return read_fields(config, [&point](FieldVisitor& v) { point.fields(v); });
}

/// The number that a spec gives for a constant, above 0 and in the range of its field.
double number_in_spec(const json& written, const ConstantUse& use, const std::string& path) {
  double value = 0;
  try {
    value = number_from_json(use.number->type, written);
  } catch (const std::invalid_argument& error) {
    throw ConfigError(fmt::format("{}: {}", path, error.what()));
  }
  const Range& range = use.number->range;
  if (value < range.lowest || value > range.highest) {
    throw ConfigError(fmt::format("{}: {} is out of range of {}; must be {}", path, written.dump(),
                                  use.path, range_text(range, limit_text_of(use.number->type))));
  }
  if (value <= 0) {
    throw ConfigError(fmt::format("{}: is {}; the logarithm is fitted, so it must be above 0", path,
                                  written.dump()));
  }
  return value;
}

FittedConstant fitted_constant(const FitConstant& spec, const ConstantUse& use,
                               const std::string& where) {
  FittedConstant constant{spec.path, use, {.name = spec.path}, spec.prior_citation};
  FitParameter& parameter = constant.parameter;
  parameter.lowest = number_in_spec(spec.lowest, use, where + "/lowest");
  parameter.highest = number_in_spec(spec.highest, use, where + "/highest");
  if (parameter.lowest >= parameter.highest) {
    throw ConfigError(fmt::format("{}/lowest: {} must be below highest, {}", where,
                                  spec.lowest.dump(), spec.highest.dump()));
  }
  const auto check_inside = [&](double value, const std::string& path, const std::string& what) {
    if (value < parameter.lowest || value > parameter.highest) {
      throw ConfigError(fmt::format("{}: {} is outside the bounds, {} to {}", path, what,
                                    spec.lowest.dump(), spec.highest.dump()));
    }
  };
  check_inside(use.number->value, where, fmt::format("the value of {}, {},", use.path, use.value));
  parameter.start = use.number->value;
  if (spec.prior_value) {
    const std::string path = where + "/prior/value";
    parameter.prior = FitPrior{number_in_spec(*spec.prior_value, use, path), spec.prior_factor};
    check_inside(parameter.prior->value, path, spec.prior_value->dump());
  }
  return constant;
}

/// Why a path is none of the constants `paths` of the points.
template <class Points>
std::string why_unknown(const std::string& path, const Points& points,
                        const std::vector<std::string>& paths) {
  const json::json_pointer place(path);
  if (std::any_of(points.begin(), points.end(),
                  [&](const auto& point) { return point.second.config.contains(place); })) {
    return fmt::format("{} is no constant with a number and a source; nothing else is fitted",
                       in_quotes(path));
  }
  const std::string nearest = nearest_name(path, paths);
  return fmt::format("no run of the rows has a constant {}; {}", in_quotes(path),
                     nearest.empty() ? "nearkv run --constants and nearkv describe name them"
                                     : fmt::format("did you mean \"{}\"?", nearest));
}

}  // namespace

FitProblem::FitProblem(const FitSpec& spec, RunSetOptions runs) : runs_(std::move(runs)) {
  for (std::size_t i = 0; i < spec.suites.size(); ++i) {
    const std::string& name = spec.suites[i];
    const bool is_file = name.ends_with(".json");
    if (is_file) {
      allowed_paths().check(path_of(name), name,
                            fmt::format("{}: /suites/{}", spec.file.string(), i));
    }
    try {
      suites_.push_back(load_suite(is_file ? path_of(name) : suite_file(name)));
    } catch (const ConfigError& error) {
      throw ConfigError(
          prefix_lines(fmt::format("{}: /suites/{}", spec.file.string(), i), error.what()));
    }
  }
  choose_rows(spec);
  find_constants(spec);
}

void FitProblem::find_constants(const FitSpec& spec) {
  std::map<std::string, ConstantUse> uses;  // of numbers, in any run
  std::vector<std::string> paths;
  const Points points = points_of_rows(rows_, {});
  for (const auto& [name, point] : points) {
    for (const ConstantUse& use : constants_of(point.config)) {
      if (use.number && uses.emplace(use.path, use).second) {
        paths.push_back(use.path);
      }
    }
  }
  std::vector<std::string> problems;
  for (std::size_t i = 0; i < spec.constants.size(); ++i) {
    const FitConstant& constant = spec.constants[i];
    const std::string where = fmt::format("/constants/{}", i);
    try {
      const auto use = uses.find(constant.path);
      if (use == uses.end()) {
        throw ConfigError(where + "/path: " + why_unknown(constant.path, points, paths));
      }
      constants_.push_back(fitted_constant(constant, use->second, where));
    } catch (const ConfigError& error) {
      problems.emplace_back(prefix_lines(spec.file.string(), error.what()));
    }
  }
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
}

std::vector<FitParameter> FitProblem::parameters() const {
  std::vector<FitParameter> parameters;
  for (const FittedConstant& constant : constants_) {
    parameters.push_back(constant.parameter);
  }
  return parameters;
}

std::vector<std::string> FitProblem::point_names() const {
  std::vector<std::string> names;
  for (std::size_t s = 0; s < suites_.size(); ++s) {
    std::vector<Row> rows;
    for (const FitRow& row : rows_) {
      if (row.suite == s) {
        rows.push_back(row.row);
      }
    }
    for (const PointName& name : points_of(rows)) {
      names.push_back(fmt::format("{}: {}", suites_[s].name, text_of(name)));
    }
  }
  return names;
}

FitProblem::Points FitProblem::points_of_rows(const std::vector<FitRow>& rows,
                                              const std::vector<double>& constants) {
  Points points;
  for (Suite& suite : suites_) {
    for (std::size_t c = 0; c < constants.size(); ++c) {
      set_in_points(suite, constants_[c].path,
                    number_as_json(constants_[c].use.number->type, constants[c]));
    }
  }
  for (const FitRow& row : rows) {
    for (const PointName& name : row.row.simulated.points()) {
      const std::pair key{row.suite, name};
      if (!points.contains(key)) {
        points.emplace(key, prepare(suites_[row.suite], name));
      }
    }
  }
  return points;
}

std::vector<std::vector<RowResult>> FitProblem::results_of_sets(
    const std::vector<FitRow>& rows, const std::vector<std::vector<double>>& sets) {
  std::vector<PreparedPoint> points;
  std::vector<std::map<std::pair<std::size_t, PointName>, std::size_t>> positions;
  for (const std::vector<double>& set : sets) {
    positions.emplace_back();
    for (auto& [key, point] : points_of_rows(rows, set)) {
      positions.back()[key] = points.size();
      points.push_back(std::move(point));
    }
  }
  sets_ += sets.size();
  const RunSet found = run_set(points, runs_);
  std::vector<RecordView> records;
  for (const PointOutcome& outcome : found.outcomes) {
    if (!outcome.has_finished()) {
      throw FitStopped(outcome.problem);
    }
    records.emplace_back(json::parse(outcome.record_text));
  }
  std::vector<std::vector<RowResult>> results;
  for (const auto& position : positions) {
    results.emplace_back();
    for (const FitRow& row : rows) {
      results.back().push_back(evaluate(suites_[row.suite], row.row, [&](const PointName& name) {
        return &records.at(position.at({row.suite, name}));
      }));
    }
  }
  return results;
}

std::vector<RowResult> FitProblem::results(const std::vector<FitRow>& rows,
                                           const std::vector<double>& constants) {
  return results_of_sets(rows, {constants}).front();
}

std::vector<std::vector<double>> FitProblem::residuals(
    const std::vector<std::vector<double>>& sets) {
  std::vector<std::vector<double>> residuals;
  for (const std::vector<RowResult>& results : results_of_sets(rows_, sets)) {
    const std::vector<double>& set = sets[residuals.size()];
    residuals.emplace_back();
    for (std::size_t i = 0; i < results.size(); ++i) {
      const std::optional<Bounded>& simulated = results[i].simulated;
      if (!simulated || simulated->value <= 0) {
        throw FitStopped(fmt::format("row {} has no number above 0 with {}: {}", rows_[i].row.id,
                                     constants_text(set), results[i].detail));
      }
      residuals.back().push_back(portable_log(simulated->value / *rows_[i].row.reference) /
                                 rows_[i].sigma);
    }
  }
  return residuals;
}

std::string FitProblem::constants_text(const std::vector<double>& constants) const {
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < constants.size(); ++i) {
    const json value = written(constants_[i], constants[i]);
    texts.push_back(fmt::format("{} = {}", constants_[i].path,
                                value.is_string() ? value.get<std::string>() : value.dump()));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

json FitProblem::written(const FittedConstant& constant, double value) {
  constexpr int kDigits = 4;
  const double scale = std::pow(10, kDigits - 1 - std::floor(std::log10(value)));
  const double in_digits = std::clamp(std::round(value * scale) / scale, constant.parameter.lowest,
                                      constant.parameter.highest);
  return number_as_json(constant.use.number->type, in_digits);
}

double FitProblem::rounded(const FittedConstant& constant, double value) {
  return number_from_json(constant.use.number->type, written(constant, value));
}

}  // namespace nearkv
