#include "models/flash/ftl/mapping_cache.hpp"

namespace nearkv {

MappingCache::MappingCache(const Options& options)
    : links_(static_cast<std::size_t>(options.translation_pages) + 1),
      flags_(static_cast<std::size_t>(options.translation_pages)),
      anchor_(static_cast<std::uint32_t>(options.translation_pages)),
      capacity_(options.capacity) {
  check(options.capacity >= 1, "a mapping cache that holds no translation page");
  links_[anchor_] = {anchor_, anchor_};
}

void MappingCache::unlink(std::uint32_t page) {
  const Links link = links_[page];
  links_[link.newer].older = link.older;
  links_[link.older].newer = link.newer;
}

// The anchor's `older` is the newest page, its `newer` the oldest: a ring.
void MappingCache::link_as_newest(std::uint32_t page) {
  const std::uint32_t newest = links_[anchor_].older;
  links_[page] = {anchor_, newest};
  links_[newest].newer = page;
  links_[anchor_].older = page;
}

MappingCache::Access MappingCache::access(std::uint32_t page, bool makes_dirty) {
  Access result{contains(page)};
  if (result.hit) {
    if (links_[anchor_].older != page) {
      unlink(page);
      link_as_newest(page);
    }
  } else {
    if (cached_ == capacity_) {
      result.evicted = links_[anchor_].newer;
      result.evicted_dirty = (flags_[result.evicted] & kDirty) != 0;
      remove(result.evicted);
    }
    link_as_newest(page);
    flags_[page] = kCached;
    ++cached_;
  }
  if (makes_dirty) {
    flags_[page] |= kDirty;
  }
  return result;
}

void MappingCache::remove(std::uint32_t page) {
  check(contains(page), "a translation page leaves the cache that is not in it");
  unlink(page);
  flags_[page] = 0;
  --cached_;
}

void MappingCache::mark_dirty(std::uint32_t page) {
  check(contains(page), "a translation page is marked dirty that is not cached");
  flags_[page] |= kDirty;
}

std::int64_t MappingCache::bytes_held() const {
  return static_cast<std::int64_t>(links_.capacity() * sizeof(Links) + flags_.capacity());
}

}  // namespace nearkv
