// The KV cache of a batch as a drive stores it: the pages of every head, as real bytes, and where
// each element is.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kv_pages.hpp"

namespace nearkv::kernels {

struct TouchedPages;

struct KvStoreShape {
  int sequences;
  int layers;
  int kv_heads;
};

/// One KV head of one layer of one sequence.
struct HeadPlace {
  int sequence;
  int layer;
  int kv_head;

  auto operator<=>(const HeadPlace&) const = default;
};

/// The streams of a head, each numbered as its pages are written: key_tokens and value_tokens by
/// token group, key_channels chunk after chunk, in it channel group after channel group.
enum class PageStream { key_tokens, value_tokens, key_channels };

struct PagePlace {
  HeadPlace head;
  PageStream stream;
  int page;

  auto operator<=>(const PagePlace&) const = default;
};

/// Where an element is: halves from the start of the page.
struct ElementPlace {
  PagePlace page;
  int element;
};

/// Pages of all heads. A page is in the group buffer (the drive's DRAM) until its last token has
/// come, and on flash from then on: append() says which pages that are. Kernels read flash and
/// buffers alike, through head().
class KvStore {
 public:
  /// Throws std::invalid_argument unless all sizes are at least 1.
  KvStore(const PageGeometry& geometry, const KvStoreShape& shape,
          KeyCopies copies = KeyCopies::tokens_and_channels);

  [[nodiscard]] const PageGeometry& geometry() const { return geometry_; }
  [[nodiscard]] const KvStoreShape& shape() const { return shape_; }

  /// Memory for so many tokens of every head; only an optimisation.
  void reserve(int tokens);

  /// Appends one token to a head (errors as KvPages::append). Returns the pages that it fills, to
  /// be programmed: none for most tokens.
  std::vector<PagePlace> append(const HeadPlace& head, std::span<const float> k,
                                std::span<const float> v);

  /// Throws std::invalid_argument for a head outside the shape.
  [[nodiscard]] const KvPages& head(const HeadPlace& place) const { return heads_[index(place)]; }

  // Where elements are; std::invalid_argument for a token that was not appended, a channel that
  // does not exist, and the channel copy where there is none.
  [[nodiscard]] ElementPlace key(const HeadPlace& head, int token, int channel) const;
  [[nodiscard]] ElementPlace value(const HeadPlace& head, int token, int channel) const;
  [[nodiscard]] ElementPlace channel_key(const HeadPlace& head, int channel, int token) const;

  /// Whether the page is full, so that it is on flash.
  [[nodiscard]] bool is_on_flash(const PagePlace& place) const;
  /// The page's bytes, page_bytes of them; std::invalid_argument if nothing was written to it yet.
  [[nodiscard]] std::span<const std::byte> bytes(const PagePlace& place) const;

  /// Pages on flash, all heads and streams.
  [[nodiscard]] std::int64_t pages_on_flash() const;
  /// What the group buffers hold of all heads.
  [[nodiscard]] std::int64_t buffered_bytes() const;

  /// The places of the pages that a kernel touched on one head, in the order of the streams.
  [[nodiscard]] static std::vector<PagePlace> places(const HeadPlace& head,
                                                     const TouchedPages& touched);

 private:
  [[nodiscard]] std::size_t index(const HeadPlace& place) const;
  void check_element(const HeadPlace& head, int token, int channel) const;

  PageGeometry geometry_;
  KvStoreShape shape_;
  std::vector<KvPages> heads_;  // sequence after sequence, layer after layer
};

}  // namespace nearkv::kernels
