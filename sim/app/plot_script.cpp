#include "sim/app/plot_script.hpp"

#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/app/exit_status.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

// Debian's own Python: its packages are the ones that the entry script installs.
constexpr std::string_view kPython = "/usr/bin/python3";
constexpr int kExitBadData = 65;         // EX_DATAERR; plots/report.py ends with it
constexpr int kExitPackageMissing = 69;  // EX_UNAVAILABLE; plots/style.py ends with it

std::string without_line_feed(std::string text) {
  text.erase(text.find_last_not_of('\n') + 1);
  return text;
}

std::string last_line(const std::string& lines) {
  const std::string text = without_line_feed(lines);
  const std::size_t start = text.rfind('\n');
  return start == std::string::npos ? text : text.substr(start + 1);
}

}  // namespace

PlotResult run_plot_script(const std::string& name, const std::vector<std::string>& arguments) {
  const fs::path script = shipped_configs().parent_path() / "plots" / (name + ".py");
  if (!fs::exists(kPython)) {
    return {.files = {},
            .warning = fmt::format("{} is missing; install the Debian packages python3 and "
                                   "python3-matplotlib",
                                   kPython),
            .problem = {}};
  }
  std::vector<std::string> command{std::string(kPython), "-B", script.string()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const ChildResult result = run_program(command);
  const bool has_ended = result.end == ChildEnd::finished;
  if (has_ended && result.exit_status == kExitBadData) {
    throw ConfigError(last_line(result.diagnostics));
  }
  if (has_ended && result.exit_status == kExitPackageMissing) {
    return {.files = {}, .warning = last_line(result.diagnostics), .problem = {}};
  }
  if (!has_ended || result.exit_status != kExitOk) {
    return {
        .files = {},
        .warning = {},
        .problem = fmt::format(
            "{}: {}: {}", script.string(),
            has_ended ? fmt::format("failed with status {}", result.exit_status) : result.output,
            result.diagnostics.empty() ? "it said nothing" : last_line(result.diagnostics))};
  }
  return {.files = {}, .warning = {}, .problem = {}, .said = without_line_feed(result.diagnostics)};
}

PlotResult draw_figure(const std::string& name, const fs::path& csv, const fs::path& stem) {
  if (!fs::exists(shipped_configs().parent_path() / "plots" / (name + ".py"))) {
    return {};
  }
  PlotResult drawn = run_plot_script(name, {csv.string(), stem.string()});
  if (!drawn.warning.empty()) {
    drawn.warning = "no picture: " + drawn.warning;
  } else if (drawn.problem.empty()) {
    drawn.files = {stem.string() + ".pdf", stem.string() + ".png"};
  }
  return drawn;
}

}  // namespace nearkv
