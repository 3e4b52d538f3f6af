#include "sim/app/plot_script.hpp"

#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/app/exit_status.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

// Debian's own Python: its packages are the ones that the entry script installs.
constexpr std::string_view kPython = "/usr/bin/python3";
constexpr int kExitPackageMissing = 69;  // EX_UNAVAILABLE; plots/style.py ends with it

PlotResult warning_of(std::string warning) {
  return {.files = {}, .warning = std::move(warning), .problem = {}};
}

std::string last_line(std::string text) {
  text.erase(text.find_last_not_of('\n') + 1);
  const std::size_t start = text.rfind('\n');
  return start == std::string::npos ? text : text.substr(start + 1);
}

PlotResult result_of(const std::string& script, const fs::path& stem, const ChildResult& child) {
  const bool has_finished = child.end == ChildEnd::finished;
  if (has_finished && child.exit_status == kExitOk) {
    return {
        .files = {stem.string() + ".pdf", stem.string() + ".png"}, .warning = {}, .problem = {}};
  }
  if (has_finished && child.exit_status == kExitPackageMissing) {
    return warning_of(fmt::format("no picture: {}", last_line(child.diagnostics)));
  }
  return {.files = {},
          .warning = {},
          .problem = fmt::format(
              "{}: {}: {}", script,
              has_finished ? fmt::format("failed with status {}", child.exit_status) : child.output,
              child.diagnostics.empty() ? "it said nothing" : last_line(child.diagnostics))};
}

}  // namespace

std::vector<PlotResult> draw_figures(const std::vector<PlotJob>& figures, int jobs) {
  std::vector<PlotResult> results(figures.size());
  std::vector<std::vector<std::string>> commands;
  std::vector<std::size_t> drawn;
  for (std::size_t i = 0; i < figures.size(); ++i) {
    const fs::path script = shipped_configs().parent_path() / "plots" / (figures[i].name + ".py");
    if (!fs::exists(script)) {
      continue;
    }
    if (!fs::exists(kPython)) {
      results[i] =
          warning_of(fmt::format("no picture: {} is missing; install the Debian packages "
                                 "python3 and python3-matplotlib",
                                 kPython));
      continue;
    }
    commands.push_back({std::string(kPython), "-B", script.string(), figures[i].csv.string(),
                        figures[i].stem.string()});
    drawn.push_back(i);
  }
  const std::vector<ChildResult> children = run_programs(commands, jobs);
  for (std::size_t c = 0; c < drawn.size(); ++c) {
    results[drawn[c]] = result_of(commands[c][2], figures[drawn[c]].stem, children[c]);
  }
  return results;
}

PlotResult draw_figure(const PlotJob& figure) { return draw_figures({figure}, 1).front(); }

}  // namespace nearkv
