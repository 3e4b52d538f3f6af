// Runs a figure's plot script (plots/NAME.py), which reads result files and draws.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace nearkv {

/// What a plot script did.
struct PlotResult {
  std::vector<std::filesystem::path> files;  // drawn
  std::string warning;  // what is missing on this machine and which package has it, else empty
  std::string problem;  // how the script failed, else empty
  std::string said{};   // by a script that did not fail
};

/// Runs plots/NAME.py; `files` stays empty. Throws ConfigError for what the script says of files
/// that are not as they should be, and Interrupted.
[[nodiscard]] PlotResult run_plot_script(const std::string& name,
                                         const std::vector<std::string>& arguments);

/// A picture to draw: STEM.pdf and STEM.png from a CSV, by plots/NAME.py.
struct PlotJob {
  std::string name;
  std::filesystem::path csv;
  std::filesystem::path stem;
};

/// Draws all, `jobs` at a time. Where there is no script of a name nothing is drawn. Throws
/// Interrupted.
[[nodiscard]] std::vector<PlotResult> draw_figures(const std::vector<PlotJob>& figures, int jobs);
[[nodiscard]] PlotResult draw_figure(const PlotJob& figure);

}  // namespace nearkv
