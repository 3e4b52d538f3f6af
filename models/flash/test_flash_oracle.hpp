// The flash engine's rules once more, plainly: an event queue, lists, and a search over all units
// at every decision. Slow, and obviously what flash_engine.hpp says.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "models/flash/flash_engine.hpp"
#include "sim/core/random.hpp"

namespace nearkv::test_flash_oracle {

struct Done {
  std::uint64_t tag;
  std::int64_t at;
  bool operator==(const Done&) const = default;
};

class Oracle {
 public:
  Oracle(const FlashConfig& config, const Rng& rng)
      : config_(config),
        retry_rng_(rng.child("read_retry")),
        spread_rng_(rng.child("array_spread")),
        channels_(config.channels) {
    for (Channel& channel : channels_) {
      channel.units.resize(config.policy == FlashPolicy::data_out_first
                               ? config.chips_per_channel
                               : config.units_per_channel());
    }
  }

  void add(const PageCommand& command) {
    added_.push_back({command, draw_array(command), order_++});
  }

  void start(std::int64_t now) {
    std::vector<int> touched;
    for (const Page& page : added_) {
      Channel& channel = channels_[page.command.channel];
      channel.units[unit_of(page.command)].waiting.push_back(page);
      if (!needs_no_bus(page)) {
        channel.in_order.push_back(page.order);
      }
      if (std::find(touched.begin(), touched.end(), page.command.channel) == touched.end()) {
        touched.push_back(page.command.channel);
      }
    }
    added_.clear();
    for (const int c : touched) {
      decide(c, now);
    }
  }

  void set_gate(int gate, std::int64_t credits) { credits_[gate] = credits; }

  void return_credit(int gate, std::int64_t now) {
    ++credits_[gate];
    const int channels = static_cast<int>(channels_.size());
    for (int i = 0; i < channels && credits_[gate] > 0; ++i) {
      const int c = (gate_turn_[gate] + i) % channels;
      if (!channels_[c].busy && !channels_[c].ready.empty()) {
        decide(c, now);
        if (credits_[gate] == 0) {
          gate_turn_[gate] = (c + 1) % channels;
        }
      }
    }
  }

  /// Time of the earliest event, the greatest of all when there is none.
  [[nodiscard]] std::int64_t next_event() const {
    return events_.empty() ? INT64_MAX : std::get<0>(events_.begin()->first);
  }

  std::vector<Done> run(std::int64_t until) {
    std::vector<Done> all;
    while (!events_.empty() && std::get<0>(events_.begin()->first) <= until) {
      const auto [key, event] = *events_.begin();
      events_.erase(events_.begin());
      const auto [at, c, is_bus, sequence] = key;
      if (config_.policy == FlashPolicy::fifo) {
        fifo_event(c, at, event);
      } else if (is_bus != 0) {
        bus_event(c, at);
      } else {
        array_event(c, at, event);
      }
      // With fifo a page may end on the bus before a shorter command cycle: in time order anyway.
      all.insert(all.end(), done_.begin(), done_.end());
      done_.clear();
      decide(c, at);
    }
    return all;
  }

 private:
  struct Page {
    PageCommand command;
    std::int64_t array;  // until the controller sees the end
    std::int64_t order;
  };
  enum class Fifo { ready, page_out, bus_free, array_done };
  struct Event {
    int unit;
    Fifo fifo;
    Page page;
  };
  using Key = std::tuple<std::int64_t, int, int, std::int64_t>;  // time, channel, bus?, sequence
  struct Unit {
    std::deque<Page> waiting;
    std::vector<Page> array;
    std::int64_t array_end = 0;
    bool held = false;
    int data_out = 0;
    std::vector<Page> suspended;
    std::int64_t suspended_left = 0;
    int suspensions = 0;
    // fifo
    bool is_ready = false;  // what is in the array waits for the bus
    bool cache_full = false;
    bool array_full = false;  // a read that is done, but finds the cache register full
  };
  struct Channel {
    std::vector<Unit> units;
    bool busy = false;
    std::optional<Page> leaving;
    std::deque<Page> ready;
    int turn = 0;
    std::deque<std::int64_t> in_order;  // fifo: commands that the bus has not served
    std::deque<Page> bus_ready;         // fifo: those that may be served when it is their turn
  };

