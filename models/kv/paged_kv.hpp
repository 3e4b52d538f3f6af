// A paged KV cache: blocks of `block_tokens` tokens (K and V of all layers) in VRAM, and swap
// blocks in pinned host memory, as vLLM's block manager hands them out (Kwon et al., SOSP 2023;
// vLLM 0.5, vllm/core/block_manager.py). Blocks are alike and a sequence may hold any of them, so
// that only their numbers matter. Passive: it says what fits and who holds how much, and keeps no
// clock.
//
// Sequences are numbered by the caller from 0. A new or returning sequence must leave a watermark
// of blocks free, so that those which run already can grow for a while; growing may use them up. At
// every change the blocks of all sequences and the free ones together are all that exist.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sim/core/units.hpp"

namespace nearkv {

/// Blocks that a sequence of `tokens` tokens needs. With a sliding window (0: none) those whose
/// tokens nobody will see any more are free again: a window reaches over one block more than it
/// fills.
[[nodiscard]] inline std::int64_t kv_blocks(std::int64_t tokens, std::int64_t block_tokens,
                                            std::int64_t attention_window) {
  const std::int64_t blocks = ceil_div(tokens, block_tokens);
  return attention_window > 0 ? std::min(blocks, ceil_div(attention_window, block_tokens) + 1)
                              : blocks;
}

struct PagedKvOptions {
  std::int64_t blocks;            // in VRAM
  std::int64_t swap_blocks;       // in pinned host memory
  std::int64_t block_tokens;      // tokens that a block holds
  std::int64_t watermark_blocks;  // that admit() and swap_in() leave free
  std::int64_t attention_window;  // newest tokens that a token sees; 0 means all
  Bytes block_size;               // on all GPUs together; for messages
};

class PagedKv {
 public:
  /// check()s that a block holds a token and that no number is negative.
  explicit PagedKv(const PagedKvOptions& options);

  [[nodiscard]] std::int64_t blocks_for(std::int64_t tokens) const {
    return kv_blocks(tokens, options_.block_tokens, options_.attention_window);
  }
  /// Whether a sequence of so many tokens fits when it is alone.
  [[nodiscard]] bool ever_fits(std::int64_t tokens) const {
    return blocks_for(tokens) <= options_.blocks - options_.watermark_blocks;
  }

  // -- Each change requires what the question before it asks.

  /// Whether a sequence that holds nothing can get blocks for `tokens` now.
  [[nodiscard]] bool can_admit(std::int64_t tokens) const {
    return blocks_for(tokens) <= free_ - options_.watermark_blocks;
  }
  void admit(int sequence, std::int64_t tokens);

  /// Whether a sequence in VRAM can get what it lacks for `tokens`.
  [[nodiscard]] bool can_grow(int sequence, std::int64_t tokens) const {
    return lacks(sequence, tokens) <= free_;
  }
  void grow(int sequence, std::int64_t tokens);

  /// Whether swap space takes what a sequence holds in VRAM.
  [[nodiscard]] bool can_swap_out(int sequence) const { return held_[sequence].vram <= swap_free_; }
  /// Blocks that move to host memory.
  std::int64_t swap_out(int sequence);

  /// Whether a swapped sequence can return and grow to `tokens`.
  [[nodiscard]] bool can_swap_in(int sequence, std::int64_t tokens) const {
    return held_[sequence].swap + lacks(sequence, tokens) <= free_ - options_.watermark_blocks;
  }
  /// Blocks that move back to VRAM; the growth is left to grow().
  std::int64_t swap_in(int sequence);

  /// Frees what a sequence holds, in VRAM and in swap space.
  void release(int sequence);

  [[nodiscard]] std::int64_t free() const { return free_; }
  [[nodiscard]] std::int64_t used() const { return options_.blocks - free_; }
  [[nodiscard]] std::int64_t swap_used() const { return options_.swap_blocks - swap_free_; }
  [[nodiscard]] std::int64_t high_water() const { return high_water_; }
  [[nodiscard]] std::int64_t swap_high_water() const { return swap_high_water_; }
  [[nodiscard]] const PagedKvOptions& options() const { return options_; }
  /// Blocks that a sequence holds in VRAM.
  [[nodiscard]] std::int64_t held(int sequence) const;
  /// Sums over all sequences what each holds, and check()s it against what is not free.
  void check_all_sequences() const;

 private:
  struct Held {
    std::int64_t vram = 0;
    std::int64_t swap = 0;
  };
  /// Blocks that a sequence must get to hold `tokens`, wherever its blocks are.
  [[nodiscard]] std::int64_t lacks(int sequence, std::int64_t tokens) const;
  /// Hands `vram` and `swap` blocks to a sequence (or takes them, if negative).
  void move(int sequence, std::int64_t vram, std::int64_t swap);

  PagedKvOptions options_;
  std::int64_t free_;
  std::int64_t swap_free_;
  std::int64_t in_sequences_ = 0;          // VRAM blocks, counted apart from free_
  std::int64_t swapped_of_sequences_ = 0;  // swap blocks, counted apart from swap_free_
  std::int64_t high_water_ = 0;
  std::int64_t swap_high_water_ = 0;
  std::vector<Held> held_;  // by sequence
};

}  // namespace nearkv
