// Sets of page numbers in few bytes, for KV page traces.
//
// A number is written in groups of 7 bits, the lowest first, each in a byte whose top bit says that
// another one follows (LEB128). A signed number s is written as the number 2 s, or -2 s - 1 if it
// is negative.
//
// A set of pages out of 0 .. n - 1, where n is known to both sides, is
//     control   a byte: Rice parameter p (bits 0 to 3), complement (bit 4), changes (bit 5)
//     count     a number: the pages in the list that follows
//     list      bits, padded to whole bytes with zeros; bit 0 of a byte comes first
// The list gives the gap g before each page, in ascending order: how many pages lie between it and
// the one before, or page 0. A gap is g >> p zeros, a one, and the p lowest bits of g, the lowest
// first (Rice and Plaunt 1971). With p = 0 the bits are a bitmap. The listed pages are the set;
// with `changes`, those in which it differs from the set before (pages of it beyond n - 1 do not
// count); with `complement`, it holds the pages that would not be in it without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv::traces {

void append_number(std::string& bytes, std::uint64_t value);
void append_signed(std::string& bytes, std::int64_t value);

/// Takes numbers and bytes off the front. Throws std::invalid_argument for what cannot be read.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  std::uint8_t byte();
  std::uint64_t number();
  std::int64_t signed_number();
  [[nodiscard]] std::size_t at() const { return at_; }
  [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }

 private:
  std::string_view bytes_;
  std::size_t at_ = 0;
};

/// `set` and `before` are ascending, `set` below `pages`. Of all ways to write the set the shortest
/// is taken.
void append_page_set(std::string& bytes, const std::vector<int>& set, int pages,
                     const std::vector<int>& before);

/// Throws std::invalid_argument that says what is wrong.
[[nodiscard]] std::vector<int> read_page_set(ByteReader& bytes, int pages,
                                             const std::vector<int>& before);

}  // namespace nearkv::traces
