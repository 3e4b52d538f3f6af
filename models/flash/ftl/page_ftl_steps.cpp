// PageFtl step by step: see page_ftl.hpp.
#include <algorithm>

#include "models/flash/ftl/page_ftl.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

// -- Placing ----------------------------------------------------------------------------------

void PageFtl::look_up(LogicalPage page, bool changes, FlashOperations* out) {
  check(page < logical_pages_, "an access beyond the drive");
  if (cache_) {
    write_back_journal(out);
    use_mapping(page, changes, out);
  }
}

bool PageFtl::can_place(int plane) const {
  const Plane& p = planes_[plane];
  const bool is_open = p.open[host_pages] != kNoBlock;
  const bool has_free = p.pool.free_blocks() >= hard_blocks_;
  const bool is_possible = is_open || spares_block(p);
  return is_possible && (has_free || (is_open && !config_.collection.open_ahead));
}

/// Room in the plane for pages that collections move.
std::int64_t PageFtl::room_to_move(const Plane& plane, int free_blocks) const {
  const int open = plane.open[collected_pages];
  const std::int64_t pages = geometry_.pages_per_block;
  return (open == kNoBlock ? 0 : pages - plane.pool.block(open).written) + pages * free_blocks;
}

/// Whether what collections have begun to move has room without one of the free blocks.
bool PageFtl::spares_block(const Plane& plane) const {
  const int free = plane.pool.free_blocks();
  return free > 1 && plane.promised <= room_to_move(plane, free - 1);
}

PhysicalPage PageFtl::place(LogicalPage page, int plane, bool is_implied) {
  check(page < logical_pages_, "a page beyond the drive");
  check(is_implied || can_place(plane), "a page is placed in a plane that is full");
  Plane& p = planes_[plane];
  if (p.open[host_pages] == kNoBlock && !open_block(plane, host_pages, 1)) {
    exhausted_plane_ = plane;
    return kNoPage;
  }
  // The old page is out of date before a collection could choose its block.
  const PhysicalPage old = physical_of(page);
  if (old != kNoPage) {
    invalidate(old);
  }
  const PhysicalPage target = append(plane, host_pages, page);
  map_.set(map_index(page), target);
  if (is_implied) {
    mapping_moved(page);
    ++counters_.implied_pages;
  } else {
    ++counters_.host_programs;
  }
  return target;
}

EraseBlock& PageFtl::block_at(PhysicalPage page) {
  const std::uint32_t number = page / static_cast<std::uint32_t>(geometry_.pages_per_block);
  const auto blocks = static_cast<std::uint32_t>(geometry_.blocks_per_plane);
  return planes_[number / blocks].pool.block(static_cast<int>(number % blocks));
}

void PageFtl::place_used_block(int plane, std::span<const LogicalPage> pages) {
  Plane& p = planes_[plane];
  check(p.open[host_pages] != kNoBlock || open_block(plane, host_pages, 1),
        "a plane without a block to fill");
  EraseBlock& block = p.pool.block(p.open[host_pages]);
  check(block.written == 0, "a block is filled that holds pages");
  for (const LogicalPage page : pages) {
    bind(page, append(plane, host_pages, page));
  }
  const auto stale = static_cast<std::uint32_t>(geometry_.pages_per_block) - block.written;
  if (pages.size() < static_cast<std::size_t>(geometry_.pages_per_block)) {
    for (std::uint32_t i = 0; i < stale; ++i) {
      invalidate(append(plane, host_pages, kNoPage));
    }
  }
}

// -- Collecting -------------------------------------------------------------------------------

std::uint64_t PageFtl::draw(std::uint64_t below) {
  return draw_ ? draw_(below) : rng_.below(below);
}

/// Whether the pages of this block have room in what is free and not promised to others.
bool PageFtl::has_room_for(const Plane& plane, int block) const {
  return plane.promised + plane.pool.block(block).valid <=
         room_to_move(plane, plane.pool.free_blocks());
}

void PageFtl::close_to_others(Plane& plane, int block) {
  plane.pool.begin_collecting(block);
  plane.promised += plane.pool.block(block).valid;
  ++plane.collecting;
}

