// JSON from strangers: read strictly, and within two seconds and 500 MB or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace nearkv {

/// Of one document; callers look at the size before they read the text.
inline constexpr std::uintmax_t kLargestJson = 32 << 20;
inline constexpr std::size_t kDeepestNesting = 64;
inline constexpr std::size_t kMostValues = 1'500'000;
inline constexpr std::size_t kMostKeys = 250'000;  // a member of an object takes 16 times a number
inline constexpr std::size_t kLongestText = 1 << 20;

/// Throws what nlohmann::json::parse() throws for bad syntax, and ConfigError "where: /path: ..."
/// for a key that an object has twice and for what exceeds one of the limits above.
[[nodiscard]] nlohmann::json parse_strict_json(std::string_view text, const std::string& where);

}  // namespace nearkv
