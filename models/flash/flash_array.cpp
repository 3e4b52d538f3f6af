#include "models/flash/flash_array.hpp"

#include <limits>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

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
  v.one_of("bus_order", bus_order, {"fifo", "first_gap"},
           "order of transfers on a channel: as issued, or of those that are ready the one that "
           "was issued first");
  v.parameter("cache_read", cache_read,
              "the next array read of a unit overlaps the transfer of its last page");
  v.constant("t_command", t_command, "command, address and status cycles on the bus, a page",
             range_of(0_ps, 1ms));
  v.constant("t_read", t_read, "array read time tR", range_of(1_ps, 1s));
  v.constant("t_program", t_program, "array program time tPROG", range_of(1_ps, 1s));
  v.constant("t_erase", t_erase, "block erase time tBERS", range_of(1_ps, 10s));
  v.require(
      [this] {
        return std::numeric_limits<std::int64_t>::max() / page_size.count() / pages_per_block /
                   blocks_per_plane / planes_per_die / dies_per_channel >=
               channels;
      },
      "blocks_per_plane", "must give a drive of less than 8 EiB");
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
      buses_(config.channels, BusSchedule(config.bus_order)),
      unit_free_at_(units_ * config.channels),
      cache_free_at_(unit_free_at_.size()) {
  check(config.channels > 0 && units_ > 0, "a flash array without channels or units");
}

Grant FlashArray::program(SimTime now, int channel, int unit) {
  BusSchedule& bus = bus_at(now, channel);
  SimTime& unit_free = unit_free_at_[index_of(channel, unit)];
  const SimDuration slot = t_command_ + transfer_;
  const SimTime data_in = bus.reserve(std::max(now, unit_free), slot);
  unit_free = data_in + config_.t_program;
  ++pages_programmed_;
  return {data_in - slot, unit_free};
}

Grant FlashArray::erase(SimTime now, int channel, int unit) {
  BusSchedule& bus = bus_at(now, channel);
  SimTime& unit_free = unit_free_at_[index_of(channel, unit)];
  SimTime commanded = std::max(now, unit_free);
  if (t_command_ > SimDuration{0}) {
    commanded = bus.reserve(commanded, t_command_);
  }
  unit_free = commanded + config_.t_erase;
  ++blocks_erased_;
  return {commanded - t_command_, unit_free};
}

FlashArray::State FlashArray::state_after(SimTime now) const {
  State state;
  for (const BusSchedule& bus : buses_) {
    state.buses.push_back(bus.busy_after(now));
  }
  // Idle units take no memory: callers remember the states between many requests.
  const auto add_units = [&](const std::vector<SimTime>& times, std::vector<SimDuration>& busy) {
    if (std::any_of(times.begin(), times.end(), [now](SimTime at) { return at > now; })) {
      busy.reserve(times.size());
      for (const SimTime at : times) {
        busy.push_back(std::max(at - now, SimDuration{0}));
      }
    }
  };
  add_units(unit_free_at_, state.units);
  if (cache_read_) {
    add_units(cache_free_at_, state.caches);
  }
  return state;
}

void FlashArray::restore(const State& state, SimTime now) {
  const auto fits = [](const std::vector<SimDuration>& busy, const std::vector<SimTime>& times) {
    return busy.empty() || busy.size() == times.size();
  };
  check(state.buses.size() == buses_.size() && fits(state.units, unit_free_at_) &&
            fits(state.caches, cache_free_at_) && (cache_read_ || state.caches.empty()),
        "a flash state of another geometry");
  const auto set = [now](std::vector<SimTime>& times, const std::vector<SimDuration>& busy) {
    for (std::size_t u = 0; u < times.size(); ++u) {
      times[u] = busy.empty() ? now : now + busy[u];
    }
  };
  for (std::size_t channel = 0; channel < buses_.size(); ++channel) {
    buses_[channel].restore(state.buses[channel], now);
  }
  latest_ = now;
  set(unit_free_at_, state.units);
  set(cache_free_at_, state.caches);
}

std::uint64_t FlashArray::State::hash() const {
  std::uint64_t hash = 0;
  const auto fold = [&](const std::vector<SimDuration>& busy, std::uint64_t kind) {
    for (std::size_t i = 0; i < busy.size(); ++i) {
      if (busy[i] != SimDuration{0}) {  // an idle array hashes to 0
        hash = mix_hash(mix_hash(hash, kind + i), static_cast<std::uint64_t>(busy[i].count()));
      }
    }
  };
  for (std::size_t channel = 0; channel < buses.size(); ++channel) {
    fold(buses[channel], (channel + 3) << 32);
  }
  fold(units, std::uint64_t{1} << 32);
  fold(caches, std::uint64_t{2} << 32);
  return hash;
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
