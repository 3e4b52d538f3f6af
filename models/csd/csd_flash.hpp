// The flash of a CSD as its engine uses it: pages of KV streams, wherever the FTL has put them, on
// the recurrence (FlashArray) or, with an event-driven policy, on the FlashEngine; and the filters
// of the channels.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/csd/attend_batch.hpp"
#include "models/csd/csd_activity.hpp"
#include "models/csd/csd_config.hpp"
#include "models/flash/bus_schedule.hpp"
#include "models/flash/flash_array.hpp"
#include "models/flash/flash_engine.hpp"
#include "models/kv/kv_ftl.hpp"
#include "models/kv/kv_layout.hpp"

namespace nearkv {

class CsdFlash {
 public:
  /// `name` is the drive's config path without its first slash; it and `seed` name random streams.
  CsdFlash(const CsdConfig& config, const std::string& name, std::uint64_t seed);

  [[nodiscard]] bool is_event_driven() const { return engine_.has_value(); }
  [[nodiscard]] KvFtl& ftl() { return ftl_; }
  [[nodiscard]] const KvFtl& ftl() const { return ftl_; }

  /// One stream of one pair of a layer.
  struct Stream {
    int base;
    const PhysicalPage* table;  // null: pages lie where KvPlacement puts them
  };
  [[nodiscard]] Stream stream(const KvLayer& layer, int pair, KvStream stream) const {
    return {placement_.base(pair, stream),
            layer.task == KvLayer::kNoTask
                ? nullptr
                : ftl_.stream_table(layer.task, layer.layer, pair, stream)};
  }
  /// What decides about the layer's places, for keys of remembered runs.
  [[nodiscard]] std::uint64_t places_key(const KvLayer& layer) const {
    return layer.task == KvLayer::kNoTask ? 0 : ftl_.layer_places(layer.task, layer.layer);
  }

  [[nodiscard]] const KvPlacement& placement() const { return placement_; }

  /// A page that flash is told to read: of which stream, and where. kNoPage where no table says it
  /// and pages lie where KvPlacement puts them.
  struct ReadPage {
    int base;
    int page;
    PhysicalPage at;
    auto operator<=>(const ReadPage&) const = default;
  };
  /// For tests: reads are appended to `log` from now on, by add_read() and by log_reads() for the
  /// recurrence, where a question for each page would cost a tenth of its time.
  void set_log(std::vector<ReadPage>* log) { log_ = log; }
  [[nodiscard]] bool has_log() const { return log_ != nullptr; }
  void log_reads(const Stream& stream, const std::vector<int>& pages);

  /// Times of commands from now on.
  void set_times(const CsdConfig& config);

  // -- By recurrence: calls come in time order; each returns when it is done.
  SimTime read(SimTime now, const Stream& stream, int page) {
    const PagePlace place = place_of(stream, page);
    return array_->read(now, place.channel, place.unit).done;
  }
  /// A page that passes the filter of its channel; it arrives when the filter has seen all of it.
  SimTime read_filtered(SimTime now, const Stream& stream, int page) {
    const PagePlace place = place_of(stream, page);
    return through_filter(now, place.channel, array_->read(now, place.channel, place.unit).done);
  }
  SimTime program(SimTime now, const Stream& stream, int page) {
    const PagePlace place = place_of(stream, page);
    return array_->program(now, place.channel, place.unit).done;
  }
  SimTime erase(SimTime now, PhysicalPage block);
  /// The same, and tells what the channel does.
  struct Told {
    SimTime done;
    std::size_t channel;
  };
  Told read_told(SimTime now, const Stream& stream, int page, bool is_filtered,
                 ChannelTally& tally);
  SimTime program_told(SimTime now, const Stream& stream, int page, ChannelTally& tally);
  /// Time between two times in which a channel's bus is taken.
  [[nodiscard]] SimDuration bus_busy_between(std::size_t channel, SimTime from, SimTime to) const {
    return array_->bus_busy_between(static_cast<int>(channel), from, to);
  }

