#include "models/flash/ftl/block_pool.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace nearkv {

void BadBlockConfig::fields(FieldVisitor& v) {
  v.constant("factory_share", factory_share, "share of the blocks that are bad from the factory",
             {0, 1});
  v.constant("grown_per_erase", grown_per_erase,
             "probability that an erase fails and the block is retired", {0, 1});
  v.constant("pe_cycles", pe_cycles, "program/erase cycles after which a block is retired",
             {1, 1'000'000'000});
}

BlockPool::BlockPool(const Options& options, Rng rng)
    : count_(options.blocks),
      blocks_(static_cast<EraseBlock*>(
          std::calloc(static_cast<std::size_t>(options.blocks), sizeof(EraseBlock)))),
      least_worn_first_(options.least_worn_first),
      bad_config_(options.bad),
      rng_(rng) {
  check(blocks_ != nullptr, "no memory for the blocks of a plane");
  static_assert(static_cast<int>(BlockState::free) == 0, "zero must be a free block");
  if (options.lazy && bad_config_.factory_share == 0) {
    next_stamp_ = static_cast<std::uint64_t>(count_);
    return;
  }
  fresh_ = count_;
  free_.reserve(static_cast<std::size_t>(count_));
  for (int i = 0; i < count_; ++i) {
    if (bad_config_.factory_share > 0 && rng_.uniform() < bad_config_.factory_share) {
      blocks_[i].state = BlockState::bad;
      ++bad_;
    } else {
      make_free(i);
    }
  }
}

bool BlockPool::is_later(std::uint32_t a, std::uint32_t b) const {
  const EraseBlock& one = blocks_[a];
  const EraseBlock& other = blocks_[b];
  if (least_worn_first_ && one.erases != other.erases) {
    return one.erases > other.erases;
  }
  return one.stamp > other.stamp;
}

void BlockPool::make_free(int index) {
  EraseBlock& block = blocks_[index];
  block.state = BlockState::free;
  block.written = 0;
  block.stamp = next_stamp_++;
  free_.push_back(static_cast<std::uint32_t>(index));
  std::push_heap(free_.begin(), free_.end(),
                 [this](std::uint32_t a, std::uint32_t b) { return is_later(a, b); });
}

int BlockPool::opened(std::uint32_t index) {
  blocks_[index].state = BlockState::open;
  return static_cast<int>(index);
}

int BlockPool::open_next() {
  check(free_blocks() > 0, "a plane without a free block opens one");
  if (fresh_ < count_) {  // not worn, and free for longer than any that was erased
    return opened(static_cast<std::uint32_t>(fresh_++));
  }
  std::pop_heap(free_.begin(), free_.end(),
                [this](std::uint32_t a, std::uint32_t b) { return is_later(a, b); });
  const std::uint32_t index = free_.back();
  free_.pop_back();
  return opened(index);
}

int BlockPool::open_most_worn() {
  check(!free_.empty() && fresh_ == count_, "a plane without a free block opens one");
  const auto most_worn = std::max_element(
      free_.begin(), free_.end(),
      [this](std::uint32_t a, std::uint32_t b) { return blocks_[a].erases < blocks_[b].erases; });
  const std::uint32_t index = *most_worn;
  *most_worn = free_.back();
  free_.pop_back();
  std::make_heap(free_.begin(), free_.end(),
                 [this](std::uint32_t a, std::uint32_t b) { return is_later(a, b); });
  return opened(index);
}

void BlockPool::close(int index, std::uint64_t now) {
  EraseBlock& block = blocks_[index];
  check(block.state == BlockState::open, "a block is closed that is not open");
  block.state = BlockState::closed;
  block.stamp = now;
}

void BlockPool::begin_collecting(int index) {
  check(blocks_[index].state == BlockState::closed, "a block is collected that is not full");
  blocks_[index].state = BlockState::collecting;
}

bool BlockPool::erase(int index) {
  EraseBlock& block = blocks_[index];
  check(block.valid == 0, "an erase of current data");
  check(block.state == BlockState::open || block.state == BlockState::closed ||
            block.state == BlockState::collecting,
        "an erase of a block that holds nothing");
  ++block.erases;
  const bool failed =
      bad_config_.grown_per_erase > 0 && rng_.uniform() < bad_config_.grown_per_erase;
  if (failed || block.erases >= static_cast<std::uint64_t>(bad_config_.pe_cycles)) {
    block.state = BlockState::bad;
    block.written = 0;
    ++bad_;
    return false;
  }
  make_free(index);
  return true;
}

void BlockPool::fail() {
  for (int i = 0; i < count_; ++i) {
    EraseBlock& block = blocks_[i];
    block.state = BlockState::bad;
    block.valid = 0;
    block.written = 0;
  }
  fresh_ = count_;
  free_.clear();
  bad_ = count_;
}

BlockPool::Wear BlockPool::wear() const {
  Wear wear;
  bool first = fresh_ == count_;
  for (int i = 0; i < fresh_; ++i) {
    const EraseBlock& block = blocks_[i];
    wear.total += block.erases;
    if (block.state != BlockState::bad) {
      wear.lowest = first ? block.erases : std::min(wear.lowest, block.erases);
      wear.highest = std::max(wear.highest, block.erases);
      first = false;
    }
  }
  return wear;
}

void BlockPool::audit() const {
  int bad = 0;
  std::size_t free = 0;
  for (int i = 0; i < fresh_; ++i) {
    const EraseBlock& block = blocks_[i];
    bad += block.state == BlockState::bad ? 1 : 0;
    free += block.state == BlockState::free ? 1 : 0;
    check(block.valid <= block.written, "a block with more valid pages than written ones");
    check(block.written == 0 || (block.state != BlockState::free && block.state != BlockState::bad),
          "data in a block that is free or bad");
  }
  check(bad == bad_ && free == free_.size(), "block states and counts of a plane differ");
  for (const std::uint32_t index : free_) {
    check(blocks_[index].state == BlockState::free, "a block in the free list is not free");
  }
}

std::int64_t BlockPool::bytes_held() const {
  return static_cast<std::int64_t>(sizeof(*this) +
                                   static_cast<std::size_t>(fresh_) * sizeof(EraseBlock) +
                                   free_.capacity() * sizeof(std::uint32_t));
}

}  // namespace nearkv
