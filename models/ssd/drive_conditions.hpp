// What makes a drive slower for a while: its temperature, and pages that are read again and again.
#pragma once

#include "models/ssd/drive_config.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct DriveConditions {
  double speed = 1;       // of flash, controller and engine, as a share of the normal one
  int further_reads = 0;  // of the flash array for every page, besides the first

  bool operator==(const DriveConditions&) const = default;
};

/// Longer by 1 / speed, rounded to the picosecond.
[[nodiscard]] SimDuration slowed(SimDuration time, double speed);

/// The times and rates of a drive under such conditions; geometry, policies and the NVMe link as
/// they are. A throttled controller lowers clocks and inserts idle times, so that everything that
/// it drives slows down alike; a read retry is a further array read, as in ReadRetry.
void put_under(DriveConfig& drive, const DriveConditions& conditions);

}  // namespace nearkv
