// nearkv pareto FILE and nearkv top FILE: the good points of a sweep that ran.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/sweep/sweep_ranking.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct RankingOptions {
  std::string file;
  std::string out = "results";
  std::vector<std::string> maximized;
  std::vector<std::string> minimized;
  std::vector<std::string> constraints;
  std::size_t count = 10;
  bool as_json = false;
};

/// Those of the command line, else those of the file.
std::vector<SweepObjective> objectives_of(const RankingOptions& options, const Sweep& sweep) {
  std::vector<SweepObjective> objectives;
  for (const std::string& text : options.maximized) {
    objectives.push_back({text, text, true});
  }
  for (const std::string& text : options.minimized) {
    objectives.push_back({text, text, false});
  }
  objectives = objectives.empty() ? sweep.objectives : objectives;
  if (objectives.empty()) {
    throw ConfigError(
        fmt::format("{}: has no \"objectives\"; name one with --maximize or "
                    "--minimize, as in --maximize throughput",
                    options.file));
  }
  return objectives;
}

void print_points(const SweepPlan& plan, const std::vector<SweepObjective>& objectives,
                  const std::vector<RankedPoint>& points) {
  std::vector<TextTable::Column> columns{{"point", TextTable::Align::right}};
  for (const SweepColumn& column : plan.columns()) {
    columns.push_back(
        {column.name, column.is_text ? TextTable::Align::left : TextTable::Align::right});
  }
  for (const SweepObjective& objective : objectives) {
    columns.push_back({objective.name, TextTable::Align::right});
  }
  TextTable table(std::move(columns));
  for (const RankedPoint& ranked : points) {
    std::vector<std::string> cells{std::to_string(ranked.point + 1)};
    const std::vector<NamedValue> values = plan.values(ranked.point);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double* number = std::get_if<double>(&values[i]);
      cells.push_back(number != nullptr ? format_metric(*number, plan.columns()[i].unit)
                                        : std::get<std::string>(values[i]));
    }
    for (const double value : ranked.objectives) {
      cells.push_back(format_significant(value));
    }
    table.row(std::move(cells));
  }
  fmt::print("{}", table.text());
}

json points_as_json(const SweepPlan& plan, const std::vector<SweepObjective>& objectives,
                    const std::vector<RankedPoint>& points) {
  json list = json::array();
  for (const RankedPoint& ranked : points) {
    json axes = json::object();
    const std::vector<NamedValue> values = plan.values(ranked.point);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double* number = std::get_if<double>(&values[i]);
      axes[plan.columns()[i].name] =
          number != nullptr ? json(*number) : json(std::get<std::string>(values[i]));
    }
    json numbers = json::object();
    for (std::size_t i = 0; i < objectives.size(); ++i) {
      numbers[objectives[i].name] = ranked.objectives[i];
    }
    list.push_back({{"point", ranked.point + 1}, {"axes", axes}, {"objectives", numbers}});
  }
  return list;
}

int run(const RankingOptions& options, bool is_front) {
  const SweepPlan plan(load_sweep(path_of_config(options.file)));
  const std::vector<SweepObjective> objectives = objectives_of(options, plan.sweep());
  const fs::path journal_file = fs::path(options.out) / plan.sweep().name / "journal.sqlite";
  if (!fs::exists(journal_file)) {
    throw ConfigError(
        fmt::format("{}: no results; run nearkv sweep {} first, or say with --out "
                    "where they are",
                    journal_file.parent_path().string(), options.file));
  }
  const ResultStore journal(journal_file);
  if (json::parse(journal.note("sweep").value_or("null")) != plan.sweep().document) {
    throw ConfigError(fmt::format("{}: has results of another sweep of this name",
                                  journal_file.parent_path().string()));
  }
  std::vector<std::string> constraints = plan.sweep().constraints;
  constraints.insert(constraints.end(), options.constraints.begin(), options.constraints.end());
  const SweepRanking ranking = rank_points(plan, journal, objectives, constraints);
  const std::vector<RankedPoint> points = is_front
                                              ? pareto_front(ranking, objectives)
                                              : best_points(ranking, objectives, options.count);
  if (options.as_json) {
    fmt::print("{}", json_text(points_as_json(plan, objectives, points)));
    return kExitOk;
  }
  print_points(plan, objectives, points);
  fmt::print("{} of {} points {}; {} did not run, {} break a constraint, {} lack an objective\n",
             points.size(), ranking.points.size(),
             is_front ? "are not beaten in all objectives" : "by the first objective",
             ranking.did_not_run, ranking.against_constraints, ranking.without_objective);
  return kExitOk;
}

void add_options(CLI::App& command, RankingOptions& options) {
  command.add_option("FILE", options.file, "Sweep file whose points ran")->required();
  command.add_option("--out", options.out, "Folder that the sweep was run with")
      ->capture_default_str();
  command
      .add_option("--maximize", options.maximized,
                  "An objective in the place of the file's: throughput / system_price (repeatable)")
      ->allow_extra_args(false);
  command.add_option("--minimize", options.minimized, "The same, where low values are good")
      ->allow_extra_args(false);
  command
      .add_option("--constraint", options.constraints,
                  "A condition beside the file's: \"channels <= 8\" (repeatable)")
      ->allow_extra_args(false);
  command.add_flag("--json", options.as_json, "Print a list of points");
}

}  // namespace

void add_pareto_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<RankingOptions>();
  add_options(command, *options);
  command.callback([options, &exit_status] { exit_status = run(*options, /*is_front=*/true); });
}

void add_top_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<RankingOptions>();
  add_options(command, *options);
  command.add_option("--count", options->count, "Number of points")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command.callback([options, &exit_status] { exit_status = run(*options, /*is_front=*/false); });
}

}  // namespace nearkv
