#include "models/ssd/nvme_front_end.hpp"

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

std::int64_t count_of(SimTime time) { return time.time_since_epoch().count(); }
SimTime time_of(std::int64_t count) { return SimTime{SimDuration{count}}; }

}  // namespace

NvmeFrontEnd::NvmeFrontEnd(const NvmeConfig& config, const NvmeLinkConfig& link)
    : config_(config),
      link_(link),
      doorbell_(link.message_time(link.doorbell).count()),
      read_request_(link.message_time(link.read_request).count()),
      submission_entry_(link.message_time(link.submission_entry).count()),
      completion_entry_(link.message_time(link.completion_entry).count()),
      interrupt_(link.message_time(link.interrupt).count()),
      doorbell_latency_(config.doorbell.count()),
      read_latency_(config.command_fetch.count()),
      completion_latency_(config.completion.count()),
      host_submit_(config.host_submit.count()),
      host_complete_(config.host_complete.count()),
      host_works_(host_submit_ > 0 || host_complete_ > 0 ||
                  config.notice != CompletionNotice::entry),
      queues_(static_cast<std::size_t>(config.queue_pairs())),
      arbiter_(config) {
  check(config.queue_depth > 0 && config.fetch_limit > 0, "a front end for no commands");
}

// -- Lists and messages ---------------------------------------------------------------------------

