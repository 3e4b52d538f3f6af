// A large set of page numbers that takes memory only where something was in it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace nearkv {

/// Chunks of 8 KiB hold 2^16 numbers each.
class LazyBits {
 public:
  explicit LazyBits(std::int64_t size) : chunks_(static_cast<std::size_t>(size / kChunk + 1)) {}

  [[nodiscard]] bool contains(std::uint32_t number) const {
    const auto& chunk = chunks_[number / kChunk];
    return chunk && ((*chunk)[number % kChunk / kWord] >> (number % kWord) & 1U) != 0;
  }
  void insert(std::uint32_t number) {
    auto& chunk = chunks_[number / kChunk];
    if (!chunk) [[unlikely]] {
      chunk = std::make_unique<Chunk>();
    }
    (*chunk)[number % kChunk / kWord] |= std::uint64_t{1} << (number % kWord);
  }
  void erase(std::uint32_t number) {
    auto& chunk = chunks_[number / kChunk];
    if (chunk) {
      (*chunk)[number % kChunk / kWord] &= ~(std::uint64_t{1} << (number % kWord));
    }
  }

 private:
  static constexpr std::uint32_t kChunk = 1U << 16;  // unit: numbers of a chunk
  static constexpr std::uint32_t kWord = 64;         // unit: bits of a word
  using Chunk = std::array<std::uint64_t, kChunk / kWord>;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace nearkv
