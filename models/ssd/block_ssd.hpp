// A block device for replay: an NVMe front end at the end of a PCIe link, firmware, DRAM, and the
// event-driven flash array behind them. Page-exact; with all costs of the front end, firmware and
// DRAM at zero these are MQSim's times.
//
// A command comes from the front end (nvme_front_end.hpp), and passes
//   1. a controller core: command_cost + pages x lookup_cost;
//   2. a read: its pages through the flash array, a page for each one that it touches and only the
//      bytes asked for; with dram/read_data each page into DRAM, and after the last one all data
//      out of it; then over the link;
//      a write: its data over the link and into DRAM. With a write buffer it is done then, as soon
//      as all its pages have room there; pages are written back in the background, out of DRAM and
//      to the flash, and reads find them meanwhile. Without, it goes out of DRAM again and programs
//      a page for each one that it touches;
//      a TRIM: its range over the link; whole pages of it lose their data;
//   3. a controller core again: completion_cost, while the data of a read are on the link;
//   4. its completion (front end).
// Cores and DRAM serve first come first served. At one time flash comes first, then firmware and
// DRAM, then the front end.
//
// Where pages lie, and garbage collection: ftl_executor.hpp.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "models/flash/event_ring.hpp"
#include "models/flash/flash_engine.hpp"
#include "models/flash/ftl/precondition.hpp"
#include "models/flash/ftl/write_buffer.hpp"
#include "models/ssd/drive_config.hpp"
#include "models/ssd/ftl_executor.hpp"
#include "models/ssd/mqsim_cache.hpp"
#include "models/ssd/nvme_front_end.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct BlockSsdConfig : DriveConfig {
  PreconditionConfig precondition;

  void fields(FieldVisitor& v);
};

class BlockSsd final : private PageOwner, private NvmeTarget {
 public:
  /// `name` is the config path; random numbers are streams of `seed` below it.
  BlockSsd(const BlockSsdConfig& config, std::uint64_t seed, const std::string& name);

  /// The FTL, before the first command: to bring the drive into a state of use.
  [[nodiscard]] PageFtl& ftl() { return executor_.ftl(); }
  [[nodiscard]] FtlExecutor& executor() { return executor_; }
  /// Before the first command: MQSim's data cache instead of DRAM and write buffer.
  void use_mqsim_cache(const MqsimCacheConfig& config);

  /// The host submits the command at `now`; events before `now` must have been processed. check()s
  /// that it is within capacity().
  void submit(SimTime now, const BlockRequest& request);

  /// Time of the earliest event, kNever when the device is idle.
  [[nodiscard]] SimTime next_event() const;
  /// Of those that were processed.
  [[nodiscard]] SimTime last_event() const { return last_event_; }
  /// Processes events up to and including `until` in time order.
  void process(SimTime until, BlockHost& host);

  /// Logical pages x page_size.
  [[nodiscard]] Bytes capacity() const;
  /// When a write could not go on because the drive was full; kNever: not yet. It is never
  /// completed, nor are others to such planes.
  [[nodiscard]] SimTime full_at() const { return executor_.full_at(); }
  [[nodiscard]] std::string full_reason() const { return executor_.full_reason(); }
  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

  [[nodiscard]] const FlashEngine& flash() const { return executor_.flash(); }
  [[nodiscard]] const FtlExecutor& executor() const { return executor_; }
  [[nodiscard]] const NvmeFrontEnd& front_end() const { return front_end_; }
  [[nodiscard]] const BlockSsdConfig& config() const { return config_; }

 private:
  /// What a command has reached when firmware or DRAM is done with it.
  enum class Stage : std::uint32_t { parsed, data_in, data_out, page_in, finished, flush };
  static constexpr std::uint32_t kStages = 8;  // a power of two above the number of stages

  void command_arrived(NvmeSlot slot, SimTime at) override;
  void data_arrived(NvmeSlot slot, SimTime at) override;
  void host_page_done(std::uint32_t request, SimTime at) override;
  void run_firmware(NvmeSlot slot, SimTime now, SimDuration cost, Stage then);
  void pass_dram(NvmeSlot slot, SimTime now, std::int64_t bytes, Stage then);
  void reached(NvmeSlot slot, Stage stage, SimTime now);
  void begin(NvmeSlot slot, SimTime now);
  void begin_in_cache(NvmeSlot slot, SimTime now);
  void finish(NvmeSlot slot, SimTime now);
  void trim(NvmeSlot slot, SimTime now);
  void page_ready(NvmeSlot slot, SimTime now);
  void page_passed(NvmeSlot slot, SimTime now);
  /// A page of a write that found no room in the buffer.
  struct Blocked {
    NvmeSlot slot;
    LogicalPage page;
    std::uint64_t sectors;
  };
  [[nodiscard]] std::uint64_t sectors_of(FtlExecutor::Part part) const;
  [[nodiscard]] bool put(const Blocked& page);
  void drain(SimTime now);
  void write_back(std::uint32_t index, SimTime now);
  void flushed(std::uint32_t index, SimTime now);
  [[nodiscard]] std::int64_t pages_of(const BlockRequest& request) const;

  BlockSsdConfig config_;
  FtlExecutor executor_;
  NvmeFrontEnd front_end_;
  FifoServers cores_;
  FifoServers dram_{1};
  EventRing stages_;
  std::vector<std::uint32_t> pages_left_;  // of the command in a slot
  std::uint32_t sector_size_;              // of the buffer's masks
  std::optional<WriteBuffer> buffer_;
  std::vector<WriteBuffer::Flush> flushes_;  // by slot of the buffer
  std::deque<Blocked> blocked_;
  std::optional<MqsimCache> cache_;
  bool has_begun_ = false;
  SimTime last_event_{};
};

}  // namespace nearkv
