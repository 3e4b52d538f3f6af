// What names the results of a design point: two points with one key have one result.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

namespace nearkv {

/// Hash of all that the record of a resolved config depends on but the program: of the config and
/// of the files that it names (traces).
[[nodiscard]] std::string config_key(const nlohmann::json& config);

/// What the key is made of, for who makes keys of many configs that are alike: the bytes of a value
/// stand for it alone, and those of an object or a list contain those of its parts.
[[nodiscard]] std::string key_bytes(const nlohmann::json& value);
[[nodiscard]] std::string key_of_bytes(const std::string& bytes);

/// Hash of the running program.
[[nodiscard]] std::string program_hash();

/// Where results are kept for later runs: $XDG_CACHE_HOME/nearkv or ~/.cache/nearkv; empty when
/// neither is known.
[[nodiscard]] std::filesystem::path default_cache();

}  // namespace nearkv
