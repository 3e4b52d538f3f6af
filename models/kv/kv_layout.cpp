#include "models/kv/kv_layout.hpp"

namespace nearkv {

void KvLayoutConfig::fields(FieldVisitor& v) {
  v.parameter("channels_per_group", channels_per_group,
              "embedding channels that share a page of the channel-indexed K copy", {1, 64});
  v.parameter("stream_skew", stream_skew,
              "pages by which each head's stream starts after the one before", {0, 1 << 20});
}

KvPlacement::KvPlacement(const FlashConfig& flash, const KvLayoutConfig& layout)
    : skew_(layout.stream_skew), slots_(std::int64_t{flash.channels} * flash.units_per_channel()) {
  for (std::int64_t slot = 0; slot < slots_; ++slot) {
    places_.push_back(
        {static_cast<int>(slot % flash.channels), static_cast<int>(slot / flash.channels)});
  }
}

KvPageCounts flushed_pages(const kernels::PageGeometry& geometry, int context, bool channel_copy) {
  const std::int64_t groups = geometry.flushed_token_groups(context);
  return {groups, groups, channel_copy ? geometry.flushed_channel_pages(context) : 0};
}

}  // namespace nearkv
