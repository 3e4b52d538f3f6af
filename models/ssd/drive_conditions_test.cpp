#include "models/ssd/drive_conditions.hpp"

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
  drive.controller.command_cost = 2us;
  DriveConfig hot = drive;
  put_under(hot, {.speed = 0.5, .further_reads = 3});
  CHECK(hot.flash.t_read.lsb == 400us);
  CHECK(hot.flash.t_program.lsb == 1ms);
  CHECK(hot.flash.t_erase == 6ms);
  CHECK(hot.flash.read_command.bus == 2us);
  CHECK(hot.flash.mega_transfers == 600);
  CHECK(hot.controller.command_cost == 4us);
  DriveConfig normal = drive;
  put_under(normal, {});
  CHECK(normal.flash.t_read.lsb == drive.flash.t_read.lsb);
  CHECK(normal.flash.mega_transfers == drive.flash.mega_transfers);
}
