// The computational storage drive's configuration: config /csd/*.
#pragma once

#include "models/flash/flash_config.hpp"
#include "models/kv/kv_layout.hpp"
#include "models/pcie/nvme_queue.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Embedded cores that run the firmware.
struct ControllerConfig {
  int cores = 0;
  SimDuration attend_cost{};      // firmware time of one attend command
  SimDuration completion_cost{};  // firmware time of one completion

  void fields(FieldVisitor& v);
};

/// The attention engine. Heads are processed in blocks: the pages of a block are read from flash
/// into a staging buffer in the drive's DRAM, then the attention kernels compute on it.
/// With one staging buffer reading and computing alternate; with two they overlap.
struct AttentionEngineConfig {
  int heads_per_block = 0;
  int staging_buffers = 0;
  int attention_kernels = 0;
  int gemv_units_per_kernel = 0;
  FlopRate gemv_rate{};           // of one GeMV unit
  SimDuration softmax_latency{};  // of one head; pipelined over heads
  Rate filter_rate{};             // NFC filter, one a channel; drops what was not selected
  std::int64_t argtopk_rate = 0;  // elements compared a second, one unit

  void fields(FieldVisitor& v);
};

struct CsdConfig {
  int count = 0;  // equal drives
  FlashConfig flash;
  KvLayoutConfig layout;
  NvmeQueueConfig nvme;
  ControllerConfig controller;
  Bytes dram_capacity{};
  Bytes store_chunk{};  // KV of prefill arrives and is programmed in chunks of this size
  AttentionEngineConfig engine;

  void fields(FieldVisitor& v);
};

}  // namespace nearkv
