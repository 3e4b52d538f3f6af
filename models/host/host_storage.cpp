#include "models/host/host_storage.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "sim/core/activity_log.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::size_t kFlusher = 0;

Bytes share_of(Bytes whole, double ratio) {
  return Bytes{static_cast<std::int64_t>(static_cast<double>(whole.count()) * ratio)};
}

/// Bits first .. last.
HostMemory::WindowMask mask_of(std::int64_t first, std::int64_t last) {
  using Mask = HostMemory::WindowMask;
  const auto width = static_cast<int>(last - first + 1);
  return (~Mask{0} >> (std::numeric_limits<Mask>::digits - width)) << first;
}

}  // namespace

HostStorage::HostStorage(EventLoop& loop, const HostConfig& config, FifoServers& cores,
                         SsdArray& ssds)
    : loop_(loop),
      cores_(cores),
      faults_(config.file_system.fault_threads),
      ssds_(ssds),
      page_size_(config.page_size),
      window_(config.file_system.readahead_window),
      io_submission_(config.file_system.io_submission),
      swap_out_per_window_(config.swap.swap_out_per_page * (window_ / page_size_)),
      flush_above_(
          share_of(config.dram - config.reserved, config.file_system.dirty_background_ratio)),
      throttle_above_(share_of(config.dram - config.reserved, config.file_system.dirty_ratio)),
      memory_(config),
      swap_span_(config.memory_extent * (config.swap.size / config.memory_extent)),
      disk_("SSD", ssds.capacity() - swap_span_),
      next_file_base_(swap_span_),
      streams_(1) {
  const FileSystemConfig& files = config.file_system;
  const SwapConfig& swap = config.swap;
  const std::int64_t window_pages = window_ / page_size_;
  file_costs_ = {.unit = window_,
                 .units_per_window = 1,
                 .in_flight = files.windows_in_flight,
                 .submit = files.io_submission,
                 .page_hit = files.hit_per_page,
                 .page_miss = files.miss_per_page,
                 .unit_hit = files.hit_per_page * window_pages,
                 .unit_miss = files.miss_per_page * window_pages};
  region_costs_ = {.unit = page_size_ * swap.cluster_pages,
                   .units_per_window = static_cast<int>(window_pages / swap.cluster_pages),
                   .in_flight = 1,
                   .submit = swap.major_fault + files.io_submission,
                   .page_hit = SimDuration{},
                   .page_miss = swap.minor_fault,
                   .unit_hit = SimDuration{},
                   .unit_miss = swap.minor_fault * swap.cluster_pages};
  check(files.windows_in_flight > 0 && files.windows_in_flight <= kMostInFlight,
        "no or too many windows in flight");
  check(swap_span_ < ssds.capacity(), "swap that leaves no room on the SSDs");
  streams_[kFlusher].is_flusher = true;
  loop.attach(*this);
}

MemoryObject HostStorage::create_file(const std::string& name, Bytes size) {
  disk_.allocate(name, size);
  const MemoryObject file = memory_.add(MemoryKind::file, size);
  // Contents are not tracked by address, so space may simply be used in turn.
  if (next_file_base_ + size > ssds_.capacity()) {
    next_file_base_ = swap_span_;
  }
  storage_bases_.push_back(next_file_base_);
  names_.push_back(name);
  next_file_base_ += whole_extents(size);
  return file;
}

MemoryObject HostStorage::create_region(Bytes size) {
  const MemoryObject region = memory_.add(MemoryKind::anonymous, size);
  storage_bases_.push_back(next_region_base_);
  names_.emplace_back();
  next_region_base_ += whole_extents(size);
  return region;
}

void HostStorage::remove(MemoryObject object) {
  for (Stream& s : streams_) {
    check(s.step == Step::idle || s.object != object, "removed a file or region that is in use");
    if (s.room.object == object) {
      s.room = {};  // its data need not be written any more
      s.room_stays = false;
    }
  }
  if (memory_.kind(object) == MemoryKind::file) {
    disk_.release(names_[object.index], memory_.size(object));
  }
  memory_.remove(object);
}

