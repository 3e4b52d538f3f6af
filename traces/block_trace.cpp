#include "traces/block_trace.hpp"

#include <array>
#include <limits>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv::traces {

namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kSectorBytes = 512;
constexpr std::int64_t kMostSectors = std::numeric_limits<std::int64_t>::max() / kSectorBytes;

}  // namespace

BlockTraceReader::BlockTraceReader(const std::string& file, const BlockTraceOptions& options)
    : lines_(file), clock_(1ns), capacity_(options.capacity) {
  if (!options.device.empty()) {
    Words words(options.device);
    if (!words.number(device_) || !words.at_end()) {
      throw ConfigError(fmt::format("--trace-device: {} is no device number of a block trace",
                                    in_quotes(options.device)));
    }
  }
}

bool BlockTraceReader::next(BlockRecord& record) {
  std::string_view line;
  while (lines_.next(line)) {
    Words words(line);
    if (words.at_end()) {
      continue;
    }
    std::int64_t time = 0;
    std::int64_t device = 0;
    std::int64_t first = 0;
    std::int64_t sectors = 0;
    std::int64_t type = 0;
    if (!words.number(time) || !words.number(device) || !words.number(first) ||
        !words.number(sectors) || !words.number(type) || !words.at_end() || type > 1 ||
        first > kMostSectors || sectors > kMostSectors) {
      refuse(line);
    }
    if (device_ != kAllDevices && device != device_) {
      ++left_out_;
      continue;
    }
    record.at = clock_.at(time, lines_);
    record.kind = type == 1 ? AccessKind::read : AccessKind::write;
    record.first = Bytes{first * kSectorBytes};
    record.size = Bytes{sectors * kSectorBytes};
    check_extent(record.first, record.size, capacity_, lines_);
    ++requests_;
    return true;
  }
  if (requests_ == 0) {
    lines_.fail_file(left_out_ == 0 ? "has no request"
                                    : fmt::format("has no request of device {} (but {} of others)",
                                                  device_, left_out_));
  }
  return false;
}

/// The first word that is wrong.
void BlockTraceReader::refuse(std::string_view line) const {
  struct Field {
    const char* name;
    const char* expected;
    std::int64_t most;
  };
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  const std::array<Field, 5> fields{
      Field{"arrival time", "whole nanoseconds", kAny},
      Field{"device", "a number", kAny},
      Field{"first sector", "a number of 512 B sectors", kMostSectors},
      Field{"sectors", "a number of 512 B sectors", kMostSectors},
      Field{"type", "0 (write) or 1 (read)", 1},
  };
  Words words(line);
  for (const Field& field : fields) {
    Words copy = words;
    std::int64_t value = 0;
    if (!words.number(value) || value > field.most) {
      const std::string_view found = copy.word();
      lines_.fail(fmt::format(
          "{}: must be {}; {}", field.name, field.expected,
          found.empty() ? "the line ends before it" : fmt::format("is {}", in_quotes(found))));
    }
  }
  lines_.fail(
      fmt::format("{} follows the type; five words a line were expected", in_quotes(words.word())));
}

}  // namespace nearkv::traces
