#include "models/flash/flash_config.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

constexpr Range kArrayTime = range_of(1_ps, 1s);
constexpr std::int64_t kMega = 1'000'000;  // unit: transfers a second in a megatransfer

/// Fields that depend on the number of bits a cell: {"cell": "slc", "t_read": ...}.
void array_times(FlashConfig& flash, FieldVisitor& v) {
  auto bits = static_cast<std::size_t>(std::max(flash.bits_per_cell - 1, 0));
  const FieldInfo cell{"cell",
                       "bits of a cell, by which array times depend on the page: slc all "
                       "pages alike, mlc LSB and MSB pages, tlc LSB, CSB and MSB pages"};
  v.variant(cell, {"slc", "mlc", "tlc"}, bits, [&flash](std::size_t kind, FieldVisitor& inner) {
    const auto both = [&](const char* read, const char* program, SimDuration& t_read,
                          SimDuration& t_program) {
      inner.constant(read, t_read, "array read time tR", kArrayTime);
      inner.constant(program, t_program, "array program time tPROG", kArrayTime);
    };
    if (kind == 0) {
      both("t_read", "t_program", flash.t_read.lsb, flash.t_program.lsb);
      return;
    }
    both("t_read_lsb", "t_program_lsb", flash.t_read.lsb, flash.t_program.lsb);
    if (kind > 1) {
      both("t_read_csb", "t_program_csb", flash.t_read.csb, flash.t_program.csb);
    }
    both("t_read_msb", "t_program_msb", flash.t_read.msb, flash.t_program.msb);
  });
  flash.bits_per_cell = static_cast<int>(bits) + 1;
}

}  // namespace

void CommandTiming::fields(FieldVisitor& v) {
  v.constant("bus", bus, "command and address cycles on the bus", range_of(0_ps, 1ms));
  v.constant("further_plane", further_plane, "more of them for each further plane of a command",
             range_of(0_ps, 1ms));
  v.constant("ready", ready, "from the end of the array time until the controller sees it",
             range_of(0_ps, 1ms));
}