  std::int64_t draw_array(const PageCommand& command) {
    double time = static_cast<double>(config_.array_time(command.op, command.page).count());
    if (config_.array_spread > 0) {
      time *= 1 - config_.array_spread + 2 * config_.array_spread * spread_rng_.uniform();
    }
    std::int64_t whole = std::max<std::int64_t>(1, std::llround(time));
    if (command.op == PageOp::read && config_.read_retry.is_on()) {
      std::vector<int> urn;  // k as often as its weight
      for (std::size_t k = 0; k < config_.read_retry.weights.size(); ++k) {
        urn.insert(urn.end(), static_cast<std::size_t>(config_.read_retry.weights[k]),
                   static_cast<int>(k));
      }
      whole *= 1 + urn[retry_rng_.below(urn.size())];
    }
    return whole + config_.command(command.op).ready.count();
  }

  int unit_of(const PageCommand& c) const {
    if (config_.policy == FlashPolicy::data_out_first) {
      return c.chip;
    }
    const int die = c.chip * config_.dies_per_chip + c.die;
    return config_.array_unit == ArrayUnit::die ? die : die * config_.planes_per_die + c.plane;
  }

  std::int64_t transfer_of(const Page& page) const {
    return page.command.op == PageOp::erase ? 0 : config_.transfer_time(page.command.bytes).count();
  }

  bool needs_no_bus(const Page& page) const {
    return page.command.op != PageOp::read &&
           transfer_of(page) + config_.command(page.command.op).bus.count() == 0;
  }

  void schedule(int c, std::int64_t at, bool is_bus, int unit, Fifo fifo = Fifo::ready,
                const Page& page = {}) {
    events_[{at, c, is_bus ? 1 : 0, sequence_++}] = {unit, fifo, page};
  }

  void decide(int c, std::int64_t now) {
    if (config_.policy == FlashPolicy::fifo) {
      decide_fifo(c, now);
      return;
    }
    Channel& channel = channels_[c];
    if (channel.busy) {
      return;
    }
    if (config_.policy == FlashPolicy::out_of_order && command(c, now)) {
      return;
    }
    const auto leaving = std::find_if(
        channel.ready.begin(), channel.ready.end(),
        [&](const Page& p) { return p.command.gate == 0 || credits_[p.command.gate] > 0; });
    if (leaving != channel.ready.end()) {
      channel.leaving = *leaving;
      channel.ready.erase(leaving);
      --credits_[channel.leaving->command.gate];
      channel.busy = true;
      schedule(c, now + transfer_of(*channel.leaving), true, 0);
    } else if (config_.policy == FlashPolicy::data_out_first) {
      command(c, now);
    }
  }

  /// Position in `waiting` of the command that the unit takes next.
  std::optional<std::size_t> next_of(const Unit& unit, std::int64_t now) const {
    const auto first = [&](PageOp op) {
      return std::find_if(unit.waiting.begin(), unit.waiting.end(),
                          [op](const Page& page) { return page.command.op == op; });
    };
    const auto place = [&](auto it) { return static_cast<std::size_t>(it - unit.waiting.begin()); };
    const auto read = first(PageOp::read);
    if (!unit.array.empty()) {
      const PageOp running = unit.array.front().command.op;
      const bool allowed = (running == PageOp::program && config_.suspend.program) ||
                           (running == PageOp::erase && config_.suspend.erase);
      const bool worth = unit.array_end - now >= config_.suspend.least_remaining.count();
      if (allowed && worth && unit.suspended.empty() && read != unit.waiting.end() &&
          unit.suspensions < config_.suspend.at_most) {
        return place(read);
      }
      return std::nullopt;
    }
    if (unit.waiting.empty()) {
      return std::nullopt;
    }
    if (config_.read_priority) {
      for (const PageOp op : {PageOp::read, PageOp::program, PageOp::erase}) {
        if (const auto it = first(op); it != unit.waiting.end()) {
          return startable(unit, op) ? std::optional{place(it)} : std::nullopt;
        }
      }
    }
    return startable(unit, unit.waiting.front().command.op) ? std::optional<std::size_t>{0}
                                                            : std::nullopt;
  }

