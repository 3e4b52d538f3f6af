// Addresses of a flash array as its translation layers see them, and the orders in which pages are
// striped over it.
//
// A plane has a number: ((channel x ways + way) x dies + die) x planes + plane. A physical page
// has one 32-bit number: (plane number x blocks + block) x pages + page.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "sim/core/check.hpp"

namespace nearkv {

using LogicalPage = std::uint32_t;
using PhysicalPage = std::uint32_t;
inline constexpr std::uint32_t kNoPage = std::numeric_limits<std::uint32_t>::max();

struct FlashAddress {
  int channel = 0;
  int way = 0;  // package (chip) on the channel
  int die = 0;
  int plane = 0;
  int block = 0;
  int page = 0;

  bool operator==(const FlashAddress&) const = default;
};

struct FtlGeometry {
  int channels = 0;
  int ways_per_channel = 0;
  int dies_per_way = 0;
  int planes_per_die = 0;
  int blocks_per_plane = 0;
  int pages_per_block = 0;

  [[nodiscard]] int planes() const {
    return channels * ways_per_channel * dies_per_way * planes_per_die;
  }
  [[nodiscard]] std::int64_t pages_per_plane() const {
    return std::int64_t{blocks_per_plane} * pages_per_block;
  }
  [[nodiscard]] std::int64_t pages() const { return planes() * pages_per_plane(); }
  /// Whether every count is at least 1 and page numbers fit in 32 bits.
  [[nodiscard]] bool is_addressable() const;

  [[nodiscard]] PhysicalPage page_at(int plane, int block, int page) const {
    const auto blocks = static_cast<std::uint32_t>(blocks_per_plane);
    const auto pages_each = static_cast<std::uint32_t>(pages_per_block);
    return (static_cast<std::uint32_t>(plane) * blocks + static_cast<std::uint32_t>(block)) *
               pages_each +
           static_cast<std::uint32_t>(page);
  }
  [[nodiscard]] int plane_of(PhysicalPage page) const {
    return static_cast<int>(page / static_cast<std::uint32_t>(pages_per_plane()));
  }
  [[nodiscard]] int block_of(PhysicalPage page) const {
    return static_cast<int>(page / static_cast<std::uint32_t>(pages_per_block) %
                            static_cast<std::uint32_t>(blocks_per_plane));
  }
  [[nodiscard]] FlashAddress address_of(PhysicalPage page) const;
  [[nodiscard]] PhysicalPage page_at(const FlashAddress& address) const;
};

/// Which dimension consecutive pages change first, second, third and last: C channel, W way, D die,
/// P plane. The names are MQSim's (Plane_Allocation_Scheme).
inline constexpr std::array<std::string_view, 24> kPlaneOrders{
    // unit: 4! orders
    "CWDP", "CWPD", "CDWP", "CDPW", "CPWD", "CPDW", "WCDP", "WCPD", "WDCP", "WDPC", "WPCD", "WPDC",
    "DCWP", "DCPW", "DWCP", "DWPC", "DPCW", "DPWC", "PCWD", "PCDW", "PWCD", "PWDC", "PDCW", "PDWC"};

/// One round over all planes in an order of kPlaneOrders.
class PlaneStripe {
 public:
  /// check()s that `order` is one of kPlaneOrders.
  PlaneStripe(const FtlGeometry& geometry, std::string_view order);

  /// Plane number of the `position`-th page.
  [[nodiscard]] int plane_of(std::uint64_t position) const {
    return static_cast<int>(planes_[position % planes_.size()]);
  }

 private:
  std::vector<std::uint32_t> planes_;
};

}  // namespace nearkv
