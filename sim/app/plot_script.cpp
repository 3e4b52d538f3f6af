#include "sim/app/plot_script.hpp"

#include <algorithm>
#include <cstddef>
#include <sstream>
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

fs::path script_of(const std::string& name) {
  return shipped_configs().parent_path() / "plots" / (name + ".py");
}

std::vector<std::string> command_of(const std::string& name,
                                    const std::vector<std::string>& arguments) {
  std::vector<std::string> command{std::string(kPython), "-B", script_of(name).string()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

/// Empty when Python is there.
std::string warning_of_missing_python() {
  return fs::exists(kPython) ? ""
                             : fmt::format(
                                   "{} is missing; install the Debian packages python3 "
                                   "and python3-matplotlib",
                                   kPython);
}

PlotResult result_of(const std::string& name, const ChildResult& child) {
  const bool has_finished = child.end == ChildEnd::finished;
  PlotResult result;
  if (has_finished && child.exit_status == kExitOk) {
    result.said = without_line_feed(child.diagnostics);
  } else if (has_finished && child.exit_status == kExitPackageMissing) {
    result.warning = last_line(child.diagnostics);
  } else {
    result.problem = fmt::format(
        "{}: {}: {}", script_of(name).string(),
        has_finished ? fmt::format("failed with status {}", child.exit_status) : child.output,
        child.diagnostics.empty() ? "it said nothing" : last_line(child.diagnostics));
  }
  return result;
}

/// Of the process that drew the figure and others; `lines` are those of plots/several.py: the
/// script's exit status, a tab, and the last line that the script said.
PlotResult picture_of(const PlotJob& figure, const PlotResult& process, std::istream& lines) {
  PlotResult result;
  if (!process.warning.empty()) {
    result.warning = "no picture: " + process.warning;
    return result;
  }
  if (!process.problem.empty()) {
    result.problem = process.problem;
    return result;
  }
  std::string line;
  std::getline(lines, line);
  const std::size_t tab = line.find('\t');
  check(tab != std::string::npos, "plots/several.py says something else than it should");
  const std::string status = line.substr(0, tab);
  const std::string said = line.substr(tab + 1);
  if (status == "0") {
    result.files = {figure.stem.string() + ".pdf", figure.stem.string() + ".png"};
  } else {
    result.problem = fmt::format("{}: failed with status {}: {}", script_of(figure.name).string(),
                                 status, said.empty() ? "it said nothing" : said);
  }
  return result;
}

}  // namespace

PlotResult run_plot_script(const std::string& name, const std::vector<std::string>& arguments) {
  if (std::string warning = warning_of_missing_python(); !warning.empty()) {
    return {.files = {}, .warning = std::move(warning), .problem = {}};
  }
  const ChildResult child = run_program(command_of(name, arguments));
  if (child.end == ChildEnd::finished && child.exit_status == kExitBadData) {
    throw ConfigError(last_line(child.diagnostics));
  }
  return result_of(name, child);
}

std::vector<PlotResult> draw_figures(const std::vector<PlotJob>& figures, int jobs) {
  const std::string no_python = warning_of_missing_python();
  std::vector<PlotResult> results(figures.size());
  // Dealt out to as many processes as may work at a time.
  std::vector<std::vector<std::size_t>> hands(
      std::min(figures.size(), static_cast<std::size_t>(jobs)));
  std::size_t dealt = 0;
  for (std::size_t i = 0; i < figures.size(); ++i) {
    if (!fs::exists(script_of(figures[i].name))) {
      continue;
    }
    if (!no_python.empty()) {
      results[i].warning = "no picture: " + no_python;
      continue;
    }
    hands[dealt++ % hands.size()].push_back(i);
  }
  std::erase_if(hands, [](const std::vector<std::size_t>& hand) { return hand.empty(); });
  std::vector<std::vector<std::string>> commands;
  for (const std::vector<std::size_t>& hand : hands) {
    std::vector<std::string> arguments;
    for (const std::size_t i : hand) {
      arguments.insert(arguments.end(),
                       {figures[i].name, figures[i].csv.string(), figures[i].stem.string()});
    }
    commands.push_back(command_of("several", arguments));
  }
  const std::vector<ChildResult> children = run_programs(commands, jobs);
  for (std::size_t h = 0; h < hands.size(); ++h) {
    const PlotResult together = result_of("several", children[h]);
    std::istringstream lines(together.said);
    for (const std::size_t i : hands[h]) {
      results[i] = picture_of(figures[i], together, lines);
    }
  }
  return results;
}

PlotResult draw_figure(const PlotJob& figure) { return draw_figures({figure}, 1).front(); }

}  // namespace nearkv
