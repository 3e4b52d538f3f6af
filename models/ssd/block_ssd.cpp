#include "models/ssd/block_ssd.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

constexpr std::uint32_t kSector = 512;        // unit: bytes
constexpr std::uint32_t kSectorsOfPage = 64;  // unit: bits of a mask
constexpr std::uint32_t kFlushes = 1U << 28;  // unit: first request of write-backs

}  // namespace

void BlockSsdConfig::fields(FieldVisitor& v) {
  DriveConfig::fields(v);
  v.group("precondition", precondition, "what the drive holds at the start");
}

BlockSsd::BlockSsd(const BlockSsdConfig& config, std::uint64_t seed, const std::string& name)
    : config_(config),
      executor_(config, seed, name),
      front_end_(config.nvme, config.link),
      cores_(config.controller.cores),
      sector_size_(std::max(
          kSector, static_cast<std::uint32_t>(config.flash.page_size.count()) / kSectorsOfPage)) {
  if (config.ftl.write_buffer.capacity >= config.flash.page_size) {
    buffer_.emplace(config.ftl.write_buffer, config.flash.page_size);
    flushes_.resize(static_cast<std::size_t>(buffer_->slots()));
  }
  if (config.precondition.fill > 0) {
    precondition(executor_.ftl(), config.precondition, Rng(seed, name + "/precondition"));
  }
}

Bytes BlockSsd::capacity() const {
  return executor_.ftl().logical_pages() * config_.flash.page_size;
}

void BlockSsd::submit(SimTime now, const BlockRequest& request) {
  check(request.first >= Bytes{0} && request.first + request.size <= capacity(),
        "a request beyond the drive");
  if (!has_begun_) {
    has_begun_ = true;
    executor_.begin();
  }
  executor_.ftl().prefetch(static_cast<LogicalPage>(request.first / config_.flash.page_size));
  front_end_.submit(now, request);
}

// -- Firmware and DRAM ----------------------------------------------------------------------------

void BlockSsd::run_firmware(NvmeSlot slot, SimTime now, SimDuration cost, Stage then) {
  if (cost == SimDuration{0}) {
    reached(slot, then, now);
    return;
  }
  const SimTime done = cores_.issue(now, cost).done;
  stages_.push(done.time_since_epoch().count(), slot * kStages + static_cast<std::uint32_t>(then));
}

void BlockSsd::pass_dram(NvmeSlot slot, SimTime now, std::int64_t bytes, Stage then) {
  if (config_.dram.rate == Rate{0} || bytes == 0) {
    reached(slot, then, now);
    return;
  }
  const SimTime done = dram_.issue(now, time_for(Bytes{bytes}, config_.dram.rate)).done;
  stages_.push(done.time_since_epoch().count(), slot * kStages + static_cast<std::uint32_t>(then));
}

void BlockSsd::reached(NvmeSlot slot, Stage stage, SimTime now) {
  if (stage == Stage::flush) {
    write_back(slot, now);
    return;
  }
  const BlockRequest& request = front_end_.request(slot);
  const bool is_write = request.op == BlockOp::write;
  switch (stage) {
    case Stage::parsed:
      if (request.op != BlockOp::read) {
        front_end_.fetch_data(slot, now);
      } else {
        begin(slot, now);
      }
      return;
    case Stage::data_in:
      if (buffer_) {
        begin(slot, now);
      } else {
        pass_dram(slot, now, request.size.count(), Stage::data_out);
      }
      return;
    case Stage::data_out:
      if (is_write) {
        begin(slot, now);
      } else {
        front_end_.send_data(slot, now, request.size);
        run_firmware(slot, now, config_.controller.completion_cost, Stage::finished);
      }
      return;
    case Stage::page_in:
      page_passed(slot, now);
      return;
    case Stage::finished:
    case Stage::flush:
      front_end_.complete(slot, now);
  }
}

// -- A command's way ------------------------------------------------------------------------------

std::int64_t BlockSsd::pages_of(const BlockRequest& request) const {
  const Bytes last = request.first + request.size - Bytes{1};
  return last / config_.flash.page_size - request.first / config_.flash.page_size + 1;
}

void BlockSsd::command_arrived(NvmeSlot slot, SimTime at) {
  SimDuration cost = config_.controller.command_cost;
  if (config_.controller.lookup_cost > SimDuration{0}) {
    cost += config_.controller.lookup_cost * pages_of(front_end_.request(slot));
  }
  run_firmware(slot, at, cost, Stage::parsed);
}

