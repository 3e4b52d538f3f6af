// The commands in the flash engine: pooled nodes, queues of them, and for multi-plane commands an
// index of what waits, so that taking a command finds its partners without a search of the queue.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "models/flash/flash_config.hpp"

namespace nearkv {

/// What a page command is for; `merge` reads the rest of a page that the host writes in part. With
/// data_out_first a unit serves the host before merges and all else before the host, and pages
/// leave in the order mapping, host and merge, collection; with other policies all are alike.
enum class PageCause : std::uint8_t { mapping, collection, merge, host };
inline constexpr std::size_t kPageCauses = 4;

class FlashCommandPool {
 public:
  using Index = std::uint32_t;
  static constexpr Index kNone = ~Index{0};

  struct Node {
    std::uint64_t tag;
    std::int64_t transfer;  // ps
    std::int64_t array;     // ps, with retries and spread
    Index next;             // in its queue, or of its multi-plane command
    std::uint32_t order;    // of arrival on the channel
    std::uint32_t page;
    std::uint16_t channel;
    std::uint16_t unit;
    std::uint16_t die;  // within the chip
    std::uint16_t plane;
    PageOp op;
    std::uint8_t gate;
    PageCause cause;
    bool is_held;
  };
  struct Queue {
    Index head = kNone;
    Index tail = kNone;
  };

  FlashCommandPool(const FlashConfig& config, std::size_t units_per_channel);

  [[nodiscard]] Node& operator[](Index index) { return nodes_[index]; }
  [[nodiscard]] const Node& operator[](Index index) const { return nodes_[index]; }

  [[nodiscard]] Index make(const Node& node) {
    Index index = free_;
    if (index == kNone) {
      index = static_cast<Index>(nodes_.size());
      nodes_.push_back(node);
    } else {
      free_ = nodes_[index].next;
      nodes_[index] = node;
    }
    return index;
  }
  void release(Index index) { nodes_[index].next = std::exchange(free_, index); }

  void push(Queue& queue, Index index) {
    nodes_[index].next = kNone;
    if (queue.head == kNone) {
      queue.head = index;
    } else {
      nodes_[queue.tail].next = index;
    }
    queue.tail = index;
  }
  /// Into a queue from which take_group() takes: one for each unit and operation.
  void push_waiting(Queue& queue, Index index) {
    if (multi_plane_) {
      enter(index, queue);
    }
    push(queue, index);
  }
  /// Takes the first command of the queue and, for a multi-plane command, its partners: the same
  /// die and page index, of each other plane the one that came first. They stay linked, in the
  /// order in which they came.
  [[nodiscard]] Index take_group(Queue& queue, int& planes) {
    if (multi_plane_) {
      return take_planes(queue, planes);
    }
    const Index lead = queue.head;
    queue.head = nodes_[lead].next;
    nodes_[lead].next = kNone;
    planes = 1;
    return lead;
  }
  /// Takes one command out of a queue, of push_waiting() or (not `is_indexed`) of push().
  void take(Index index, Queue& queue, bool is_indexed);
  /// The oldest command of push_waiting() for the page of `node`, or kNone; with multi_plane.
  [[nodiscard]] Index oldest_of(const Node& node);
  /// Numbers of arrival may wrap around: their distance counts.
  [[nodiscard]] static bool is_earlier(std::uint32_t order, std::uint32_t other) {
    return static_cast<std::int32_t>(order - other) < 0;
  }

 private:
  static constexpr std::size_t kMostPlanes = 16;

  [[nodiscard]] Index take_planes(Queue& queue, int& planes);
  [[nodiscard]] Index& list_of(const Node& node);
  void enter(Index index, const Queue& queue);
  void grow_lists();
  void take_oldest(Index index, Queue& queue);

  bool multi_plane_;
  int planes_per_die_;
  std::uint64_t dies_per_chip_;
  std::uint64_t units_per_channel_;
  std::vector<Node> nodes_;
  Index free_ = kNone;
  // With multi_plane: a list holds the oldest waiting command of each page whose hash it is for;
  // the others of that page follow it.
  struct PageLinks {
    Index previous;   // in the waiting queue
    Index next_page;  // in the list; of the oldest
    Index younger;    // of the same page
    Index youngest;   // of the same page; of the oldest
  };
  std::vector<PageLinks> links_;   // by node
  std::vector<Index> page_lists_;  // a power of two
  std::size_t listed_pages_ = 0;
};

}  // namespace nearkv
