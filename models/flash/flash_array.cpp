#include "models/flash/flash_array.hpp"

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void FlashConfig::fields(FieldVisitor& v) {
  v.parameter("channels", channels, "flash channels of the drive", {1, 64});
  v.parameter("dies_per_channel", dies_per_channel, "flash dies (LUNs) on one channel", {1, 64});
  v.parameter("planes_per_die", planes_per_die, "planes of one die", {1, 16});
  v.parameter("blocks_per_plane", blocks_per_plane, "erase blocks of one plane", {1, 1 << 20});
  v.parameter("pages_per_block", pages_per_block, "pages of one erase block", {1, 1 << 16});
  v.parameter("page_size", page_size, "user data of one flash page", range_of(512_B, 64_KiB));
  v.parameter("spare_size", spare_size, "ECC and metadata that cross the bus with a page",
              range_of(0_B, 16_KiB));
  v.parameter("channel_rate", channel_rate, "bus rate of one channel",
              range_of(1_MBps, 100'000_MBps));
  v.one_of("array_unit", array_unit, {"plane", "die"},
           "what reads its array independently: each plane (independent plane reads) or each die");
  v.parameter("cache_read", cache_read,
              "the next array read of a unit overlaps the transfer of its last page");
  v.constant("t_command", t_command, "command, address and status cycles on the bus, a page",
             range_of(0_ps, 1ms));
  v.constant("t_read", t_read, "array read time tR", range_of(1_ps, 1s));
  v.constant("t_program", t_program, "array program time tPROG", range_of(1_ps, 1s));
  v.constant("t_erase", t_erase, "block erase time tBERS", range_of(1_ps, 10s));
}

Bytes FlashConfig::capacity() const {
  return page_size * pages_per_block * blocks_per_plane * planes_per_die * dies_per_channel *
         channels;
}

FlashArray::FlashArray(const FlashConfig& config)
    : config_(config),
      units_(static_cast<std::size_t>(config.units_per_channel())),
      cache_read_(config.cache_read),
      t_command_(config.t_command),
      t_read_(config.t_read),
      transfer_(time_for(config.page_size + config.spare_size, config.channel_rate)),
      bus_free_at_(config.channels),
      unit_free_at_(units_ * config.channels),
      cache_free_at_(unit_free_at_.size()) {
  check(config.channels > 0 && units_ > 0, "a flash array without channels or units");
}

Grant FlashArray::program(SimTime now, int channel, int unit) {
  SimTime& bus_free = bus_free_at_[channel];
  SimTime& unit_free = unit_free_at_[index_of(channel, unit)];
  const SimTime start = std::max({now, bus_free, unit_free});
  bus_free = start + t_command_ + transfer_;
  unit_free = bus_free + config_.t_program;
  ++pages_programmed_;
  return {start, unit_free};
}

Grant FlashArray::erase(SimTime now, int channel, int unit) {
  SimTime& bus_free = bus_free_at_[channel];
  SimTime& unit_free = unit_free_at_[index_of(channel, unit)];
  const SimTime start = std::max({now, bus_free, unit_free});
  bus_free = start + t_command_;
  unit_free = bus_free + config_.t_erase;
  ++blocks_erased_;
  return {start, unit_free};
}

std::vector<SimDuration> FlashArray::state_after(SimTime now) const {
  std::vector<SimDuration> state;
  state.reserve(bus_free_at_.size() + 2 * unit_free_at_.size());
  for (const std::vector<SimTime>* times : {&bus_free_at_, &unit_free_at_, &cache_free_at_}) {
    for (const SimTime at : *times) {
      state.push_back(std::max(at - now, SimDuration{0}));
    }
  }
  return state;
}

void FlashArray::restore(const std::vector<SimDuration>& state, SimTime now) {
  check(state.size() == bus_free_at_.size() + 2 * unit_free_at_.size(),
        "a flash state of another geometry");
  auto next = state.begin();
  for (std::vector<SimTime>* times : {&bus_free_at_, &unit_free_at_, &cache_free_at_}) {
    for (SimTime& at : *times) {
      at = now + *next++;
    }
  }
}

void FlashArray::add(const Counters& work) {
  pages_read_ += work.pages_read;
  pages_programmed_ += work.pages_programmed;
  blocks_erased_ += work.blocks_erased;
}

void FlashArray::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  const double read = static_cast<double>(pages_read_);
  const double programmed = static_cast<double>(pages_programmed_);
  const double page = static_cast<double>(config_.page_size.count());
  metrics.add(prefix + "/pages_read", read, "1", "flash pages read from the array");
  metrics.add(prefix + "/pages_programmed", programmed, "1", "flash pages programmed");
  metrics.add(prefix + "/bytes_read", read * page, "B", "user data read from the array");
  metrics.add(prefix + "/bytes_programmed", programmed * page, "B", "user data programmed");
  if (elapsed > SimDuration{0}) {
    const double bus_seconds = (read + programmed) * to_seconds(bus_time_per_page());
    metrics.add(prefix + "/channel_utilization",
                bus_seconds / config_.channels / to_seconds(elapsed), "1",
                "share of the time in which a channel carried a page or its commands");
  }
}

}  // namespace nearkv
