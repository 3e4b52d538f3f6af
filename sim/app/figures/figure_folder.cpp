#include "sim/app/figures/figure_folder.hpp"

#include <algorithm>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <unistd.h>

#include "build_info.hpp"
#include "sim/app/point.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kFormat = 1;
constexpr std::string_view kProgram = "nearkv";

/// Holds a folder's lock as long as it lives: lists are read, changed and written under it.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder)
      : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ < 0 || flock(descriptor_, LOCK_EX) != 0) {
      throw ConfigError(
          fmt::format("{}: cannot be locked; name another folder with --out", folder.string()));
    }
  }
  ~FolderLock() { close(descriptor_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// A file below the folder; whoever edits the list must not make us remove others.
bool is_below(const fs::path& file) {
  return file.is_relative() && file.lexically_normal() == file && !file.empty() &&
         *file.begin() != "..";
}

/// Why a list is none of this program's; empty when it is one.
std::string problem_of(const json& list) {
  const auto is_list_of_files = [](const json& files) {
    return files.is_array() && std::all_of(files.begin(), files.end(), [](const json& file) {
             return file.is_string() && is_below(file.get<std::string>());
           });
  };
  if (!list.is_object() || !list.contains("format") || !list.contains("program") ||
      !list.contains("figures")) {
    return "is no list of figures";
  }
  if (list.at("format") != kFormat) {
    return fmt::format("/format: is {}; this program writes {}", list.at("format").dump(), kFormat);
  }
  const json program{{"name", kProgram}, {"version", build_info::kVersion}};
  if (list.at("program") != program) {
    return fmt::format("/program: is {}; this is {}, and figures of two versions must not be mixed",
                       list.at("program").dump(), program.dump());
  }
  const json& figures = list.at("figures");
  return figures.is_object() && std::all_of(figures.begin(), figures.end(), is_list_of_files)
             ? ""
             : "/figures: must have a list of files for each figure";
}

}  // namespace

FigureFolder::FigureFolder(fs::path folder, std::string_view option)
    : path_(std::move(folder)), option_(option) {
  read();
}

void FigureFolder::read() {
  files_.clear();
  const fs::path file = path_ / kFigureList;
  if (!fs::exists(file)) {
    return;
  }
  const json list = load_json(file);
  if (const std::string problem = problem_of(list); !problem.empty()) {
    throw ConfigError(fmt::format("{}: {}; remove the folder, or name another one with {}",
                                  file.string(), problem, option_));
  }
  files_ = list.at("figures").get<std::map<std::string, std::set<std::string>>>();
}

void FigureFolder::check_are_ours(const std::vector<std::string>& files) const {
  std::vector<std::string> foreign;
  for (const std::string& file : files) {
    const bool is_ours = std::any_of(files_.begin(), files_.end(), [&file](const auto& figure) {
      return figure.second.contains(file);
    });
    if (!is_ours && fs::exists(path_ / file)) {
      foreign.push_back((path_ / file).string());
    }
  }
  if (!foreign.empty()) {
    const std::string others =
        foreign.size() > 1 ? fmt::format(" (and {} others)", foreign.size() - 1) : "";
    throw ConfigError(fmt::format(
        "{}{}: is there, but {} does not list it as a figure's; it is not overwritten: move it "
        "away, or name another folder with {}",
        foreign.front(), others, (path_ / kFigureList).string(), option_));
  }
}

void FigureFolder::begin(const std::string& figure, const std::vector<std::string>& files,
                         const std::vector<std::string>& redrawn) {
  fs::create_directories(path_);
  const FolderLock lock(path_);
  read();
  std::set<std::string> now(files.begin(), files.end());
  for (const std::string& old : files_[figure]) {
    const bool is_redrawn = std::find(redrawn.begin(), redrawn.end(), old) != redrawn.end();
    if (is_redrawn || !now.contains(old)) {
      fs::remove(path_ / old);
    }
  }
  files_[figure] = std::move(now);
  write_file_atomically(
      path_ / kFigureList,
      json_text({{"format", kFormat},
                 {"program", {{"name", kProgram}, {"version", build_info::kVersion}}},
                 {"figures", files_}}));
}

}  // namespace nearkv
