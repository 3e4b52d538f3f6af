// The entry point of nearkv_tests; the test cases lie beside what they test.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "validation/test_source_folder.hpp"

namespace nearkv {

std::string source_folder() { return NEARKV_SOURCE_DIR; }

}  // namespace nearkv