  bool startable(const Unit& unit, PageOp op) const {
    if (op == PageOp::read) {
      return unit.data_out == 0 || config_.cache_read;
    }
    return unit.data_out == 0 && unit.suspended.empty();
  }

  bool command(int c, std::int64_t now) {
    Channel& channel = channels_[c];
    const int units = static_cast<int>(channel.units.size());
    for (int i = 0; i < units; ++i) {
      const int u = (channel.turn + i) % units;
      if (const auto place = next_of(channel.units[u], now)) {
        channel.turn = (u + 1) % units;
        begin(c, u, *place, now);
        return true;
      }
    }
    return false;
  }

  void begin(int c, int u, std::size_t place, std::int64_t now) {
    Unit& unit = channels_[c].units[u];
    const Page lead = unit.waiting[place];
    std::vector<Page> group;
    std::deque<Page> rest;
    for (const Page& page : unit.waiting) {
      const bool same = page.command.op == lead.command.op &&
                        page.command.die == lead.command.die &&
                        page.command.page == lead.command.page;
      const bool plane_free = std::none_of(group.begin(), group.end(), [&](const Page& other) {
        return other.command.plane == page.command.plane;
      });
      const bool joins = config_.multi_plane && !group.empty() && same && plane_free;
      if (page.order == lead.order || joins) {
        group.push_back(page);
      } else {
        rest.push_back(page);
      }
    }
    unit.waiting = rest;
    std::int64_t delay = 0;
    if (!unit.array.empty()) {
      const bool is_program = unit.array.front().command.op == PageOp::program;
      delay = (is_program ? config_.suspend.t_program : config_.suspend.t_erase).count();
      std::erase_if(events_, [&](const auto& entry) {
        return std::get<1>(entry.first) == c && std::get<2>(entry.first) == 0 &&
               entry.second.unit == u;
      });
      unit.suspended = unit.array;
      unit.suspended_left = unit.array_end - now;
      ++unit.suspensions;
    }
    unit.array = group;
    std::int64_t bus =
        config_.command_time(lead.command.op, static_cast<int>(group.size())).count();
    std::int64_t array = 0;
    for (const Page& page : group) {
      bus += lead.command.op == PageOp::program ? transfer_of(page) : 0;
      array = std::max(array, page.array);
    }
    unit.array_end = now + bus + delay + array;
    channels_[c].busy = true;
    channels_[c].leaving.reset();
    schedule(c, unit.array_end, false, u);
    schedule(c, now + bus, true, u);
  }

  void to_output(Channel& channel, Unit& unit) {
    for (const Page& page : unit.array) {
      channel.ready.push_back(page);
      ++unit.data_out;
    }
    unit.array.clear();
  }

  void array_event(int c, std::int64_t at, const Event& event) {
    Channel& channel = channels_[c];
    Unit& unit = channel.units[event.unit];
    if (unit.array.front().command.op != PageOp::read) {
      for (const Page& page : unit.array) {
        done_.push_back({page.command.tag, at});
      }
      unit.array.clear();
      unit.suspensions = 0;
    } else if (unit.data_out > 0) {
      unit.held = true;
    } else {
      to_output(channel, unit);
    }
  }

