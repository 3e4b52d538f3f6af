// What a CSD tells the activity log, while there is one: why each of its events came when it came,
// and when its parts worked. Resources are parts of the drive ("csd/0/gemv_units").
//
// Flash channels are told by what was asked of them together (a block of heads, the pages of a
// store), not page by page: a span from the first page to the last, with the number of pages and
// the bus time or array time in it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/activity_log.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Pages on the channels of a flash array since the last time they were told.
class ChannelTally {
 public:
  struct Channel {
    std::int64_t pages = 0;
    SimTime bus_start = kNever;
    SimTime bus_end{};
    SimDuration bus{};
    SimTime array_start = kNever;
    SimTime array_end{};
    SimDuration array{};  // summed over dies or planes
  };

  void add_bus(std::size_t channel, SimTime start, SimTime end, std::int64_t pages = 1);
  void add_array(std::size_t channel, SimTime start, SimTime end);
  [[nodiscard]] const std::vector<Channel>& channels() const { return channels_; }
  void clear() { channels_.clear(); }

 private:
  Channel& at(std::size_t channel);

  std::vector<Channel> channels_;
};

class CsdActivity {
 public:
  using Cause = ActivityLog::Cause;

  /// `drive` is its config path without the first slash.
  explicit CsdActivity(std::string drive) : drive_(std::move(drive)) {}

  // -- Causes. There is a current one: that of the event that is being handled.

  /// Until when a part is what is waited for; parts follow one another.
  struct Part {
    std::string_view part;
    std::string_view what;
    SimTime until;
    Activity activity = Activity::working;
  };
  /// An event, named by its number, follows from the current cause, at the end of the last part.
  void follows(ActivityLog& log, std::uint64_t event, std::initializer_list<Part> parts) {
    causes_[event] = after(log, current_, parts);
  }
  /// What is handled from now on is due to that event, or to the actor that has its turn.
  void handles(ActivityLog& log, std::uint64_t event, SimTime at);
  void handles_actor(ActivityLog& log, SimTime now) { current_ = log.cause(now); }
  void set_current(Cause cause) { current_ = cause; }
  [[nodiscard]] Cause current() const { return current_; }
  [[nodiscard]] Cause after(ActivityLog& log, Cause before,
                            std::initializer_list<Part> parts) const;

  // -- Services.

  void service(ActivityLog& log, std::string_view part, std::string_view what,
               const Grant& granted) const;
  /// Something that arrows lead to.
  struct Work {
    std::string_view part;
    std::string_view what;
    Grant time;
    std::optional<SimDuration> busy = {};  // all of the time without
    std::vector<ActivityLog::Argument> arguments;
    std::int32_t arrow = ActivityLog::kNobody;
  };
  void work(ActivityLog& log, const Work& work) const;
  /// The channels' work since the last time, which is then forgotten. The arrow leads to the first
  /// of them.
  void channels(ActivityLog& log, std::string_view what, ChannelTally& tally,
                std::int32_t arrow = ActivityLog::kNobody) const;
  /// Event-driven, where single pages are not told: so much bus time of one channel.
  void channel(ActivityLog& log, std::size_t channel, std::string_view what, const Grant& within,
               SimDuration bus) const;
  void waiting_commands(ActivityLog& log, SimTime now, std::int64_t change);

 private:
  [[nodiscard]] std::string name_of(std::string_view part) const;

  std::string drive_;
  Cause current_ = ActivityLog::kNoCause;
  std::map<std::uint64_t, Cause> causes_;  // of events to come
  std::int64_t waiting_ = 0;               // commands
};

}  // namespace nearkv
