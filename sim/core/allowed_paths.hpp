// Which files a config may name. A config may come from a stranger; what it names (in "extends", as
// a trace, as a table of a suite) must not make the program read, and quote in its messages and
// records, whatever its user can read. A config may name what lies below
//
//   - the folder of the config that the user named on the command line: what came with it;
//   - the working folder, where that config lies below it or is a shipped one: then the user works
//     on this folder, and traces are named from there. The root folder does not count: all
//     configs are below it;
//   - the shipped configs and the shipped validation;
//
// and the very files that the user named himself with --set. Paths are compared with symbolic links
// resolved, so that a link leads nowhere else; one that is exchanged while the program runs is not
// noticed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "sim/core/fields.hpp"

namespace nearkv {

class AllowedPaths {
 public:
  /// What is shipped.
  AllowedPaths() = default;
  [[nodiscard]] static AllowedPaths everything();

  /// What lies below a folder, or a single file.
  void allow(const std::filesystem::path& path);
  /// What a config may name that the user named.
  void allow_for_config(const std::filesystem::path& file);
  /// Every text in a value that the user gave with --set, as a file.
  void allow_named_in(const nlohmann::json& value);

  [[nodiscard]] bool allows(const std::filesystem::path& file) const;
  /// Throws ConfigError "WHERE: ..." when the file is not allowed. `written` is the path as the
  /// config has it. Ask before the file is looked for: that it exists is not a config's to know.
  void check(const std::filesystem::path& file, std::string_view written,
             std::string_view where) const;
  /// What check() says after "WHERE: ".
  [[nodiscard]] std::string refusal(const std::filesystem::path& file,
                                    std::string_view written) const;

  /// Options that allow the same to another call of the program.
  [[nodiscard]] std::vector<std::string> options() const;

 private:
  bool allows_everything_ = false;
  std::vector<std::filesystem::path> below_;  // resolved; a message lists them
  std::vector<std::filesystem::path> named_;  // resolved; from --set
};

/// Those of this process and of the children that it forks. Everything, until the program's command
/// line (sim/app/cli.cpp) says otherwise: who uses the library chooses the files himself.
[[nodiscard]] AllowedPaths& allowed_paths();

/// The option of the command line: allows everything, or with "=FOLDER" what is below the folder.
inline constexpr std::string_view kAllowOutside = "--allow-outside";

/// A field that names a file, from the working folder. Refuses what is not allowed.
void file_field(FieldVisitor& v, std::string_view name, std::string& file, std::string_view doc);

}  // namespace nearkv
