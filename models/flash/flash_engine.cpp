#include "models/flash/flash_engine.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::uint32_t kWordBits = 64;

[[nodiscard]] std::size_t index_of(PageOp op) { return static_cast<std::size_t>(op); }
[[nodiscard]] std::size_t index_of(PageCause cause) { return static_cast<std::size_t>(cause); }

}  // namespace

FlashEngine::FlashEngine(const FlashConfig& config, const Rng& rng)
    : config_(config),
      by_recurrence_(!config.is_event_driven()),
      is_out_of_order_(config.policy == FlashPolicy::out_of_order),
      read_priority_(config.read_priority),
      cache_read_(config.cache_read),
      retry_rng_(rng.child("read_retry")),
      spread_rng_(rng.child("array_spread")),
      units_per_channel_(static_cast<std::size_t>(config.policy == FlashPolicy::data_out_first
                                                      ? config.chips_per_channel
                                                      : config.units_per_channel())),
      words_per_channel_((units_per_channel_ + kWordBits - 1) / kWordBits),
      nodes_(config, units_per_channel_),
      units_(units_per_channel_ * config.channels),
      ready_(words_per_channel_ * config.channels),
      channels_(config.channels) {
  check(config.channels > 0 && units_per_channel_ > 0, "a flash engine without channels or units");
  check(by_recurrence_ ? !config.read_priority && !config.multi_plane : true,
        "priorities or multi-plane commands where the order is known in advance");
  check(config.read_priority || !(config.suspend.program || config.suspend.erase),
        "reads without priority that interrupt programs");
  const std::size_t leaves = std::bit_ceil(channels_.size());
  match_at_.assign(2 * leaves, kIdle);
  match_channel_.resize(2 * leaves);
  match_since_.resize(2 * leaves);
  for (std::size_t channel = 0; channel < channels_.size(); ++channel) {
    update_next(channel);
  }
  dirty_.reserve(channels_.size());
  const bool by_die = config.policy != FlashPolicy::data_out_first;
  const bool by_plane = by_die && config.array_unit == ArrayUnit::plane;
  units_a_plane_ = by_plane ? 1 : 0;
  units_a_die_ = by_plane ? static_cast<Index>(config.planes_per_die) : by_die ? 1 : 0;
  units_a_chip_ = by_die ? units_a_die_ * static_cast<Index>(config.dies_per_chip) : 1;
  are_times_alike_ =
      config.bits_per_cell == 1 && config.array_spread == 0 && !config.read_retry.is_on();
  std::fill(std::begin(credits_), std::end(credits_), kIdle);  // unlimited
  if (config.read_retry.is_on()) {
    const auto& weights = config.read_retry.weights;
    retry_weights_ = std::accumulate(weights.begin(), weights.end(), std::int64_t{0});
  }
  if (config.policy == FlashPolicy::first_gap) {
    for (Channel& channel : channels_) {
      channel.bus_by_recurrence = BusSchedule(BusOrder::first_gap);
    }
  }
  set_times(config);
}

void FlashEngine::set_times(const FlashConfig& config) {
  check(config.planes() == config_.planes() && config.channels == config_.channels &&
            config.policy == config_.policy && config.bits_per_cell == config_.bits_per_cell,
        "a flash engine is given another geometry");
  config_ = config;
  last_bytes_ = 0;
  for (const PageOp op : {PageOp::read, PageOp::program, PageOp::erase}) {
    OpTimes& times = times_[index_of(op)];
    times.command = config.command_time(op, 1).count();
    times.further_plane = config.command_time(op, 2).count() - times.command;
    times.ready = config.command(op).ready.count();
    for (std::uint32_t page = 0; page < 16; ++page) {  // has each type for any cell
      const int type = page_type(page, config.bits_per_cell);
      times.array[type] = config.array_time(op, page).count();
    }
  }
}

/// From the end of the command until the controller sees the result, of one page.
std::int64_t FlashEngine::array_time_of(const PageCommand& command) {
  if (are_times_alike_) {
    const OpTimes& times = times_[index_of(command.op)];
    return times.array[0] + times.ready;
  }
  return draw_array_time(command);
}

