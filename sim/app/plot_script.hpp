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
};

/// Draws `csv` as `stem`.pdf and `stem`.png. Without a script of this name nothing is drawn.
/// Throws Interrupted.
[[nodiscard]] PlotResult draw_figure(const std::string& name, const std::filesystem::path& csv,
                                     const std::filesystem::path& stem);

}  // namespace nearkv
