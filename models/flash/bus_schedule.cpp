#include "models/flash/bus_schedule.hpp"

#include <algorithm>

namespace nearkv {

BusSchedule::Gap BusSchedule::find_gap(SimTime ready, SimDuration length) const {
  // The first interval that ends after `ready`, by halving without branches: where it lies is
  // hard to predict. There is one: callers ask only about times before the last end.
  auto next = busy_.begin() + static_cast<std::ptrdiff_t>(head_);
  for (std::ptrdiff_t count = busy_.end() - next; count > 1;) {
    const std::ptrdiff_t half = count / 2;
    next += next[half - 1].second <= ready ? half : 0;
    count -= half;
  }
  SimTime start = ready;
  while (next != busy_.end() && next->first < start + length) {
    start = std::max(start, next->second);
    ++next;
  }
  return {static_cast<std::size_t>(next - busy_.begin()), start, start + length};
}

SimTime BusSchedule::fill_gap(SimTime ready, SimDuration length) {
  const Gap gap = find_gap(ready, length);
  const bool touches_previous = gap.next > head_ && busy_[gap.next - 1].second == gap.start;
  const bool touches_next = gap.next < busy_.size() && busy_[gap.next].first == gap.end;
  const auto position = busy_.begin() + static_cast<std::ptrdiff_t>(gap.next);
  if (touches_previous && touches_next) {
    busy_[gap.next - 1].second = busy_[gap.next].second;
    busy_.erase(position);
  } else if (touches_previous) {
    busy_[gap.next - 1].second = gap.end;
  } else if (touches_next) {
    busy_[gap.next].first = gap.start;
  } else {
    busy_.insert(position, {gap.start, gap.end});
  }
  return gap.end;
}

std::vector<SimDuration> BusSchedule::busy_after(SimTime now) const {
  std::vector<SimDuration> busy;
  const auto first =
      std::partition_point(busy_.begin() + static_cast<std::ptrdiff_t>(head_), busy_.end(),
                           [now](const Interval& interval) { return interval.second <= now; });
  for (auto interval = first; interval != busy_.end(); ++interval) {
    busy.push_back(std::max(interval->first - now, SimDuration{0}));
    busy.push_back(interval->second - now);
  }
  return busy;
}

SimDuration BusSchedule::busy_between(SimTime from, SimTime to) const {
  SimDuration busy{};
  for (std::size_t i = head_; i < busy_.size(); ++i) {
    const SimTime start = std::max(busy_[i].first, from);
    const SimTime end = std::min(busy_[i].second, to);
    busy += std::max(end - start, SimDuration{0});
  }
  return busy;
}

void BusSchedule::restore(const std::vector<SimDuration>& busy, SimTime now) {
  head_ = 0;
  busy_.assign(std::max<std::size_t>(busy.size() / 2, 1), {now, now});
  for (std::size_t i = 0; i + 1 < busy.size(); i += 2) {
    busy_[i / 2] = {now + busy[i], now + busy[i + 1]};
  }
}

}  // namespace nearkv
