// Configs: JSON files with `extends`, overrides, and readers and describers of field lists.
//
// Resolution. Any object may name one or several files in "extends"; these are merged in order
// and the object's own keys over them. Objects merge key by key; lists, sourced constants, objects
// with an "extends" of their own and objects of another "kind" replace what they would be merged
// into. (Keys beside an "extends" may change the kind of what they extend; the rest stays.) A path
// is relative to the file that names it; "nearkv:platforms/x.json" is below the shipped configs.
// Which files a config may name is in allowed_paths.hpp.
// "comment" is allowed in every object and means nothing. Duplicate and unknown keys are errors.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/core/config_numbers.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

/// Where shipped configs lie: $NEARKV_HOME/configs, or the one above the executable.
[[nodiscard]] std::filesystem::path shipped_configs();

/// Reads a JSON file strictly (no duplicate keys, no trailing text, at most 64 levels).
/// Throws ConfigError "file:line:column: ..." or "file: ...".
[[nodiscard]] nlohmann::json load_json(const std::filesystem::path& file);

/// Makes a config out of a file of another format, and returns every other document unchanged.
using Translator =
    std::function<nlohmann::json(nlohmann::json document, const std::filesystem::path& file)>;

/// Reads a file and resolves every "extends" in it. `translate`, if there is one, sees each file
/// that is extended before it is merged.
[[nodiscard]] nlohmann::json load_config(const std::filesystem::path& file,
                                         const Translator& translate = {});

/// Merges as an object over what it extends; both are resolved.
void merge_config(nlohmann::json& base, const nlohmann::json& overlay);

/// Applies "path=value" ("/csd/0/flash/t_read=30us", the first slash may be missing). The path
/// must exist. The value is JSON, or else a string. A constant becomes one of source "override".
/// The user wrote it: files that it names are allowed (allowed_paths.hpp).
void apply_override(nlohmann::json& config, std::string_view assignment);

/// Sets the value at an existing path, as apply_override does. `origin` ends error messages.
void set_existing(nlohmann::json& config, std::string_view path, const nlohmann::json& value,
                  std::string_view origin);

/// What the source of a constant can be.
inline constexpr std::array<std::string_view, 6> kConstantSources{
    "datasheet", "measured", "paper", "fit", "assumed", "override"};

/// A constant as a run used it.
struct ConstantUse {
  std::string path;
  std::string value;
  std::string source;
  std::string citation;
  std::string interval = {};               // "5us to 8us"; empty when it has none
  std::optional<FieldNumber> number = {};  // nothing for texts, choices, truths and lists
};

using FieldLister = std::function<void(FieldVisitor&)>;

/// Fills the struct behind `fields` from `config` and returns the constants met on the way.
/// Throws ConfigError with one line for each problem; each line starts with a JSON path.
std::vector<ConstantUse> read_fields(const nlohmann::json& config, const FieldLister& fields);

/// JSON Schema (2020-12) of the struct behind `fields`.
[[nodiscard]] nlohmann::json schema_of(const FieldLister& fields, std::string_view title);

/// One documented field, for reference text.
struct FieldDescription {
  std::string path;  // "/csd/*/flash/t_read"
  std::string type;  // "duration", "integer", "one of exact, reuse, sampled"
  std::string range;
  FieldKind kind;
  std::string doc;
};
[[nodiscard]] std::vector<FieldDescription> describe_fields(const FieldLister& fields);

/// The name nearest to `word` by edit distance, or empty when none is near.
[[nodiscard]] std::string nearest_name(std::string_view word,
                                       const std::vector<std::string>& names);

}  // namespace nearkv
