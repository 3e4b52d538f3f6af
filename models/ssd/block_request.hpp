// What a host asks of a block device, and what it hears of it.
#pragma once

#include <cstdint>

#include "sim/core/units.hpp"

namespace nearkv {

enum class BlockOp : std::uint8_t { read, write, trim };

struct BlockRequest {
  std::uint64_t id = 0;  // comes back with the completion
  Bytes first{};         // offset on the device
  Bytes size{};
  BlockOp op = BlockOp::read;
  std::uint16_t queue = 0;  // number of the queue pair
};

/// Sees completions, and may submit further requests at `at`.
class BlockHost {
 public:
  BlockHost() = default;
  BlockHost(const BlockHost&) = delete;
  BlockHost& operator=(const BlockHost&) = delete;
  virtual ~BlockHost() = default;

  virtual void completed(std::uint64_t id, SimTime submitted, SimTime at) = 0;
};

}  // namespace nearkv
