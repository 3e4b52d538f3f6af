// For tests that read a fixture of the source tree.
#pragma once

#include <string>

namespace nearkv {

/// Defined in validation/test_main.cpp, the only object that depends on where the tree lies: the
/// others can come from a compiler cache in another clone.
std::string source_folder();

}  // namespace nearkv