std::int64_t FlashEngine::draw_array_time(const PageCommand& command) {
  const OpTimes& times = times_[index_of(command.op)];
  std::int64_t array = times.array[page_type(command.page, config_.bits_per_cell)];
  if (config_.array_spread > 0) {
    const double factor = 1 + config_.array_spread * (2 * spread_rng_.uniform() - 1);
    array = std::max<std::int64_t>(1, std::llround(static_cast<double>(array) * factor));
  }
  if (command.op == PageOp::read && retry_weights_ > 0) {
    const int retries = draw_retries();
    counters_.retries += retries;
    array *= 1 + retries;
  }
  return array + times.ready;
}

int FlashEngine::draw_retries() {
  auto left =
      static_cast<std::int64_t>(retry_rng_.below(static_cast<std::uint64_t>(retry_weights_)));
  int retries = 0;
  while (left >= config_.read_retry.weights[retries]) {
    left -= config_.read_retry.weights[retries++];
  }
  return retries;
}

// -- Commands -----------------------------------------------------------------------------------

FlashEngine::Index FlashEngine::unit_of(const PageCommand& command) const {
  return command.chip * units_a_chip_ + command.die * units_a_die_ + command.plane * units_a_plane_;
}

FlashEngine::Handle FlashEngine::add(const PageCommand& command) {
  check(command.channel < config_.channels && command.chip < config_.chips_per_channel &&
            command.die < config_.dies_per_chip && command.plane < config_.planes_per_die,
        "a page command beyond the flash array");
  check(!command.is_held || config_.policy == FlashPolicy::data_out_first,
        "a command is held, which this policy does not know");
  if (command.bytes != last_bytes_) {
    last_bytes_ = command.bytes;
    last_transfer_ = config_.transfer_time(command.bytes).count();
  }
  Channel& channel = channels_[command.channel];
  const Index index = nodes_.make({.tag = command.tag,
                                   .transfer = command.op == PageOp::erase ? 0 : last_transfer_,
                                   .array = array_time_of(command),
                                   .next = kNone,
                                   .order = channel.arrivals++,
                                   .page = command.page,
                                   .channel = command.channel,
                                   .unit = static_cast<std::uint16_t>(unit_of(command)),
                                   .die = command.die,
                                   .plane = command.plane,
                                   .op = command.op,
                                   .gate = command.gate,
                                   .cause = command.cause,
                                   .is_held = command.is_held});
  if (by_recurrence_) {
    nodes_.push(channel.ready_pages, index);
  } else {
    Unit& unit = unit_at(command.channel, nodes_[index].unit);
    bool may_be_next = true;
    if (command.cause != PageCause::host && config_.policy == FlashPolicy::data_out_first) {
      has_causes_ = true;
      nodes_.push(unit.internal[index_of(command.op)][index_of(command.cause)], index);
    } else {
      has_causes_ = has_causes_ || command.is_held;
      unit.held_commands += command.is_held ? 1 : 0;
      Queue& queue = unit.waiting[index_of(command.op)];
      may_be_next = has_causes_ || queue.head == kNone;
      nodes_.push_waiting(queue, index);
    }
    if (may_be_next) {
      update_ready(command.channel, nodes_[index].unit);
    }
  }
  mark_dirty(command.channel);
  return index;
}

void FlashEngine::mark_dirty(std::size_t channel) {
  if (!channels_[channel].is_dirty) {
    channels_[channel].is_dirty = true;
    dirty_.push_back(channel);
  }
}

void FlashEngine::release(Handle held) {
  Node& node = nodes_[held];
  check(node.is_held, "a command is released that is not held");
  node.is_held = false;
  unit_at(node.channel, node.unit).held_commands -= node.cause == PageCause::host ? 1 : 0;
  update_ready(node.channel, node.unit);
  mark_dirty(node.channel);
}

