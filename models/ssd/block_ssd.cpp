#include "models/ssd/block_ssd.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void NvmeLinkConfig::fields(FieldVisitor& v) {
  v.parameter("lanes", lanes, "PCIe lanes of the drive", {1, 32});
  v.parameter("lane_rate", lane_rate, "rate of one lane in each direction, after its line code",
              range_of(1_MBps, 100'000_MBps));
  v.constant("max_payload", max_payload, "payload of one packet", range_of(16_B, 4_KiB));
  v.constant("packet_overhead", packet_overhead, "headers and framing of one packet",
             range_of(0_B, 256_B));
  v.constant("read_request", read_request, "payload of a request for data", range_of(0_B, 256_B));
  v.constant("doorbell", doorbell, "payload of a doorbell's write", range_of(0_B, 256_B));
  v.constant("submission_entry", submission_entry, "size of a submission queue entry",
             range_of(1_B, 256_B));
  v.constant("completion_entry", completion_entry, "size of a completion queue entry",
             range_of(1_B, 256_B));
  v.parameter("time_step", time_step,
              "the time of a message is cut to a multiple of it; 0: rounded up to 1 ps",
              range_of(0_ps, 1us));
  v.parameter("fetch_limit", fetch_limit, "commands that the controller holds at most", {1, 65536});
}

SimDuration NvmeLinkConfig::message_time(Bytes payload) const {
  const std::int64_t packets =
      std::max<std::int64_t>(1, ceil_div(payload.count(), max_payload.count()));
  const std::int64_t bytes = payload.count() + packets * packet_overhead.count();
  const SimDuration exact = time_for(Bytes{ceil_div(bytes, lanes)}, lane_rate);
  return time_step > SimDuration{0} ? exact - exact % time_step : exact;
}

void BlockSsdConfig::fields(FieldVisitor& v) {
  v.group("flash", flash, "the flash array");
  v.group("link", link, "NVMe front end and PCIe link");
  v.parameter("page_size", page_size, "user data of one flash page", range_of(512_B, 64_KiB));
}

BlockSsd::BlockSsd(const BlockSsdConfig& config, PageMap& map, const Rng& rng)
    : config_(config),
      map_(map),
      flash_(config.flash, rng.child("read_retry")),
      doorbell_(config.link.message_time(config.link.doorbell).count()),
      read_request_(config.link.message_time(config.link.read_request).count()),
      submission_entry_(config.link.message_time(config.link.submission_entry).count()),
      completion_entry_(config.link.message_time(config.link.completion_entry).count()) {}

BlockSsd::Slot BlockSsd::new_slot() {
  if (free_slots_.empty()) {
    commands_.emplace_back();
    return static_cast<Slot>(commands_.size() - 1);
  }
  const Slot slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void BlockSsd::send(Direction& direction, std::int64_t now, std::int64_t length, Slot slot,
                    Message message) {
  direction.occupy(now, length);
  direction.arrivals.push(direction.free_at,
                          slot * kMessages + static_cast<std::uint32_t>(message));
}

std::int64_t BlockSsd::data_time(std::int64_t bytes) {
  if (bytes != last_size_) {
    last_size_ = bytes;
    last_data_time_ = config_.link.message_time(Bytes{bytes}).count();
  }
  return last_data_time_;
}

void BlockSsd::submit(SimTime now, const BlockRequest& request) {
  check(request.size > Bytes{0} && request.first >= Bytes{0}, "a block request without bytes");
  const Slot slot = new_slot();
  commands_[slot] = {request.id,           now, request.first.count(),
                     request.size.count(), 0,   request.is_write};
  send(down_, now.time_since_epoch().count(), doorbell_, slot, Message::doorbell);
}

void BlockSsd::fetch_next(std::int64_t now) {
  ++in_controller_;
  send(up_, now, read_request_, submitted_[submitted_head_++], Message::fetch);
  if (2 * submitted_head_ >= submitted_.size()) {  // each entry is moved once on average
    submitted_.erase(submitted_.begin(),
                     submitted_.begin() + static_cast<std::ptrdiff_t>(submitted_head_));
    submitted_head_ = 0;
  }
}

void BlockSsd::at_device(std::int64_t now) {
  const std::uint32_t what = down_.arrivals.front().what;
  down_.arrivals.pop();
  const Slot slot = what / kMessages;
  const auto message = static_cast<Message>(what % kMessages);
  if (message == Message::doorbell) {
    submitted_.push_back(slot);
    if (in_controller_ < config_.link.fetch_limit) {
      fetch_next(now);
    }
  } else if (message == Message::entry && commands_[slot].is_write) {
    send(up_, now, read_request_, slot, Message::data_request);
  } else {
    begin(slot, now);
  }
}

void BlockSsd::at_host(std::int64_t now, BlockHost& host) {
  const std::uint32_t what = up_.arrivals.front().what;
  up_.arrivals.pop();
  const Slot slot = what / kMessages;
  const auto message = static_cast<Message>(what % kMessages);
  if (message == Message::fetch) {
    send(down_, now, submission_entry_, slot, Message::entry);
    return;
  }
  if (message == Message::data_request) {
    send(down_, now, data_time(commands_[slot].size), slot, Message::data);
    return;
  }
  const Command done = commands_[slot];
  free_slots_.push_back(slot);
  down_.occupy(now, doorbell_);  // of the completion queue
  host.completed(done.id, done.submitted, SimTime{SimDuration{now}});
}

void BlockSsd::begin(Slot slot, std::int64_t now) {
  Command& command = commands_[slot];
  const std::int64_t page_size = config_.page_size.count();
  std::int64_t at = command.first;
  const std::int64_t end = command.first + command.size;
  command.pages_left = 0;
  while (at < end) {
    const std::int64_t page = at / page_size;
    const std::int64_t page_end = std::min(end, (page + 1) * page_size);
    PageCommand access = command.is_write ? map_.place(page) : map_.locate(page);
    access.tag = slot;
    access.op = command.is_write ? PageOp::program : PageOp::read;
    access.bytes = static_cast<std::uint32_t>(page_end - at);
    flash_.add(access);
    ++command.pages_left;
    at = page_end;
  }
  flash_.start(SimTime{SimDuration{now}});
}

void BlockSsd::page_done(std::uint64_t tag, SimTime at) {
  const Slot slot = static_cast<Slot>(tag);
  Command& command = commands_[slot];
  if (--command.pages_left > 0) {
    return;
  }
  const std::int64_t now = at.time_since_epoch().count();
  if (!command.is_write) {
    up_.occupy(now, data_time(command.size));
  }
  --in_controller_;
  if (submitted_head_ < submitted_.size()) {
    fetch_next(now);
  }
  send(up_, now, completion_entry_, slot, Message::completion);
}

SimTime BlockSsd::next_event() const {
  const auto next_of = [](const Direction& direction) {
    return direction.arrivals.is_empty() ? kNever
                                         : SimTime{SimDuration{direction.arrivals.front().at}};
  };
  return std::min(flash_.next_event(), std::min(next_of(down_), next_of(up_)));
}

void BlockSsd::process(SimTime until, BlockHost& host) {
  while (true) {
    const SimTime at = next_event();
    if (at > until || at == kNever) {
      return;
    }
    if (flash_.next_event() == at) {
      flash_.process(at, *this);
      continue;
    }
    const std::int64_t now = at.time_since_epoch().count();
    if (!down_.arrivals.is_empty() && down_.arrivals.front().at == now) {
      at_device(now);
    } else {
      at_host(now, host);
    }
  }
}

}  // namespace nearkv
