// A large table of page numbers that takes memory only where something was stored.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "models/flash/ftl/ftl_geometry.hpp"

namespace nearkv {

/// Entries are kNoPage until set; 4 bytes each in chunks of 64 KiB.
class LazyTable {
 public:
  explicit LazyTable(std::int64_t size)
      : chunks_(static_cast<std::size_t>(size / kChunk + (size % kChunk == 0 ? 0 : 1))) {}

  [[nodiscard]] std::uint32_t operator[](std::uint32_t index) const {
    const auto& chunk = chunks_[index / kChunk];
    return chunk ? (*chunk)[index % kChunk] : kNoPage;
  }
  void prefetch(std::uint32_t index) const {
    if (const auto& chunk = chunks_[index / kChunk]) {
      __builtin_prefetch(&(*chunk)[index % kChunk]);
    }
  }
  void set(std::uint32_t index, std::uint32_t value) {
    auto& chunk = chunks_[index / kChunk];
    if (!chunk) [[unlikely]] {
      chunk = std::make_unique<Chunk>();
      chunk->fill(kNoPage);
    }
    (*chunk)[index % kChunk] = value;
  }

  [[nodiscard]] std::int64_t bytes_held() const {
    const auto used = std::count_if(chunks_.begin(), chunks_.end(),
                                    [](const auto& chunk) { return chunk != nullptr; });
    return static_cast<std::int64_t>(chunks_.capacity() * sizeof(chunks_.front())) +
           used * static_cast<std::int64_t>(sizeof(Chunk));
  }

 private:
  static constexpr std::uint32_t kChunk = 1U << 14;  // unit: entries of a chunk
  using Chunk = std::array<std::uint32_t, kChunk>;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace nearkv
