// A folder with the files of figures, and the list of them in it: nearkv-figures.json.
//
//   {"format": 1, "program": {"name": "nearkv", "version": "0.1.0"},
//    "figures": {"fig14": ["fig14.claims.json", "fig14.csv", "fig14/flexgen_batch_4.record.json"]}}
//
// What the list does not have is not ours and is not overwritten; figures of two versions of the
// program do not come into one folder.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv {

inline constexpr std::string_view kFigureList = "nearkv-figures.json";

class FigureFolder {
 public:
  /// Creates nothing. Throws ConfigError for a list that is none, or of another version; `option`
  /// is what names the folder.
  explicit FigureFolder(std::filesystem::path folder, std::string_view option = "--out");

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Throws ConfigError when one of these files, relative to the folder, is there and not ours.
  void check_are_ours(const std::vector<std::string>& files) const;

  /// Before they are written: lists these files as those of a figure, and removes the figure's old
  /// ones that are not among them or are in `redrawn`. Others may do so at the same time.
  void begin(const std::string& figure, const std::vector<std::string>& files,
             const std::vector<std::string>& redrawn);

 private:
  void read();

  std::filesystem::path path_;
  std::string option_;
  std::map<std::string, std::set<std::string>> files_;  // by figure
};

}  // namespace nearkv
