// nearkv fit SPEC.json: fits constants to the rows of role fit of validation suites.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/fit/fit_problem.hpp"
#include "sim/app/fit/fit_report.hpp"
#include "sim/app/fit/fit_spec.hpp"
#include "sim/app/point.hpp"
#include "sim/app/point_key.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr int kExitNotConverged = 1;

struct Options {
  std::string spec;
  std::string cache = default_cache().string();
  bool no_cache = false;
  bool is_dry_run = false;
  bool as_json = false;
  int jobs = available_cores();
};

/// A folder that is missing is made when the file is written.
void check_output(const FitSpec& spec) {
  const std::filesystem::path folder = spec.output.parent_path();
  try {
    // Still less than read a file may a config make the program write one.
    allowed_paths().check(spec.output, spec.output.string(), "/output");
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(spec.file.string(), error.what()));
  }
  try {
    if (std::filesystem::is_directory(spec.output)) {
      throw ConfigError("is a folder; name a file");
    }
    check_output_folder(folder.empty() ? "." : folder);
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("{}: /output: {}", spec.file.string(), error.what()));
  }
}

FitReport report_on(FitProblem& problem, FitSolution solution, double step) {
  const auto rows = [&problem](const std::vector<std::vector<double>>& sets) {
    return problem.residuals(sets);
  };
  std::vector<double> before;
  for (const FittedConstant& constant : problem.constants()) {
    before.push_back(constant.parameter.start);
  }
  FitReport report{.solution = std::move(solution),
                   .statistics = {},
                   .before = problem.results(problem.rows(), before),
                   .after = {},
                   .test = {}};
  // What is written has fewer digits than what was found; the report is about what is written.
  for (std::size_t i = 0; i < problem.constants().size(); ++i) {
    double& value = report.solution.values[i];
    value = FitProblem::rounded(problem.constants()[i], value);
  }
  report.solution.residuals = rows({report.solution.values}).front();
  report.statistics = fit_statistics_of(problem.parameters(), rows, step, report.solution);
  report.after = problem.results(problem.rows(), report.solution.values);
  report.test = problem.results(problem.test_rows(), report.solution.values);
  return report;
}

/// Says where a fit stopped that found nothing.
void print_failure(const FitProblem& problem, const FitSolution& solution) {
  fmt::print(stderr, "no convergence: {}; nothing was written. It stopped at\n", solution.ending);
  for (std::size_t i = 0; i < problem.constants().size(); ++i) {
    const FittedConstant& constant = problem.constants()[i];
    const nlohmann::json value = FitProblem::written(constant, solution.values[i]);
    fmt::print(stderr, "  {} = {}\n", constant.path,
               value.is_string() ? value.get<std::string>() : value.dump());
  }
  fmt::print(stderr, "  sum of squares {:.6g}\n", solution.sum_of_squares);
}

int fit(const Options& options) {
  const FitSpec spec = load_fit_spec(path_of_config(options.spec));
  // A bar on a terminal; elsewhere a line a point would be thousands.
  const Progress::Style style = Progress::style_for(stderr) == Progress::Style::terminal
                                    ? Progress::Style::terminal
                                    : Progress::Style::silent;
  FitProblem problem(spec, {options.jobs, "fit", style, options.no_cache ? "" : options.cache});
  check_output(spec);
  if (options.is_dry_run) {
    fmt::print("{}", fit_plan_text(spec, problem));
    return kExitOk;
  }
  try {
    const FitSolution solution = solve_least_squares(
        problem.parameters(),
        [&problem](const std::vector<std::vector<double>>& sets) {
          return problem.residuals(sets);
        },
        spec.options);
    if (!solution.has_converged) {
      print_failure(problem, solution);
      return kExitNotConverged;
    }
    const FitReport report = report_on(problem, solution, spec.options.step);
    constexpr int kIndent = 2;
    write_file_atomically(spec.output, fitted_config(spec, problem, report).dump(kIndent) + "\n");
    if (options.as_json) {
      fmt::print("{}", json_text(fit_report_as_json(spec, problem, report)));
    } else {
      fmt::print("{}\nwrote {}\n", fit_report_text(problem, report), spec.output.string());
    }
  } catch (const FitStopped& stopped) {
    fmt::print(stderr, "no convergence: {}; nothing was written\n", stopped.what());
    return kExitNotConverged;
  }
  return kExitOk;
}

}  // namespace

void add_fit_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<Options>();
  command.add_option("SPEC", options->spec, "What to fit to what, a JSON file")->required();
  command.add_flag("--dry-run", options->is_dry_run,
                   "List constants, rows and points, run nothing");
  command.add_option("--cache", options->cache, "Folder for records that later calls take")
      ->capture_default_str();
  command.add_flag("--no-cache", options->no_cache, "Run all points, and keep no record");
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  command.add_flag("--json", options->as_json, "Print the report as JSON");
  command.callback([options, &exit_status] { exit_status = fit(*options); });
}

}  // namespace nearkv