void HostStorage::press(SimTime now, Bytes size) {
  for (const HostMemory::Victim& victim : memory_.take_away(size)) {
    for (int window = 0; window < memory_.windows_per_extent(); ++window) {
      if ((victim.to_write >> window & 1) != 0) {
        const Bytes offset = memory_.extent_size() * victim.extent + window_ * window;
        const Bytes rest = memory_.size(victim.object) - offset;
        ssds_.write(now, address_of(victim.object, offset), std::min(window_, rest));
        ++counters_.written_in_background;
      }
    }
  }
}

Bytes HostStorage::whole_extents(Bytes size) const {
  return memory_.extent_size() * ceil_div(size.count(), memory_.extent_size().count());
}

Bytes HostStorage::address_of(MemoryObject object, Bytes offset) const {
  const Bytes at = storage_bases_[object.index] + offset;
  return memory_.kind(object) == MemoryKind::file ? at : at - swap_span_ * (at / swap_span_);
}

template <class Visit>
void HostStorage::for_each_extent(const MemorySpan& span, Visit visit) {
  check(span.length > Bytes{} && span.offset >= Bytes{} &&
            span.offset + span.length <= memory_.size(span.object),
        "a span outside of its file or region");
  const std::int64_t per_extent = memory_.windows_per_extent();
  const std::int64_t last = (span.offset + span.length - Bytes{1}) / window_;
  for (std::int64_t window = span.offset / window_; window <= last;) {
    const std::int64_t extent = window / per_extent;
    const std::int64_t last_here = std::min(last, (extent + 1) * per_extent - 1);
    visit(extent, mask_of(window - extent * per_extent, last_here - extent * per_extent));
    window = last_here + 1;
  }
}

void HostStorage::assume_stored(const MemorySpan& span) {
  for_each_extent(span, [&](std::int64_t extent, WindowMask windows) {
    memory_.assume_stored(span.object, extent, windows);
  });
}

void HostStorage::assume_used(const MemorySpan& span, Access access) {
  for_each_extent(span, [&](std::int64_t extent, WindowMask windows) {
    memory_.touch(span.object, extent, windows, access);
  });
}

// -- Starting streams ---------------------------------------------------------------------------

void HostStorage::read_file(SimTime now, const MemorySpan& span, Completion& done) {
  check(memory_.kind(span.object) == MemoryKind::file, "read_file on a region");
  start(now, span, Access::read, done);
}

void HostStorage::write_file(SimTime now, const MemorySpan& span, Completion& done) {
  check(memory_.kind(span.object) == MemoryKind::file, "write_file on a region");
  start(now, span, Access::write, done);
}

void HostStorage::touch_memory(SimTime now, const MemorySpan& span, Access access,
                               Completion& done) {
  check(memory_.kind(span.object) == MemoryKind::anonymous, "touch_memory on a file");
  start(now, span, access, done);
}

void HostStorage::start(SimTime now, const MemorySpan& span, Access access, Completion& done) {
  const bool is_file = memory_.kind(span.object) == MemoryKind::file;
  check(span.length >= Bytes{} && span.offset >= Bytes{} &&
            span.offset + span.length <= memory_.size(span.object),
        "a span outside of its file or region");
  const auto idle = std::find_if(streams_.begin() + 1, streams_.end(),
                                 [](const Stream& s) { return s.step == Step::idle; });
  Stream& s = idle != streams_.end() ? *idle : streams_.emplace_back();
  const Costs& costs = is_file ? file_costs_ : region_costs_;
  s.costs = &costs;
  s.at = now;
  s.step = span.length > Bytes{} ? Step::admit : Step::finish;
  s.access = access;
  s.throttles = is_file && access == Access::write;
  s.completion = &done;
  s.object = span.object;
  s.begin = span.offset;
  s.end = span.offset + span.length;
  s.size = memory_.size(span.object);
  s.in_flight = access == Access::read ? costs.in_flight : 1;
  s.front = s.tail = span.offset / costs.unit;
  s.past_last = ceil_div(s.end.count(), costs.unit.count());
  s.extent_end = s.front;
  s.room = {};
  if (loop_.activity() != nullptr) {
    record_start(s, now);
  }
}

// -- The event loop -----------------------------------------------------------------------------

SimTime HostStorage::next_event() const {
  SimTime next = kNever;
  for (const Stream& s : streams_) {
    next = std::min(next, s.at);
  }
  return next;
}

