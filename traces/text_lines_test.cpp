#include "traces/text_lines.hpp"

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <zlib.h>

#include "sim/core/random.hpp"
#include "traces/test_files.hpp"

using namespace nearkv;
using namespace nearkv::traces;

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  const TemporaryFile file(text);
  TextLines lines(file.path());
  std::vector<std::string> all;
  std::string_view line;
  while (lines.next(line)) {
    all.emplace_back(line);
    CHECK(lines.number() == static_cast<std::int64_t>(all.size()));
  }
  return all;
}

std::string refusal(const std::string& text) {
  return refusal_of([&] { static_cast<void>(lines_of(text)); });
}

/// What gzip makes of a text.
std::string compressed(const std::string& text) {
  const TemporaryFile file("", ".trace.gz");
  gzFile_s* const stream = gzopen(file.path().c_str(), "wb");
  REQUIRE(gzwrite(stream, text.data(), static_cast<unsigned>(text.size())) ==
          static_cast<int>(text.size()));
  REQUIRE(gzclose(stream) == Z_OK);
  return file.text();
}

/// Number of lines and, if there is one, the message.
std::string outcome_of_compressed(const std::string& bytes) {
  const TemporaryFile file(bytes, ".trace.gz");
  int count = 0;
  const std::string problem = refusal_of([&] {
    TextLines lines(file.path(), Compressed::read);
    std::string_view line;
    while (lines.next(line)) {
      ++count;
    }
  });
  return std::to_string(count) + " lines " + problem;
}

}  // namespace

TEST_CASE("text lines: line ends, empty lines, a last line without one") {
  using Lines = std::vector<std::string>;
  CHECK(lines_of("a\nbc\n") == Lines{"a", "bc"});
  CHECK(lines_of("a\nbc") == Lines{"a", "bc"});
  CHECK(lines_of("a\r\n\r\nbc\r\n") == Lines{"a", "", "bc"});
  CHECK(lines_of("\n") == Lines{""});
  CHECK(lines_of("a\rb\n") == Lines{"a\rb"});
}

TEST_CASE("text lines: lines over the ends of blocks come whole") {
  constexpr std::uint64_t kSeed = 5;
  INFO("seed ", kSeed);
  Rng rng(kSeed, "traces/text_lines_test");
  std::string text;
  std::vector<std::string> expected;
  while (text.size() < (std::size_t{3} << 20)) {
    const std::size_t length = rng.below(8) == 0 ? rng.below(200'000) : rng.below(60);
    expected.emplace_back(length, static_cast<char>('a' + rng.below(26)));
    text += expected.back() + (rng.below(2) == 0 ? "\n" : "\r\n");
  }
  CHECK(lines_of(text) == expected);
  text.pop_back();
  const bool had_cr = text.ends_with('\r');
  CHECK(lines_of(had_cr ? text.substr(0, text.size() - 1) : text) == expected);
}

TEST_CASE("text lines: what is no text is refused") {
  CHECK(refusal("") == "FILE: the file is empty; a trace was expected");
  CHECK(refusal(std::string("1 2\n\0\n", 6)) == "FILE: is a binary file; a trace is text");
  CHECK(refusal(std::string("\x1f\x8b\x08\0 more", 9)) ==
        "FILE: is compressed; replay what gzip -dc makes of it");
  CHECK(refusal("1\n" + std::string(1 << 21, 'x')) ==
        "FILE: line 2 has more than 1048576 bytes; a trace is text in short lines");
  CHECK(refusal_of([] { TextLines("/nowhere/at/all"); }) ==
        "/nowhere/at/all: no such file; name a trace or a workload");
  CHECK(refusal_of([] { TextLines("/"); }) == "/: cannot be read (Is a directory)");
}

TEST_CASE("text lines: a compressed file gives the lines of the text, unless it is refused") {
  std::string text;
  for (int i = 0; i < 300'000; ++i) {
    text += std::to_string(i) + "\n";
  }
  REQUIRE(text.size() > (1U << 20));  // several blocks
  const std::string bytes = compressed(text);
  CHECK(outcome_of_compressed(bytes) == "300000 lines ");
  CHECK(outcome_of_compressed(text) == "300000 lines ");
  CHECK(refusal(bytes) == "FILE: is compressed; replay what gzip -dc makes of it");

  CHECK(outcome_of_compressed(compressed("")) ==
        "0 lines FILE.gz: the file is empty; a trace was "
        "expected");
  const std::string cut = outcome_of_compressed(bytes.substr(0, bytes.size() / 2));
  CHECK(cut.ends_with("lines FILE.gz: the compressed file is cut off; take a whole one"));
  CHECK(outcome_of_compressed(bytes.substr(0, bytes.size() - 1))
            .ends_with("lines FILE.gz: the compressed file is cut off; take a whole one"));
  std::string damaged = bytes;
  damaged[damaged.size() - 6] ^= 1;  // of the checksum
  CHECK(outcome_of_compressed(damaged).ends_with(
      "lines FILE.gz: the compressed file is damaged (incorrect data check)"));
}

TEST_CASE("words: numbers end where the word does") {
  Words words(" 12\t0  9223372036854775807 x");
  std::int64_t value = 0;
  CHECK(words.number(value));
  CHECK(value == 12);
  CHECK(words.number(value));
  CHECK(value == 0);
  CHECK(words.number(value));
  CHECK(value == INT64_MAX);
  CHECK_FALSE(words.number(value));
  CHECK_FALSE(words.at_end());
  CHECK(words.word() == "x");
  CHECK(words.at_end());
  CHECK(words.word().empty());
  for (const char* bad : {"12a", "-1", "9223372036854775808", "99999999999999999999", "1.5", ""}) {
    CAPTURE(bad);
    CHECK_FALSE(Words(bad).number(value));
  }
}
