#include "models/ssd/ssd.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void SsdPowerConfig::fields(FieldVisitor& v) {
  v.constant("idle", idle, "power of a drive that is ready and has nothing to do", at_least(0));
  v.constant("read", read, "power of a drive that reads at read_rate, in all", at_least(0));
  v.constant("read_rate", read_rate, "rate at which the drive draws the read power", at_least(1));
  v.constant("write", write, "power of a drive that writes at write_rate, in all", at_least(0));
  v.constant("write_rate", write_rate, "rate at which the drive draws the write power",
             at_least(1));
  v.require(idle <= read, "read", "must be at least the idle power, " + format_exact(idle));
  v.require(idle <= write, "write", "must be at least the idle power, " + format_exact(idle));
}

void SsdConfig::fields(FieldVisitor& v) {
  v.parameter("count", count, "equal drives, striped as RAID-0", {1, 64});
  v.parameter("stripe_unit", stripe_unit, "RAID-0 chunk", range_of(4_KiB, 1_GiB));
  v.parameter("capacity", capacity, "user capacity of one drive", at_least(1));
  DriveConfig::fields(v);
  v.group("power", power, "power states of a drive");
  v.constant("price_usd", price_usd, "purchase price of a drive in US dollars", at_least(0));
  v.require([this] { return capacity <= block_capacity(); }, "capacity",
            "must not exceed the flash behind it less over-provisioning, " +
                format_exact(block_capacity()));
  v.require([this] { return stripe_unit.count() % flash.page_size.count() == 0; }, "stripe_unit",
            "must be a multiple of the flash page");
}

Ssd::Ssd(const SsdConfig& config, Rate host_link)
    : config_(config),
      normal_(static_cast<const DriveConfig&>(config)),
      host_link_(host_link),
      page_size_(config.flash.page_size),
      page_link_time_(time_for(page_size_, host_link)),
      page_buffer_time_(buffer_time(page_size_)),
      page_channel_time_(config.flash.recurrence().transfer),
      units_(config.flash.units_per_channel()),
      flash_(config.flash.recurrence()),
      queue_(config.nvme),
      cores_(config.controller.cores),
      slots_(static_cast<std::size_t>(config.ftl.write_buffer.capacity / page_size_)) {
  check(!slots_.empty(), "an SSD whose write buffer holds no page");
}

void Ssd::set_conditions(const DriveConditions& conditions) {
  static_cast<DriveConfig&>(config_) = normal_;
  put_under(config_, conditions);
  flash_.set_times(config_.flash.recurrence());
  page_channel_time_ = config_.flash.recurrence().transfer;
}

void Ssd::set_host_link(Rate host_link) {
  host_link_ = host_link;
  page_link_time_ = time_for(page_size_, host_link);
}

void Ssd::stall(SimTime now, SimDuration duration) {
  for (int core = 0; core < cores_.servers(); ++core) {
    cores_.issue(now, duration);
  }
}

Grant Ssd::accept(SimTime now, Bytes offset, Bytes size) {
  check(now >= last_command_, "SSD commands out of time order");
  check(size > Bytes{} && offset >= Bytes{} && offset + size <= config_.capacity,
        "an SSD command beyond the drive");
  last_command_ = now;
  // All commands before this one have a completion time, so there will be a slot.
  last_submission_ = std::max(*queue_.next_slot(now), last_submission_);
  const DriveControllerConfig& cost = config_.controller;
  const std::int64_t pages = (offset + size - Bytes{1}) / page_size_ - offset / page_size_ + 1;
  const SimDuration work = cost.command_cost + cost.lookup_cost * pages + cost.completion_cost;
  const Grant core = cores_.issue(queue_.submit(last_submission_).done, work);
  return {core.start, core.done - cost.completion_cost};
}

Grant Ssd::completed(const Grant& command, SimTime last_byte) {
  return {command.start, queue_.complete(last_byte + config_.controller.completion_cost)};
}

Grant Ssd::read(SimTime now, Bytes offset, Bytes size) {
  const Grant command = accept(now, offset, size);
  program_what_starts_by(command.done);
  flash_now_ = std::max(flash_now_, command.done);
  uplink_.forget(now);
  bytes_read_ += size;
  const std::int64_t first = offset / page_size_;
  int channel = channel_of(first);
  int unit = unit_of(first);
  Bytes from = offset - page_size_ * first;  // in the page
  Bytes part = page_size_ - from;            // of the page that is asked for
  SimTime done{};
  while (size > Bytes{}) {
    part = std::min(part, size);
    const SimTime ready =
        flash_.read_part(flash_now_, channel, unit, channel_time(from, part)).done;
    const SimDuration transfer = link_time(part);
    done = std::max(done, uplink_.reserve(ready, transfer));
    uplink_busy_ += transfer;
    size -= part;
    from = Bytes{};
    part = page_size_;
    if (++channel == config_.flash.channels) {
      channel = 0;
      unit = unit + 1 == units_ ? 0 : unit + 1;
    }
  }
  return completed(command, done);
}