void FlashEngine::start(SimTime now) {
  const std::int64_t at = now.time_since_epoch().count();
  check(at >= now_ && match_at_[1] >= at, "commands start before what has happened");
  now_ = at;
  for (const std::size_t channel : dirty_) {
    channels_[channel].is_dirty = false;
    if (by_recurrence_) {
      start_by_recurrence(channel, at);
    } else if (!channels_[channel].bus_taken) {
      grant(channel, at);
    } else if (channels_[channel].page_from > at && ready_[channel] != 0) {
      take_page_back(channels_[channel]);
    }
    update_next(channel);
  }
  dirty_.clear();
}

/// The recurrence of flash_array.hpp: with these policies everything is known when a command comes.
void FlashEngine::start_by_recurrence(std::size_t c, std::int64_t now) {
  Channel& channel = channels_[c];
  BusSchedule& bus = channel.bus_by_recurrence;
  bus.forget(SimTime{SimDuration{now}});
  const auto reserve = [&bus](std::int64_t ready, std::int64_t length) {
    return bus.reserve(SimTime{SimDuration{ready}}, SimDuration{length}).time_since_epoch().count();
  };
  Index next = channel.ready_pages.head;
  channel.ready_pages = {};
  while (next != kNone) {
    const Index index = next;
    const Node& node = nodes_[index];
    next = node.next;
    Unit& unit = unit_at(c, node.unit);
    const std::int64_t command = times_[index_of(node.op)].command;
    const std::int64_t slot = command + node.transfer;
    const std::int64_t unit_start = std::max(now, unit.free_at);
    std::int64_t done = 0;
    if (node.op == PageOp::read) {
      const std::int64_t ready = unit_start + command + node.array;
      done = reserve(ready, slot) - command;
      unit.free_at =
          config_.cache_read ? std::max(ready, std::exchange(unit.cache_free_at, done)) : done;
    } else if (slot == 0) {
      done = unit.free_at = unit_start + node.array;  // a command without cycles needs no bus
    } else {
      done = reserve(unit_start, slot) + node.array;
      unit.free_at = done;
    }
    ++counters_.commands;
    counters_.bus_busy += SimDuration{slot};
    channel.bus_busy += slot;
    counters_.array_busy += SimDuration{node.array};
    channel.array_ends.push(done, index);
  }
}

// -- Scheduling ---------------------------------------------------------------------------------

bool FlashEngine::can_interrupt(const Unit& unit) const {
  if (config_.suspend.at_most == 0 || !read_priority_) {
    return false;
  }
  const PageOp running = nodes_[unit.array].op;
  const bool allowed = running == PageOp::program
                           ? config_.suspend.program
                           : running == PageOp::erase && config_.suspend.erase;
  return allowed && unit.suspended == kNone && unit.suspensions < config_.suspend.at_most &&
         unit.waiting[index_of(PageOp::read)].head != kNone;
}

/// The kind of command that the unit takes next, -1 when it can take none.
int FlashEngine::next_op(Unit& unit) const {
  if (has_causes_) {
    return choose_by_cause(unit).op;
  }
  const int none = -1;
  const int read = 0;
  if (unit.is_ending) {
    return none;
  }
  if (unit.array != kNone) {
    return can_interrupt(unit) ? read : none;
  }
  const bool is_empty = unit.data_out == 0;
  int op = none;
  std::uint32_t oldest = 0;
  for (int i = 0; i < static_cast<int>(kPageOps); ++i) {
    const Index head = unit.waiting[i].head;
    if (head == kNone) {
      continue;
    }
    if (op == none || FlashCommandPool::is_earlier(nodes_[head].order, oldest)) {
      op = i;
      oldest = nodes_[head].order;
    }
    if (read_priority_) {
      break;
    }
  }
  if (op == read) {
    return is_empty || cache_read_ ? read : none;
  }
  return is_empty && unit.suspended == kNone ? op : none;
}

void FlashEngine::set_ready(std::size_t channel, Index unit, bool is_ready) {
  std::uint64_t& word = ready_[channel * words_per_channel_ + unit / kWordBits];
  const std::uint64_t bit = std::uint64_t{1} << (unit % kWordBits);
  word = is_ready ? word | bit : word & ~bit;
}

