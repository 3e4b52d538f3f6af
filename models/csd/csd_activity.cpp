#include "models/csd/csd_activity.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace nearkv {

ChannelTally::Channel& ChannelTally::at(std::size_t channel) {
  if (channel >= channels_.size()) {
    channels_.resize(channel + 1);
  }
  return channels_[channel];
}

void ChannelTally::add_bus(std::size_t channel, SimTime start, SimTime end, std::int64_t pages) {
  Channel& entry = at(channel);
  entry.pages += pages;
  entry.bus_start = std::min(entry.bus_start, start);
  entry.bus_end = std::max(entry.bus_end, end);
  entry.bus += end - start;
}

void ChannelTally::add_array(std::size_t channel, SimTime start, SimTime end) {
  Channel& entry = at(channel);
  entry.array_start = std::min(entry.array_start, start);
  entry.array_end = std::max(entry.array_end, end);
  entry.array += end - start;
}

std::string CsdActivity::name_of(std::string_view part) const {
  return fmt::format("{}/{}", drive_, part);
}

void CsdActivity::handles(ActivityLog& log, std::uint64_t event, SimTime at) {
  const auto found = causes_.find(event);
  if (found == causes_.end()) {
    current_ = log.root(at);
    return;
  }
  current_ = found->second;
  causes_.erase(found);
}

CsdActivity::Cause CsdActivity::after(ActivityLog& log, Cause before,
                                      std::initializer_list<Part> parts) const {
  if (before == ActivityLog::kNoCause) {  // it began before the recording
    return log.root(std::data(parts)[parts.size() - 1].until);
  }
  std::vector<std::string> names;
  std::vector<ActivityLog::Piece> pieces;
  names.reserve(parts.size());
  SimTime at = log.node(before).at;
  for (const Part& part : parts) {
    if (part.until > at) {
      names.push_back(name_of(part.part));
      pieces.push_back({names.back(), part.what, part.activity, part.until - at});
      at = part.until;
    }
  }
  return log.after(before, at, pieces);
}

void CsdActivity::service(ActivityLog& log, std::string_view part, std::string_view what,
                          const Grant& granted) const {
  log.service({.resource = name_of(part),
               .what = what,
               .start = granted.start,
               .done = granted.done,
               .is_fine = true});
}

void CsdActivity::work(ActivityLog& log, const Work& work) const {
  log.service({.resource = name_of(work.part),
               .what = work.what,
               .start = work.time.start,
               .done = work.time.done,
               .busy_ps = work.busy.value_or(work.time.done - work.time.start).count(),
               .arguments = work.arguments,
               .arrow = work.arrow});
}

void CsdActivity::channels(ActivityLog& log, std::string_view what, ChannelTally& tally,
                           std::int32_t arrow) const {
  for (std::size_t i = 0; i < tally.channels().size(); ++i) {
    const ChannelTally::Channel& channel = tally.channels()[i];
    const ActivityLog::Argument pages{"pages", channel.pages};
    log.service({.resource = name_of(fmt::format("flash/channel/{}", i)),
                 .what = what,
                 .start = channel.bus_start,
                 .done = channel.bus_end,
                 .busy_ps = channel.bus.count(),
                 .arguments = std::span(&pages, 1),
                 .arrow = channel.pages > 0 ? std::exchange(arrow, ActivityLog::kNobody)
                                            : ActivityLog::kNobody});
    log.service({.resource = name_of(fmt::format("flash/channel/{}/dies", i)),
                 .what = what,
                 .start = channel.array_start,
                 .done = channel.array_end,
                 .busy_ps = channel.array.count(),
                 .arguments = std::span(&pages, 1)});
  }
  tally.clear();
}

void CsdActivity::channel(ActivityLog& log, std::size_t channel, std::string_view what,
                          const Grant& within, SimDuration bus) const {
  log.service({.resource = name_of(fmt::format("flash/channel/{}", channel)),
               .what = what,
               .start = within.start,
               .done = within.done,
               .busy_ps = bus.count()});
}

void CsdActivity::waiting_commands(ActivityLog& log, SimTime now, std::int64_t change) {
  waiting_ = std::max<std::int64_t>(0, waiting_ + change);
  log.counter(name_of("commands under way"), "commands", now, waiting_);
}

}  // namespace nearkv
