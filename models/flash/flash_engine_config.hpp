// What the event-driven flash array (flash_engine.hpp) is made of: geometry, policy and timing.
#pragma once

#include <array>
#include <cstdint>

#include "models/flash/flash_array.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Which command or transfer a channel serves next.
/// fifo: the bus serves the commands of its channel strictly in the order in which they came, as
///   the recurrence of flash_array.hpp does.
/// data_out_first: a chip serves command, array time and data-out one after another; a free bus
///   first serves pages that wait for their data-out, in the order in which they became ready,
///   then the next command, round robin over idle chips with work. These are MQSim's rules.
/// out_of_order: each die (or plane) on its own; a free bus first serves commands that a die can
///   take, round robin, then pages in the order in which they became ready.
enum class FlashPolicy : std::uint8_t { fifo, data_out_first, out_of_order };

enum class PageOp : std::uint8_t { read, program, erase };
inline constexpr std::size_t kPageOps = 3;
inline constexpr std::size_t kPageTypes = 3;  // LSB, CSB, MSB

/// Times of one kind of command.
struct CommandTiming {
  SimDuration bus{};            // command and address cycles on the bus
  SimDuration further_plane{};  // more of them for each further plane of a multi-plane command
  SimDuration ready{};          // from the end of the array time until the controller sees it

  void fields(FieldVisitor& v);
};

/// Array times of the page types of a cell; those beyond bits_per_cell are not used.
struct ArrayTiming {
  SimDuration lsb{};
  SimDuration csb{};
  SimDuration msb{};

  void fields(FieldVisitor& v);
};

/// Reads of weak pages are repeated: k further array reads with probability proportional to p^k
/// for k up to `maximum`, by p such that the mean is `mean`.
struct ReadRetry {
  double mean = 0;
  int maximum = 0;  // 0: never

  void fields(FieldVisitor& v);
};

/// A read may interrupt a program or an erase; the array starts on the read t_suspend after its
/// command, and the rest of the program runs when the unit's reads have left it.
struct SuspendConfig {
  bool program = false;
  bool erase = false;
  SimDuration t_program{};        // until an interrupted program lets the read start
  SimDuration t_erase{};          // likewise an erase
  SimDuration least_remaining{};  // not worth it for less array time than that
  int at_most = 0;                // times that one program or erase may be interrupted

  void fields(FieldVisitor& v);
};

struct FlashEngineConfig {
  int channels = 0;
  int chips_per_channel = 0;  // packages
  int dies_per_chip = 0;
  int planes_per_die = 0;
  FlashPolicy policy = FlashPolicy::fifo;
  ArrayUnit array_unit = ArrayUnit::die;  // what works on its own; not with data_out_first
  bool read_priority = false;   // reads of a unit before its programs, these before its erases
  bool cache_read = false;      // the next array read overlaps the transfer of the last page
  bool multi_plane = false;     // one command for equal page indices in planes of one die
  int bus_width = 0;            // bytes a transfer
  int mega_transfers = 0;       // 10^6 transfers a second
  SimDuration transfer_step{};  // a transfer's time is cut to a multiple of it; 0: exact
  int bits_per_cell = 0;
  ArrayTiming t_read;
  ArrayTiming t_program;
  SimDuration t_erase{};
  CommandTiming read_command;
  CommandTiming program_command;
  CommandTiming erase_command;
  ReadRetry read_retry;
  SuspendConfig suspend;

  void fields(FieldVisitor& v);

  /// What works on its own: chips with data_out_first, else dies or planes.
  [[nodiscard]] int units_per_channel() const;
  /// On the bus, without command cycles; rounded up to 1 ps.
  [[nodiscard]] SimDuration transfer_time(std::int64_t bytes) const;
  /// Array time of one plane or a group of planes, without retries and without the ready delay.
  [[nodiscard]] SimDuration array_time(PageOp op, std::uint32_t page) const;
  /// Command and address cycles of a command for so many planes.
  [[nodiscard]] SimDuration command_time(PageOp op, int planes) const;
  [[nodiscard]] const CommandTiming& command(PageOp op) const;
};

/// Type of a page by its index in the block: 0 LSB, 1 CSB (or MSB with two bits), 2 MSB. With three
/// bits as in Yaakobi et al., "Characterization and Error-Correcting Codes for TLC Flash Memories"
/// (ICNC 2012), which MQSim uses too.
[[nodiscard]] constexpr int page_type(std::uint32_t page, int bits_per_cell) {
  if (bits_per_cell == 1) {
    return 0;
  }
  if (bits_per_cell == 2) {
    return static_cast<int>(page % 2);
  }
  if (page <= 5) {
    return 0;
  }
  return page <= 7 ? 1 : static_cast<int>((page - 8) / 2 % 3);
}

/// p such that k <= maximum with weights p^k has this mean; check()s that there is one.
[[nodiscard]] double retry_ratio(const ReadRetry& retry);

}  // namespace nearkv
