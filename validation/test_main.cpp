// The entry point of nearkv_tests; the test cases lie beside what they test.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