void FlashEngine::update_ready(std::size_t channel, Index u) {
  Unit& unit = unit_at(channel, u);
  const bool is_plain = !has_causes_ && !unit.is_ending && read_priority_;
  if (is_plain && unit.array != kNone) {  // the usual cases in short: the same as next_op()
    set_ready(channel, u, can_interrupt(unit));
  } else if (is_plain && unit.waiting[index_of(PageOp::read)].head != kNone) {
    set_ready(channel, u, unit.data_out == 0 || cache_read_);
  } else {
    set_ready(channel, u, next_op(unit) >= 0);
  }
}

/// First unit in [from, end) whose bit is set, or `end`.
FlashEngine::Index FlashEngine::next_unit(std::size_t channel, Index from, Index end) const {
  while (from < end) {
    const std::uint64_t word =
        ready_[channel * words_per_channel_ + from / kWordBits] >> (from % kWordBits);
    if (word != 0) {
      return std::min(end, from + static_cast<Index>(std::countr_zero(word)));
    }
    from = (from / kWordBits + 1) * kWordBits;
  }
  return end;
}

bool FlashEngine::pick_command(std::size_t c, std::int64_t now) {
  const Index units = static_cast<Index>(units_per_channel_);
  const Index turn = channels_[c].turn;
  if (words_per_channel_ == 1 && ready_[c] == 0) {
    return false;
  }
  const std::int64_t least = config_.suspend.least_remaining.count();
  for (const bool is_wrapped : {false, true}) {
    const Index end = is_wrapped ? turn : units;
    for (Index u = next_unit(c, is_wrapped ? 0 : turn, end); u < end;
         u = next_unit(c, u + 1, end)) {
      Unit& unit = unit_at(c, u);
      if (unit.array != kNone && unit.array_end - now < least) {
        continue;  // not worth an interruption
      }
      channels_[c].turn = u + 1 == units ? 0 : u + 1;
      begin_command(c, u, static_cast<PageOp>(next_op(unit)), now);
      return true;
    }
  }
  return false;
}

/// Gives the free bus to whom it is due.
void FlashEngine::grant(std::size_t c, std::int64_t now) {
  Channel& channel = channels_[c];
  if (channel.stalled_since != kIdle) {
    counters_.bus_stalled += SimDuration{now - std::exchange(channel.stalled_since, kIdle)};
    --stalled_channels_;
  }
  if (is_out_of_order_ && pick_command(c, now)) {
    channel.bus_taken = true;
    send_page_behind_command(c);
    return;
  }
  if (const Index page = take_ready_page(channel); page != kNone) {
    const Node& node = nodes_[page];
    channel.on_bus = page;
    channel.bus_since = ++begun_;
    channel.bus_end = now + node.transfer;
    channel.bus_taken = true;
    counters_.bus_busy += SimDuration{node.transfer};
    channel.bus_busy += node.transfer;
    return;
  }
  channel.bus_taken = !is_out_of_order_ && pick_command(c, now);
  if (!channel.bus_taken) {
    channel.bus_end = kIdle;
    if (channel.ready_pages.head != kNone) {
      channel.stalled_since = now;
      ++stalled_channels_;
    }
  }
}

/// When no other command can go, the bus serves the first ready page behind the command that has
/// just begun: one event for both. What makes a command ready before that takes it back.
void FlashEngine::send_page_behind_command(std::size_t c) {
  Channel& channel = channels_[c];
  const Index page = channel.ready_pages.head;
  if (page == kNone || words_per_channel_ != 1 || ready_[c] != 0 || nodes_[page].gate != 0) {
    return;
  }
  channel.ready_pages.head = nodes_[page].next;
  channel.on_bus = page;
  channel.page_from = channel.bus_end;
  channel.bus_end += nodes_[page].transfer;
  counters_.bus_busy += SimDuration{nodes_[page].transfer};
  channel.bus_busy += nodes_[page].transfer;
}

