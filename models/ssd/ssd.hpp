// An NVMe SSD with flash behind a firmware, and several of them as RAID-0.
//
// Passive: it answers when a command starts and is done, and keeps no clock and no queue. Commands
// must come in time order (checked). A command passes
//   1. the NVMe queue pair (models/pcie/nvme_queue.hpp): submission, doorbell, fetch of the entry;
//      a command that finds no slot waits for one;
//   2. one of the controller's cores for command_cost + pages x lookup_cost, first come first
//      served; the core is also taken for completion_cost, which delays the completion;
//   3. a read: the flash pages that it touches (page p lies on channel p mod channels, unit
//      (p / channels) mod units), each page as FlashArray grants it: its array time, then over the
//      channel the ECC codewords that hold the asked part; then that part over the host link,
//      whichever page is ready first;
//      a write: its data over the host link into the write buffer (at dram/rate), as far as
//      the buffer has room. A write is done when its last byte is in the buffer, which drains by
//      programs, one flash page each, striped in the order of the writes. A program that cannot
//      start before a read gives way to it (no suspension of a started one), unless the buffer
//      is full;
//   4. the completion of the queue pair.
// For one read of n pages on an idle drive, all on different channels, with a link slower than the
// channels:  host_submit + doorbell + command_fetch + command_cost + n x lookup_cost
//            + read_command/bus + t_read + bus transfer + n x link transfer + completion_cost
//            + completion.
// Not modelled: garbage collection, mapping-table misses, the slower mode of a drive whose SLC
// cache is full, read retry, and the DRAM for reads. The drive as a block device (block_ssd.hpp)
// has them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/flash/bus_schedule.hpp"
#include "models/flash/flash_array.hpp"
#include "models/pcie/nvme_queue.hpp"
#include "models/ssd/drive_conditions.hpp"
#include "models/ssd/drive_config.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// As datasheets give it: the drive's power while it reads or writes at a rate. A byte then takes
/// (read - idle) / read_rate more than idling.
struct SsdPowerConfig {
  Power idle{};  // ready for commands
  Power read{};
  Rate read_rate{};
  Power write{};
  Rate write_rate{};

  void fields(FieldVisitor& v);
};

struct SsdConfig : DriveConfig {
  int count = 0;        // equal drives, striped as RAID-0
  Bytes stripe_unit{};  // RAID-0 chunk; without meaning for one drive
  Bytes capacity{};     // of one drive
  SsdPowerConfig power;
  double price_usd = 0;  // of one drive

  void fields(FieldVisitor& v);
};

/// One drive.
class Ssd {
 public:
  /// `host_link`: what the PCIe link carries of payload in each direction.
  Ssd(const SsdConfig& config, Rate host_link);

  /// Throws nothing; offset + size beyond the capacity, size 0 or `now` before the last command is
  /// our bug.
  Grant read(SimTime now, Bytes offset, Bytes size);
  Grant write(SimTime now, Bytes offset, Bytes size);

  // -- Of commands from now on.
  void set_conditions(const DriveConditions& conditions);
  void set_host_link(Rate host_link);
  /// All controller cores do nothing for so long, behind what they have.
  void stall(SimTime now, SimDuration duration);

  [[nodiscard]] Bytes bytes_read() const { return bytes_read_; }
  [[nodiscard]] Bytes bytes_written() const { return bytes_written_; }
  [[nodiscard]] const FlashArray& flash() const { return flash_; }
  /// Programs all full pages of the write buffer and returns when the last one is done.
  SimTime drain();

  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

 private:
  Grant accept(SimTime now, Bytes offset, Bytes size);
  Grant completed(const Grant& command, SimTime last_byte);
  [[nodiscard]] SimDuration link_time(Bytes size) const {
    return size == page_size_ ? page_link_time_ : time_for(size, host_link_);
  }
  /// Into the write buffer.
  [[nodiscard]] SimDuration buffer_time(Bytes size) const {
    return config_.dram.rate == Rate{0} ? SimDuration{0} : time_for(size, config_.dram.rate);
  }
  /// On the flash channel, for a part of a page that is read.
  [[nodiscard]] SimDuration channel_time(Bytes from, Bytes size) const {
    return size == page_size_
               ? page_channel_time_
               : config_.flash.transfer_time(config_.read_transfer(from, size).count());
  }
  void program_oldest();
  void program_what_starts_by(SimTime time);
  [[nodiscard]] int channel_of(std::int64_t page) const {
    return static_cast<int>(page % config_.flash.channels);
  }
  [[nodiscard]] int unit_of(std::int64_t page) const {
    return static_cast<int>(page / config_.flash.channels % units_);
  }

  SsdConfig config_;
  DriveConfig normal_;  // without conditions
  Rate host_link_;
  Bytes page_size_;
  SimDuration page_link_time_;
  SimDuration page_buffer_time_;
  SimDuration page_channel_time_;
  int units_;
  FlashArray flash_;
  NvmeQueuePair queue_;
  FifoServers cores_;
  BusSchedule uplink_{BusOrder::first_gap};  // towards the host
  SimDuration uplink_busy_{};
  SimTime downlink_free_{};  // towards the drive, in order
  SimDuration downlink_busy_{};
  SimTime buffer_port_free_{};
  // The write buffer: slots of one flash page, used in turn; written page p lies in p mod slots.
  // A slot holds when its page arrived, and from the program on when the slot is free again.
  std::vector<SimTime> slots_;
  std::int64_t buffered_ = 0;    // pages that are complete in the buffer
  std::int64_t programmed_ = 0;  // of these, given to the flash
  Bytes open_page_{};            // bytes of page buffered_ that have arrived
  SimTime drained_at_{};
  SimTime last_command_{};
  SimTime last_submission_{};
  SimTime flash_now_{};  // the flash gets its commands in time order
  Bytes bytes_read_{};
  Bytes bytes_written_{};
};

/// RAID-0 over `count` equal drives; a request is split into at most one command a drive.
class SsdArray {
 public:
  SsdArray(const SsdConfig& config, Rate host_link_each);

  /// Starts with the earliest part, is done with the last one.
  Grant read(SimTime now, Bytes offset, Bytes size) {
    if (drives_.size() == 1) {
      return drives_.front().read(now, offset, size);
    }
    return striped(now, offset, size, &Ssd::read);
  }
  Grant write(SimTime now, Bytes offset, Bytes size) {
    if (drives_.size() == 1) {
      return drives_.front().write(now, offset, size);
    }
    return striped(now, offset, size, &Ssd::write);
  }

  [[nodiscard]] Bytes capacity() const { return capacity_; }
  [[nodiscard]] int count() const { return static_cast<int>(drives_.size()); }
  [[nodiscard]] const Ssd& drive(int index) const { return drives_[index]; }
  [[nodiscard]] Ssd& drive(int index) { return drives_[index]; }
  /// Of each drive.
  void set_host_link(Rate host_link_each);
  [[nodiscard]] Bytes bytes_read() const;
  [[nodiscard]] Bytes bytes_written() const;

  /// Metrics of each drive below prefix/<number>.
  void report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const;

 private:
  Grant striped(SimTime now, Bytes offset, Bytes size,
                Grant (Ssd::*command)(SimTime, Bytes, Bytes));

  Bytes stripe_unit_;
  Bytes capacity_;
  std::vector<Ssd> drives_;
};

}  // namespace nearkv