void HostStorage::process(SimTime until) {
  finished_ = false;
  while (!finished_) {
    // The earliest stream goes first, of equal ones the first, and runs on until another is due.
    Stream* first = &streams_.front();
    SimTime limit = until;
    for (Stream& s : streams_) {
      if (s.at < first->at) {
        limit = std::min(limit, first->at - SimDuration{1});
        first = &s;
      } else if (&s != first) {
        limit = std::min(limit, s.at);
      }
    }
    if (first->at > until) {
      return;
    }
    rescheduled_ = false;
    do {
      run_step(*first);
    } while (first->at <= limit && !rescheduled_ && !finished_);
  }
}

void HostStorage::run_step(Stream& s) {
  switch (s.step) {
    case Step::admit:
      return admit(s);
    case Step::make_room:
      return make_room(s);
    case Step::write_out:
      return write_out(s);
    case Step::read_unit:
      return read_unit(s);
    case Step::consume:
      return consume(s);
    case Step::flush:
      return flush(s);
    case Step::finish:
      finished_ = true;
      loop_.finish(*s.completion, s.at,
                   loop_.activity() == nullptr ? ActivityLog::kNoCause : record_finish(s));
      [[fallthrough]];
    case Step::idle:
      s.step = Step::idle;
      s.at = kNever;
  }
}

SimTime HostStorage::compute(Stream& s, SimDuration service) {
  return compute_from(s, s.at, service);
}

/// From `begin` on, when what the stream waits for beside a core is there.
SimTime HostStorage::compute_from(Stream& s, SimTime begin, SimDuration service) {
  if (service == SimDuration{}) {
    return begin;
  }
  cpu_time_ += service;
  const Grant core = cores_.issue(begin, service);
  if (loop_.activity() != nullptr) [[unlikely]] {
    record_compute(s, core);
  }
  return core.done;
}

/// CPU time of a unit's pages and what the thread does `then` without leaving its core.
SimTime HostStorage::handle_pages(Stream& s, const UnitCost& cost, SimDuration then) {
  const SimDuration service = cost.hit + cost.miss + then;
  if (cost.hit == SimDuration{}) {  // not of files
    return compute(s, service);
  }
  const SimTime begin =
      std::max(cores_.probe(s.at, service).start, faults_.probe(s.at, cost.hit).start);
  faults_.issue(begin, cost.hit);
  return compute_from(s, begin, service);
}

// -- One stream ---------------------------------------------------------------------------------

void HostStorage::admit(Stream& s) {
  if (s.front == s.extent_end && enter_extent(s)) {
    s.step = Step::make_room;
  } else if (s.missing == 0 && s.costs->unit_hit == SimDuration{} && s.tail == s.front) {
    // Nothing to do in an extent that is all there.
    s.tail = s.front = s.extent_end;
    s.step = s.front < s.past_last ? Step::admit : Step::finish;
  } else if (front_is_in(s, s.to_read)) {
    s.at = compute(s, s.costs->submit);
    s.step = Step::read_unit;
  } else {
    admitted(s, s.at);
  }
}

/// Uses the extent of the front unit; true when something must be written or waited for first.
bool HostStorage::enter_extent(Stream& s) {
  const std::int64_t per_window = s.costs->units_per_window;
  const std::int64_t per_extent = memory_.windows_per_extent() * per_window;
  const std::int64_t extent = s.front / per_extent;
  s.extent_begin = extent * per_extent;
  s.extent_end = std::min(s.past_last, s.extent_begin + per_extent);
  const WindowMask windows = mask_of((s.front - s.extent_begin) / per_window,
                                     (s.extent_end - 1 - s.extent_begin) / per_window);
  const HostMemory::Touch touch = memory_.touch(s.object, extent, windows, s.access);
  s.to_read = touch.to_read;
  s.missing = touch.to_read | touch.to_zero;
  s.room = touch.victim;
  counters_.hits += std::popcount(touch.hits);
  counters_.reads += std::popcount(touch.to_read);
  counters_.zeros += std::popcount(touch.to_zero);
  if (s.throttles) {
    wake_flusher(s.at);
  }
  return s.room.to_write != 0 || s.room.free_at > s.at || must_throttle(s);
}

bool HostStorage::must_throttle(const Stream& s) const {
  return s.throttles && memory_.dirty() > throttle_above_ && memory_.has_dirty();
}

