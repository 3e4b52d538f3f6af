#include "models/kv/kv_layout.hpp"

#include <algorithm>
#include <numeric>

namespace nearkv {

void KvLayoutConfig::fields(FieldVisitor& v) {
  v.parameter("channels_per_group", channels_per_group,
              "embedding channels that share a page of the channel-indexed K copy", {1, 64});
  v.parameter("stream_skew", stream_skew,
              "pages by which each head's stream starts after the one before", {0, 1 << 20});
}

FtlGeometry kv_flash_geometry(const FlashConfig& flash) {
  return {.channels = flash.channels,
          .ways_per_channel = flash.chips_per_channel,
          .dies_per_way = flash.dies_per_chip,
          .planes_per_die = flash.planes_per_die,
          .blocks_per_plane = flash.blocks_per_plane,
          .pages_per_block = flash.pages_per_block};
}

KvPlacement::KvPlacement(const FlashConfig& flash, const KvLayoutConfig& layout,
                         std::string_view plane_order)
    : skew_(layout.stream_skew) {
  const FtlGeometry geometry = kv_flash_geometry(flash);
  const PlaneStripe stripe(geometry, plane_order);
  const int planes_a_channel = geometry.planes() / geometry.channels;
  const int planes_a_unit = planes_a_channel / flash.units_per_channel();
  for (int plane = 0; plane < geometry.planes(); ++plane) {
    place_of_plane_.push_back({plane / planes_a_channel, plane % planes_a_channel / planes_a_unit});
  }
  for (int slot = 0; slot < geometry.planes(); ++slot) {
    planes_.push_back(stripe.plane_of(static_cast<std::uint64_t>(slot)));
    places_.push_back(place_of_plane_[planes_.back()]);
  }
  const std::int64_t slots = geometry.planes();
  like_pairs_ = static_cast<int>(slots / std::gcd(slots, skew_ * kKvStreams));
  while (slots % shift_ != 0 || !is_renaming(static_cast<std::size_t>(shift_))) {
    ++shift_;  // at most to a whole round
  }
}

/// Whether all pages that lie so many slots on keep their channel, and units that were different
/// (or one) stay so.
bool KvPlacement::is_renaming(std::size_t shift) const {
  constexpr int kNone = -1;
  int units = 0;  // of a channel
  for (const PagePlace& place : places_) {
    units = std::max(units, place.unit + 1);
  }
  const auto index_of = [units](const PagePlace& place) {
    return static_cast<std::size_t>(place.channel) * static_cast<std::size_t>(units) +
           static_cast<std::size_t>(place.unit);
  };
  std::vector<int> new_name(places_.size(), kNone);
  std::vector<int> old_name(places_.size(), kNone);
  for (std::size_t slot = 0; slot < places_.size(); ++slot) {
    const PagePlace from = places_[slot];
    const PagePlace to = places_[(slot + shift) % places_.size()];
    int& name = new_name[index_of(from)];
    int& origin = old_name[index_of(to)];
    if (from.channel != to.channel || (name != kNone && name != to.unit) ||
        (origin != kNone && origin != from.unit)) {
      return false;
    }
    name = to.unit;
    origin = from.unit;
  }
  return true;
}

KvPageCounts flushed_pages(const kernels::PageGeometry& geometry, int context, bool channel_copy) {
  const std::int64_t groups = geometry.flushed_token_groups(context);
  return {groups, groups, channel_copy ? geometry.flushed_channel_pages(context) : 0};
}

}  // namespace nearkv