void FlashEngine::take_page_back(Channel& channel) {
  const Index page = std::exchange(channel.on_bus, kNone);
  if (channel.ready_pages.head == kNone) {
    channel.ready_pages.tail = page;
  }
  nodes_[page].next = std::exchange(channel.ready_pages.head, page);
  counters_.bus_busy -= SimDuration{nodes_[page].transfer};
  channel.bus_busy -= nodes_[page].transfer;
  channel.bus_end = std::exchange(channel.page_from, kNoPage);
}

/// The first page whose gate has a credit, which it takes; kNone when there is none.
FlashEngine::Index FlashEngine::take_ready_page(Channel& channel) {
  Index before = kNone;
  for (Index page = channel.ready_pages.head; page != kNone; page = nodes_[page].next) {
    const Node& node = nodes_[page];
    if (credits_[node.gate] > 0) {
      credits_[node.gate] -= node.gate == 0 ? 0 : 1;
      (before == kNone ? channel.ready_pages.head : nodes_[before].next) = node.next;
      if (channel.ready_pages.tail == page) {
        channel.ready_pages.tail = before;
      }
      return page;
    }
    before = page;
  }
  return kNone;
}

void FlashEngine::set_gate(int gate, std::int64_t credits) {
  check(gate > 0 && gate <= kGates && credits > 0, "a gate that nothing passes");
  check(!by_recurrence_, "a gate on a flash array whose times are known in advance");
  credits_[gate] = credits;
}

void FlashEngine::return_credit(int gate, SimTime now) {
  const std::int64_t at = now.time_since_epoch().count();
  check(at >= now_ && match_at_[1] >= at, "a credit returns before what has happened");
  now_ = at;
  ++credits_[gate];
  for (std::size_t i = 0; stalled_channels_ > 0 && i < channels_.size(); ++i) {
    const std::size_t c = (gate_turn_[gate] + i) % channels_.size();
    if (channels_[c].stalled_since == kIdle) {
      continue;
    }
    grant(c, at);
    update_next(c);
    if (credits_[gate] == 0) {
      gate_turn_[gate] = (c + 1) % channels_.size();
      return;
    }
  }
}

void FlashEngine::begin_command(std::size_t c, Index u, PageOp op, std::int64_t now) {
  Channel& channel = channels_[c];
  Unit& unit = unit_at(c, u);
  std::int64_t delay = 0;
  if (unit.array != kNone) {
    channel.array_ends.remove(u);
    const bool is_program = nodes_[unit.array].op == PageOp::program;
    delay = (is_program ? config_.suspend.t_program : config_.suspend.t_erase).count();
    unit.suspended = unit.array;
    unit.suspended_left = unit.array_end - now;
    ++unit.suspensions;
    ++counters_.suspensions;
  }
  int planes = 0;
  unit.array = has_causes_ ? take_by_cause(unit, planes)
                           : nodes_.take_group(unit.waiting[index_of(op)], planes);
  const OpTimes& times = times_[index_of(op)];
  std::int64_t bus = times.command + (planes - 1) * times.further_plane;
  std::int64_t array = 0;
  for (Index node = unit.array; node != kNone; node = nodes_[node].next) {
    array = std::max(array, nodes_[node].array);
    bus += op == PageOp::program ? nodes_[node].transfer : 0;
  }
  unit.array_end = now + bus + delay + array;
  channel.array_ends.push(unit.array_end, u);
  channel.on_bus = kNone;
  channel.bus_since = ++begun_;
  channel.command_unit = u;
  channel.bus_end = now + bus;
  counters_.bus_busy += SimDuration{bus};
  channel.bus_busy += bus;
  counters_.array_busy += SimDuration{array};
  ++counters_.commands;
  if (read_priority_ && op != PageOp::read) {
    update_ready(c, u);  // a read that waits may interrupt it
  } else {
    set_ready(c, u, false);
  }
}