bool HostStorage::front_is_in(const Stream& s, WindowMask windows) {
  std::int64_t window = s.front - s.extent_begin;
  if (s.costs->units_per_window != 1) {
    window /= s.costs->units_per_window;
  }
  return (windows >> window & 1) != 0;
}

void HostStorage::make_room(Stream& s) {
  if (s.room.to_write != 0) {
    const std::int64_t windows = std::popcount(s.room.to_write);
    const bool swaps = memory_.kind(s.room.object) == MemoryKind::anonymous;
    const SimDuration unmap = swaps ? swap_out_per_window_ : SimDuration{};
    s.at = compute(s, (io_submission_ + unmap) * windows);
    s.step = Step::write_out;
  } else if (s.room.free_at > s.at) {
    s.at = s.room.free_at;
  } else if (must_throttle(s)) {
    s.room = memory_.take_oldest_dirty();
    s.room_stays = true;
  } else {
    s.step = s.is_flusher ? Step::flush : Step::admit;
  }
}

void HostStorage::write_out(Stream& s) {
  const HostMemory::Victim& room = s.room;
  const Bytes extent_begin = memory_.extent_size() * room.extent;
  SimTime done = s.at;
  for (WindowMask left = room.to_write; left != 0; left &= left - 1) {
    const Bytes begin = extent_begin + window_ * std::countr_zero(left);
    const Bytes length = std::min(window_, memory_.size(room.object) - begin);
    const Grant written = ssds_.write(s.at, address_of(room.object, begin), length);
    if (loop_.activity() != nullptr) [[unlikely]] {
      record_transfer(s, written, length, Access::write);
    }
    done = std::max(done, written.done);
  }
  if (room.to_write != 0) {
    std::int64_t& counter = !s.room_stays  ? counters_.written_for_room
                            : s.is_flusher ? counters_.written_in_background
                                           : counters_.written_by_throttled;
    counter += std::popcount(room.to_write);
    if (s.room_stays) {
      memory_.set_free_at(room.object, room.extent, done);
    }
  }
  s.room = {};
  s.room_stays = false;
  s.at = done;
  s.step = Step::make_room;
}

void HostStorage::read_unit(Stream& s) {
  const Bytes begin = s.costs->unit * s.front;
  const Bytes length = std::min(s.costs->unit, s.size - begin);
  const Grant read = ssds_.read(s.at, address_of(s.object, begin), length);
  if (loop_.activity() != nullptr) [[unlikely]] {
    record_transfer(s, read, length, Access::read);
  }
  admitted(s, read.done);
}

/// The front unit has its place and will be there at `ready_at`.
void HostStorage::admitted(Stream& s, SimTime ready_at) {
  s.units[s.front % kMostInFlight] = {ready_at, front_is_in(s, s.missing)};
  ++s.front;
  if (s.front < s.past_last && s.front - s.tail < s.in_flight) {
    s.step = Step::admit;
  } else {
    s.step = Step::consume;
    s.at = std::max(s.at, s.units[s.tail % kMostInFlight].ready_at);
  }
}

void HostStorage::consume(Stream& s) {
  const UnitCost cost = cost_of(s, s.tail);
  ++s.tail;
  if (s.front == s.past_last) {
    s.at = handle_pages(s, cost, SimDuration{});
    if (s.tail == s.past_last) {
      s.step = Step::finish;
    } else {
      s.at = std::max(s.at, s.units[s.tail % kMostInFlight].ready_at);
    }
  } else if (s.front == s.extent_end && enter_extent(s)) {
    s.at = handle_pages(s, cost, SimDuration{});
    s.step = Step::make_room;
  } else if (front_is_in(s, s.to_read)) {
    // The thread goes on to submit the next read without leaving its core.
    s.at = handle_pages(s, cost, s.costs->submit);
    s.step = Step::read_unit;
  } else {
    s.at = handle_pages(s, cost, SimDuration{});
    admit(s);
  }
}

HostStorage::UnitCost HostStorage::cost_of(const Stream& s, std::int64_t unit) const {
  const bool missing = s.units[unit % kMostInFlight].missing;
  const Costs& costs = *s.costs;
  const Bytes begin = costs.unit * unit;
  const Bytes end = begin + costs.unit;
  if (begin >= s.begin && end <= s.end) {
    return {costs.unit_hit, missing ? costs.unit_miss : SimDuration{}};
  }
  // An end of the span: only its pages are used, but all pages of the unit come into memory.
  const auto pages = [this](Bytes from, Bytes to) {
    return ceil_div(to.count(), page_size_.count()) - from / page_size_;
  };
  return {costs.page_hit * pages(std::max(begin, s.begin), std::min(end, s.end)),
          missing ? costs.page_miss * pages(begin, std::min(end, s.size)) : SimDuration{}};
}