void BlockSsd::data_arrived(NvmeSlot slot, SimTime at) {
  if (front_end_.request(slot).op == BlockOp::trim) {
    trim(slot, at);
    return;
  }
  if (cache_) {
    begin_in_cache(slot, at);
    return;
  }
  pass_dram(slot, at, front_end_.request(slot).size.count(), Stage::data_in);
}

void BlockSsd::use_mqsim_cache(const MqsimCacheConfig& config) {
  cache_.emplace(config, executor_, kFlushes);
}

void BlockSsd::begin_in_cache(NvmeSlot slot, SimTime now) {
  const BlockRequest& request = front_end_.request(slot);
  const std::int64_t page_size = config_.flash.page_size.count();
  const std::int64_t end = (request.first + request.size).count();
  std::vector<MqsimCache::Page> pages;
  for (std::int64_t at = request.first.count(); at < end;) {
    const std::int64_t page = at / page_size;
    const std::int64_t page_end = std::min(end, (page + 1) * page_size);
    pages.push_back({static_cast<LogicalPage>(page),
                     {static_cast<std::uint32_t>(at - page * page_size),
                      static_cast<std::uint32_t>(page_end - at)}});
    at = page_end;
  }
  if (request.op == BlockOp::write) {
    cache_->write(slot, std::move(pages), now);
  } else {
    cache_->read(slot, pages, now);
  }
}

/// All pages of a command are where they have to be.
void BlockSsd::finish(NvmeSlot slot, SimTime now) {
  if (front_end_.request(slot).op == BlockOp::read) {
    reached(slot, Stage::data_out, now);
  } else {
    run_firmware(slot, now, config_.controller.completion_cost, Stage::finished);
  }
}

void BlockSsd::begin(NvmeSlot slot, SimTime now) {
  if (cache_) {
    begin_in_cache(slot, now);
    return;
  }
  const BlockRequest& request = front_end_.request(slot);
  const bool is_write = request.op == BlockOp::write;
  const std::int64_t page_size = config_.flash.page_size.count();
  std::int64_t at = request.first.count();
  const std::int64_t end = at + request.size.count();
  if (slot >= pages_left_.size()) {
    pages_left_.resize(front_end_.slots());
  }
  const std::int64_t pages = pages_of(request);
  pages_left_[slot] = static_cast<std::uint32_t>(pages);
  std::int64_t done = 0;
  for (std::int64_t page = at / page_size; at < end; ++page) {
    const std::int64_t page_end = std::min(end, (page + 1) * page_size);
    const FtlExecutor::Part part{static_cast<std::uint32_t>(at - page * page_size),
                                 static_cast<std::uint32_t>(page_end - at)};
    const auto logical = static_cast<LogicalPage>(page);
    if (buffer_ && (is_write ? put({slot, logical, sectors_of(part)})
                             : buffer_->read(logical, sectors_of(part)))) {
      ++done;
    } else if (!is_write) {
      const FtlExecutor::Outcome outcome = executor_.read(slot, logical, part, now);
      done += outcome == FtlExecutor::Outcome::done ? 1 : 0;
    } else if (!buffer_) {
      executor_.write(slot, logical, part, now);
    }
    at = page_end;
  }
  if (buffer_ && is_write) {
    drain(now);
  }
  executor_.start(now);
  for (; done > 0; --done) {
    page_ready(slot, now);
  }
}

/// Pages that it covers as a whole lose their data.
void BlockSsd::trim(NvmeSlot slot, SimTime now) {
  const BlockRequest& request = front_end_.request(slot);
  const std::int64_t page_size = config_.flash.page_size.count();
  const std::int64_t first = ceil_div(request.first.count(), page_size);
  const std::int64_t end = (request.first + request.size).count() / page_size;
  for (std::int64_t page = first; page < end; ++page) {
    if (buffer_) {
      buffer_->discard(static_cast<LogicalPage>(page));
    }
    executor_.trim(static_cast<LogicalPage>(page), now);
  }
  executor_.start(now);
  run_firmware(slot, now, config_.controller.completion_cost, Stage::finished);
}

void BlockSsd::host_page_done(std::uint32_t request, SimTime at) {
  if (cache_) {
    if (request >= kFlushes) {
      cache_->flash_written(request - kFlushes, at);
    } else if (cache_->flash_read(request)) {
      finish(request, at);
    }
  } else if (request >= kFlushes) {
    flushed(request - kFlushes, at);
  } else {
    page_ready(request, at);
  }
}

