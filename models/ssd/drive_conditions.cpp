#include "models/ssd/drive_conditions.hpp"

#include <cmath>

#include "sim/core/check.hpp"

namespace nearkv {

SimDuration slowed(SimDuration time, double speed) {
  return SimDuration{std::llround(static_cast<double>(time.count()) / speed)};
}

void put_under(DriveConfig& drive, const DriveConditions& conditions) {
  check(conditions.speed > 0 && conditions.speed <= 1, "a drive of no speed, or a faster one");
  const auto slow = [&](SimDuration& time) { time = slowed(time, conditions.speed); };
  FlashConfig& flash = drive.flash;
  for (SimDuration* time : {&flash.t_read.lsb, &flash.t_read.csb, &flash.t_read.msb}) {
    *time *= 1 + conditions.further_reads;
    slow(*time);
  }
  for (SimDuration* time : {&flash.t_program.lsb, &flash.t_program.csb, &flash.t_program.msb}) {
    slow(*time);
  }
  slow(flash.t_erase);
  for (CommandTiming* command :
       {&flash.read_command, &flash.program_command, &flash.erase_command}) {
    slow(command->bus);
    slow(command->further_plane);
    slow(command->ready);
  }
  flash.bus_speed *= conditions.speed;
  DriveControllerConfig& controller = drive.controller;
  for (SimDuration* time :
       {&controller.command_cost, &controller.lookup_cost, &controller.completion_cost}) {
    slow(*time);
  }
}

}  // namespace nearkv
