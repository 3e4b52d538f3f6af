// Names of devices of a design point: "csd/3" is number 3 of the kind csd.
#pragma once

#include <charconv>
#include <string_view>
#include <system_error>

#include "sim/core/check.hpp"

namespace nearkv {

struct DeviceName {
  /// check()s that it is such a name.
  explicit DeviceName(std::string_view name) : kind(name.substr(0, name.find('/'))) {
    const std::string_view digits = name.substr(kind.size() + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    check(error == std::errc{} && end == digits.data() + digits.size(), "no name of a device");
  }

  std::string_view kind;  // part of the name that was given
  int number = 0;
};

}  // namespace nearkv