/// A page of a command was read or programmed. Each brings an equal part of a read's bytes.
void BlockSsd::page_ready(NvmeSlot slot, SimTime now) {
  const BlockRequest& request = front_end_.request(slot);
  if (request.op == BlockOp::read && config_.dram.read_data) {
    pass_dram(slot, now, ceil_div(request.size.count(), pages_of(request)), Stage::page_in);
    return;
  }
  page_passed(slot, now);
}

void BlockSsd::page_passed(NvmeSlot slot, SimTime now) {
  if (--pages_left_[slot] > 0) {
    return;
  }
  if (front_end_.request(slot).op == BlockOp::read) {
    const std::int64_t bytes = config_.dram.read_data ? front_end_.request(slot).size.count() : 0;
    pass_dram(slot, now, bytes, Stage::data_out);
  } else {
    run_firmware(slot, now, config_.controller.completion_cost, Stage::finished);
  }
}

// -- The write buffer -----------------------------------------------------------------------------

/// The parts of a page that it touches, 64 at most to a page.
std::uint64_t BlockSsd::sectors_of(FtlExecutor::Part part) const {
  const std::uint32_t size = sector_size_;
  const std::uint32_t first = part.first / size;
  const std::uint32_t count = (part.first + part.size - 1) / size - first + 1;
  const std::uint64_t ones =
      count >= kSectorsOfPage ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
  return ones << first;
}

/// Whether the page has room in the buffer; else it waits.
bool BlockSsd::put(const Blocked& page) {
  if (blocked_.empty() && buffer_->put(page.page, page.sectors) != WriteBuffer::Put::full) {
    return true;
  }
  blocked_.push_back(page);
  return false;
}

/// Writes pages back while too many wait, or others wait for room.
void BlockSsd::drain(SimTime now) {
  while (buffer_->wants_flush() || (!blocked_.empty() && buffer_->waiting() > 0)) {
    const std::optional<WriteBuffer::Flush> flush = buffer_->begin_flush();
    const auto index = static_cast<std::uint32_t>(flush->slot);
    flushes_[index] = *flush;
    pass_dram(index, now, std::popcount(flush->sectors) * sector_size_, Stage::flush);
  }
}

void BlockSsd::write_back(std::uint32_t index, SimTime now) {
  const WriteBuffer::Flush& flush = flushes_[index];
  const auto bytes = static_cast<std::uint32_t>(std::popcount(flush.sectors)) * sector_size_;
  executor_.write(kFlushes + index, flush.page, {0, bytes}, now);
  executor_.start(now);
}

void BlockSsd::flushed(std::uint32_t index, SimTime now) {
  buffer_->end_flush(static_cast<int>(index));
  while (!blocked_.empty()) {
    const Blocked page = blocked_.front();
    if (buffer_->put(page.page, page.sectors) == WriteBuffer::Put::full) {
      break;
    }
    blocked_.pop_front();
    page_ready(page.slot, now);
  }
  drain(now);
}

// -- Events ---------------------------------------------------------------------------------------

SimTime BlockSsd::next_event() const {
  const SimTime stage{SimDuration{stages_.front_at()}};
  const SimTime cache = cache_ ? cache_->next_event() : kNever;
  return std::min({executor_.next_event(), stage, front_end_.next_event(), cache});
}

void BlockSsd::process(SimTime until, BlockHost& host) {
  while (true) {
    const SimTime flash = executor_.next_event();
    const SimTime stage{SimDuration{stages_.front_at()}};
    const SimTime link = front_end_.next_event();
    const SimTime cache = cache_ ? cache_->next_event() : kNever;
    const SimTime at = std::min(std::min(flash, stage), std::min(link, cache));
    if (at > until || at == kNever) {
      return;
    }
    last_event_ = at;
    if (flash == at) {
      executor_.process(at, *this);
    } else if (stage == at) {
      const std::uint32_t what = stages_.front().what;
      stages_.pop();
      reached(what / kStages, static_cast<Stage>(what % kStages), at);
    } else if (cache == at) {
      if (const std::optional<NvmeSlot> slot = cache_->process(at)) {
        finish(*slot, at);
      }
    } else {
      front_end_.process_one(at, *this, host);
    }
  }
}

void BlockSsd::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  front_end_.report(metrics, prefix + "/nvme", elapsed);
  executor_.flash().report(metrics, prefix + "/flash", elapsed);
  executor_.report(metrics, prefix);
}

}  // namespace nearkv
