// The drive that `nearkv replay` runs against, from the JSON of an SSD or a CSD. All that the
// replay knows of the drives' models is here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/csd/csd_config.hpp"
#include "models/flash/ftl/precondition.hpp"
#include "models/ssd/block_ssd.hpp"
#include "models/ssd/ssd.hpp"
#include "sim/app/point.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"
#include "traces/block_record.hpp"

namespace nearkv {

/// A drive's JSON, read and checked.
struct ReplayDrive {
  std::string name;  // of its file, without folder and ending
  nlohmann::json config;
  std::vector<ConstantUse> constants;
  bool is_csd = false;
  int count = 1;  // equal drives; a replay is against one of them
  CsdConfig csd;  // of a CSD
  BlockSsdConfig block;
  Bytes capacity{};  // that the host sees
};

/// `file` is as the user named it, and may begin with "nearkv:". Throws ConfigError.
[[nodiscard]] ReplayDrive load_replay_drive(const std::string& file,
                                            const std::vector<std::string>& overrides);

/// Runs `work`, and puts the file before each line of its ConfigError: a replay reads two files.
template <class Work>
void in_file(const std::string& file, const Work& work) {
  try {
    work();
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(printable(file), error.what()));
  }
}

/// The files of the shipped drives as "nearkv:platforms/ssds/x.json".
[[nodiscard]] std::vector<std::string> shipped_drives();

/// The drive as a block device.
class ReplayDevice {
 public:
  ReplayDevice(const ReplayDrive& drive, const PreconditionConfig& state, std::uint64_t seed);

  [[nodiscard]] BlockSsd& ssd() { return *ssd_; }

  /// The next request of a trace as this device takes it; queue pairs take turns.
  [[nodiscard]] BlockRequest request(const traces::BlockRecord& record, std::uint64_t id) {
    queue_ = queue_ + 1 < queues_ ? static_cast<std::uint16_t>(queue_ + 1) : std::uint16_t{0};
    return {id, record.first, record.size, static_cast<BlockOp>(record.kind), queue_};
  }

  /// Nothing more is to be submitted: writes find no free block any more.
  [[nodiscard]] bool is_full() const { return ssd_->full_at() != kNever; }

  /// When the replay ends whose last completion was at `last`.
  [[nodiscard]] SimTime end(SimTime last) const {
    return is_full() ? std::max(last, ssd_->full_at()) : last;
  }

  /// Sets status, what is full since when, and the drive's metrics.
  void report(RunOutcome& outcome, SimDuration elapsed) const;

 private:
  std::unique_ptr<BlockSsd> ssd_;
  PreconditionResult state_;
  int queues_;
  std::uint16_t queue_ = 0;
};

}  // namespace nearkv
