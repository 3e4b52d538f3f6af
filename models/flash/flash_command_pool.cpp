#include "models/flash/flash_command_pool.hpp"

#include <algorithm>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

namespace {

constexpr std::size_t kFewestPageLists = 1024;  // not a constant: it grows

bool is_same_page(const FlashCommandPool::Node& a, const FlashCommandPool::Node& b) {
  return a.page == b.page && a.plane == b.plane && a.die == b.die && a.unit == b.unit &&
         a.channel == b.channel && a.op == b.op;
}

}  // namespace

FlashCommandPool::FlashCommandPool(const FlashConfig& config, std::size_t units_per_channel)
    : multi_plane_(config.multi_plane),
      planes_per_die_(config.planes_per_die),
      dies_per_chip_(static_cast<std::uint64_t>(config.dies_per_chip)),
      units_per_channel_(units_per_channel),
      page_lists_(multi_plane_ ? kFewestPageLists : 0, kNone) {
  check(!multi_plane_ || planes_per_die_ <= static_cast<int>(kMostPlanes),
        "a multi-plane command of too many planes");
}

FlashCommandPool::Index FlashCommandPool::take_planes(Queue& queue, int& planes) {
  const Index lead = queue.head;
  take_oldest(lead, queue);
  std::array<Index, kMostPlanes> partners;
  auto end = partners.begin();
  Node wanted = nodes_[lead];
  for (wanted.plane = 0; wanted.plane < planes_per_die_; ++wanted.plane) {
    const Index partner = wanted.plane == nodes_[lead].plane ? kNone : oldest_of(wanted);
    if (partner != kNone) {
      take_oldest(partner, queue);
      *end++ = partner;
    }
  }
  std::sort(partners.begin(), end,
            [this](Index a, Index b) { return is_earlier(nodes_[a].order, nodes_[b].order); });
  Index last = lead;
  for (auto partner = partners.begin(); partner != end; ++partner) {
    last = nodes_[last].next = *partner;
  }
  nodes_[last].next = kNone;
  planes = 1 + static_cast<int>(end - partners.begin());
  return lead;
}

FlashCommandPool::Index& FlashCommandPool::list_of(const Node& node) {
  std::uint64_t place = node.channel * units_per_channel_ + node.unit;
  place = (place * dies_per_chip_ + node.die) * kMostPlanes + node.plane;
  const std::uint64_t hash =
      mix_hash(place * kPageOps + static_cast<std::uint64_t>(node.op), node.page);
  return page_lists_[hash & (page_lists_.size() - 1)];
}

/// The oldest waiting command for the page of `node`, or kNone.
FlashCommandPool::Index FlashCommandPool::oldest_of(const Node& node) {
  Index index = list_of(node);
  while (index != kNone && !is_same_page(nodes_[index], node)) {
    index = links_[index].next_page;
  }
  return index;
}

/// The command has come to the end of the queue.
void FlashCommandPool::enter(Index index, const Queue& queue) {
  links_.resize(nodes_.size());
  const Index previous = queue.head == kNone ? kNone : queue.tail;
  links_[index] = {previous, kNone, kNone, index};
  if (const Index oldest = oldest_of(nodes_[index]); oldest != kNone) {
    links_[std::exchange(links_[oldest].youngest, index)].younger = index;
    return;
  }
  if (++listed_pages_ > page_lists_.size()) {
    grow_lists();
  }
  links_[index].next_page = std::exchange(list_of(nodes_[index]), index);
}

void FlashCommandPool::grow_lists() {
  std::vector<Index> lists(page_lists_.size() * 2, kNone);
  lists.swap(page_lists_);
  for (Index index : lists) {
    while (index != kNone) {
      const Index next = links_[index].next_page;
      links_[index].next_page = std::exchange(list_of(nodes_[index]), index);
      index = next;
    }
  }
}

/// Takes a command out of its queue; it is the oldest of its page.
void FlashCommandPool::take_oldest(Index index, Queue& queue) {
  const Index next = nodes_[index].next;
  const PageLinks& links = links_[index];
  (links.previous == kNone ? queue.head : nodes_[links.previous].next) = next;
  if (next == kNone) {
    queue.tail = links.previous;
  } else {
    links_[next].previous = links.previous;
  }
  Index* list = &list_of(nodes_[index]);
  while (*list != index) {
    list = &links_[*list].next_page;
  }
  if (links.younger == kNone) {
    *list = links.next_page;
    --listed_pages_;
  } else {
    links_[links.younger].next_page = links.next_page;
    links_[links.younger].youngest = links.youngest;
    *list = links.younger;
  }
}

void FlashCommandPool::take(Index index, Queue& queue, bool is_indexed) {
  if (!is_indexed || !multi_plane_) {
    Index before = kNone;
    for (Index other = queue.head; other != index; other = nodes_[other].next) {
      before = other;
    }
    (before == kNone ? queue.head : nodes_[before].next) = nodes_[index].next;
    if (queue.tail == index) {
      queue.tail = before;
    }
  } else if (const Index oldest = oldest_of(nodes_[index]); oldest == index) {
    take_oldest(index, queue);
  } else {
    const Index next = nodes_[index].next;
    nodes_[links_[index].previous].next = next;  // the oldest of its page is before it
    (next == kNone ? queue.tail : links_[next].previous) = links_[index].previous;
    Index older = oldest;
    while (links_[older].younger != index) {
      older = links_[older].younger;
    }
    links_[older].younger = links_[index].younger;
    if (links_[oldest].youngest == index) {
      links_[oldest].youngest = older;
    }
  }
  nodes_[index].next = kNone;
}

}  // namespace nearkv