NvmeSlot NvmeFrontEnd::new_slot() {
  if (free_slots_.empty()) {
    commands_.emplace_back();
    return static_cast<NvmeSlot>(commands_.size() - 1);
  }
  const NvmeSlot slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void NvmeFrontEnd::append(List& list, NvmeSlot slot) {
  commands_[slot].next = kNoSlot;
  (list.head == kNoSlot ? list.head : commands_[list.tail].next) = slot;
  list.tail = slot;
}

NvmeSlot NvmeFrontEnd::take_first(List& list) {
  const NvmeSlot slot = list.head;
  list.head = commands_[slot].next;
  return slot;
}

void NvmeFrontEnd::send(Direction& direction, std::int64_t now, std::int64_t length,
                        std::uint32_t of, Event event, std::int64_t latency) {
  direction.occupy(now, length);
  direction.arrivals.push(direction.free_at + latency, what(of, event));
}

std::int64_t NvmeFrontEnd::data_time(std::int64_t bytes) {
  if (bytes != last_size_) {
    last_size_ = bytes;
    last_data_time_ = link_.message_time(Bytes{bytes}).count();
  }
  return last_data_time_;
}

// -- Submission -----------------------------------------------------------------------------------

void NvmeFrontEnd::submit(SimTime now, const BlockRequest& request) {
  check(request.size > Bytes{0} && request.first >= Bytes{0}, "a block request without bytes");
  check(request.queue < queues_.size(), "a block request for a queue pair that is not there");
  const NvmeSlot slot = new_slot();
  Command& command = commands_[slot];
  command.request = request;
  command.submitted = now;
  command.held_data = 0;
  command.wants_data = false;
  command.is_complete = false;
  command.pointers_left =
      config_.data_pointers == DataPointers::none
          ? 0
          : static_cast<std::int32_t>(config_.listed_pointers(transferred(request)));
  QueuePair& queue = queues_[request.queue];
  if (queue.outstanding == config_.queue_depth) {
    append(queue.backlog, slot);
    return;
  }
  ++queue.outstanding;
  enter_queue(slot, count_of(now));
}

void NvmeFrontEnd::enter_queue(NvmeSlot slot, std::int64_t now) {
  if (host_submit_ == 0) {
    send(down_, now, doorbell_, slot, Event::doorbell, doorbell_latency_);
    return;
  }
  QueuePair& queue = queues_[commands_[slot].request.queue];
  queue.core_free_at = std::max(queue.core_free_at, now) + host_submit_;
  host_.push(queue.core_free_at, what(slot, Event::submission));
}

void NvmeFrontEnd::arrived_in_queue(NvmeSlot slot, std::int64_t now) {
  const bool has_room = in_controller_ < config_.fetch_limit;
  if (has_room && queues_.size() == 1) {
    fetch(slot, now);  // nothing to arbitrate: no other command waits
    return;
  }
  const std::uint16_t queue = commands_[slot].request.queue;
  append(queues_[queue].submitted, slot);
  arbiter_.set_ready(queue, true);
  if (has_room) {
    fetch_next(now);
  }
}

void NvmeFrontEnd::fetch_next(std::int64_t now) {
  const int number = arbiter_.take();
  QueuePair& queue = queues_[static_cast<std::size_t>(number)];
  const NvmeSlot slot = take_first(queue.submitted);
  if (queue.submitted.head == kNoSlot) {
    arbiter_.set_ready(number, false);
  }
  fetch(slot, now);
}

void NvmeFrontEnd::fetch(NvmeSlot slot, std::int64_t now) {
  ++in_controller_;
  send(up_, now, read_request_, slot, Event::entry_request, read_latency_);
}

// -- Data and their pointers ----------------------------------------------------------------------

void NvmeFrontEnd::request_list(NvmeSlot slot, std::int64_t now) {
  ++counters_.lists;
  send(up_, now, read_request_, slot, Event::list_request, read_latency_);
}

void NvmeFrontEnd::list_arrived(NvmeSlot slot, std::int64_t now) {
  Command& command = commands_[slot];
  const auto piece = config_.next_list_piece(command.pointers_left);
  command.pointers_left -= static_cast<std::int32_t>(piece.pointers);
  if (command.pointers_left > 0) {
    request_list(slot, now);
    return;
  }
  if (command.wants_data) {
    fetch_data(slot, time_of(now));
  }
  if (command.held_data > 0) {
    send_data(slot, time_of(now), Bytes{command.held_data});
  }
  if (command.is_complete) {
    complete(slot, time_of(now));
  }
}

void NvmeFrontEnd::fetch_data(NvmeSlot slot, SimTime now) {
  if (commands_[slot].pointers_left > 0) {
    commands_[slot].wants_data = true;
    return;
  }
  send(up_, count_of(now), read_request_, slot, Event::data_request, read_latency_);
}

void NvmeFrontEnd::send_data(NvmeSlot slot, SimTime now, Bytes part) {
  if (commands_[slot].pointers_left > 0) {
    commands_[slot].held_data += part.count();
    return;
  }
  up_.occupy(count_of(now), data_time(part.count()));
}

void NvmeFrontEnd::complete(NvmeSlot slot, SimTime now) {
  Command& command = commands_[slot];
  if (command.pointers_left > 0) {
    command.is_complete = true;
    return;
  }
  const std::int64_t at = count_of(now);
  --in_controller_;
  if (arbiter_.is_ready()) {
    fetch_next(at);
  }
  const bool is_seen = config_.notice == CompletionNotice::entry;
  send(up_, at, completion_entry_, slot, Event::completion, is_seen ? completion_latency_ : 0);
  if (config_.notice == CompletionNotice::interrupt) {
    completion_posted(command.request.queue, at);
  }
}

// -- Arrivals -------------------------------------------------------------------------------------

void NvmeFrontEnd::process_one(SimTime at, NvmeTarget& target, BlockHost& host) {
  const std::int64_t now = count_of(at);
  if (down_.arrivals.front_at() == now) {
    at_device(now, target);
  } else if (host_works_ && timers_.front_at() == now) {
    timer_ended(now);
  } else if (up_.arrivals.front_at() == now) {
    at_host(now, host);
  } else {
    host_event(now, host);
  }
}

void NvmeFrontEnd::timer_ended(std::int64_t now) {
  const std::uint32_t number = timers_.front().what;
  timers_.pop();
  const QueuePair& queue = queues_[number];
  if (queue.unsignalled > 0 && queue.signal_at == now) {
    signal(number, now);
  }
}

void NvmeFrontEnd::at_device(std::int64_t now, NvmeTarget& target) {
  const std::uint32_t event = down_.arrivals.front().what;
  down_.arrivals.pop();
  const NvmeSlot slot = event / kEvents;
  switch (static_cast<Event>(event % kEvents)) {
    case Event::doorbell:
      arrived_in_queue(slot, now);
      return;
    case Event::entry:
      if (commands_[slot].pointers_left > 0) {
        request_list(slot, now);
      }
      target.command_arrived(slot, time_of(now));
      return;
    case Event::list:
      list_arrived(slot, now);
      return;
    default:
      target.data_arrived(slot, time_of(now));
  }
}

void NvmeFrontEnd::at_host(std::int64_t now, BlockHost& host) {
  const std::uint32_t event = up_.arrivals.front().what;
  up_.arrivals.pop();
  const std::uint32_t of = event / kEvents;
  switch (static_cast<Event>(event % kEvents)) {
    case Event::entry_request:
      send(down_, now, submission_entry_, of, Event::entry, 0);
      return;
    case Event::list_request: {
      const auto piece = config_.next_list_piece(commands_[of].pointers_left);
      send(down_, now, link_.message_time(piece.size).count(), of, Event::list, 0);
      return;
    }
    case Event::data_request:
      send(down_, now, data_time(transferred(commands_[of].request).count()), of, Event::data, 0);
      return;
    case Event::interrupt:
      handle_completions(of, now, 0);
      return;
    default:
      completion_arrived(of, now, host);
  }
}

// -- Completion -----------------------------------------------------------------------------------

void NvmeFrontEnd::signal(std::uint32_t queue, std::int64_t now) {
  queues_[queue].unsignalled = 0;
  ++counters_.interrupts;
  send(up_, now, interrupt_, queue, Event::interrupt, completion_latency_);
}

void NvmeFrontEnd::completion_posted(std::uint32_t queue, std::int64_t now) {
  QueuePair& pair = queues_[queue];
  const std::int64_t wait = config_.aggregation_time.count();
  if (++pair.unsignalled >= config_.aggregation_threshold || wait == 0) {
    signal(queue, now);
  } else if (pair.unsignalled == 1) {
    pair.signal_at = now + wait;
    timers_.push(pair.signal_at, queue);
  }
}

void NvmeFrontEnd::completion_arrived(NvmeSlot slot, std::int64_t now, BlockHost& host) {
  const std::uint32_t number = commands_[slot].request.queue;
  QueuePair& queue = queues_[number];
  if (config_.notice == CompletionNotice::entry) {
    if (host_complete_ == 0) {
      seen(slot, now, true, host);
      return;
    }
    append(queue.arrived, slot);
    handle_completions(number, now, 0);
    return;
  }
  append(queue.arrived, slot);
  if (config_.notice == CompletionNotice::polling && !queue.will_poll) {
    queue.will_poll = true;
    const std::int64_t interval = config_.poll_interval.count();
    const std::int64_t at = interval == 0 ? now : ceil_div(now, interval) * interval;
    host_.push(at, what(number, Event::poll));
  }
}

void NvmeFrontEnd::handle_completions(std::uint32_t queue, std::int64_t now, std::int64_t latency) {
  QueuePair& pair = queues_[queue];
  const std::int64_t begin = now + latency;
  while (pair.arrived.head != kNoSlot) {
    const NvmeSlot slot = take_first(pair.arrived);
    pair.core_free_at = std::max(pair.core_free_at, begin) + host_complete_;
    const bool is_last = pair.arrived.head == kNoSlot;
    host_.push(pair.core_free_at, what(slot, is_last ? Event::last_seen : Event::seen));
  }
}

void NvmeFrontEnd::host_event(std::int64_t now, BlockHost& host) {
  const std::uint32_t event = host_.front().what;
  host_.pop();
  const std::uint32_t of = event / kEvents;
  switch (static_cast<Event>(event % kEvents)) {
    case Event::submission:
      send(down_, now, doorbell_, of, Event::doorbell, doorbell_latency_);
      return;
    case Event::poll:
      queues_[of].will_poll = false;
      handle_completions(of, now, completion_latency_);
      return;
    case Event::last_seen:
      seen(of, now, true, host);
      return;
    default:
      seen(of, now, false, host);
  }
}

void NvmeFrontEnd::seen(NvmeSlot slot, std::int64_t now, bool is_last, BlockHost& host) {
  const std::uint64_t id = commands_[slot].request.id;
  const SimTime submitted = commands_[slot].submitted;
  QueuePair& queue = queues_[commands_[slot].request.queue];
  free_slots_.push_back(slot);
  ++counters_.commands;
  if (is_last) {
    down_.occupy(now, doorbell_);  // of the completion queue
  }
  if (queue.backlog.head == kNoSlot) {
    --queue.outstanding;
  } else {
    enter_queue(take_first(queue.backlog), now);
  }
  host.completed(id, submitted, time_of(now));
}

NvmeFrontEnd::Counters NvmeFrontEnd::counters() const {
  Counters all = counters_;
  all.down_busy = SimDuration{down_.busy};
  all.up_busy = SimDuration{up_.busy};
  return all;
}

void NvmeFrontEnd::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  const Counters all = counters();
  metrics.add(prefix + "/commands", static_cast<double>(all.commands), "1",
              "NVMe commands whose completion the host has seen");
  metrics.add(prefix + "/pointer_lists", static_cast<double>(all.lists), "1",
              "pieces of PRP or SGL lists that were fetched");
  metrics.add(prefix + "/interrupts", static_cast<double>(all.interrupts), "1",
              "interrupts sent to the host");
  if (elapsed > SimDuration{}) {
    metrics.add(prefix + "/link_read_utilization", to_seconds(all.up_busy) / to_seconds(elapsed),
                "1", "share of the time in which the link carried messages towards the host");
    metrics.add(prefix + "/link_write_utilization", to_seconds(all.down_busy) / to_seconds(elapsed),
                "1", "share of the time in which the link carried messages towards the drive");
  }
}

}  // namespace nearkv
