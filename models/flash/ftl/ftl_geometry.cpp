#include "models/flash/ftl/ftl_geometry.hpp"

#include <algorithm>

namespace nearkv {

bool FtlGeometry::is_addressable() const {
  const std::array<int, 6> counts{channels,       ways_per_channel, dies_per_way,
                                  planes_per_die, blocks_per_plane, pages_per_block};
  std::int64_t product = 1;
  for (const int count : counts) {
    if (count < 1 || product > std::int64_t{kNoPage} / count) {
      return false;
    }
    product *= count;
  }
  return product < std::int64_t{kNoPage};
}

FlashAddress FtlGeometry::address_of(PhysicalPage page) const {
  FlashAddress at;
  int plane = plane_of(page);
  at.plane = plane % planes_per_die;
  plane /= planes_per_die;
  at.die = plane % dies_per_way;
  plane /= dies_per_way;
  at.way = plane % ways_per_channel;
  at.channel = plane / ways_per_channel;
  at.block = block_of(page);
  at.page = static_cast<int>(page % static_cast<std::uint32_t>(pages_per_block));
  return at;
}

PhysicalPage FtlGeometry::page_at(const FlashAddress& address) const {
  const int way = address.channel * ways_per_channel + address.way;
  const int plane = (way * dies_per_way + address.die) * planes_per_die + address.plane;
  return page_at(plane, address.block, address.page);
}

PlaneStripe::PlaneStripe(const FtlGeometry& geometry, std::string_view order) {
  check(std::find(kPlaneOrders.begin(), kPlaneOrders.end(), order) != kPlaneOrders.end(),
        "a plane order of another name");
  const auto planes = static_cast<std::uint32_t>(geometry.planes());
  for (std::uint32_t position = 0; position < planes; ++position) {
    FlashAddress at;
    auto rest = static_cast<int>(position);
    const auto take = [&rest](int& coordinate, int count) {
      coordinate = rest % count;
      rest /= count;
    };
    for (const char dimension : order) {
      switch (dimension) {
        case 'C':
          take(at.channel, geometry.channels);
          break;
        case 'W':
          take(at.way, geometry.ways_per_channel);
          break;
        case 'D':
          take(at.die, geometry.dies_per_way);
          break;
        default:
          take(at.plane, geometry.planes_per_die);
          break;
      }
    }
    planes_.push_back(static_cast<std::uint32_t>(geometry.plane_of(geometry.page_at(at))));
  }
}

}  // namespace nearkv
