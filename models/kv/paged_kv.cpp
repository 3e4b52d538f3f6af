#include "models/kv/paged_kv.hpp"

#include <algorithm>

#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

PagedKv::PagedKv(const PagedKvOptions& options)
    : options_(options), free_(options.blocks), swap_free_(options.swap_blocks) {
  check(options.block_tokens > 0 && options.blocks >= 0 && options.swap_blocks >= 0 &&
            options.watermark_blocks >= 0,
        "a paged KV cache of negative size, or with empty blocks");
}

std::int64_t PagedKv::lacks(int sequence, std::int64_t tokens) const {
  const Held& held = held_[sequence];
  return std::max<std::int64_t>(blocks_for(tokens) - held.vram - held.swap, 0);
}

std::int64_t PagedKv::held(int sequence) const {
  return sequence < static_cast<int>(held_.size()) ? held_[sequence].vram : 0;
}

void PagedKv::move(int sequence, std::int64_t vram, std::int64_t swap) {
  Held& held = held_[sequence];
  held.vram += vram;
  held.swap += swap;
  free_ -= vram;
  swap_free_ -= swap;
  in_sequences_ += vram;
  swapped_of_sequences_ += swap;
  high_water_ = std::max(high_water_, used());
  swap_high_water_ = std::max(swap_high_water_, swap_used());
  check(held.vram >= 0 && held.swap >= 0 && free_ >= 0 && swap_free_ >= 0,
        "KV blocks were handed out that do not exist");
  check(in_sequences_ + free_ == options_.blocks &&
            swapped_of_sequences_ + swap_free_ == options_.swap_blocks,
        "KV blocks were lost or doubled");
}

void PagedKv::admit(int sequence, std::int64_t tokens) {
  if (sequence >= static_cast<int>(held_.size())) {
    held_.resize(static_cast<std::size_t>(sequence) + 1);
  }
  check(held_[sequence].vram == 0 && held_[sequence].swap == 0,
        "a sequence was admitted that holds KV blocks");
  check(can_admit(tokens), "a sequence was admitted below the watermark");
  move(sequence, blocks_for(tokens), 0);
}

void PagedKv::grow(int sequence, std::int64_t tokens) {
  check(held_[sequence].swap == 0, "a swapped sequence cannot grow");
  move(sequence, lacks(sequence, tokens), 0);
}

std::int64_t PagedKv::swap_out(int sequence) {
  const std::int64_t blocks = held_[sequence].vram;
  if (blocks > swap_free_) {
    throw OutOfCapacity("swap space", "preempted sequence", blocks * options_.block_size,
                        swap_free_ * options_.block_size,
                        options_.swap_blocks * options_.block_size);
  }
  move(sequence, -blocks, blocks);
  return blocks;
}

std::int64_t PagedKv::swap_in(int sequence) {
  const std::int64_t blocks = held_[sequence].swap;
  move(sequence, blocks, -blocks);
  return blocks;
}

void PagedKv::release(int sequence) {
  move(sequence, -held_[sequence].vram, -held_[sequence].swap);
}

void PagedKv::check_all_sequences() const {
  std::int64_t vram = 0;
  std::int64_t swap = 0;
  for (const Held& held : held_) {
    vram += held.vram;
    swap += held.swap;
  }
  check(vram == used() && swap == swap_used(), "KV blocks that no sequence holds are not free");
}

}  // namespace nearkv
