// What a drive's flash is made of: geometry, bus, scheduling policy and timing. Config /*/flash.
//
// Two models use it: the recurrence of flash_array.hpp, without events, for the policies fifo and
// first_gap, and the event-driven flash_engine.hpp for all policies.
#pragma once

#include <cstdint>
#include <vector>

#include "models/flash/flash_array.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Which command or transfer a channel serves next.
/// fifo: the bus serves the commands of its channel strictly in the order in which they came; a
///   page that is not ready holds up those behind it.
/// first_gap: known when a command comes, too, but a page that is ready is not held up by one that
///   is not: it takes the first gap on the bus (bus_schedule.hpp). Within 0.5 % of out_of_order.
/// data_out_first: a chip serves command, array time and data-out one after another; a free bus
///   first serves pages that wait for their data-out, in the order in which they became ready,
///   then the next command, round robin over idle chips with work. These are MQSim's rules.
/// out_of_order: each die (or plane) on its own; a free bus first serves commands that a die can
///   take, round robin, then pages in the order in which they became ready.
enum class FlashPolicy : std::uint8_t { fifo, first_gap, data_out_first, out_of_order };

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
};

/// Reads of weak pages are repeated: k further array reads with probability weights[k] / sum of
/// the weights. Empty: never.
struct ReadRetry {
  std::vector<std::int64_t> weights;

  void fields(FieldVisitor& v);

  [[nodiscard]] bool is_on() const { return weights.size() > 1; }
  /// Mean number of further array reads.
  [[nodiscard]] double mean() const;
};

/// A read may interrupt a program or an erase; the array starts on the read t_program or t_erase
/// after its command, and the rest of the program runs when the unit's reads have left it.
struct SuspendConfig {
  bool program = false;
  bool erase = false;
  SimDuration t_program{};        // until an interrupted program lets the read start
  SimDuration t_erase{};          // likewise an erase
  SimDuration least_remaining{};  // not worth it for less array time than that
  int at_most = 0;                // times that one program or erase may be interrupted

  void fields(FieldVisitor& v);
};

struct FlashConfig {
  int channels = 0;
  int chips_per_channel = 0;  // packages
  int dies_per_chip = 0;      // LUNs
  int planes_per_die = 0;
  int blocks_per_plane = 0;
  int pages_per_block = 0;
  Bytes page_size{};   // user data of a page
  Bytes spare_size{};  // ECC and metadata that cross the bus with a whole page
  FlashPolicy policy = FlashPolicy::fifo;
  ArrayUnit array_unit = ArrayUnit::die;  // what works on its own; not with data_out_first
  bool read_priority = false;   // reads of a unit before its programs, these before its erases
  bool cache_read = false;      // the next array read overlaps the transfer of the last page
  bool multi_plane = false;     // one command for equal page indices in planes of one die
  int bus_width = 0;            // bytes a transfer
  int mega_transfers = 0;       // 10^6 transfers a second
  double bus_speed = 1;         // of that; below 1 while throttled; no field of a config
  SimDuration transfer_step{};  // a transfer's time is cut to a multiple of it; 0: exact
  int bits_per_cell = 0;
  ArrayTiming t_read;
  ArrayTiming t_program;
  SimDuration t_erase{};
  double array_spread = 0;  // each array time is multiplied by a number of [1 - it, 1 + it]
  CommandTiming read_command;
  CommandTiming program_command;
  CommandTiming erase_command;
  ReadRetry read_retry;
  SuspendConfig suspend;

  void fields(FieldVisitor& v);

  [[nodiscard]] Bytes capacity() const;
  [[nodiscard]] int planes() const {
    return channels * chips_per_channel * dies_per_chip * planes_per_die;
  }
  /// What reads its array on its own on a channel: dies or planes.
  [[nodiscard]] int units_per_channel() const {
    return chips_per_channel * dies_per_chip *
           (array_unit == ArrayUnit::plane ? planes_per_die : 1);
  }
  [[nodiscard]] bool is_event_driven() const {
    return policy == FlashPolicy::data_out_first || policy == FlashPolicy::out_of_order;
  }
  /// Bus rate of one channel at bus_speed, without transfer_step.
  [[nodiscard]] Rate channel_rate() const;
  /// On the bus, without command cycles; rounded up to 1 ps.
  [[nodiscard]] SimDuration transfer_time(std::int64_t bytes) const;
  /// Array time of one plane or a group of planes, without retries and without the ready delay.
  [[nodiscard]] SimDuration array_time(PageOp op, std::uint32_t page) const;
  /// Command and address cycles of a command for so many planes.
  [[nodiscard]] SimDuration command_time(PageOp op, int planes) const;
  [[nodiscard]] const CommandTiming& command(PageOp op) const;

  /// Whether FlashArray's recurrence describes it: policy fifo or first_gap, all pages
  /// alike, nothing drawn at random. The field list demands it of these policies.
  [[nodiscard]] bool has_recurrence() const;
  /// check()s has_recurrence().
  [[nodiscard]] FlashArrayConfig recurrence() const;

 private:
  [[nodiscard]] SimDuration at_bus_speed(std::int64_t picoseconds) const;
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

}  // namespace nearkv