  // -- Event-driven: added commands start with engine().start().
  [[nodiscard]] FlashEngine& engine() { return *engine_; }
  /// Of the engine.
  [[nodiscard]] SimTime next_event() const { return engine_->next_event(); }
  struct ReadOptions {
    std::uint64_t tag;  // the page's channel is put in at kChannelShift
    std::uint8_t gate;
  };
  static constexpr int kChannelShift = 48;  // not a constant: a place in tags
  static constexpr int kChannelBits = 8;
  [[nodiscard]] static std::size_t channel_in(std::uint64_t tag) {
    return (tag >> kChannelShift) & ((std::uint64_t{1} << kChannelBits) - 1);
  }
  void add_read(const Stream& stream, int page, const ReadOptions& options) {
    if (has_log()) [[unlikely]] {
      log_reads(stream, {page});
    }
    PageCommand command = command_for(stream, page);
    command.tag = options.tag | std::uint64_t{command.channel} << kChannelShift;
    command.gate = options.gate;
    engine_->add(command);
  }
  void add_program(const Stream& stream, int page, std::uint64_t tag);
  void add_erase(PhysicalPage block, std::uint64_t tag);
  /// When a page that left its channel at `at` has passed the filter; calls come in time order.
  SimTime filtered(std::size_t channel, SimTime at) {
    return filter_free_[channel] = std::max(filter_free_[channel], at) + filter_time_;
  }

  // -- What a run leaves behind.
  struct State {
    FlashArray::State array;              // by recurrence
    std::vector<std::uint32_t> engine{};  // event-driven
    [[nodiscard]] std::uint64_t hash() const;
    /// By recurrence: nothing but the buses is taken.
    [[nodiscard]] bool units_are_idle() const {
      return array.units.empty() && array.caches.empty();
    }
  };
  /// Whether what comes next depends on state_after(now) alone: with an event-driven policy only
  /// while nothing is under way and nothing is drawn at random.
  [[nodiscard]] bool has_state() const {
    return !engine_ || (is_deterministic_ && engine_->next_event() == kNever);
  }
  [[nodiscard]] State state_after(SimTime now) const;
  void restore(const State& state, SimTime now);

  struct Counters {
    std::int64_t pages_read = 0;
    std::int64_t pages_programmed = 0;
    std::int64_t blocks_erased = 0;
    SimDuration bus_busy{};     // summed over the channels
    SimDuration bus_stalled{};  // likewise: pages were ready, but no slot was free for them

    Counters& operator+=(const Counters& o);
    Counters& operator-=(const Counters& o);
  };
  [[nodiscard]] Counters counters() const;
  /// Counts work that was reused instead of simulated.
  void add(const Counters& work) { reused_ += work; }
  /// It has to be simulated after all.
  void take_back(const Counters& work) { reused_ -= work; }

 private:
  SimTime through_filter(SimTime now, int channel, SimTime read) {
    if (filter_time_ <= array_->bus_time_per_page()) {
      return read + filter_time_;  // pages leave the bus so far apart that none waits
    }
    filter_gaps_[channel].forget(now);
    return filter_gaps_[channel].reserve(read, filter_time_);
  }
  [[nodiscard]] int plane_of(PhysicalPage page) const { return ftl_.flash().plane_of(page); }
  [[nodiscard]] PagePlace place_of(const Stream& stream, int page) const {
    return stream.table == nullptr ? placement_.place(stream.base, page)
                                   : placement_.place_of_plane(plane_of(stream.table[page]));
  }
  [[nodiscard]] PageCommand command_for(const Stream& stream, int page) const {
    if (stream.table == nullptr) {
      return commands_[placement_.plane(stream.base, page)];
    }
    const PhysicalPage at = stream.table[page];
    PageCommand command = commands_[plane_of(at)];
    command.page = at % pages_per_block_;
    return command;
  }

  KvPlacement placement_;
  KvFtl ftl_;
  std::uint32_t pages_per_block_;
  std::optional<FlashArray> array_;
  std::optional<FlashEngine> engine_;
  std::vector<PageCommand> commands_;  // by plane: a read of its page 0
  bool is_deterministic_;
  SimDuration filter_time_;               // of one page
  std::vector<BusSchedule> filter_gaps_;  // by channel; by recurrence
  std::vector<SimTime> filter_free_;      // likewise; event-driven
  Counters reused_;
  std::vector<ReadPage>* log_ = nullptr;
};

}  // namespace nearkv
