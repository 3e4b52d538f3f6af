#include "models/kv/kv_layout.hpp"

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
}

KvPageCounts flushed_pages(const kernels::PageGeometry& geometry, int context, bool channel_copy) {
  const std::int64_t groups = geometry.flushed_token_groups(context);
  return {groups, groups, channel_copy ? geometry.flushed_channel_pages(context) : 0};
}

}  // namespace nearkv
