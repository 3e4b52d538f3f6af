#include "sim/core/activity_log.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::int64_t kFirstGap = 1'000'000;  // unit: ps, 1 us
constexpr int kGapGrowth = 4;
constexpr std::string_view kUnrecorded = "unrecorded";

template <class Map>
auto& entry_of(Map& map, std::string_view name) {
  const auto found = map.find(name);
  return found != map.end() ? found->second : map[std::string(name)];
}

}  // namespace

ActivityLog::Text ActivityLog::text_of(std::string_view text) {
  const auto found = text_ids_.find(text);
  if (found != text_ids_.end()) {
    return found->second;
  }
  texts_.emplace_back(text);
  return text_ids_[texts_.back()] = static_cast<Text>(texts_.size()) - 1;
}

// -- Services -----------------------------------------------------------------------------------

void ActivityLog::service(const Service& service) {
  if (service.done <= service.start) {
    return;
  }
  Span span{
      .start = service.start,
      .done = service.done,
      .busy_ps = service.busy_ps < 0 ? (service.done - service.start).count() : service.busy_ps,
      .what = text_of(service.what),
      .first_argument = static_cast<std::int32_t>(arguments_.size())};
  for (const Argument& argument : service.arguments) {
    arguments_.push_back({text_of(argument.name), argument.value, argument.adds_up});
    ++span.arguments;
  }
  ++services_;
  const std::size_t lane = add_to_lane(entry_of(lanes_, service.resource), span, service.is_fine);
  if (service.arrow != kNobody) {
    arrows_.push_back({service.arrow, service.start, kNobody, text_of(service.resource),
                       static_cast<std::int32_t>(lane)});
  }
  if (spans_ > most_spans_) {
    merge_more();
  }
}

/// The lane that is free first, as FifoServers choose their servers; a new one when none is.
std::size_t ActivityLog::add_to_lane(std::vector<Lane>& lanes, const Span& span, bool is_fine) {
  auto lane = std::min_element(lanes.begin(), lanes.end(),
                               [](const Lane& a, const Lane& b) { return a.free < b.free; });
  if (lane == lanes.end() || lane->free > span.start) {
    lane = lanes.insert(lanes.end(), Lane{});
  }
  lane->free = span.done;
  const bool has_last = !lane->spans.empty();
  const SimDuration gap = has_last ? span.start - lane->spans.back().done : SimDuration{};
  const bool is_near = is_fine ? gap <= merged_gap_ : gap < merged_gap_;
  if (has_last && is_near && lane->spans.back().what == span.what) {
    merge(lane->spans.back(), span);
  } else {
    lane->spans.push_back(span);
    ++spans_;
  }
  return static_cast<std::size_t>(lane - lanes.begin());
}

void ActivityLog::merge(Span& last, const Span& next) {
  const auto arguments_of = [this](const Span& span) {
    return std::span(arguments_)
        .subspan(static_cast<std::size_t>(span.first_argument),
                 static_cast<std::size_t>(span.arguments));
  };
  std::vector<StoredArgument> sums;
  for (const StoredArgument& sum : arguments_of(last)) {
    for (const StoredArgument& more : arguments_of(next)) {
      if (more.name == sum.name && sum.adds_up) {
        sums.push_back({sum.name, sum.value + more.value, true});
      }
    }
  }
  std::copy(sums.begin(), sums.end(), arguments_of(last).begin());
  last.arguments = static_cast<std::int32_t>(sums.size());
  last.done = next.done;
  last.busy_ps += next.busy_ps;
  last.count += next.count;
}

void ActivityLog::merge_more() {
  merged_gap_ = merged_gap_ == SimDuration{} ? SimDuration{kFirstGap} : merged_gap_ * kGapGrowth;
  spans_ = 0;
  for (auto& [resource, lanes] : lanes_) {
    for (Lane& lane : lanes) {
      std::vector<Span> kept;
      for (const Span& span : lane.spans) {
        if (!kept.empty() && span.start - kept.back().done < merged_gap_ &&
            kept.back().what == span.what) {
          merge(kept.back(), span);
        } else {
          kept.push_back(span);
        }
      }
      lane.spans = std::move(kept);
      spans_ += static_cast<std::int64_t>(lane.spans.size());
    }
  }
}