Grant Ssd::write(SimTime now, Bytes offset, Bytes size) {
  const Grant command = accept(now, offset, size);
  bytes_written_ += size;
  const auto slots = static_cast<std::int64_t>(slots_.size());
  while (size > Bytes{}) {
    SimTime& slot = slots_[buffered_ % slots];
    while (programmed_ <= buffered_ - slots) {
      program_oldest();
    }
    const Bytes part = std::min(page_size_ - open_page_, size);
    const SimTime room = open_page_ == Bytes{} ? slot : SimTime{};
    const SimDuration transfer = link_time(part);
    downlink_free_ = std::max({command.done, downlink_free_, room}) + transfer;
    downlink_busy_ += transfer;
    buffer_port_free_ = std::max(downlink_free_, buffer_port_free_) +
                        (part == page_size_ ? page_buffer_time_ : buffer_time(part));
    open_page_ += part;
    size -= part;
    if (open_page_ == page_size_) {
      slot = buffer_port_free_;
      ++buffered_;
      open_page_ = Bytes{};
    }
  }
  return completed(command, buffer_port_free_);
}

void Ssd::program_oldest() {
  SimTime& slot = slots_[programmed_ % static_cast<std::int64_t>(slots_.size())];
  flash_now_ = std::max(flash_now_, slot);
  slot = flash_.program(flash_now_, channel_of(programmed_), unit_of(programmed_)).done;
  drained_at_ = std::max(drained_at_, slot);
  ++programmed_;
}

void Ssd::program_what_starts_by(SimTime time) {
  while (programmed_ < buffered_) {
    // A read of the same unit would start when a program could; both then wait for the bus.
    const SimTime arrival = slots_[programmed_ % static_cast<std::int64_t>(slots_.size())];
    const Grant read = flash_.probe_read(arrival, channel_of(programmed_), unit_of(programmed_));
    if (read.start - config_.flash.read_command.bus > time) {
      return;
    }
    program_oldest();
  }
}

SimTime Ssd::drain() {
  while (programmed_ < buffered_) {
    program_oldest();
  }
  return drained_at_;
}

void Ssd::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  queue_.report(metrics, prefix + "/nvme");
  metrics.add(prefix + "/host_bytes_read", static_cast<double>(bytes_read_.count()), "B",
              "bytes that the host read");
  metrics.add(prefix + "/host_bytes_written", static_cast<double>(bytes_written_.count()), "B",
              "bytes that the host wrote");
  if (elapsed > SimDuration{}) {
    const double seconds = to_seconds(elapsed);
    metrics.add(prefix + "/link_read_utilization", to_seconds(uplink_busy_) / seconds, "1",
                "share of the time in which the host link carried data of reads");
    metrics.add(prefix + "/link_write_utilization", to_seconds(downlink_busy_) / seconds, "1",
                "share of the time in which the host link carried data of writes");
    metrics.add(prefix + "/controller_utilization",
                to_seconds(cores_.busy()) / seconds / cores_.servers(), "1",
                "mean share of the time in which a controller core ran firmware");
  }
  flash_.report(metrics, prefix + "/flash", elapsed);
}

SsdArray::SsdArray(const SsdConfig& config, Rate host_link_each)
    : stripe_unit_(config.stripe_unit), capacity_(config.capacity * config.count) {
  check(config.count > 0, "an array of no drives");
  drives_.reserve(static_cast<std::size_t>(config.count));
  for (int i = 0; i < config.count; ++i) {
    drives_.emplace_back(config, host_link_each);
  }
}

Grant SsdArray::striped(SimTime now, Bytes offset, Bytes size,
                        Grant (Ssd::*command)(SimTime, Bytes, Bytes)) {
  check(size > Bytes{}, "a request for nothing");
  const auto drives = static_cast<std::int64_t>(drives_.size());
  const std::int64_t first = offset / stripe_unit_;
  const std::int64_t last = (offset + size - Bytes{1}) / stripe_unit_;
  Grant whole{kNever, SimTime{}};
  // The chunks of one drive are neighbours there: chunk c is its chunk c / drives.
  for (std::int64_t chunk = first; chunk <= std::min(last, first + drives - 1); ++chunk) {
    const std::int64_t last_of_drive = last - (last - chunk) % drives;
    const Bytes from = chunk == first ? offset - stripe_unit_ * first : Bytes{};
    const Bytes to = last_of_drive == last ? offset + size - stripe_unit_ * last : stripe_unit_;
    const Bytes local = stripe_unit_ * (chunk / drives) + from;
    const Bytes local_end = stripe_unit_ * (last_of_drive / drives) + to;
    const Grant part = (drives_[chunk % drives].*command)(now, local, local_end - local);
    whole = {std::min(whole.start, part.start), std::max(whole.done, part.done)};
  }
  return whole;
}

void SsdArray::set_host_link(Rate host_link_each) {
  for (Ssd& drive : drives_) {
    drive.set_host_link(host_link_each);
  }
}

Bytes SsdArray::bytes_read() const {
  Bytes sum{};
  for (const Ssd& drive : drives_) {
    sum += drive.bytes_read();
  }
  return sum;
}

Bytes SsdArray::bytes_written() const {
  Bytes sum{};
  for (const Ssd& drive : drives_) {
    sum += drive.bytes_written();
  }
  return sum;
}

void SsdArray::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  for (int i = 0; i < count(); ++i) {
    drives_[i].report(metrics, prefix + "/" + std::to_string(i), elapsed);
  }
}

}  // namespace nearkv
