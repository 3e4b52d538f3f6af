#include "models/csd/csd_flash.hpp"

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

namespace {

/// Whether the time of a page depends on its place in the block.
bool page_indices_matter(const FlashConfig& flash) {
  return flash.is_event_driven() && (flash.multi_plane || flash.bits_per_cell > 1);
}

}  // namespace

CsdFlash::CsdFlash(const CsdConfig& config, const std::string& name, std::uint64_t seed)
    : placement_(config.flash, config.layout, kPlaneOrders[config.kv_ftl.plane_order]),
      ftl_(config.kv_ftl,
           {.flash = kv_flash_geometry(config.flash),
            .layout = config.layout,
            .tracks_page_indices = page_indices_matter(config.flash)},
           seed, name + "/kv_ftl"),
      pages_per_block_(static_cast<std::uint32_t>(config.flash.pages_per_block)),
      is_deterministic_(!config.flash.read_retry.is_on() && config.flash.array_spread == 0),
      filter_time_(time_for(config.flash.page_size, config.engine.filter_rate)) {
  const FlashConfig& flash = config.flash;
  if (!flash.is_event_driven()) {
    array_.emplace(flash.recurrence());
    filter_gaps_.assign(static_cast<std::size_t>(flash.channels), BusSchedule(BusOrder::first_gap));
    return;
  }
  engine_.emplace(flash, Rng(seed, name + "/flash"));
  filter_free_.resize(static_cast<std::size_t>(flash.channels));
  const FtlGeometry& geometry = ftl_.flash();
  for (int plane = 0; plane < geometry.planes(); ++plane) {
    const FlashAddress at = geometry.address_of(geometry.page_at(plane, 0, 0));
    commands_.push_back(
        {.tag = 0,
         .op = PageOp::read,
         .channel = static_cast<std::uint16_t>(at.channel),
         .chip = static_cast<std::uint16_t>(at.way),
         .die = static_cast<std::uint16_t>(at.die),
         .plane = static_cast<std::uint16_t>(at.plane),
         .page = 0,
         .bytes = static_cast<std::uint32_t>((flash.page_size + flash.spare_size).count()),
         .gate = 0});
  }
}

void CsdFlash::set_times(const CsdConfig& config) {
  if (engine_) {
    engine_->set_times(config.flash);
  } else {
    array_->set_times(config.flash.recurrence());
  }
  filter_time_ = time_for(config.flash.page_size, config.engine.filter_rate);
}

void CsdFlash::log_reads(const Stream& stream, const std::vector<int>& pages) {
  for (const int page : pages) {
    log_->push_back({stream.base, page, stream.table == nullptr ? kNoPage : stream.table[page]});
  }
}

CsdFlash::Told CsdFlash::read_told(SimTime now, const Stream& stream, int page, bool is_filtered,
                                   ChannelTally& tally) {
  const PagePlace place = place_of(stream, page);
  const Grant read = array_->read(now, place.channel, place.unit);
  const FlashArrayConfig& array = array_->config();
  const auto channel = static_cast<std::size_t>(place.channel);
  tally.add_bus(channel, read.done - array.transfer, read.done + array.t_command);
  tally.add_array(channel, read.start, read.start + array.t_read);
  return {is_filtered ? through_filter(now, place.channel, read.done) : read.done, channel};
}

SimTime CsdFlash::program_told(SimTime now, const Stream& stream, int page, ChannelTally& tally) {
  const PagePlace place = place_of(stream, page);
  const Grant program = array_->program(now, place.channel, place.unit);
  const FlashArrayConfig& array = array_->config();
  const auto channel = static_cast<std::size_t>(place.channel);
  tally.add_bus(channel, program.start, program.done - array.t_program);
  tally.add_array(channel, program.done - array.t_program, program.done);
  return program.done;
}

SimTime CsdFlash::erase(SimTime now, PhysicalPage block) {
  const PagePlace place = placement_.place_of_plane(plane_of(block));
  return array_->erase(now, place.channel, place.unit).done;
}

void CsdFlash::add_program(const Stream& stream, int page, std::uint64_t tag) {
  PageCommand command = command_for(stream, page);
  command.op = PageOp::program;
  command.tag = tag;
  engine_->add(command);
}

void CsdFlash::add_erase(PhysicalPage block, std::uint64_t tag) {
  PageCommand command = commands_[plane_of(block)];
  command.op = PageOp::erase;
  command.tag = tag;
  engine_->add(command);
}

std::uint64_t CsdFlash::State::hash() const {
  std::uint64_t hash = array.hash();
  for (const std::uint32_t turn : engine) {
    hash = mix_hash(hash, turn);
  }
  return hash;
}

CsdFlash::State CsdFlash::state_after(SimTime now) const {
  check(has_state(), "the state of a flash array that is at work");
  return engine_ ? State{{}, engine_->turns()} : State{array_->state_after(now), {}};
}

void CsdFlash::restore(const State& state, SimTime now) {
  if (engine_) {
    engine_->set_turns(state.engine);
  } else {
    array_->restore(state.array, now);
  }
}

CsdFlash::Counters& CsdFlash::Counters::operator+=(const Counters& o) {
  pages_read += o.pages_read;
  pages_programmed += o.pages_programmed;
  blocks_erased += o.blocks_erased;
  bus_busy += o.bus_busy;
  bus_stalled += o.bus_stalled;
  return *this;
}

CsdFlash::Counters& CsdFlash::Counters::operator-=(const Counters& o) {
  pages_read -= o.pages_read;
  pages_programmed -= o.pages_programmed;
  blocks_erased -= o.blocks_erased;
  bus_busy -= o.bus_busy;
  bus_stalled -= o.bus_stalled;
  return *this;
}

CsdFlash::Counters CsdFlash::counters() const {
  Counters counters = reused_;
  if (engine_) {
    const FlashEngine::Counters& now = engine_->counters();
    counters +=
        {now.pages_read, now.pages_programmed, now.blocks_erased, now.bus_busy, now.bus_stalled};
  } else {
    const FlashArray::Counters now = array_->counters();
    counters += {now.pages_read, now.pages_programmed, now.blocks_erased, array_->bus_time(),
                 SimDuration{0}};
  }
  return counters;
}

}  // namespace nearkv
