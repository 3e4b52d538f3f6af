// libFuzzer's entry: $NEARKV_FUZZ_TARGET names what is fuzzed.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "sim/core/check.hpp"
#include "validation/fuzz/fuzz_targets.hpp"

namespace {

nearkv::FuzzTarget chosen_target() {
  const char* name = std::getenv("NEARKV_FUZZ_TARGET");
  const auto found = nearkv::fuzz_targets().find(name != nullptr ? name : "");
  if (found == nearkv::fuzz_targets().end()) {
    std::string names;
    for (const auto& [known, target] : nearkv::fuzz_targets()) {
      names += " " + known;
    }
    throw nearkv::ConfigError("NEARKV_FUZZ_TARGET: set it to one of" + names);
  }
  return found->second;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const nearkv::FuzzTarget target = chosen_target();
  target(std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
