#include "models/flash/ftl/lazy_table.hpp"

#include <doctest/doctest.h>

using namespace nearkv;

TEST_CASE("lazy table: memory is taken where something is set") {
  constexpr std::int64_t kChunks = 64;
  constexpr std::int64_t kEntries = 1 << 14;  // of a chunk
  LazyTable table(kChunks * kEntries);
  const auto pointers = kChunks * static_cast<std::int64_t>(sizeof(void*));
  CHECK(table.bytes_held() == pointers);
  CHECK(table[5] == kNoPage);
  table.set(5, 77);
  CHECK(table[5] == 77);
  CHECK(table[6] == kNoPage);
  CHECK(table[5 + kEntries] == kNoPage);
  table.set(6, 78);
  table.set(kChunks * kEntries - 1, 79);
  CHECK(table[kChunks * kEntries - 1] == 79);
  CHECK(table.bytes_held() == pointers + 2 * kEntries * 4);
}
