// Host memory as the kernel sees it: pinned allocations, and one least-recently-used list over
// page cache and anonymous memory.
//
// Memory ages and is evicted in extents (config /host/memory_extent); inside an extent residency,
// dirtiness and what lies in storage are known by window (config
// /host/file_system/readahead_window). An extent holds its whole size as soon as one of its
// windows is resident. Pure state, no time of its own but one: when the writeback of an extent
// ends, before which its memory cannot be used for something else.
//
// Conservation (checked): pinned + resident extents <= dram - reserved; anonymous memory
// that is not resident fits into swap.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/host/host_config.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// A file or an anonymous region that the page cache or the memory may hold.
struct MemoryObject {
  int index = -1;

  auto operator<=>(const MemoryObject&) const = default;
};

enum class MemoryKind { file, anonymous };
enum class Access { read, write };

class HostMemory {
 public:
  /// Windows of one extent; bit 0 is the first.
  using WindowMask = std::uint64_t;

  explicit HostMemory(const HostConfig& config);

  /// Takes memory that is never evicted. Only before the first touch. Throws OutOfCapacity.
  void pin(std::string_view label, Bytes size);

  /// A file costs nothing until it is touched; anonymous memory must fit into memory and swap,
  /// else OutOfCapacity.
  MemoryObject add(MemoryKind kind, Bytes size);

  /// The windows are in storage from now on (a file's contents, not in memory).
  void assume_stored(MemoryObject object, std::int64_t extent, WindowMask windows);

  /// Drops what is resident and forgets what is stored, without writing; gives anonymous memory
  /// back. The object may not be touched again.
  void remove(MemoryObject object);

  /// Something else takes memory: what was used least recently has to go, as if the memory were
  /// smaller. Throws OutOfCapacity when nothing can go any more.
  struct Victim;
  std::vector<Victim> take_away(Bytes size);
  /// It is there again.
  void give_back(Bytes size);

  /// An extent that had to go.
  struct Victim {
    MemoryObject object{};  // index -1: none was needed
    std::int64_t extent = 0;
    WindowMask to_write = 0;  // file: writeback, anonymous: swap-out
    SimTime free_at{};        // end of a writeback that had begun before

    [[nodiscard]] bool exists() const { return object.index >= 0; }
  };

  /// What an access found. The three masks are disjoint and add up to the windows asked for.
  struct Touch {
    WindowMask hits = 0;     // resident
    WindowMask to_read = 0;  // in storage, to be read before use
    WindowMask to_zero = 0;  // never written: no reading
    Victim victim;
  };

  /// Uses windows of one extent: it becomes the most recently used, and the windows count as
  /// resident (and dirty, for a write) from now on. Throws OutOfCapacity when pinned memory leaves
  /// no room for a single extent.
  Touch touch(MemoryObject object, std::int64_t extent, WindowMask windows, Access access);

  /// Dirty file data, in the order in which extents became dirty.
  [[nodiscard]] bool has_dirty() const { return nodes_[kEnds].next_dirty != kEnds; }
  [[nodiscard]] Bytes dirty() const { return extent_size_ * dirty_extents_; }
  /// Takes the oldest dirty extent for writeback: it stays resident and is clean from now on.
  Victim take_oldest_dirty();
  /// The writeback of an extent ends at `at`.
  void set_free_at(MemoryObject object, std::int64_t extent, SimTime at);

  [[nodiscard]] MemoryKind kind(MemoryObject object) const { return objects_[object.index].kind; }
  [[nodiscard]] Bytes size(MemoryObject object) const { return objects_[object.index].size; }
  [[nodiscard]] Bytes extent_size() const { return extent_size_; }
  [[nodiscard]] int windows_per_extent() const { return windows_per_extent_; }

  /// Room for page cache and anonymous memory.
  [[nodiscard]] Bytes capacity() const { return extent_size_ * capacity_extents_; }
  [[nodiscard]] Bytes resident() const { return extent_size_ * resident_extents_; }
  [[nodiscard]] Bytes resident(MemoryKind kind) const {
    return extent_size_ * (kind == MemoryKind::anonymous ? resident_anonymous_
                                                         : resident_extents_ - resident_anonymous_);
  }
  [[nodiscard]] Bytes swapped() const { return extent_size_ * swapped_extents_; }
  [[nodiscard]] const CapacityLedger& pinned() const { return pinned_; }
  /// Most that was pinned and resident at one time.
  [[nodiscard]] Bytes high_water() const { return high_water_; }

  void report(Metrics& metrics, const std::string& prefix) const;

 private:
  static constexpr std::int32_t kEnds = 0;  // node 0 joins both ends of the two lists

  /// One extent. Lists are rings through kEnds; next of kEnds is the oldest.
  struct Node {
    std::int32_t previous = kEnds;
    std::int32_t next = kEnds;
    std::int32_t previous_dirty = kEnds;
    std::int32_t next_dirty = kEnds;
    std::int32_t object = -1;
    bool in_dirty_list = false;
    WindowMask resident = 0;
    WindowMask dirty = 0;
    WindowMask stored = 0;
    SimTime free_at{};
  };
  struct Object {
    MemoryKind kind;
    Bytes size;
    std::int32_t first_node;
    std::int32_t extents;
    bool removed = false;
  };

  [[nodiscard]] std::int32_t node_of(MemoryObject object, std::int64_t extent) const;
  [[nodiscard]] Bytes whole_extents(Bytes size) const;
  Victim make_room();
  Victim evict_oldest();
  void unlink(std::int32_t node);
  void append(std::int32_t node);
  void unlink_dirty(std::int32_t node);
  void append_dirty(std::int32_t node);
  Victim evict(std::int32_t node);

  Bytes extent_size_;
  int windows_per_extent_;
  std::int64_t capacity_extents_;
  std::int64_t swap_extents_;
  std::int64_t resident_extents_ = 0;
  std::int64_t resident_anonymous_ = 0;
  std::int64_t swapped_extents_ = 0;  // anonymous, in swap only
  std::int64_t dirty_extents_ = 0;    // of files
  bool touched_ = false;
  Bytes high_water_{};
  Bytes high_water_file_{};
  Bytes high_water_anonymous_{};
  std::int64_t evictions_ = 0;
  CapacityLedger pinned_;
  CapacityLedger committed_;  // pinned and anonymous memory against memory and swap
  std::vector<Node> nodes_{Node{}};
  std::vector<Object> objects_;
};

}  // namespace nearkv