int PageFtl::begin_collection(int plane) {
  Plane& p = planes_[plane];
  if (p.pool.free_blocks() >= std::max(soft_blocks_, hard_blocks_) ||
      p.collecting >= config_.collection.at_once) {
    return kNoBlock;
  }
  const int victim = config_.collection.mqsim_faults ? mqsim_victim(p) : choose_victim(plane);
  if (victim == kNoBlock || p.pool.block(victim).state != BlockState::closed ||
      p.pool.block(victim).valid == p.pool.block(victim).written ||
      (!config_.collection.mqsim_faults && !has_room_for(p, victim))) {
    return kNoBlock;
  }
  ++counters_.collections;
  counters_.collected_pages += p.pool.block(victim).valid;
  close_to_others(p, victim);
  return victim;
}

int PageFtl::coldest(const Plane& plane) const {
  int found = kNoBlock;
  for (int i = 0; i < plane.pool.blocks(); ++i) {
    const EraseBlock& block = plane.pool.block(i);
    if (block.state == BlockState::closed &&
        (found == kNoBlock || block.erases < plane.pool.block(found).erases)) {
      found = i;
    }
  }
  const bool is_cold = found != kNoBlock &&
                       plane.pool.wear().highest >=
                           plane.pool.block(found).erases +
                               static_cast<std::uint32_t>(config_.wear_levelling.static_threshold);
  return is_cold && has_room_for(plane, found) ? found : kNoBlock;
}

int PageFtl::begin_levelling(int plane) {
  Plane& p = planes_[plane];
  if (!config_.wear_levelling.static_levelling) {
    return kNoBlock;
  }
  const int block = config_.collection.mqsim_faults ? mqsim_coldest(p) : coldest(p);
  if (block != kNoBlock) {
    first_block_is_marked_ = true;
    ++counters_.levellings;
    counters_.levelled_pages += p.pool.block(block).valid;
    close_to_others(p, block);
  }
  return block;
}

PageFtl::Move PageFtl::move(PhysicalPage from) {
  const int plane = geometry_.plane_of(from);
  Plane& p = planes_[plane];
  --p.promised;
  const std::uint32_t id = reverse_[from];
  if (id == kNoPage) {
    return {};
  }
  if (p.open[collected_pages] == kNoBlock && !open_block(plane, collected_pages, 0)) {
    exhausted_plane_ = plane;
    ++p.promised;
    return {id, kNoPage};
  }
  invalidate(from);
  const PhysicalPage to = append(plane, collected_pages, id);
  map_.set(map_index(id), to);
  mapping_moved(id);
  return {id, to};
}

bool PageFtl::end_collection(int plane, int block) {
  Plane& p = planes_[plane];
  p.written -= p.pool.block(block).written;
  --p.collecting;
  ++counters_.erases;
  first_block_is_marked_ = first_block_is_marked_ && (plane != 0 || block != 0);
  const bool is_free = p.pool.erase(block);
  counters_.grown_bad_blocks += is_free ? 0 : 1;
  return is_free;
}

/// A random block of the kind that the policy asks for, after at most as many draws as blocks.
int PageFtl::random_victim(const Plane& plane) {
  const auto pages = static_cast<std::uint32_t>(geometry_.pages_per_block);
  const auto least = config_.collection.victim == VictimPolicy::random_stale
                         ? static_cast<std::uint32_t>(config_.collection.random_least_invalid)
                         : 1U;
  for (int tries = 0; tries < plane.pool.blocks(); ++tries) {
    const auto i = static_cast<int>(draw(static_cast<std::uint64_t>(plane.pool.blocks())));
    const EraseBlock& block = plane.pool.block(i);
    if (block.state == BlockState::closed && pages - block.valid >= std::max(least, 1U)) {
      return i;
    }
  }
  return greedy_victim(plane);
}

// -- As MQSim does it -------------------------------------------------------------------------
//
// Its rules for victims, with what they do not check: greedy starts from block 0, RGA draws among
// free blocks too, fifo takes blocks that are still written, and what was drawn may be no victim
// at all: then nothing is collected, and nothing asks again before the next block is opened.
// Static wear levelling compares the numbers of the most and the least worn block (the first ones
// of each), not their erase counts, and the difference wraps around; when it begins in any plane,
// it marks the first block of the first plane as being collected, until that is erased.

