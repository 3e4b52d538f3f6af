#include "sim/core/check.hpp"

#include <string>
#include <vector>

#include <doctest/doctest.h>

using namespace nearkv;

TEST_CASE("check: a failed one names the place, a good one costs nothing") {
  CHECK_NOTHROW(check(true, "never shown"));
  std::string message;
  int line = 0;
  try {
    line = __LINE__ + 1;
    check(false, "2 is not 3");
  } catch (const CheckFailure& failure) {
    message = failure.what();
  }
  CHECK(message.starts_with("internal error: 2 is not 3 ("));
  CHECK(message.ends_with("check_test.cpp:" + std::to_string(line) + ")"));
  static_assert([] {
    check(true, "works at compile time");
    return true;
  }());
}

TEST_CASE("check: a config error has a line for each problem") {
  const ConfigError one("/a: missing");
  CHECK(std::string(one.what()) == "/a: missing");
  const ConfigError two(std::vector<std::string>{"/a: missing", "/b: unknown key"});
  CHECK(std::string(two.what()) == "/a: missing\n/b: unknown key");
}

TEST_CASE("check: the user's text stays on one line of bounded length") {
  CHECK(printable("plain text") == "plain text");
  CHECK(in_quotes("4KiB") == "\"4KiB\"");
  CHECK(printable("a\nb\tc\x01\x7f") == R"(a\nb\tc\x01\x7f)");
  CHECK(printable("µs") == "µs");
  CHECK(printable(std::string(80, 'x')) == std::string(80, 'x'));
  CHECK(printable(std::string(81, 'x')) == std::string(80, 'x') + "...");
  // A character of two bytes is not cut in half.
  CHECK(printable(std::string(79, 'x') + "µµ") == std::string(79, 'x') + "...");
  CHECK(printable(std::string(100, '\x80')).ends_with("..."));
}
