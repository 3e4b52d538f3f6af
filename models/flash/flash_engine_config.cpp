#include "models/flash/flash_engine_config.hpp"

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void CommandTiming::fields(FieldVisitor& v) {
  v.constant("bus", bus, "command and address cycles on the bus", range_of(0_ps, 1ms));
  v.constant("further_plane", further_plane, "more of them for each further plane of a command",
             range_of(0_ps, 1ms));
  v.constant("ready", ready, "from the end of the array time until the controller sees it",
             range_of(0_ps, 1ms));
}

void ArrayTiming::fields(FieldVisitor& v) {
  v.constant("lsb", lsb, "array time of an LSB page", range_of(1_ps, 1s));
  v.constant("csb", csb, "array time of a CSB page; used with 3 bits a cell", range_of(1_ps, 1s));
  v.constant("msb", msb, "array time of an MSB page; used with 2 or 3 bits a cell",
             range_of(1_ps, 1s));
}

void ReadRetry::fields(FieldVisitor& v) {
  v.constant("mean", mean, "mean number of further array reads of a page", {0, 16});
  v.parameter("maximum", maximum, "at most so many; 0: reads are never repeated", {0, 64});
  v.require(mean == 0 || mean * 2 < maximum, "mean", "must be below half the maximum");
}

void SuspendConfig::fields(FieldVisitor& v) {
  v.parameter("program", program, "reads may interrupt a program");
  v.parameter("erase", erase, "reads may interrupt an erase");
  v.constant("t_program", t_program, "until an interrupted program lets a read start",
             range_of(0_ps, 1s));
  v.constant("t_erase", t_erase, "until an interrupted erase lets a read start",
             range_of(0_ps, 1s));
  v.parameter("least_remaining", least_remaining,
              "array time below which the end is waited for instead", range_of(0_ps, 1s));
  v.parameter("at_most", at_most, "interruptions of one program or erase", {0, 1000});
}

void FlashEngineConfig::fields(FieldVisitor& v) {
  v.parameter("channels", channels, "flash channels of the drive", {1, 64});
  v.parameter("chips_per_channel", chips_per_channel, "packages on one channel", {1, 64});
  v.parameter("dies_per_chip", dies_per_chip, "dies (LUNs) of one package", {1, 16});
  v.parameter("planes_per_die", planes_per_die, "planes of one die", {1, 16});
  v.one_of("policy", policy, {"fifo", "data_out_first", "out_of_order"},
           "what a channel serves next: in order of arrival, as MQSim, or by readiness of dies");
  v.one_of("array_unit", array_unit, {"plane", "die"},
           "what reads its array on its own, but for data_out_first, where a chip does");
  v.parameter("read_priority", read_priority,
              "reads of a unit before its programs, and these before its erases");
  v.parameter("cache_read", cache_read,
              "the next array read of a unit overlaps the transfer of its last page");
  v.parameter("multi_plane", multi_plane,
              "one command for equal page indices in the planes of a die");
  v.parameter("bus_width", bus_width, "bytes that a channel moves a transfer", {1, 8});
  v.parameter("mega_transfers", mega_transfers, "10^6 transfers a second on a channel",
              {1, 100'000});
  v.parameter("transfer_step", transfer_step,
              "the time of a transfer is cut to a multiple of it; 0: exact", range_of(0_ps, 1us));
  v.parameter("bits_per_cell", bits_per_cell, "1 SLC, 2 MLC, 3 TLC", {1, 3});
  v.group("t_read", t_read, "array read time tR by page type");
  v.group("t_program", t_program, "array program time tPROG by page type");
  v.constant("t_erase", t_erase, "block erase time tBERS", range_of(1_ps, 10s));
  v.group("read_command", read_command, "bus and ready times of a read");
  v.group("program_command", program_command, "bus and ready times of a program");
  v.group("erase_command", erase_command, "bus and ready times of an erase");
  v.group("read_retry", read_retry, "further array reads of weak pages");
  v.group("suspend", suspend, "interruption of programs and erases by reads");
  v.require(policy != FlashPolicy::fifo || !(read_priority || multi_plane), "policy",
            "fifo knows neither read_priority nor multi_plane");
  v.require(read_priority || !(suspend.program || suspend.erase), "suspend", "needs read_priority");
  v.require(!multi_plane || array_unit == ArrayUnit::die || policy == FlashPolicy::data_out_first,
            "multi_plane", "needs array_unit die");
}

int FlashEngineConfig::units_per_channel() const {
  if (policy == FlashPolicy::data_out_first) {
    return chips_per_channel;
  }
  return chips_per_channel * dies_per_chip * (array_unit == ArrayUnit::plane ? planes_per_die : 1);
}

SimDuration FlashEngineConfig::transfer_time(std::int64_t bytes) const {
  constexpr std::int64_t kPicosecondsTimesMega = 1'000'000;  // unit: 1e12 ps/s over 1e6 a second
  const std::int64_t transfers = ceil_div(bytes, bus_width);
  if (transfer_step > SimDuration{0}) {
    const std::int64_t exact = kPicosecondsTimesMega / mega_transfers;
    return SimDuration{transfers * (exact - exact % transfer_step.count())};
  }
  return SimDuration{ceil_div(transfers * kPicosecondsTimesMega, mega_transfers)};
}

const CommandTiming& FlashEngineConfig::command(PageOp op) const {
  if (op == PageOp::read) {
    return read_command;
  }
  return op == PageOp::program ? program_command : erase_command;
}

SimDuration FlashEngineConfig::command_time(PageOp op, int planes) const {
  return command(op).bus + (planes - 1) * command(op).further_plane;
}

SimDuration FlashEngineConfig::array_time(PageOp op, std::uint32_t page) const {
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

double retry_ratio(const ReadRetry& retry) {
  check(retry.mean == 0 || retry.mean * 2 < retry.maximum, "a mean of read retries out of reach");
  const auto mean_of = [&retry](double p) {
    double weight = 1;
    double weights = 1;
    double sum = 0;
    for (int k = 1; k <= retry.maximum; ++k) {
      weight *= p;
      weights += weight;
      sum += k * weight;
    }
    return sum / weights;
  };
  // The mean grows with p from 0 to maximum / 2 at p = 1; halving 64 times exhausts a double.
  double low = 0;
  double high = 1;
  for (int halving = 0; halving < 64; ++halving) {
    const double middle = (low + high) / 2;
    (mean_of(middle) < retry.mean ? low : high) = middle;
  }
  return retry.mean == 0 ? 0 : high;
}

}  // namespace nearkv
