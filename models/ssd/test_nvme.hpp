// For tests and benchmarks: an NVMe front end in which only the messages on the link take time.
#pragma once

#include <chrono>

#include "models/ssd/nvme_config.hpp"

namespace nearkv {

/// One queue pair, no lists of data pointers, the host sees completion entries as they arrive; as
/// in MQSim.
[[nodiscard]] inline NvmeConfig plain_nvme(int fetch_limit) {
  NvmeConfig config;
  config.queue_depth = 65535;
  config.queue_groups = {{.queues = 1, .priority = NvmePriority::medium}};
  config.arbitration_burst = 1;
  config.high_weight = config.medium_weight = config.low_weight = 1;
  config.fetch_limit = fetch_limit;
  config.memory_page = 4_KiB;
  config.prp_entry = 8_B;
  config.sgl_descriptor = 16_B;
  config.sgl_block = 4_KiB;
  config.aggregation_threshold = 1;
  return config;
}

/// 4 lanes of 1 GB/s and MQSim's packets.
[[nodiscard]] inline NvmeLinkConfig small_link() {
  return {.lanes = 4,
          .lane_rate = 1000_MBps,
          .max_payload = 128_B,
          .packet_overhead = 28_B,
          .read_request = 4_B,
          .doorbell = 2_B,
          .interrupt = 4_B,
          .submission_entry = 72_B,
          .completion_entry = 16_B,
          .trim_range = 16_B,
          .time_step = std::chrono::nanoseconds(1)};
}

}  // namespace nearkv
