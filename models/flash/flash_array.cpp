#include "models/flash/flash_array.hpp"

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

FlashArray::FlashArray(const FlashArrayConfig& config)
    : config_(config),
      units_(static_cast<std::size_t>(config.units_per_channel)),
      cache_read_(config.cache_read),
      t_command_(config.t_command),
      t_read_(config.t_read),
      transfer_(config.transfer),
      buses_(config.channels, BusSchedule(config.bus_order)),
      unit_free_at_(units_ * config.channels),
      cache_free_at_(unit_free_at_.size()) {
  check(config.channels > 0 && units_ > 0, "a flash array without channels or units");
}

void FlashArray::set_times(const FlashArrayConfig& config) {
  check(config.channels == config_.channels &&
            config.units_per_channel == config_.units_per_channel &&
            config.cache_read == config_.cache_read,
        "a flash array is given another geometry");
  config_ = config;
  t_command_ = config.t_command;
  t_read_ = config.t_read;
  transfer_ = config.transfer;
}

Grant FlashArray::program(SimTime now, int channel, int unit) {
  BusSchedule& bus = bus_at(now, channel);
  SimTime& unit_free = unit_free_at_[index_of(channel, unit)];
  const SimDuration slot = config_.t_program_command + transfer_;
  const SimTime data_in = bus.reserve(std::max(now, unit_free), slot);
  unit_free = data_in + config_.t_program;
  ++pages_programmed_;
  bus_time_ += slot;
  return {data_in - slot, unit_free};
}

Grant FlashArray::erase(SimTime now, int channel, int unit) {
  BusSchedule& bus = bus_at(now, channel);
  SimTime& unit_free = unit_free_at_[index_of(channel, unit)];
  SimTime commanded = std::max(now, unit_free);
  const SimDuration slot = config_.t_erase_command;
  if (slot > SimDuration{0}) {
    commanded = bus.reserve(commanded, slot);
  }
  unit_free = commanded + config_.t_erase;
  ++blocks_erased_;
  bus_time_ += slot;
  return {commanded - slot, unit_free};
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
    if (busy.empty()) {
      std::fill(times.begin(), times.end(), now);
    } else {
      std::transform(busy.begin(), busy.end(), times.begin(),
                     [now](SimDuration left) { return now + left; });
    }
  };
  for (std::size_t channel = 0; channel < buses_.size(); ++channel) {
    buses_[channel].restore(state.buses[channel], now);
  }
  latest_ = now;
  set(unit_free_at_, state.units);
  if (cache_read_) {
    set(cache_free_at_, state.caches);
  }
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
    metrics.add(prefix + "/channel_utilization",
                to_seconds(bus_time()) / config_.channels / to_seconds(elapsed), "1",
                "share of the time in which a channel carried a page or its commands");
  }
}

}  // namespace nearkv