  void bus_event(int c, std::int64_t at) {
    Channel& channel = channels_[c];
    channel.busy = false;
    if (!channel.leaving) {
      return;
    }
    done_.push_back({channel.leaving->command.tag, at});
    const int u = unit_of(channel.leaving->command);
    Unit& unit = channel.units[u];
    if (--unit.data_out > 0) {
      return;
    }
    if (unit.held) {
      unit.held = false;
      to_output(channel, unit);
    } else if (unit.array.empty() && !unit.suspended.empty()) {
      unit.array.swap(unit.suspended);
      unit.array_end = at + unit.suspended_left;
      schedule(c, unit.array_end, false, u);
    }
  }

  // fifo: the bus serves commands in order of arrival; each takes its command cycles on the bus
  // behind its data.
  void decide_fifo(int c, std::int64_t now) {
    Channel& channel = channels_[c];
    for (int u = 0; u < static_cast<int>(channel.units.size()); ++u) {
      Unit& unit = channel.units[u];
      if (!unit.array.empty() || unit.waiting.empty()) {
        continue;
      }
      const Page page = unit.waiting.front();
      unit.waiting.pop_front();
      unit.array = {page};
      if (page.command.op == PageOp::read) {
        const std::int64_t command = config_.command(PageOp::read).bus.count();
        schedule(c, now + command + page.array, false, u, Fifo::ready, page);
      } else if (needs_no_bus(page)) {
        schedule(c, now + page.array, false, u, Fifo::array_done, page);
      } else {
        channel.bus_ready.push_back(page);
      }
    }
    if (channel.busy || channel.in_order.empty()) {
      return;
    }
    const auto next =
        std::find_if(channel.bus_ready.begin(), channel.bus_ready.end(),
                     [&](const Page& page) { return page.order == channel.in_order.front(); });
    if (next == channel.bus_ready.end()) {
      return;
    }
    const Page page = *next;
    channel.bus_ready.erase(next);
    channel.in_order.pop_front();
    channel.busy = true;
    const std::int64_t command = config_.command(page.command.op).bus.count();
    const std::int64_t data = now + transfer_of(page);
    const int u = unit_of(page.command);
    if (page.command.op == PageOp::read) {
      schedule(c, data, false, u, Fifo::page_out, page);
    } else {
      schedule(c, data + command + page.array, false, u, Fifo::array_done, page);
    }
    schedule(c, data + command, true, u, Fifo::bus_free, page);
  }

  void fifo_event(int c, std::int64_t at, const Event& event) {
    Channel& channel = channels_[c];
    Unit& unit = channel.units[event.unit];
    if (event.fifo == Fifo::bus_free) {
      channel.busy = false;
    } else if (event.fifo == Fifo::array_done) {
      done_.push_back({event.page.command.tag, at});
      unit.array.clear();
    } else if (event.fifo == Fifo::page_out) {
      done_.push_back({event.page.command.tag, at});
      unit.cache_full = false;
      if (!config_.cache_read) {
        unit.array.clear();
      } else if (unit.array_full) {
        unit.array_full = false;
        unit.cache_full = true;
        unit.array.clear();
      }
    } else {
      channel.bus_ready.push_back(event.page);
      if (config_.cache_read && !unit.cache_full) {
        unit.cache_full = true;
        unit.array.clear();
      } else {
        unit.array_full = config_.cache_read;
      }
    }
  }

  FlashConfig config_;
  Rng retry_rng_;
  Rng spread_rng_;
  std::vector<Channel> channels_;
  std::vector<Page> added_;
  std::map<Key, Event> events_;
  std::vector<Done> done_;
  std::int64_t order_ = 0;
  std::int64_t sequence_ = 0;
  std::int64_t credits_[FlashEngine::kGates + 1] = {};  // the first one is not looked at
  int gate_turn_[FlashEngine::kGates + 1] = {};
};

}  // namespace nearkv::test_flash_oracle
