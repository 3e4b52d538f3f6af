// The machine that a run ran on. Differs from machine to machine: never part of a result.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace nearkv {

/// The value of `key` in lines "KEY : VALUE" or "KEY=VALUE" (/proc/cpuinfo, /etc/os-release),
/// without quotes; empty when there is no such line.
[[nodiscard]] std::string value_of_line(std::string_view text, std::string_view key);

/// Processor, cores that this process may use, memory and operating system; what is not known is
/// null. For sidecar files.
[[nodiscard]] nlohmann::json machine_as_json();

}  // namespace nearkv
