// Static placement of logical pages: striped over channels, chips (ways), dies and planes in a
// given order, as MQSim's plane allocation schemes do (CWDP: page p on channel p mod channels, chip
// p / channels mod chips, ...). Within its plane a page takes the next index when it is written, or
// first read. Without garbage collection: fullest_plane() says what a plane would need.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "models/ssd/block_ssd.hpp"

namespace nearkv {

/// An order of the letters C(hannel), W(ay), D(ie), P(lane).
[[nodiscard]] bool is_striping_order(std::string_view order);

class PageStriping final : public PageMap {
 public:
  /// check()s the order. `pages` is the number of logical pages.
  PageStriping(const FlashConfig& config, std::string_view order, int pages_per_block,
               std::int64_t pages);

  /// check()s that there is such a page.
  [[nodiscard]] PageCommand locate(std::int64_t logical_page) override;
  [[nodiscard]] PageCommand place(std::int64_t logical_page) override;

  /// Pages that the plane with the most of them has taken, old versions included.
  [[nodiscard]] std::int64_t fullest_plane() const;

 private:
  static constexpr std::size_t kLevels = 4;
  struct Level {
    char letter;
    std::int64_t count;
  };

  [[nodiscard]] PageCommand access(std::int64_t logical_page, bool is_write);

  std::array<Level, kLevels> levels_;  // the one that changes with each page first
  FlashConfig config_;
  std::uint32_t pages_per_block_;
  std::vector<std::int32_t> index_of_page_;    // -1: not touched
  std::vector<std::uint32_t> taken_in_plane_;  // pages by channel, chip, die, plane
};

}  // namespace nearkv
