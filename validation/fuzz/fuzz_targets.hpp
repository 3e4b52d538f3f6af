// What is fuzzed: every reader of input that may come from strangers. A target reads some bytes and
// may throw ConfigError; anything else (another exception, a failed check, a sanitizer's finding, a
// hang) is a bug.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace nearkv {

using FuzzTarget = void (*)(std::string_view bytes);

/// By name; each has a folder of seeds in validation/fuzz/corpus.
[[nodiscard]] const std::map<std::string, FuzzTarget>& fuzz_targets();

}  // namespace nearkv