void ActivityLog::explain(std::string_view resource, std::string_view what, SimTime start,
                          SimTime done, Activity activity) {
  if (has_turn() && start < done) {
    turn().reasons.push_back({text_of(resource), text_of(what), start, done, activity});
  }
}

void ActivityLog::counter(std::string_view name, std::string_view unit, SimTime at,
                          std::int64_t value) {
  Counter& counter = entry_of(counters_, name);
  counter.unit = unit;
  if (!counter.samples.empty() && counter.samples.back().at == at) {
    counter.samples.back().value = value;
  } else if (counter.samples.empty() || counter.samples.back().value != value) {
    counter.samples.push_back({at, value});
  }
}

std::int32_t ActivityLog::begin_arrow(SimTime now) {
  check(has_turn(), "an arrow that no actor begins");
  arrows_.push_back({next_arrow_, now, turn_, 0, 0});
  return next_arrow_++;
}

// -- Actors -------------------------------------------------------------------------------------

void ActivityLog::spawned(std::int32_t actor, std::string name, SimTime now) {
  const Cause why = has_turn() ? cause(now) : kNoCause;
  Actor& entry = actors_[actor];
  entry.name = std::move(name);
  entry.cause = why;
}

ActivityLog::Cause ActivityLog::cause(SimTime now) {
  check(has_turn(), "only an actor has a cause of its own");
  Cause& why = turn().cause;
  if (why == kNoCause) {
    why = root(now);
  }
  check(node(why).at == now, "an actor's time passed without a wait");
  return why;
}

void ActivityLog::add_slice(SimTime begin, SimTime end, Text name) {
  if (slices_ >= most_spans_) {
    ++waits_left_out_;
    return;
  }
  ++slices_;
  turn().slices.push_back({begin, end, name, true});
}

/// Reasons that follow one another up to the end; a service that began later was waited for.
void ActivityLog::waited_for_time(SimTime begin, SimTime end) {
  const Cause before = cause(begin);
  const std::vector<Reason> reasons = std::exchange(turn().reasons, {});
  std::vector<StoredPiece> pieces;  // from the end
  SimTime from = end;
  const Reason* first = nullptr;
  while (from > begin) {
    const auto reason = std::find_if(reasons.rbegin(), reasons.rend(),
                                     [from](const Reason& r) { return r.done == from; });
    if (reason == reasons.rend()) {
      break;
    }
    first = &*reason;
    const SimTime start = std::max(begin, reason->start);
    pieces.push_back({reason->resource, reason->what, reason->activity, from - start});
    from = start;
  }
  Text name = first == nullptr ? text_of(kUnrecorded) : first->what;
  if (pieces.size() > 1) {
    name = pieces.front().resource;
  }
  if (from > begin) {
    const Text unknown = text_of(kUnrecorded);
    pieces.push_back({first == nullptr ? unknown : first->resource,
                      first == nullptr ? unknown : first->what, Activity::waiting, from - begin});
  }
  std::reverse(pieces.begin(), pieces.end());
  turn().cause = add_node(before, end, pieces);
  add_slice(begin, end, name);
}

void ActivityLog::waited_for(std::string_view what, SimTime begin, SimTime end, Cause why) {
  turn().reasons.clear();
  if (why == kNoCause) {
    const Piece unknown{kUnrecorded, what, Activity::waiting, end - begin};
    turn().cause = after(cause(begin), end, std::span(&unknown, 1));
  } else {
    check(node(why).at == end, "a completion whose cause lies at another time");
    turn().cause = add_node(why, end, {});  // what passed is part of the waiter's phase
  }
  if (begin < end && what != kIdle) {
    add_slice(begin, end, text_of(fmt::format("waits for {}", what)));
  }
}