// -- What the activity log is told --------------------------------------------------------------

void HostStorage::record_start(Stream& s, SimTime now) const {
  ActivityLog& log = *loop_.activity();
  s.cause = log.cause(now);
  s.recorded_since = now;
  s.core_work = s.core_queue = {};
}

void HostStorage::record_compute(Stream& s, const Grant& core) const {
  s.core_queue += core.start - s.at;
  s.core_work += core.done - core.start;
  const std::string_view what = s.is_flusher                ? "writes dirty pages back"
                                : s.costs == &region_costs_ ? "page faults"
                                : s.access == Access::read  ? "reads a mapped file"
                                                            : "writes a mapped file";
  loop_.activity()->service({.resource = "host/cores",
                             .what = what,
                             .start = core.start,
                             .done = core.done,
                             .is_fine = true});
}

void HostStorage::record_transfer(const Stream& s, const Grant& granted, Bytes size,
                                  Access access) const {
  const ActivityLog::Argument bytes{"bytes", size.count()};
  const bool is_swap = !s.is_flusher && s.costs == &region_costs_;
  loop_.activity()->service({.resource = "ssd",
                             .what = access == Access::write ? "write"
                                     : is_swap               ? "swap in"
                                                             : "read",
                             .start = granted.start,
                             .done = granted.done,
                             .arguments = std::span(&bytes, 1),
                             .is_fine = true});
}

/// Whenever the stream's thread has no core it waits for the SSDs.
int HostStorage::record_finish(const Stream& s) const {
  if (s.cause == ActivityLog::kNoCause) {
    return ActivityLog::kNoCause;  // it began before the recording
  }
  const SimDuration for_ssds = s.at - s.recorded_since - s.core_work - s.core_queue;
  const std::string_view what = s.costs == &region_costs_ ? "page faults" : "mapped files";
  const ActivityLog::Piece pieces[]{{"host/cores", what, Activity::working, s.core_work},
                                    {"host/cores", what, Activity::waiting, s.core_queue},
                                    {"ssd", what, Activity::working, for_ssds}};
  return loop_.activity()->after(s.cause, s.at, pieces);
}

// -- The flusher --------------------------------------------------------------------------------

void HostStorage::wake_flusher(SimTime now) {
  Stream& flusher = streams_[kFlusher];
  if (flusher.step == Step::idle && memory_.dirty() > flush_above_) {
    flusher.step = Step::flush;
    flusher.at = now;
    rescheduled_ = true;
  }
}

void HostStorage::flush(Stream& s) {
  if (memory_.dirty() > flush_above_ && memory_.has_dirty()) {
    s.room = memory_.take_oldest_dirty();
    s.room_stays = true;
    s.step = Step::make_room;
  } else {
    s.step = Step::idle;
    s.at = kNever;
  }
}

void HostStorage::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  const double window = static_cast<double>(window_.count());
  const auto add = [&](const char* name, std::int64_t windows, const char* doc) {
    metrics.add(prefix + name, static_cast<double>(windows) * window, "B", doc);
  };
  add("/storage/hit_bytes", counters_.hits, "accessed and found in memory, in whole windows");
  add("/storage/read_bytes", counters_.reads, "accessed and read from the SSDs");
  add("/storage/zeroed_bytes", counters_.zeros, "accessed for the first time, not read");
  add("/storage/evicted_dirty_bytes", counters_.written_for_room,
      "written out by threads that needed the memory");
  add("/storage/flushed_bytes", counters_.written_in_background, "written back in the background");
  add("/storage/throttled_bytes", counters_.written_by_throttled,
      "written back by writers over dirty_ratio");
  if (elapsed > SimDuration{}) {
    metrics.add(prefix + "/storage/cpu_cores", to_seconds(cpu_time_) / to_seconds(elapsed), "1",
                "mean number of cores that the storage path kept busy");
  }
  memory_.report(metrics, prefix + "/memory");
}

}  // namespace nearkv
