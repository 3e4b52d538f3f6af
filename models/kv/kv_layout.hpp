// Where a CSD keeps the KV cache: page numbers of each head's three streams, and their place on
// channels and array units.
//
// Layout: InstInfer / InstAttention (arXiv 2409.04992), dual KV layout. A stream is append-only:
// token groups of K, token groups of V, and the channel-indexed second copy of K. Groups are
// strided over channels along the token dimension. Not published: the unit inside a channel, and
// how the streams of different heads are shifted against each other. Here a page's place follows
// from its stream and number (static allocation in the FTL's plane order), and each
// stream starts `stream_skew` pages after the one before, so that heads that are read at the same
// time do not start on the same unit.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/api.hpp"
#include "models/flash/flash_config.hpp"
#include "models/flash/ftl/ftl_geometry.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

enum class KvStream { key_tokens, value_tokens, key_channels };
inline constexpr int kKvStreams = 3;

struct KvLayoutConfig {
  int channels_per_group = 0;  // of the channel-indexed K copy; the paper: 2 to 8
  int stream_skew = 0;         // pages

  void fields(FieldVisitor& v);
};

/// Page of the channel-indexed stream in append order: chunk after chunk, in it group after group.
[[nodiscard]] constexpr int channel_stream_page(int channel_group, int token_chunk,
                                                int channel_groups) {
  return token_chunk * channel_groups + channel_group;
}

struct PagePlace {
  int channel;
  int unit;
};

/// The flash array as its translation layer sees it.
[[nodiscard]] FtlGeometry kv_flash_geometry(const FlashConfig& flash);

/// Static allocation of stream pages: page n of a stream lies in plane (base + n) mod planes of the
/// stripe. `pair` numbers the (sequence, KV head) pairs of one layer on one drive; layers use the
/// same places in other blocks.
class KvPlacement {
 public:
  /// `plane_order` is one of kPlaneOrders.
  KvPlacement(const FlashConfig& flash, const KvLayoutConfig& layout, std::string_view plane_order);

  /// Position of a stream's first page; add the page number and look up place().
  [[nodiscard]] int base(int pair, KvStream stream) const {
    const std::int64_t number = std::int64_t{pair} * kKvStreams + static_cast<int>(stream);
    return static_cast<int>(number * skew_ % static_cast<std::int64_t>(places_.size()));
  }
  [[nodiscard]] PagePlace place(int base, int page) const { return places_[slot(base, page)]; }
  /// Number of the plane (ftl_geometry.hpp).
  [[nodiscard]] int plane(int base, int page) const { return planes_[slot(base, page)]; }
  /// Positions `shift()` apart, and pages that follow on them, lie on the same channels, and on
  /// units that differ by a renaming alone: on idle flash they take the same time.
  [[nodiscard]] int shift() const { return shift_; }
  /// The first pair whose streams lie where those of `pair` do.
  [[nodiscard]] int first_like(int pair) const { return pair % like_pairs_; }
  /// From one position to another, upwards, around the stripe.
  [[nodiscard]] int distance(int from, int to) const {
    return to >= from ? to - from : to - from + static_cast<int>(places_.size());
  }
  /// Channel and array unit of a plane.
  [[nodiscard]] PagePlace place_of_plane(int plane) const { return place_of_plane_[plane]; }

 private:
  [[nodiscard]] std::size_t slot(int base, int page) const {
    const auto slot = static_cast<std::size_t>(base) + static_cast<std::size_t>(page);
    return slot < places_.size() ? slot : slot % places_.size();  // a division costs as all else
  }
  [[nodiscard]] bool is_renaming(std::size_t shift) const;

  std::int64_t skew_;
  int shift_ = 1;
  int like_pairs_ = 1;
  std::vector<PagePlace> places_;  // one round over all planes
  std::vector<int> planes_;        // likewise
  std::vector<PagePlace> place_of_plane_;
};

/// Flash pages that hold the KV of one head at a context, by stream.
struct KvPageCounts {
  std::int64_t key_tokens = 0;
  std::int64_t value_tokens = 0;
  std::int64_t key_channels = 0;

  [[nodiscard]] std::int64_t total() const { return key_tokens + value_tokens + key_channels; }
};
[[nodiscard]] KvPageCounts flushed_pages(const kernels::PageGeometry& geometry, int context,
                                         bool channel_copy);

}  // namespace nearkv
