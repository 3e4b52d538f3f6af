#include "sim/core/allowed_paths.hpp"

#include <algorithm>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// Absolute and without symbolic links, as far as it exists. What cannot be resolved (a loop of
/// links, a folder that may not be entered) cannot be opened either.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  const fs::path absolute = fs::current_path(error) / path;
  const fs::path found = fs::weakly_canonical(absolute, error);
  const fs::path normal = error ? absolute.lexically_normal() : found;
  return normal.has_filename() ? normal : normal.parent_path();
}

/// The same path counts as below.
bool is_below(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

bool is_below_any(const fs::path& path, const std::vector<fs::path>& folders) {
  return std::any_of(folders.begin(), folders.end(),
                     [&path](const fs::path& folder) { return is_below(path, folder); });
}

/// None where the program was installed without configs.
std::vector<fs::path> shipped_folders() {
  try {
    const fs::path configs = shipped_configs();
    return {resolved(configs), resolved(configs.parent_path() / "validation")};
  } catch (const ConfigError&) {
    return {};
  }
}

void add_once(std::vector<fs::path>& paths, const fs::path& path) {
  if (std::find(paths.begin(), paths.end(), path) == paths.end()) {
    paths.push_back(path);
  }
}

}  // namespace

AllowedPaths AllowedPaths::everything() {
  AllowedPaths all;
  all.allows_everything_ = true;
  return all;
}

void AllowedPaths::allow(const fs::path& path) { add_once(below_, resolved(path)); }

void AllowedPaths::allow_for_config(const fs::path& file) {
  const fs::path folder = resolved(file.parent_path());
  const fs::path here = resolved(".");
  const bool is_shipped = is_below_any(folder, shipped_folders());
  if (!is_shipped) {
    add_once(below_, folder);
  }
  if ((is_shipped || is_below(folder, here)) && here.has_relative_path()) {
    add_once(below_, here);
  }
}

void AllowedPaths::allow_named_in(const json& value) {
  if (allows_everything_) {
    return;
  }
  if (value.is_string()) {
    add_once(named_, resolved(value.get<std::string>()));
  } else if (value.is_structured()) {
    for (const json& child : value) {
      allow_named_in(child);
    }
  }
}

bool AllowedPaths::allows(const fs::path& file) const {
  if (allows_everything_) {
    return true;
  }
  // The system would open what is before the zero.
  if (file.native().find('\0') != std::string::npos) {
    return false;
  }
  const fs::path found = resolved(file);
  return is_below_any(found, below_) || is_below_any(found, named_) ||
         is_below_any(found, shipped_folders());
}

void AllowedPaths::check(const fs::path& file, std::string_view written,
                         std::string_view where) const {
  if (!allows(file)) {
    throw ConfigError(fmt::format("{}: {}", where, refusal(file, written)));
  }
}

std::string AllowedPaths::refusal(const fs::path& file, std::string_view written) const {
  std::vector<std::string> folders;
  for (const std::vector<fs::path>& some : {below_, shipped_folders()}) {
    for (const fs::path& folder : some) {
      folders.push_back(folder.string());
    }
  }
  return fmt::format(
      "{} is {}, which a config may not name; it may name what is below {}; move the file there, "
      "or give {} if you trust the config",
      in_quotes(written), printable(resolved(file).string()),
      folders.empty() ? "no folder" : fmt::format("{}", fmt::join(folders, ", ")), kAllowOutside);
}

std::vector<std::string> AllowedPaths::options() const {
  if (allows_everything_) {
    return {std::string(kAllowOutside)};
  }
  std::vector<std::string> options;
  for (const std::vector<fs::path>& some : {below_, named_}) {
    for (const fs::path& path : some) {
      options.push_back(fmt::format("{}={}", kAllowOutside, path.string()));
    }
  }
  return options;
}

AllowedPaths& allowed_paths() {
  // Passing it would take it through every config struct to where a trace is named.
  // tidy allows mutable-global: one setting, made by the command line before it reads a config
  static AllowedPaths paths = AllowedPaths::everything();
  return paths;
}

void file_field(FieldVisitor& v, std::string_view name, std::string& file, std::string_view doc) {
  v.parameter(name, file, doc);
  if (v.checks_rules() && !allowed_paths().allows(file)) {
    v.require(false, name, allowed_paths().refusal(file, file));
  }
}

}  // namespace nearkv