bool PageFtl::is_safe_for_mqsim(const Plane& plane, int block) const {
  const EraseBlock& b = plane.pool.block(block);
  if (first_block_is_marked_ && block == 0 && &plane == planes_.data()) {
    return false;
  }
  return b.state != BlockState::open && b.state != BlockState::collecting && b.programs == 0;
}

int PageFtl::mqsim_random_greedy(const Plane& plane) {
  const auto blocks = static_cast<std::uint64_t>(plane.pool.blocks());
  const auto pages = static_cast<std::uint32_t>(geometry_.pages_per_block);
  std::vector<int> drawn;
  for (std::uint64_t tries = 0;
       drawn.size() < static_cast<std::size_t>(config_.collection.random_candidates) &&
       tries < blocks * blocks;
       ++tries) {
    const auto i = static_cast<int>(draw(blocks));
    if (is_safe_for_mqsim(plane, i) && std::find(drawn.begin(), drawn.end(), i) == drawn.end()) {
      drawn.push_back(i);
    }
  }
  std::sort(drawn.begin(), drawn.end());
  int best = drawn.empty() ? kNoBlock : drawn.front();
  for (const int i : drawn) {
    const EraseBlock& block = plane.pool.block(i);
    const EraseBlock& other = plane.pool.block(best);
    if (block.written - block.valid > other.written - other.valid && block.written == pages) {
      best = i;
    }
  }
  return best;
}

int PageFtl::mqsim_victim(Plane& plane) {
  const auto blocks = static_cast<std::uint64_t>(plane.pool.blocks());
  const auto pages = static_cast<std::uint32_t>(geometry_.pages_per_block);
  const auto stale = [&plane](int i) {
    return plane.pool.block(i).written - plane.pool.block(i).valid;
  };
  const VictimPolicy policy = config_.collection.victim;
  if (policy == VictimPolicy::random_greedy) {
    return mqsim_random_greedy(plane);
  }
  if (policy == VictimPolicy::fifo) {
    if (plane.history.empty()) {
      return kNoBlock;
    }
    const int first = plane.history.front();
    plane.history.erase(plane.history.begin());
    return first;
  }
  if (policy == VictimPolicy::greedy) {
    int best = plane.pool.block(0).state == BlockState::collecting ? 1 : 0;
    for (int i = 1; i < plane.pool.blocks(); ++i) {
      if (stale(i) > stale(best) && plane.pool.block(i).written == pages &&
          is_safe_for_mqsim(plane, i)) {
        best = i;
      }
    }
    return best;
  }
  const auto fits = [&](int i) {
    const bool is_full = policy == VictimPolicy::random || plane.pool.block(i).written == pages;
    const bool is_stale =
        policy != VictimPolicy::random_stale ||
        stale(i) >= static_cast<std::uint32_t>(config_.collection.random_least_invalid);
    return is_full && is_stale && is_safe_for_mqsim(plane, i);
  };
  auto victim = static_cast<int>(draw(blocks));
  for (std::uint64_t repeat = 0; !fits(victim) && repeat < blocks; ++repeat) {
    victim = static_cast<int>(draw(blocks));
  }
  return victim;
}

int PageFtl::mqsim_coldest(const Plane& plane) const {
  int least = 0;
  int most = 0;
  for (int i = 1; i < plane.pool.blocks(); ++i) {
    least = plane.pool.block(i).erases < plane.pool.block(least).erases ? i : least;
    most = plane.pool.block(i).erases > plane.pool.block(most).erases ? i : most;
  }
  const auto difference = static_cast<std::uint32_t>(most - least);
  return difference >= static_cast<std::uint32_t>(config_.wear_levelling.static_threshold) &&
                 is_safe_for_mqsim(plane, least) &&
                 plane.pool.block(least).state == BlockState::closed
             ? least
             : kNoBlock;
}

}  // namespace nearkv
