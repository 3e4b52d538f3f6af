// Block traces as MQSim (Tavakkol et al., FAST 2018) reads them: ASCII, a request a line,
//     arrival time [ns]   device   first sector (of 512 B)   sectors   type (0 write, 1 read)
// in time order, separated by blanks. MQSim takes no notice of the device number; here a device can
// be chosen. Line ends may be CR LF; the last line may have none; empty lines are skipped.
#pragma once

#include <string>

#include "traces/block_record.hpp"
#include "traces/text_lines.hpp"

namespace nearkv::traces {

class BlockTraceReader {
 public:
  /// Throws ConfigError when the file cannot be read or options.device is no number.
  BlockTraceReader(const std::string& file, const BlockTraceOptions& options);

  /// The next request; false at the end. Throws ConfigError for what is wrong, and at the end if
  /// there was none.
  bool next(BlockRecord& record);

  [[nodiscard]] std::int64_t requests() const { return requests_; }
  /// Requests of other devices, which were left out.
  [[nodiscard]] std::int64_t left_out() const { return left_out_; }

 private:
  [[noreturn]] void refuse(std::string_view line) const;

  TextLines lines_;
  TraceClock clock_;
  Bytes capacity_;
  std::int64_t device_ = kAllDevices;
  std::int64_t requests_ = 0;
  std::int64_t left_out_ = 0;

  static constexpr std::int64_t kAllDevices = -1;
};

}  // namespace nearkv::traces
