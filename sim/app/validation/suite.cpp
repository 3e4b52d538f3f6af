#include "sim/app/validation/suite.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::string_view kPaper = "paper";

fs::path validation_folder() { return shipped_configs().parent_path() / "validation"; }

void set_each(json& config, const json& values, bool only_known, const std::string& origin) {
  for (const auto& [path, value] : values.items()) {
    if (!only_known || config.contains(json::json_pointer(path))) {
      set_existing(config, path, value, origin);
    }
  }
}

PreparedPoint point_of(const Suite& suite, const PointName& name) {
  const SuiteRun& run = suite.runs.at(name.run);
  if (run.point) {
    return *run.point;
  }
  PreparedPoint point = figure_point(*run.figure, name.series, name.at);
  point.origin = fmt::format("{}, {}", suite.name, point.origin);
  return point;
}

}  // namespace

std::string_view name_of(RowRole role) { return role == RowRole::fit ? "fit" : "test"; }

std::vector<std::string> known_suites() {
  std::vector<std::string> names;
  std::error_code ignored;
  if (fs::exists(validation_folder() / "claims.json", ignored)) {
    names.emplace_back(kPaper);
  }
  for (const auto& entry : fs::directory_iterator(validation_folder(), ignored)) {
    if (fs::exists(entry.path() / "suite.json", ignored)) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

fs::path suite_file(const std::string& name) {
  const std::vector<std::string> known = known_suites();
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    const std::string nearest = nearest_name(name, known);
    throw ConfigError(fmt::format(
        "{}: unknown suite; {}there are: {}, or the file of another one", printable(name),
        nearest.empty() ? "" : fmt::format("did you mean \"{}\"? ", nearest),
        fmt::join(known, ", ")));
  }
  return name == kPaper ? validation_folder() / "claims.json"
                        : validation_folder() / name / "suite.json";
}

void set_in_points(Suite& suite, const std::string& path, const json& value) {
  suite.overrides[path.starts_with('/') ? path : "/" + path] = value;
}

std::vector<PointName> points_of(const std::vector<Row>& rows) {
  std::vector<PointName> points;
  for (const Row& row : rows) {
    const std::vector<PointName> own = row.simulated.points();
    points.insert(points.end(), own.begin(), own.end());
  }
  std::sort(points.begin(), points.end());
  points.erase(std::unique(points.begin(), points.end()), points.end());
  return points;
}

PreparedPoint prepare(const Suite& suite, const PointName& name) {
  const std::string where = fmt::format("/runs/{}", name.run);
  try {
    PreparedPoint point = point_of(suite, name);
    set_each(point.config, suite.runs.at(name.run).set, /*only_known=*/false, where + "/set");
    set_each(point.config, suite.overrides, /*only_known=*/true, where);
    if (point.run == nullptr) {
      check_point(point.config);
    }
    return point;
  } catch (const ConfigError& error) {
    throw ConfigError(
        prefix_lines(fmt::format("{}: {}", suite.file.string(), where), error.what()));
  }
}

RowResult evaluate(const Suite& suite, const Row& row, const RecordOf& record_of) {
  ExpressionValue value;
  try {
    value = row.simulated.evaluate(record_of);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(fmt::format("{}: {}/expression", suite.file.string(), row.path),
                                   error.what()));
  }
  RowResult result{
      .simulated = value.number, .holds = {}, .detail = std::move(value.detail), .error = {}};
  if (row.holds) {
    if (value.truth != Truth::undecided) {
      result.holds = value.truth == Truth::yes;
    }
    result.passes = result.holds == row.holds;
  } else if (result.simulated) {
    result.error = result.simulated->value / *row.reference - 1;
    const bool is_looser = row.looser_if && row.looser_if->evaluate(record_of).truth == Truth::yes;
    result.tolerance = is_looser ? row.looser_tolerance : row.tolerance;
    result.passes = std::abs(*result.error) <= result.tolerance;
  }
  return result;
}

}  // namespace nearkv