void ReadRetry::fields(FieldVisitor& v) {
  std::size_t kind = is_on() ? 1 : 0;
  v.variant({"kind", "whether reads of weak pages are repeated"}, {"never", "weights"}, kind,
            [this](std::size_t chosen, FieldVisitor& inner) {
              if (chosen == 1) {
                inner.parameter("weights", weights,
                                "k further array reads have a probability in proportion to entry "
                                "k, counted from 0",
                                {0, 1'000'000'000});
                inner.require([this] { return weights.size() > 1 && mean() > 0; }, "weights",
                              "must have an entry for 0 and at least one more that is not 0; "
                              "kind \"never\" switches retries off");
                inner.require([this] { return weights.size() <= 64; }, "weights",  // unit: a limit
                              "must have at most 64 entries");
              } else {
                weights.clear();
              }
            });
}

double ReadRetry::mean() const {
  double sum = 0;
  double reads = 0;
  for (std::size_t k = 0; k < weights.size(); ++k) {
    sum += static_cast<double>(weights[k]);
    reads += static_cast<double>(k) * static_cast<double>(weights[k]);
  }
  return sum > 0 ? reads / sum : 0;
}

void SuspendConfig::fields(FieldVisitor& v) {
  std::size_t kind = (program ? 1U : 0U) + (erase ? 2U : 0U);
  v.variant(
      {"kind", "what a read may interrupt"}, {"never", "program", "erase", "program_and_erase"},
      kind, [this](std::size_t chosen, FieldVisitor& inner) {
        program = chosen % 2 == 1;
        erase = chosen >= 2;
        if (program) {
          inner.constant("t_program", t_program, "until an interrupted program lets a read start",
                         range_of(0_ps, 1s));
        }
        if (erase) {
          inner.constant("t_erase", t_erase, "until an interrupted erase lets a read start",
                         range_of(0_ps, 1s));
        }
        if (chosen > 0) {
          inner.parameter("least_remaining", least_remaining,
                          "array time below which the end is waited for instead",
                          range_of(0_ps, 1s));
          inner.parameter("at_most", at_most, "interruptions of one program or erase", {0, 1000});
        }
      });
}

void FlashConfig::fields(FieldVisitor& v) {
  v.parameter("channels", channels, "flash channels of the drive", {1, 64});
  v.parameter("chips_per_channel", chips_per_channel, "packages on one channel", {1, 64});
  v.parameter("dies_per_chip", dies_per_chip, "dies (LUNs) of one package", {1, 64});
  v.parameter("planes_per_die", planes_per_die, "planes of one die", {1, 16});
  v.parameter("blocks_per_plane", blocks_per_plane, "erase blocks of one plane", {1, 1 << 20});
  v.parameter("pages_per_block", pages_per_block, "pages of one erase block", {1, 1 << 16});
  v.parameter("page_size", page_size, "user data of one flash page", range_of(512_B, 64_KiB));
  v.parameter("spare_size", spare_size, "ECC and metadata that cross the bus with a page",
              range_of(0_B, 16_KiB));
  v.parameter("bus_width", bus_width, "bytes that a channel moves a transfer", {1, 8});
  v.parameter("mega_transfers", mega_transfers, "10^6 transfers a second on a channel (MT/s)",
              {1, 1'000'000});
  v.parameter("transfer_step", transfer_step,
              "the time of a transfer is cut to a multiple of it; 0: exact", range_of(0_ps, 1us));
  v.one_of("policy", policy, {"fifo", "first_gap", "data_out_first", "out_of_order"},
           "what a channel serves next: commands in order of arrival; the same, but a ready page "
           "is not held up by one that is not; as MQSim; by readiness of dies");
  v.one_of("array_unit", array_unit, {"plane", "die"},
           "what reads its array on its own: each plane (independent plane reads) or each die; "
           "with data_out_first a chip does");
  v.parameter("read_priority", read_priority,
              "reads of a unit before its programs, and these before its erases");
  v.parameter("cache_read", cache_read,
              "the next array read of a unit overlaps the transfer of its last page");
  v.parameter("multi_plane", multi_plane,
              "one command for equal page indices in the planes of a die");
  array_times(*this, v);
  v.constant("t_erase", t_erase, "block erase time tBERS", range_of(1_ps, 10s));
  v.constant("array_spread", array_spread,
             "each array time is multiplied by a random number between 1 - spread and 1 + spread",
             {0, 0.9});  // unit: a limit, no array time may vanish
  v.group("read_command", read_command, "bus and ready times of a read");
  v.group("program_command", program_command, "bus and ready times of a program");
  v.group("erase_command", erase_command, "bus and ready times of an erase");
  v.group("read_retry", read_retry, "further array reads of weak pages");
  v.group("suspend", suspend, "interruption of programs and erases by reads");
  v.require(
      [this] { return is_event_driven() || has_recurrence(); }, "policy",
      "fifo and first_gap need cell slc, transfer_step 0 and array_spread 0, and know neither "
      "read_priority, multi_plane, read_retry nor suspend");
  v.require(read_priority || !(suspend.program || suspend.erase), "suspend", "needs read_priority");
  v.require(!multi_plane || array_unit == ArrayUnit::die || policy == FlashPolicy::data_out_first,
            "multi_plane", "needs array_unit die");
  v.require(
      [this] {
        return std::numeric_limits<std::int64_t>::max() / page_size.count() / pages_per_block /
                   blocks_per_plane >=
               planes();
      },
      "blocks_per_plane", "must give a drive of less than 8 EiB");
}

Bytes FlashConfig::capacity() const {
  return page_size * pages_per_block * blocks_per_plane * planes();
}

Rate FlashConfig::channel_rate() const {
  return scaled(Rate{kMega * mega_transfers * bus_width}, bus_speed);
}

SimDuration FlashConfig::at_bus_speed(std::int64_t picoseconds) const {
  return SimDuration{bus_speed == 1 ? picoseconds
                                    : std::llround(static_cast<double>(picoseconds) / bus_speed)};
}

SimDuration FlashConfig::transfer_time(std::int64_t bytes) const {
  constexpr std::int64_t kPicosecondsTimesMega = 1'000'000;  // unit: 1e12 ps/s over 1e6 a second
  const std::int64_t transfers = ceil_div(bytes, bus_width);
  if (transfer_step > SimDuration{0}) {
    const std::int64_t exact = kPicosecondsTimesMega / mega_transfers;
    return at_bus_speed(transfers * (exact - exact % transfer_step.count()));
  }
  return at_bus_speed(ceil_div(transfers * kPicosecondsTimesMega, mega_transfers));
}

const CommandTiming& FlashConfig::command(PageOp op) const {
  if (op == PageOp::read) {
    return read_command;
  }
  return op == PageOp::program ? program_command : erase_command;
}

SimDuration FlashConfig::command_time(PageOp op, int planes) const {
  return command(op).bus + (planes - 1) * command(op).further_plane;
}

SimDuration FlashConfig::array_time(PageOp op, std::uint32_t page) const {
  if (op == PageOp::erase) {
    return t_erase;
  }
  const ArrayTiming& times = op == PageOp::read ? t_read : t_program;
  const int type = page_type(page, bits_per_cell);
  if (type == 0) {
    return times.lsb;
  }
  return type == 1 && bits_per_cell > 2 ? times.csb : times.msb;
}

bool FlashConfig::has_recurrence() const {
  const bool is_plain = !read_priority && !multi_plane && !suspend.program && !suspend.erase;
  const bool is_even = bits_per_cell == 1 && array_spread == 0 && !read_retry.is_on() &&
                       transfer_step == SimDuration{0};
  return !is_event_driven() && is_plain && is_even;
}

FlashArrayConfig FlashConfig::recurrence() const {
  check(has_recurrence(), "a flash array without recurrence is asked for it");
  return {.channels = channels,
          .units_per_channel = units_per_channel(),
          .page_size = page_size,
          .transfer = transfer_time((page_size + spare_size).count()),
          .bus_order = policy == FlashPolicy::fifo ? BusOrder::fifo : BusOrder::first_gap,
          .cache_read = cache_read,
          .t_command = read_command.bus,
          .t_program_command = program_command.bus,
          .t_erase_command = erase_command.bus,
          .t_read = t_read.lsb + read_command.ready,
          .t_program = t_program.lsb + program_command.ready,
          .t_erase = t_erase + erase_command.ready};
}

}  // namespace nearkv
