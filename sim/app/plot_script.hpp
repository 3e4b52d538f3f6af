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

/// Runs plots/`name`.py; `files` stays empty. Throws ConfigError for what the script says of files
/// that are not as they should be, and Interrupted.
[[nodiscard]] PlotResult run_plot_script(const std::string& name,
                                         const std::vector<std::string>& arguments);

/// Draws `csv` as `stem`.pdf and `stem`.png. Without a script of this name nothing is drawn.
/// Throws as run_plot_script() does.
[[nodiscard]] PlotResult draw_figure(const std::string& name, const std::filesystem::path& csv,
                                     const std::filesystem::path& stem);

}  // namespace nearkv
