// The erase blocks of one plane: which are free, open, closed or bad, and how worn they are.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "sim/core/fields.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

/// How blocks fail (config /.../bad_blocks).
struct BadBlockConfig {
  double factory_share = 0;    // of all blocks
  double grown_per_erase = 0;  // probability that an erase fails and retires the block
  std::int64_t pe_cycles = 0;  // erases after which a block is retired

  void fields(FieldVisitor& v);
};

/// collecting: closed, and its pages move away in steps.
enum class BlockState : std::uint8_t { free, open, closed, collecting, bad };

struct EraseBlock {
  std::uint32_t valid = 0;    // pages that hold current data
  std::uint32_t written = 0;  // pages programmed since the last erase
  std::uint32_t erases = 0;
  std::uint16_t programs = 0;  // of the host, under way; counted by who has a clock
  BlockState state = BlockState::free;
  std::uint64_t stamp = 0;  // free: when it became so; closed: when its last page was programmed
};

class BlockPool {
 public:
  struct Options {
    int blocks;
    bool least_worn_first;  // free blocks are taken least worn first, else first in, first out
    BadBlockConfig bad;
    bool lazy = false;  // blocks take memory once they are opened; without open_most_worn()
  };
  /// Factory bad blocks are drawn from `rng`, which also decides about later failures.
  BlockPool(const Options& options, Rng rng);

  [[nodiscard]] int blocks() const { return count_; }
  [[nodiscard]] int free_blocks() const { return static_cast<int>(free_.size()) + count_ - fresh_; }
  [[nodiscard]] int bad_blocks() const { return bad_; }
  [[nodiscard]] const EraseBlock& block(int index) const { return blocks_[index]; }
  [[nodiscard]] EraseBlock& block(int index) { return blocks_[index]; }

  /// Opens a free block; check fails when there is none.
  int open_next();
  int open_most_worn();
  /// A full block; `now` is any count that grows with the pages programmed.
  void close(int index, std::uint64_t now);
  /// A closed block whose pages begin to move away.
  void begin_collecting(int index);
  /// Erases a block without valid pages. It is free then, or bad: false.
  bool erase(int index);

  /// The plane has failed: all blocks are bad, whatever they hold.
  void fail();

  /// Smallest and largest erase count of the blocks that are not bad; 0 when all are.
  struct Wear {
    std::uint32_t lowest = 0;
    std::uint32_t highest = 0;
    std::uint64_t total = 0;  // with bad blocks
  };
  [[nodiscard]] Wear wear() const;

  /// check()s that states and the free list agree.
  void audit() const;
  [[nodiscard]] std::int64_t bytes_held() const;

 private:
  void make_free(int index);
  [[nodiscard]] bool is_later(std::uint32_t a, std::uint32_t b) const;
  int opened(std::uint32_t index);

  struct Free {
    void operator()(EraseBlock* blocks) const { std::free(blocks); }
  };
  int count_;
  std::unique_ptr<EraseBlock[], Free> blocks_;  // zero, and so without memory, from fresh_ on
  int fresh_ = 0;                    // lazy: blocks from here on are free and were never opened
  std::vector<std::uint32_t> free_;  // the others, a heap: the next to open is first
  bool least_worn_first_;
  BadBlockConfig bad_config_;
  Rng rng_;
  int bad_ = 0;
  std::uint64_t next_stamp_ = 0;
};

}  // namespace nearkv
