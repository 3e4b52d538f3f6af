// The computational storage drive's configuration: config /csd/*.
#pragma once

#include "models/kv/kv_ftl.hpp"
#include "models/kv/kv_layout.hpp"
#include "models/ssd/drive_config.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// How KV pages come from the flash channels to the attention kernels.
enum class FeedKind { blocks, pages };

struct FeedConfig {
  FeedKind kind = FeedKind::blocks;
  // blocks: the pages of a block of heads are read into a staging buffer in the drive's DRAM, then
  // the attention kernels compute on it. With one buffer reading and computing alternate.
  int heads_per_block = 0;
  int staging_buffers = 0;
  // pages: page by page through slots in the engine's memory (attention_pipeline.hpp).
  int key_buffers = 0;
  int value_buffers = 0;
  int heads_in_flight = 0;

  void fields(FieldVisitor& v);
};

/// The attention engine.
struct AttentionEngineConfig {
  FeedConfig feed;
  Bytes on_chip_memory{};     // for the page slots between channels and kernels
  SimDuration attend_cost{};  // firmware time of one attend command
  int attention_kernels = 0;
  int gemv_units_per_kernel = 0;
  FlopRate gemv_rate{};           // of one GeMV unit
  SimDuration softmax_latency{};  // of one head; pipelined over heads
  Rate filter_rate{};             // NFC filter, one a channel; drops what was not selected
  std::int64_t argtopk_rate = 0;  // elements compared a second, one unit

  void fields(FieldVisitor& v);
};

/// All but `idle` come on top of it.
struct CsdPowerConfig {
  Power idle{};             // controller, DRAM, link and the engine's static power
  Power engine{};           // while attention kernels compute
  Power controller_core{};  // each busy firmware core
  Energy flash_read{};      // of one flash page, its way to the controller included
  Energy flash_program{};   // likewise

  void fields(FieldVisitor& v);
};

struct CsdConfig : DriveConfig {
  int count = 0;  // equal drives
  KvLayoutConfig layout;
  KvFtlConfig kv_ftl;
  Bytes store_chunk{};  // KV of prefill arrives and is programmed in chunks of this size
  AttentionEngineConfig engine;
  CsdPowerConfig power;
  double price_usd = 0;  // of one drive

  void fields(FieldVisitor& v);

  /// What staged pages take in the drive's DRAM at most: of `pairs` heads with `head_pages` each.
  [[nodiscard]] Bytes staging_memory(std::int64_t head_pages, int pairs) const;
};

}  // namespace nearkv
