// What a drive is made of: flash, NVMe front end and link, firmware on controller cores, DRAM, and
// the FTL of its block device. The configs of SSDs and CSDs contain its fields, so that any of them
// can be replayed against as a block device.
#pragma once

#include "models/flash/flash_config.hpp"
#include "models/flash/ftl/ftl_config.hpp"
#include "models/flash/ftl/ftl_geometry.hpp"
#include "models/ssd/nvme_config.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Embedded cores that run the firmware, first come first served; costs are of one core.
struct DriveControllerConfig {
  int cores = 0;
  SimDuration command_cost{};     // of one command of a block device
  SimDuration lookup_cost{};      // of one look-up in the mapping table: a page
  SimDuration completion_cost{};  // of one completion
  Bytes codeword{};               // data of one ECC codeword

  void fields(FieldVisitor& v);
};

/// Data pass it first come first served, once in and once out: those of writes, and with
/// `read_data` those of reads too.
struct DriveDramConfig {
  Bytes capacity{};
  Rate rate{};  // 0: DRAM takes no time
  bool read_data = false;

  void fields(FieldVisitor& v);
};

struct DriveConfig {
  FlashConfig flash;
  NvmeConfig nvme;
  NvmeLinkConfig link;
  DriveControllerConfig controller;
  DriveDramConfig dram;
  FtlConfig ftl;

  void fields(FieldVisitor& v);

  [[nodiscard]] FtlGeometry geometry() const;
  /// What a host sees of the drive as a block device.
  [[nodiscard]] Bytes block_capacity() const;
  /// What crosses the channel for a read of `size` bytes from offset `from` of a page: whole
  /// codewords, each with its part of the spare area (rounded up).
  [[nodiscard]] Bytes read_transfer(Bytes from, Bytes size) const;
};

}  // namespace nearkv
