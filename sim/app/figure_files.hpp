// The files of a figure in a results folder, as `nearkv figure` left them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "sim/app/point.hpp"

namespace nearkv {

/// How the names of a figure's files begin. A quick figure has files of its own: it must not
/// replace the whole one.
[[nodiscard]] std::string figure_stem(const std::string& name, bool quick);

enum class FigureFiles {
  missing,
  outdated,  // a point's config has changed since, or its record is gone
  current,
};

/// Looks at the claims, the table and the records of a figure with these points. Throws
/// ConfigError, starting with the file, for what another version of the program wrote or what is no
/// such file.
[[nodiscard]] FigureFiles look_for_files(const std::filesystem::path& folder,
                                         const std::string& name, bool quick,
                                         const std::vector<PreparedPoint>& points);

}  // namespace nearkv
