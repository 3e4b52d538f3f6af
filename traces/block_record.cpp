#include "traces/block_record.hpp"

#include <limits>

#include <fmt/format.h>

namespace nearkv::traces {

void TraceClock::start_or_refuse(std::int64_t stamp, const TextLines& lines) {
  if (most_ == 0) {
    first_ = stamp;
    most_ = std::numeric_limits<std::int64_t>::max() / 2 / unit_.count();
    return;
  }
  if (stamp < last_) {
    lines.fail(
        fmt::format("time {} lies before the {} of an earlier request; a trace is in time order",
                    stamp, last_));
  }
  lines.fail(fmt::format("time {} lies more than {} days after the first request's {}", stamp,
                         std::chrono::duration_cast<std::chrono::hours>(unit_ * most_).count() / 24,
                         first_));
}

void check_extent(Bytes first, Bytes size, Bytes capacity, const TextLines& lines) {
  if (size <= Bytes{0}) {
    lines.fail("a request of size 0; at least one sector was expected");
  }
  // Without a sum that could overflow.
  if (first > capacity || size > capacity - first) {
    lines.fail(fmt::format(
        "bytes {} to {} are beyond the drive's {} ({}); choose a larger drive or another device "
        "of the trace",
        first.count(), static_cast<std::uint64_t>(first.count()) + size.count() - 1,
        capacity.count(), format_short(capacity)));
  }
}

}  // namespace nearkv::traces
