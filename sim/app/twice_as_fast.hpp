// Which constants make a resource as fast as it is: what `nearkv explain --twice` changes.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace nearkv {

/// A constant that was changed.
struct ChangedConstant {
  std::string path;
  std::string from;
  std::string to;
};

struct FasterPoint {
  nlohmann::json config;
  std::vector<ChangedConstant> changes;
};

/// The resources, by their names without numbers ("csd/flash/channels").
[[nodiscard]] std::vector<std::string> known_resources();
[[nodiscard]] bool is_known_resource(const std::string& family);
/// Whether it is known, and some constants of the point are its own.
[[nodiscard]] bool can_be_faster(const nlohmann::json& config, const std::string& family);

/// The same design point with the resource twice as fast: its rates doubled, its times halved. A
/// PCIe link is one of both directions, and gets a generation of its own. `config` must be valid.
/// Throws ConfigError for a resource that is unknown, or that the point does not have; `option` is
/// what named it.
[[nodiscard]] FasterPoint twice_as_fast(const nlohmann::json& config, const std::string& family,
                                        const std::string& option);

}  // namespace nearkv
