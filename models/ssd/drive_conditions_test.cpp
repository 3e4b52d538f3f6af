#include "models/ssd/drive_conditions.hpp"

#include <cmath>

#include <doctest/doctest.h>

using namespace nearkv;
using namespace std::chrono_literals;

TEST_CASE("drive conditions: times go with one over the speed, reads with their number") {
  DriveConfig drive;
  drive.flash.t_read.lsb = 50us;
  drive.flash.t_program.lsb = 500us;
  drive.flash.t_erase = 3ms;
  drive.flash.read_command.bus = 1us;
  drive.flash.mega_transfers = 1200;
  drive.flash.bus_width = 1;
  drive.controller.command_cost = 2us;
  DriveConfig hot = drive;
  put_under(hot, {.speed = 0.5, .further_reads = 3});
  CHECK(hot.flash.t_read.lsb == 400us);
  CHECK(hot.flash.t_program.lsb == 1ms);
  CHECK(hot.flash.t_erase == 6ms);
  CHECK(hot.flash.read_command.bus == 2us);
  CHECK(hot.flash.transfer_time(4096) == SimDuration{6'826'668});  // twice 3413334 ps
  CHECK(hot.flash.channel_rate() == Rate{600'000'000});
  CHECK(hot.controller.command_cost == 4us);
  DriveConfig normal = drive;
  put_under(normal, {});
  CHECK(normal.flash.t_read.lsb == drive.flash.t_read.lsb);
  CHECK(normal.flash.transfer_time(4096) == SimDuration{3'413'334});
  CHECK(normal.flash.channel_rate() == Rate{1'200'000'000});
}

TEST_CASE("drive conditions: a bus is throttled to any speed, not to whole megatransfers") {
  for (const double speed : {0.999, 0.4909, 0.0123}) {
    DriveConfig drive;
    drive.flash.mega_transfers = 7;
    drive.flash.bus_width = 1;
    const auto full_speed = static_cast<double>(drive.flash.transfer_time(7000).count());
    put_under(drive, {.speed = speed, .further_reads = 0});
    CHECK(drive.flash.transfer_time(7000) == SimDuration{std::llround(full_speed / speed)});
  }
}
