// Faults of the simulated machine (config /faults): what fails or slows down, and when.
//
// Two sorts. Conditions change how fast a part works while they last: a throttled GPU, a link that
// was trained down, read retries. Losses take data away, which a system recovers or not
// (System::recover): a die, a channel or a drive fails, pages cannot be corrected any more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

enum class FaultKind {
  die_failure,
  channel_failure,
  drive_failure,
  uncorrectable_pages,
  read_retries,
  thermal_throttling,
  controller_stall,
  link_degraded,
  host_memory_pressure,
};
inline constexpr std::array<std::string_view, 9> kFaultKinds{
    "die_failure",         "channel_failure", "drive_failure",
    "uncorrectable_pages", "read_retries",    "thermal_throttling",
    "controller_stall",    "link_degraded",   "host_memory_pressure"};

[[nodiscard]] constexpr std::string_view name_of(FaultKind kind) {
  return kFaultKinds[static_cast<std::size_t>(kind)];
}

/// When a fault happens, on the clock of the run: 0 is the first arrival.
struct FaultTimes {
  enum class Kind { at, rate, trace };
  Kind kind = Kind::at;
  SimDuration time{};           // at
  SimDuration mean_interval{};  // rate: a Poisson process from 0 on
  std::string file;             // trace: a duration a line

  void fields(FieldVisitor& v);
};

struct FaultConfig {
  FaultKind kind = FaultKind::die_failure;
  FaultTimes when;
  std::string device;  // "gpu/0", "ssd/1", "csd/3"
  std::string link;    // link_degraded: the device or switch below it
  int channel = 0;     // of the drive's flash
  int die = 0;         // of the channel: chip x dies_per_chip + die
  std::int64_t pages = 0;
  int further_reads = 0;  // of the flash array, before a page is corrected
  double speed = 1;       // share of the normal one
  int generation = 0;
  int lanes = 0;
  Bytes size{};
  SimDuration notice{};  // until the host gives a drive up that does not answer
  SimDuration lasts{};   // of conditions; 0: to the end of the run

  void fields(FieldVisitor& v);

  [[nodiscard]] bool is_loss() const { return kind <= FaultKind::uncorrectable_pages; }
  /// "drive_failure of csd/3".
  [[nodiscard]] std::string label() const;
};

}  // namespace nearkv
