#include "models/host/host_memory.hpp"

#include <algorithm>
#include <limits>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

Bytes multiple_below(Bytes size, Bytes unit) { return unit * (size / unit); }

}  // namespace

HostMemory::HostMemory(const HostConfig& config)
    : extent_size_(config.memory_extent),
      windows_per_extent_(
          static_cast<int>(config.memory_extent / config.file_system.readahead_window)),
      capacity_extents_((config.dram - config.reserved) / config.memory_extent),
      swap_extents_(config.swap.size / config.memory_extent),
      pinned_("host DRAM", multiple_below(config.dram - config.reserved, config.memory_extent)),
      // One extent stays for the page cache, else a file could not be read at all.
      committed_("host DRAM and swap", pinned_.capacity() +
                                           multiple_below(config.swap.size, config.memory_extent) -
                                           config.memory_extent) {
  check(windows_per_extent_ > 0 && windows_per_extent_ <= std::numeric_limits<WindowMask>::digits,
        "an extent of no or too many windows");
}

Bytes HostMemory::whole_extents(Bytes size) const {
  return extent_size_ * ceil_div(size.count(), extent_size_.count());
}

void HostMemory::pin(std::string_view label, Bytes size) {
  check(!touched_, "memory must be pinned before files and regions are touched");
  const Bytes held = whole_extents(size);
  pinned_.allocate(label, held);
  committed_.allocate(label, held);
  capacity_extents_ -= held / extent_size_;
  high_water_ = std::max(high_water_, pinned_.held());
}

MemoryObject HostMemory::add(MemoryKind kind, Bytes size) {
  check(size > Bytes{}, "a file or region of no bytes");
  const std::int64_t extents = ceil_div(size.count(), extent_size_.count());
  const auto first = static_cast<std::int64_t>(nodes_.size());
  check(first + extents < std::numeric_limits<std::int32_t>::max(),
        "too many memory extents; choose a larger memory_extent");
  if (kind == MemoryKind::anonymous) {
    committed_.allocate("anonymous", extent_size_ * extents);
  }
  const auto index = static_cast<std::int32_t>(objects_.size());
  nodes_.resize(nodes_.size() + static_cast<std::size_t>(extents), Node{.object = index});
  objects_.push_back(
      {kind, size, static_cast<std::int32_t>(first), static_cast<std::int32_t>(extents)});
  return {index};
}

std::int32_t HostMemory::node_of(MemoryObject object, std::int64_t extent) const {
  const Object& found = objects_[object.index];
  check(!found.removed && extent >= 0 && extent < found.extents,
        "access outside of a file or region");
  return found.first_node + static_cast<std::int32_t>(extent);
}

void HostMemory::assume_stored(MemoryObject object, std::int64_t extent, WindowMask windows) {
  check(kind(object) == MemoryKind::file, "only a file is stored without being swapped out");
  nodes_[node_of(object, extent)].stored |= windows;
}

void HostMemory::remove(MemoryObject object) {
  Object& gone = objects_[object.index];
  check(!gone.removed, "a file or region was removed twice");
  for (std::int32_t n = gone.first_node; n < gone.first_node + gone.extents; ++n) {
    Node& node = nodes_[n];
    const bool anonymous = gone.kind == MemoryKind::anonymous;
    if (node.resident != 0) {
      unlink(n);
      --resident_extents_;
      resident_anonymous_ -= anonymous ? 1 : 0;
    } else if (anonymous && node.stored != 0) {
      --swapped_extents_;
    }
    if (node.in_dirty_list) {
      unlink_dirty(n);
    }
    node = Node{.object = node.object};
  }
  if (gone.kind == MemoryKind::anonymous) {
    committed_.release("anonymous", extent_size_ * gone.extents);
  }
  gone.removed = true;
}

HostMemory::Touch HostMemory::touch(MemoryObject object, std::int64_t extent, WindowMask windows,
                                    Access access) {
  const std::int32_t n = node_of(object, extent);
  const bool anonymous = objects_[object.index].kind == MemoryKind::anonymous;
  touched_ = true;
  Touch found;
  if (nodes_[n].resident == 0) {
    found.victim = make_room();
    ++resident_extents_;
    if (anonymous) {
      ++resident_anonymous_;
      swapped_extents_ -= nodes_[n].stored != 0 ? 1 : 0;
    }
  } else {
    unlink(n);
  }
  append(n);
  Node& node = nodes_[n];
  found.hits = windows & node.resident;
  found.to_read = windows & ~node.resident & node.stored;
  found.to_zero = windows & ~node.resident & ~node.stored;
  node.resident |= windows;
  if (access == Access::write || anonymous) {
    // Anonymous memory that was never in swap has no copy there: it is dirty whatever the access.
    node.dirty |= access == Access::write ? windows : found.to_zero;
    if (!anonymous && !node.in_dirty_list) {
      append_dirty(n);
    }
  }
  high_water_ = std::max(high_water_, pinned_.held() + resident());
  high_water_file_ = std::max(high_water_file_, resident(MemoryKind::file));
  high_water_anonymous_ = std::max(high_water_anonymous_, resident(MemoryKind::anonymous));
  check(resident_extents_ <= capacity_extents_, "more memory resident than there is");
  check(swapped_extents_ <= swap_extents_, "more memory swapped out than there is swap");
  return found;
}