/// The pages of the array become ready to leave.
void FlashEngine::move_to_output(Channel& channel, Unit& unit) {
  Index node = std::exchange(unit.array, kNone);
  const PageCause cause = nodes_[node].cause;  // the first plane's decides
  while (node != kNone) {
    const Index next = nodes_[node].next;
    if (has_causes_) {
      nodes_[node].cause = cause;
      push_ready(channel, node);
    } else {
      nodes_.push(channel.ready_pages, node);
    }
    ++unit.data_out;
    node = next;
  }
}

// -- Events -------------------------------------------------------------------------------------

void FlashEngine::finish(Index index, std::int64_t at, PageSink& sink) {
  const Node& node = nodes_[index];
  if (node.op == PageOp::read) {
    ++counters_.pages_read;
  } else {
    ++(node.op == PageOp::program ? counters_.pages_programmed : counters_.blocks_erased);
  }
  const std::uint64_t tag = node.tag;
  nodes_.release(index);
  sink.page_done(tag, SimTime{SimDuration{at}});
}

void FlashEngine::array_event(std::size_t c, PageSink& sink) {
  Channel& channel = channels_[c];
  const auto [at, what] = channel.array_ends.front();
  channel.array_ends.pop();
  if (by_recurrence_) {
    finish(what, at, sink);
    return;
  }
  Unit& unit = unit_at(c, what);
  Index finished = kNone;
  if (nodes_[unit.array].op == PageOp::read) {
    if (unit.data_out > 0) {
      unit.held = true;  // only with cache read
    } else {
      move_to_output(channel, unit);
    }
  } else {
    finished = std::exchange(unit.array, kNone);
    unit.suspensions = 0;
    // What the sink adds for other chips goes before what waits for this one (as in MQSim).
    unit.is_ending = config_.policy == FlashPolicy::data_out_first;
  }
  update_ready(c, what);
  while (finished != kNone) {
    const Index next = nodes_[finished].next;
    finish(finished, at, sink);
    finished = next;
  }
  if (std::exchange(unit.is_ending, false)) {
    update_ready(c, what);
  }
  if (!channel.bus_taken) {
    grant(c, at);
  } else if (channel.page_from >= at && ready_[c] != 0) {  // array ends come before the bus
    take_page_back(channel);
  }
}

void FlashEngine::bus_event(std::size_t c, PageSink& sink) {
  Channel& channel = channels_[c];
  const std::int64_t at = channel.bus_end;
  if (channel.on_bus != kNone) {
    const Index page = std::exchange(channel.on_bus, kNone);
    channel.page_from = kNoPage;
    const Index u = nodes_[page].unit;
    Unit& unit = unit_at(c, u);
    if (--unit.data_out == 0) {
      if (unit.held) {
        unit.held = false;
        move_to_output(channel, unit);
      } else if (unit.array == kNone && unit.suspended != kNone) {
        unit.array = std::exchange(unit.suspended, kNone);
        unit.array_end = at + unit.suspended_left;
        channel.array_ends.push(unit.array_end, u);
      }
    }
    update_ready(c, u);
    channel.bus_end = kIdle;  // still taken: what the sink starts waits for the grant below
    finish(page, at, sink);
  } else if (ties_by_age_) {
    unit_at(c, channel.command_unit).array_since = ++begun_;
  }
  grant(c, at);
}

void FlashEngine::process(SimTime until, PageSink& sink) {
  const std::int64_t last = until.time_since_epoch().count();
  while (true) {
    const std::int64_t at = match_at_[1];
    const std::size_t c = match_channel_[1];
    if (at > last || at == kIdle) {
      break;
    }
    now_ = at;
    Channel& channel = channels_[c];
    if (channel.array_ends.front_at() == at) {
      array_event(c, sink);
    } else {
      bus_event(c, sink);
    }
    update_next(c);
  }
}

void FlashEngine::order_ties_by_age() {
  check(config_.policy == FlashPolicy::data_out_first && begun_ == 0, "a late choice about ties");
  ties_by_age_ = true;
}

