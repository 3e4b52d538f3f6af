// The KV cache of one KV head as the page image that a computational storage drive stores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/page_geometry.hpp"
#include "kernels/page_memory.hpp"

namespace nearkv::kernels {

/// Which copies of K there are. V is stored once, by tokens.
enum class KeyCopies { tokens, tokens_and_channels };

/// The page image of one KV head in both layouts, FP16 bits in little-endian bytes.
///
/// In a token page, row i (token group * tokens_per_group + i) starts at byte 2 i d_head. In a
/// channel page, channel i of the group starts at byte 2 i tokens_per_channel_page, its tokens in
/// order. Bytes without an element are zero. The last page of each kind may be partly filled: that
/// is the image of the DRAM buffer, see PageGeometry.
class KvPages {
 public:
  explicit KvPages(const PageGeometry& geometry, KeyCopies copies = KeyCopies::tokens_and_channels);

  [[nodiscard]] const PageGeometry& geometry() const { return geometry_; }
  [[nodiscard]] bool has_channel_copy() const { return copies_ == KeyCopies::tokens_and_channels; }
  /// Appended tokens.
  [[nodiscard]] int tokens() const { return tokens_; }

  /// Memory for so many tokens at once; only an optimisation.
  void reserve(int tokens);

  /// Appends one token: d_head floats each, rounded to FP16 (nearest, ties to even). Throws
  /// std::invalid_argument for a wrong size and for a value that is NaN, infinite or rounds to
  /// infinity (|x| >= 65520); the cache is then unchanged.
  void append(std::span<const float> k, std::span<const float> v);

  /// Mean of the first `context` V rows (as stored, after rounding), summed in double in token
  /// order: the running mean that a device keeps. 1 <= context <= tokens().
  [[nodiscard]] std::vector<float> v_bar(int context) const;

  // Whole pages, page_bytes each. A group that is not full yet is the image of its buffer.
  [[nodiscard]] std::span<const std::byte> k_page(int token_group) const;
  [[nodiscard]] std::span<const std::byte> v_page(int token_group) const;
  [[nodiscard]] std::span<const std::byte> channel_page(int channel_group, int token_chunk) const;

  // Elements, as FP16 bits. Not range-checked beyond the page: kernels call them per row.
  /// K or V of one token: d_head halves. The rows of a token group follow each other.
  [[nodiscard]] const std::uint16_t* k_row(int token) const { return row(k_pages_, token); }
  [[nodiscard]] const std::uint16_t* v_row(int token) const { return row(v_pages_, token); }
  /// One channel of K over the tokens of a chunk: tokens_per_channel_page halves.
  [[nodiscard]] const std::uint16_t* k_channel(int channel, int token_chunk) const {
    return channel_pages_.data() + channel_offset(channel, token_chunk);
  }

 private:
  using Halves = std::vector<std::uint16_t, PageMemory<std::uint16_t>>;

  [[nodiscard]] static std::size_t product(int a, int b) {
    return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
  }
  [[nodiscard]] std::size_t row_offset(int token) const {
    const int per_group = geometry_.tokens_per_group();
    return product(token / per_group, geometry_.page_elements()) +
           product(token % per_group, geometry_.d_head());
  }
  [[nodiscard]] std::size_t channel_offset(int channel, int token_chunk) const {
    const int per_group = geometry_.channels_per_group();
    const std::size_t page =
        product(token_chunk, geometry_.channel_groups()) + product(channel / per_group, 1);
    return page * static_cast<std::size_t>(geometry_.page_elements()) +
           product(channel % per_group, geometry_.tokens_per_channel_page());
  }
  [[nodiscard]] const std::uint16_t* row(const Halves& pages, int token) const {
    return pages.data() + row_offset(token);
  }
  [[nodiscard]] std::span<const std::byte> token_page(const Halves& pages, int token_group) const;
  void add_pages_for_next_token();
  void add_to_channel_copy();

  PageGeometry geometry_;
  KeyCopies copies_;
  int tokens_ = 0;
  Halves k_pages_;                          // token group after token group
  Halves v_pages_;                          // likewise
  Halves channel_pages_;                    // chunk after chunk, in it group after group
  std::vector<double> v_sum_;               // of all tokens
  std::vector<double> v_sum_before_group_;  // token groups x d_head
  std::vector<std::uint16_t> rounded_k_;    // scratch of append
  std::vector<std::uint16_t> rounded_v_;
};

}  // namespace nearkv::kernels