HostMemory::Victim HostMemory::make_room() {
  if (resident_extents_ < capacity_extents_) {
    return {};
  }
  if (capacity_extents_ <= 0) {
    throw OutOfCapacity("host DRAM", "page cache", extent_size_, pinned_.available(),
                        pinned_.capacity());
  }
  check(swap_extents_ > swapped_extents_ || resident_anonymous_ < resident_extents_,
        "no memory can be evicted");
  return evict_oldest();
}

HostMemory::Victim HostMemory::evict_oldest() {
  const auto is_anonymous = [this](std::int32_t n) {
    return objects_[nodes_[n].object].kind == MemoryKind::anonymous;
  };
  std::int32_t oldest = nodes_[kEnds].next;
  // Where swap is full only file pages can go, as in the kernel. Without any swap the anonymous
  // ones in front are put behind the others, so that they are not passed again and again.
  while (swapped_extents_ == swap_extents_ && is_anonymous(oldest)) {
    const std::int32_t next = nodes_[oldest].next;
    if (swap_extents_ == 0) {
      unlink(oldest);
      append(oldest);
    }
    oldest = next;
  }
  return evict(oldest);
}

std::vector<HostMemory::Victim> HostMemory::take_away(Bytes size) {
  constexpr const char* kElse = "memory pressure";
  committed_.allocate(kElse, whole_extents(size));
  capacity_extents_ -= whole_extents(size) / extent_size_;
  std::vector<Victim> victims;
  while (resident_extents_ > std::max<std::int64_t>(capacity_extents_, 0)) {
    if (swap_extents_ == swapped_extents_ && resident_anonymous_ == resident_extents_) {
      throw OutOfCapacity("host DRAM", kElse, whole_extents(size), committed_.available(),
                          pinned_.capacity());
    }
    victims.push_back(evict_oldest());
  }
  return victims;
}

void HostMemory::give_back(Bytes size) {
  committed_.release("memory pressure", whole_extents(size));
  capacity_extents_ += whole_extents(size) / extent_size_;
}

HostMemory::Victim HostMemory::evict(std::int32_t n) {
  Node& node = nodes_[n];
  const Object& owner = objects_[node.object];
  const Victim victim{{node.object}, n - owner.first_node, node.dirty, node.free_at};
  node.stored |= node.dirty;
  node.resident = 0;
  node.dirty = 0;
  unlink(n);
  if (node.in_dirty_list) {
    unlink_dirty(n);
  }
  --resident_extents_;
  if (owner.kind == MemoryKind::anonymous) {
    --resident_anonymous_;
    ++swapped_extents_;
  }
  ++evictions_;
  return victim;
}

HostMemory::Victim HostMemory::take_oldest_dirty() {
  check(has_dirty(), "asked for dirty memory where there is none");
  const std::int32_t n = nodes_[kEnds].next_dirty;
  Node& node = nodes_[n];
  const Victim taken{{node.object}, n - objects_[node.object].first_node, node.dirty, node.free_at};
  node.stored |= node.dirty;
  node.dirty = 0;
  unlink_dirty(n);
  return taken;
}

void HostMemory::set_free_at(MemoryObject object, std::int64_t extent, SimTime at) {
  Node& node = nodes_[node_of(object, extent)];
  node.free_at = std::max(node.free_at, at);
}

void HostMemory::unlink(std::int32_t n) {
  const Node& node = nodes_[n];
  nodes_[node.previous].next = node.next;
  nodes_[node.next].previous = node.previous;
}

void HostMemory::append(std::int32_t n) {
  const std::int32_t newest = nodes_[kEnds].previous;
  nodes_[n].previous = newest;
  nodes_[n].next = kEnds;
  nodes_[newest].next = n;
  nodes_[kEnds].previous = n;
}

void HostMemory::unlink_dirty(std::int32_t n) {
  Node& node = nodes_[n];
  nodes_[node.previous_dirty].next_dirty = node.next_dirty;
  nodes_[node.next_dirty].previous_dirty = node.previous_dirty;
  node.in_dirty_list = false;
  --dirty_extents_;
}

void HostMemory::append_dirty(std::int32_t n) {
  const std::int32_t newest = nodes_[kEnds].previous_dirty;
  nodes_[n].previous_dirty = newest;
  nodes_[n].next_dirty = kEnds;
  nodes_[n].in_dirty_list = true;
  nodes_[newest].next_dirty = n;
  nodes_[kEnds].previous_dirty = n;
  ++dirty_extents_;
}

void HostMemory::report(Metrics& metrics, const std::string& prefix) const {
  const auto bytes = [&](const char* name, Bytes value, const char* doc) {
    metrics.add(prefix + name, static_cast<double>(value.count()), "B", doc);
  };
  bytes("/high_water", high_water_, "most memory that was pinned and resident at one time");
  bytes("/pinned_high_water", pinned_.high_water(), "most memory that was pinned at one time");
  bytes("/page_cache_high_water", high_water_file_, "most memory that files held at one time");
  bytes("/anonymous_high_water", high_water_anonymous_,
        "most memory that anonymous regions held at one time");
  bytes("/capacity", pinned_.capacity(), "memory that is not reserved");
  metrics.add(prefix + "/evictions", static_cast<double>(evictions_), "1", "extents evicted");
}

}  // namespace nearkv