void ActivityLog::flowed(const Flow& flow, SimTime begin, SimTime end) {
  turn().reasons.clear();
  for (std::size_t i = 0; i < flow.links.size(); ++i) {
    const Argument size{"bytes", flow.size.count()};
    service({.resource = flow.links[i],
             .what = "flow",
             .start = begin,
             .done = end,
             .busy_ps = flow.at_full_rate[i].count(),
             .arguments = std::span(&size, 1)});
  }
  const SimDuration alone = std::min(flow.alone, end - begin);
  const Piece pieces[]{{flow.slowest, "data on their way", Activity::working, alone},
                       {flow.slowest, "data on their way", Activity::waiting, end - begin - alone}};
  turn().cause = after(cause(begin), end, pieces);
  add_slice(begin, end, text_of(fmt::format("flow over {}", flow.slowest)));
}

void ActivityLog::begin_scope(Scope kind, std::string_view name, SimTime now) {
  if (!has_turn()) {
    return;
  }
  Actor& actor = turn();
  actor.open.push_back(actor.slices.size());
  actor.scopes.push_back(kind);
  actor.slices.push_back({now, kNever, text_of(name), false});
  if (kind == Scope::phase) {
    actor.phases.push_back(text_of(name));
  }
}

void ActivityLog::end_scope(SimTime now) {
  if (!has_turn() || turn().open.empty()) {
    return;  // it began before the recording
  }
  Actor& actor = turn();
  actor.slices[actor.open.back()].end = now;
  actor.open.pop_back();
  if (actor.scopes.back() == Scope::phase) {
    actor.phases.pop_back();
  }
  actor.scopes.pop_back();
}

// -- Causes -------------------------------------------------------------------------------------

ActivityLog::Cause ActivityLog::add_node(Cause before, SimTime at,
                                         std::span<const StoredPiece> pieces) {
  SimDuration sum{};
  for (const StoredPiece& piece : pieces) {
    sum += piece.time;
  }
  check(sum == at - node(before).at, "the pieces between two causes do not add up");
  const bool has_phase = has_turn() && !turn().phases.empty();
  nodes_.push_back({before, at, has_phase ? turn().phases.back() : kNoPhase,
                    static_cast<std::int32_t>(pieces_.size()),
                    static_cast<std::int32_t>(pieces.size())});
  pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
  return static_cast<Cause>(nodes_.size()) - 1;
}

ActivityLog::Cause ActivityLog::after(Cause before, SimTime at, std::span<const Piece> pieces) {
  std::vector<StoredPiece> stored;
  for (const Piece& piece : pieces) {
    if (piece.time > SimDuration{}) {
      stored.push_back({text_of(piece.resource), text_of(piece.what), piece.activity, piece.time});
    }
  }
  return add_node(before, at, stored);
}

ActivityLog::Cause ActivityLog::root(SimTime at) {
  nodes_.push_back({kNoCause, at, kNoPhase, 0, 0});
  return static_cast<Cause>(nodes_.size()) - 1;
}

// -- Windows ------------------------------------------------------------------------------------

void ActivityLog::begin_window(SimTime now) {
  if (windows_.empty()) {
    drop_before(now);
  }
  windows_.push_back({.name = {}, .begin = now, .end = now, .last = kNoCause});
}

void ActivityLog::end_window(std::string name, SimTime now) {
  Window& window = windows_.back();
  window.name = std::move(name);
  window.end = now;
  window.last = cause(now);
}

/// Services and slices that had ended by `begin` go, the others are cut.
void ActivityLog::drop_before(SimTime begin) {
  spans_ = 0;
  slices_ = 0;
  services_ = 0;
  for (auto& [resource, lanes] : lanes_) {
    for (Lane& lane : lanes) {
      std::erase_if(lane.spans, [begin](const Span& span) { return span.done <= begin; });
      for (Span& span : lane.spans) {
        span.start = std::max(span.start, begin);
        span.busy_ps = std::min(span.busy_ps, (span.done - span.start).count());
        services_ += span.count;
      }
      spans_ += static_cast<std::int64_t>(lane.spans.size());
    }
  }
  for (auto& [number, actor] : actors_) {
    std::vector<Slice> open;
    for (std::size_t& index : actor.open) {
      open.push_back(actor.slices[index]);
      open.back().begin = begin;
      index = open.size() - 1;
    }
    actor.slices = std::move(open);
  }
  for (auto& [name, counter] : counters_) {
    counter.samples.clear();
  }
  arrows_.clear();
}

}  // namespace nearkv
