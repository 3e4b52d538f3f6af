// nearkv validate: the models against reference figures, as a table.
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/mqsim_suite.hpp"
#include "sim/app/point.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

constexpr int kExitBeyondTolerance = 1;  // the validation ran, and a figure fails

struct Options {
  std::string suite = "mqsim";
  std::string points;
  bool json = false;
};

std::string shipped_points(const std::string& suite) {
  return (shipped_configs().parent_path() / "validation" / suite / "points.json").string();
}

nlohmann::json json_of(const ValidationReport& report) {
  nlohmann::json results = nlohmann::json::array();
  for (const ValidationResult& result : report.results) {
    results.push_back({{"point", result.point},
                       {"figure", result.figure},
                       {"unit", result.unit},
                       {"reference", result.reference},
                       {"simulated", result.simulated},
                       {"error", result.error()},
                       {"tolerance", result.tolerance},
                       {"verdict", result.passes() ? "pass" : "fail"}});
  }
  nlohmann::json not_covered = nlohmann::json::array();
  for (const NotCovered& point : report.not_covered) {
    not_covered.push_back({{"point", point.point}, {"reason", point.reason}});
  }
  return {{"suite", report.suite},
          {"reference", report.reference},
          {"passes", report.passes()},
          {"results", results},
          {"not_covered", not_covered}};
}

void print_table(const ValidationReport& report) {
  using Align = TextTable::Align;
  fmt::print("Reference: {}\n\n", report.reference);
  TextTable table({{"point", Align::left},
                   {"figure", Align::left},
                   {"reference", Align::right},
                   {"simulated", Align::right},
                   {"error", Align::right},
                   {"tolerance", Align::right},
                   {"verdict", Align::left}});
  for (const ValidationResult& result : report.results) {
    table.row({result.point, result.figure, fmt::format("{:.3f} {}", result.reference, result.unit),
               fmt::format("{:.3f} {}", result.simulated, result.unit),
               fmt::format("{:+.4f} %", result.error() * 1e2),
               fmt::format("{:.1f} %", result.tolerance * 1e2), result.passes() ? "pass" : "FAIL"});
  }
  fmt::print("{}", table.text());
  for (const NotCovered& point : report.not_covered) {
    fmt::print("{}not covered: {}\n", fmt::format("{:<7}", point.point), point.reason);
  }
}

int validate(const Options& options) {
  if (options.suite != "mqsim") {
    throw ConfigError(
        fmt::format("--suite: there is no suite {}; there is: mqsim", in_quotes(options.suite)));
  }
  const ValidationReport report =
      run_mqsim_suite(options.points.empty() ? shipped_points(options.suite) : options.points);
  if (options.json) {
    fmt::print("{}", json_text(json_of(report)));
  } else {
    print_table(report);
  }
  return report.passes() ? kExitOk : kExitBeyondTolerance;
}

}  // namespace

void add_validate_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<Options>();
  command.add_option("--suite", options->suite, "Which reference: mqsim")->capture_default_str();
  command.add_option("--points", options->points,
                     "Another file of points, in the form of validation/mqsim/points.json");
  command.add_flag("--json", options->json, "Print JSON");
  command.callback([options, &exit_status] { exit_status = validate(*options); });
}

}  // namespace nearkv