void FlashEngine::update_next(std::size_t c) {
  if (ties_by_age_) {
    update_next_by_age(c);
    return;
  }
  const Channel& channel = channels_[c];
  std::int64_t at = std::min(channel.array_ends.front_at(), channel.bus_end);
  auto winner = static_cast<std::uint32_t>(c);
  std::size_t place = match_at_.size() / 2 + c;
  match_at_[place] = at;
  match_channel_[place] = winner;
  while (place > 1) {
    // At odd places the other one is the lower channel, which wins a tie.
    const std::int64_t other = match_at_[place ^ 1];
    const bool loses = other - static_cast<std::int64_t>(place & 1) < at;
    winner = loses ? match_channel_[place ^ 1] : winner;
    at = loses ? other : at;
    place /= 2;
    match_at_[place] = at;
    match_channel_[place] = winner;
  }
}

void FlashEngine::update_next_by_age(std::size_t c) {
  const Channel& channel = channels_[c];
  const EventRing& ends = channel.array_ends;
  const bool is_array = !ends.is_empty() && ends.front().at <= channel.bus_end;
  std::int64_t at = is_array ? ends.front().at : channel.bus_end;
  std::int64_t since = is_array ? unit_at(c, ends.front().what).array_since : channel.bus_since;
  auto winner = static_cast<std::uint32_t>(c);
  std::size_t place = match_at_.size() / 2 + c;
  match_at_[place] = at;
  match_channel_[place] = winner;
  match_since_[place] = since;
  while (place > 1) {
    const std::int64_t other = match_at_[place ^ 1];
    const std::int64_t other_since = match_since_[place ^ 1];
    const auto is_lower = static_cast<std::int64_t>(place & 1);
    const bool loses = other < at || (other == at && other_since - is_lower < since);
    winner = loses ? match_channel_[place ^ 1] : winner;
    at = loses ? other : at;
    since = loses ? other_since : since;
    place /= 2;
    match_at_[place] = at;
    match_channel_[place] = winner;
    match_since_[place] = since;
  }
}

std::vector<std::uint32_t> FlashEngine::turns() const {
  std::vector<std::uint32_t> turns;
  for (const Channel& channel : channels_) {
    turns.push_back(channel.turn);
  }
  for (const std::size_t channel : gate_turn_) {
    turns.push_back(static_cast<std::uint32_t>(channel));
  }
  return turns;
}

void FlashEngine::set_turns(const std::vector<std::uint32_t>& turns) {
  check(match_at_[1] == kIdle && turns.size() == channels_.size() + std::size(gate_turn_),
        "turns of a flash array that is at work, or of another one");
  for (std::size_t c = 0; c < channels_.size(); ++c) {
    channels_[c].turn = turns[c];
  }
  std::copy(turns.begin() + static_cast<std::ptrdiff_t>(channels_.size()), turns.end(),
            std::begin(gate_turn_));
}

void FlashEngine::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  const auto count = [&](const char* name, std::int64_t value, const char* doc) {
    metrics.add(prefix + name, static_cast<double>(value), "1", doc);
  };
  count("/pages_read", counters_.pages_read, "flash pages read from the array");
  count("/pages_programmed", counters_.pages_programmed, "flash pages programmed");
  count("/blocks_erased", counters_.blocks_erased, "flash blocks erased");
  count("/commands", counters_.commands, "flash commands; a multi-plane command counts once");
  count("/suspensions", counters_.suspensions, "programs and erases interrupted by reads");
  count("/retries", counters_.retries, "further array reads of weak pages");
  if (elapsed > SimDuration{0}) {
    metrics.add(prefix + "/channel_utilization",
                to_seconds(counters_.bus_busy) / config_.channels / to_seconds(elapsed), "1",
                "share of the time in which a channel carried a page or its commands");
    const double units = static_cast<double>(units_per_channel_ * channels_.size());
    metrics.add(prefix + "/array_utilization",
                to_seconds(counters_.array_busy) / units / to_seconds(elapsed), "1",
                "share of the time in which the array of a die (or chip, or plane) worked");
  }
}

}  // namespace nearkv
