// A drive for tests and benchmarks of block_ssd.
#pragma once

#include <chrono>

#include "models/flash/ftl/test_ftl.hpp"
#include "models/ssd/block_ssd.hpp"
#include "models/ssd/test_nvme.hpp"

namespace nearkv {

using std::literals::chrono_literals::operator""ns;
using std::literals::chrono_literals::operator""us;

/// MQSim's timing on 4 lanes of 1 GB/s and a 333 MT/s channel cut to 3 ns a byte.
inline BlockSsdConfig mqsim_like_drive() {
  BlockSsdConfig config;
  config.flash = {.channels = 2,
                  .chips_per_channel = 2,
                  .dies_per_chip = 1,
                  .planes_per_die = 1,
                  .blocks_per_plane = 1024,
                  .pages_per_block = 256,
                  .page_size = 4_KiB,
                  .spare_size = 0_B,
                  .policy = FlashPolicy::data_out_first,
                  .array_unit = ArrayUnit::die,
                  .read_priority = true,
                  .cache_read = false,
                  .multi_plane = false,
                  .bus_width = 1,
                  .mega_transfers = 333,
                  .transfer_step = 1ns,
                  .bits_per_cell = 1,
                  .t_read = {75us, 75us, 75us},
                  .t_program = {750us, 750us, 750us},
                  .t_erase = 3800us,
                  .array_spread = 0,
                  .read_command = {290ns, 650ns, 20ns},
                  .program_command = {361ns, 816ns, 0ns},
                  .erase_command = {220ns, 700ns, 0ns},
                  .read_retry = {},
                  .suspend = {}};
  config.nvme = plain_nvme(512);
  config.link = small_link();
  config.controller.cores = 1;
  config.controller.codeword = 512_B;
  config.ftl = test_ftl::drive_config();
  return config;
}

}  // namespace nearkv
