#include "models/ssd/page_striping.hpp"

#include <algorithm>
#include <string>

#include "sim/core/check.hpp"

namespace nearkv {

bool is_striping_order(std::string_view order) {
  std::string sorted(order);
  std::sort(sorted.begin(), sorted.end());
  return sorted == "CDPW";
}

PageStriping::PageStriping(const FlashConfig& config, std::string_view order, int pages_per_block,
                           std::int64_t pages)
    : levels_{},
      config_(config),
      pages_per_block_(static_cast<std::uint32_t>(pages_per_block)),
      index_of_page_(static_cast<std::size_t>(pages), -1),
      taken_in_plane_(static_cast<std::size_t>(config.channels) * config.chips_per_channel *
                      config.dies_per_chip * config.planes_per_die) {
  check(is_striping_order(order), "an order of page striping that is not one of C, W, D and P");
  const auto count_of = [&config](char letter) -> std::int64_t {
    switch (letter) {
      case 'C':
        return config.channels;
      case 'W':
        return config.chips_per_channel;
      case 'D':
        return config.dies_per_chip;
      default:
        return config.planes_per_die;
    }
  };
  for (std::size_t i = 0; i < kLevels; ++i) {
    levels_[i] = {order[i], count_of(order[i])};
  }
}

PageCommand PageStriping::locate(std::int64_t logical_page) { return access(logical_page, false); }

PageCommand PageStriping::place(std::int64_t logical_page) { return access(logical_page, true); }

std::int64_t PageStriping::fullest_plane() const {
  return *std::max_element(taken_in_plane_.begin(), taken_in_plane_.end());
}

PageCommand PageStriping::access(std::int64_t logical_page, bool is_write) {
  check(logical_page >= 0 && logical_page < static_cast<std::int64_t>(index_of_page_.size()),
        "a logical page beyond the capacity");
  PageCommand command;
  std::int64_t rest = logical_page;
  for (const Level& level : levels_) {
    const auto place = static_cast<std::uint16_t>(rest % level.count);
    rest /= level.count;
    switch (level.letter) {
      case 'C':
        command.channel = place;
        break;
      case 'W':
        command.chip = place;
        break;
      case 'D':
        command.die = place;
        break;
      default:
        command.plane = place;
        break;
    }
  }
  std::int32_t& index = index_of_page_[static_cast<std::size_t>(logical_page)];
  if (index < 0 || is_write) {
    std::int64_t plane = command.channel;
    plane = plane * config_.chips_per_channel + command.chip;
    plane = plane * config_.dies_per_chip + command.die;
    plane = plane * config_.planes_per_die + command.plane;
    index = static_cast<std::int32_t>(taken_in_plane_[static_cast<std::size_t>(plane)]++ %
                                      pages_per_block_);
  }
  command.page = static_cast<std::uint32_t>(index);
  return command;
}

}  // namespace nearkv
