#include "traces/page_set_code.hpp"

#include <cstdint>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;
using namespace nearkv::traces;

namespace {

using Bytes = std::vector<int>;

std::string text_of(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

std::string coded(const std::vector<int>& set, int pages, const std::vector<int>& before) {
  std::string bytes;
  append_page_set(bytes, set, pages, before);
  return bytes;
}

std::vector<int> decoded(const std::string& bytes, int pages, const std::vector<int>& before) {
  ByteReader reader(bytes);
  const std::vector<int> set = read_page_set(reader, pages, before);
  CHECK(reader.at_end());
  return set;
}

std::vector<int> some_of(Rng& rng, int pages, double share) {
  std::vector<int> chosen;
  for (int page = 0; page < pages; ++page) {
    if (rng.uniform() < share) {
      chosen.push_back(page);
    }
  }
  return chosen;
}

std::string problem(const Bytes& bytes, int pages) {
  const std::string text = text_of(bytes);
  try {
    ByteReader reader(text);
    static_cast<void>(read_page_set(reader, pages, {}));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("page sets: numbers in groups of 7 bits") {
  const auto number = [](std::uint64_t value) {
    std::string bytes;
    append_number(bytes, value);
    return bytes;
  };
  CHECK(number(0) == text_of({0}));
  CHECK(number(127) == text_of({0x7f}));
  CHECK(number(128) == text_of({0x80, 0x01}));
  CHECK(number(300) == text_of({0xac, 0x02}));
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  CHECK(number(kMost).size() == 10);
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{16383}, std::uint64_t{16384},
                                    std::uint64_t{1} << 63U, kMost}) {
    const std::string bytes = number(value);
    ByteReader reader(bytes);
    CHECK(reader.number() == value);
    CHECK(reader.at() == bytes.size());
  }
  const std::string too_long = std::string(9, '\xff') + '\x02';
  CHECK_THROWS_AS(ByteReader(too_long).number(), std::invalid_argument);
  CHECK_THROWS_AS(ByteReader("\x80").number(), std::invalid_argument);
  CHECK_THROWS_AS(ByteReader("").byte(), std::invalid_argument);
}

TEST_CASE("page sets: signed numbers alternate") {
  const auto signed_number = [](std::int64_t value) {
    std::string bytes;
    append_signed(bytes, value);
    return bytes;
  };
  CHECK(signed_number(0) == text_of({0}));
  CHECK(signed_number(-1) == text_of({1}));
  CHECK(signed_number(1) == text_of({2}));
  CHECK(signed_number(-64) == text_of({0x7f}));
  for (const std::int64_t value : {std::numeric_limits<std::int64_t>::min(), std::int64_t{-5},
                                   std::int64_t{77}, std::numeric_limits<std::int64_t>::max()}) {
    const std::string bytes = signed_number(value);
    CHECK(ByteReader(bytes).signed_number() == value);
  }
}

TEST_CASE("page sets: examples by hand") {
  // A bitmap: pages 0, 2 and 3 are bits 0, 2 and 3.
  CHECK(coded({0, 2, 3}, 8, {}) == text_of({0x00, 3, 0b1101}));
  // Nothing, everything, everything of what was there.
  CHECK(coded({}, 8, {}) == text_of({0x00, 0}));
  CHECK(coded({0, 1, 2, 3}, 4, {}) == text_of({0x10, 0}));
  CHECK(coded({1, 5, 6}, 8, {1, 5, 6, 9}) == text_of({0x20, 0}));
  // One page of many: gap 100 is 1 zero, a one and the 6 bits of 36 = 100 mod 64 with p = 6.
  CHECK(coded({100}, 1000, {}) == text_of({0x06, 1, 0b10010010}));
  // Gap 101 with p = 3: 12 zeros, a one, the bits of 5 = 101 mod 8.
  CHECK(decoded(text_of({0x03, 1, 0, 0b10110000}), 1000, {}) == std::vector{101});
  // Page 7 went, page 8 came.
  CHECK(decoded(text_of({0x20, 2, 0b10000000, 0b1}), 9, {0, 7}) == std::vector{0, 8});
  // All but page 1, and what is beyond the context does not count.
  CHECK(decoded(text_of({0x30, 1, 0b10}), 4, {2, 9}) == std::vector{0, 3});
}

TEST_CASE("page sets: what is written is read back, whatever was there before") {
  constexpr std::uint64_t kSeed = 5;
  INFO("seed ", kSeed);
  Rng rng(kSeed, "traces/page_set_code_test");
  for (int round = 0; round < 3000; ++round) {
    CAPTURE(round);
    const auto pages = static_cast<int>(rng.below(round % 7 == 0 ? 5000 : 200));
    const std::vector<int> before = some_of(rng, pages + 3, rng.uniform());
    const double share = rng.uniform();
    const std::vector<int> set = some_of(rng, pages, share * share);
    const std::string bytes = coded(set, pages, before);
    REQUIRE(decoded(bytes, pages, before) == set);
    // Never longer than a bitmap.
    REQUIRE(bytes.size() <= 1 + 2 + static_cast<std::size_t>(pages + 7) / 8);
  }
}

TEST_CASE("page sets: a set that changes little takes few bytes") {
  std::vector<int> before(256);
  std::iota(before.begin(), before.end(), 0);
  std::erase_if(before, [](int page) { return page % 3 != 0; });
  std::vector<int> set = before;
  set.erase(set.begin() + 40);
  set.push_back(256);
  const std::size_t alone = coded(set, 257, {}).size();
  const std::size_t as_changes = coded(set, 257, before).size();
  MESSAGE("86 of 257 pages: ", alone, " bytes; two pages changed: ", as_changes, " bytes");
  CHECK(alone >= 257 / 3 / 8);
  CHECK(as_changes <= 6);
}

TEST_CASE("page sets: what cannot be is refused") {
  CHECK(problem({0x00, 1, 0b1000}, 4).empty());
  CHECK(problem({0x40, 0}, 4) == "64 is no control byte of a page set");
  CHECK(problem({0x00, 5, 0xff}, 4) == "5 pages are listed, but the context fills 4");
  CHECK(problem({0x00, 1, 0b10000}, 4) == "page 4 is not on flash at this context, which fills 4");
  CHECK(problem({0x03, 1, 0b1111}, 4) == "page 7 is not on flash at this context, which fills 4");
  CHECK(problem({0x00, 2, 0x01}, 40) == "it ends too early");
  CHECK(problem({0x00}, 4) == "it ends too early");
  CHECK(problem({}, 4) == "it ends too early");
}
