// The cached mapping table (CMT): which translation pages are in the drive's DRAM. Least recently
// used is evicted first; a dirty one has to be written to flash then.
#pragma once

#include <cstdint>
#include <vector>

#include "models/flash/ftl/ftl_geometry.hpp"

namespace nearkv {

class MappingCache {
 public:
  struct Options {
    std::int64_t translation_pages;  // of the whole table
    std::int64_t capacity;           // translation pages that the DRAM holds, at least 1
  };
  explicit MappingCache(const Options& options);

  struct Access {
    bool hit;
    std::uint32_t evicted = kNoPage;  // translation page that left
    bool evicted_dirty = false;
  };
  /// Uses a translation page and brings it in when it is not there.
  Access access(std::uint32_t page, bool makes_dirty);

  [[nodiscard]] bool contains(std::uint32_t page) const { return (flags_[page] & kCached) != 0; }
  /// A cached page has changed; not a use.
  void mark_dirty(std::uint32_t page);

  /// Takes a cached page out without writing it.
  void remove(std::uint32_t page);
  /// The page that would be evicted next; kNoPage when none is cached.
  [[nodiscard]] std::uint32_t oldest() const {
    return cached_ == 0 ? kNoPage : links_[anchor_].newer;
  }

  [[nodiscard]] std::int64_t cached() const { return cached_; }
  [[nodiscard]] std::int64_t bytes_held() const;

 private:
  static constexpr std::uint8_t kCached = 1;
  static constexpr std::uint8_t kDirty = 2;
  struct Links {
    std::uint32_t newer;
    std::uint32_t older;
  };
  void unlink(std::uint32_t page);
  void link_as_newest(std::uint32_t page);

  std::vector<Links> links_;  // the last one is the list's anchor
  std::vector<std::uint8_t> flags_;
  std::uint32_t anchor_;
  std::int64_t capacity_;
  std::int64_t cached_ = 0;
};

}  // namespace nearkv
