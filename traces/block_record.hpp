// What the readers of block traces give, and the rules that hold for all of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/units.hpp"
#include "traces/text_lines.hpp"

namespace nearkv::traces {

enum class AccessKind : std::uint8_t { read, write, trim };
inline constexpr int kAccessKinds = 3;

struct BlockRecord {
  SimDuration at{};  // since the first record that is used
  AccessKind kind = AccessKind::read;
  Bytes first{};  // offset on the device
  Bytes size{};
};

struct BlockTraceOptions {
  /// Only requests of this device (fio: of this file); empty: all, on one address space.
  std::string device;
  Bytes capacity{};  // of the drive
};

/// Time stamps of a trace as times since the first one; order is checked.
class TraceClock {
 public:
  explicit TraceClock(SimDuration unit) : unit_(unit) {}

  /// Throws ConfigError for a stamp that goes back or lies more than 53 days behind the first.
  SimDuration at(std::int64_t stamp, const TextLines& lines) {
    if (stamp < last_ || stamp - first_ > most_) {
      start_or_refuse(stamp, lines);
    }
    last_ = stamp;
    return unit_ * (stamp - first_);
  }

 private:
  void start_or_refuse(std::int64_t stamp, const TextLines& lines);

  SimDuration unit_;
  std::int64_t first_ = 0;
  std::int64_t last_ = INT64_MAX;  // before the first stamp
  std::int64_t most_ = 0;          // largest stamp - first that fits
};

/// Throws ConfigError unless 0 < size and first + size <= capacity.
void check_extent(Bytes first, Bytes size, Bytes capacity, const TextLines& lines);

}  // namespace nearkv::traces
