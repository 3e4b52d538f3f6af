#include "models/ssd/mqsim_cache.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::int64_t kSectorBytes = 512;                // unit: bytes
constexpr SimDuration kMemory = std::chrono::seconds(1);  // not a constant: fixed in MQSim's source

std::uint64_t mask_of(FtlExecutor::Part part) {
  const std::uint64_t first = part.first / kSectorBytes;
  const std::uint64_t count = (part.first + part.size - 1) / kSectorBytes - first + 1;
  const std::uint64_t bits = 64;  // unit: of a mask
  return (count >= bits ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1) << first;
}

/// Sectors as a part of a page. Only their number matters to the flash where all are new.
FtlExecutor::Part part_of(std::uint64_t sectors) {
  const auto first = static_cast<std::uint32_t>(std::countr_zero(sectors) * kSectorBytes);
  return {first, static_cast<std::uint32_t>(std::popcount(sectors) * kSectorBytes)};
}

}  // namespace

SimDuration MqsimCacheConfig::access_time(std::int64_t bytes) const {
  const std::int64_t open = activate_ns + access_ns;
  const auto cut = [](double value) { return static_cast<std::int64_t>(value); };
  // Two transfers a burst time.
  const auto transfers = [&](std::int64_t size) {
    const std::int64_t bursts = size / burst_bytes / 2;
    return cut(static_cast<double>(bursts) * burst_ns);
  };
  std::int64_t time = open;
  if (bytes <= row_bytes) {
    time += transfers(bytes);
  } else {
    const std::int64_t rows = bytes / row_bytes / 2;
    const double rest =
        static_cast<double>(bytes % row_bytes) / (static_cast<double>(burst_bytes) * burst_ns);
    time += rows * (open + transfers(row_bytes) + precharge_ns) + cut(rest);
  }
  return std::chrono::nanoseconds(time);
}

MqsimCache::MqsimCache(const MqsimCacheConfig& config, FtlExecutor& executor,
                       std::uint32_t first_request)
    : config_(config), executor_(executor), first_request_(first_request) {
  check(config.pages > 0 && config.row_bytes > 0 && config.burst_bytes > 0,
        "a data cache without pages or DRAM");
}

// -- DRAM -----------------------------------------------------------------------------------------

void MqsimCache::access(Access access, SimTime now) {
  if (accesses_.empty()) {
    busy_until_ = now + config_.access_time(access.bytes);
  }
  accesses_.push_back(std::move(access));
}

std::optional<std::uint32_t> MqsimCache::process(SimTime now) {
  const Access done = accesses_.front();
  std::optional<std::uint32_t> finished;
  if (done.is_eviction) {
    write_back(done.evicted, now);
  } else {
    Request& request = requests_[done.slot];
    request.dram_sectors -= done.bytes / kSectorBytes;
    if (is_done(request)) {
      finished = done.slot;
    }
  }
  accesses_.pop_front();
  busy_until_ = accesses_.empty() ? kNever : now + config_.access_time(accesses_.front().bytes);
  return finished;
}

// -- Pages ----------------------------------------------------------------------------------------

/// The entry of a page, which is the most recently used then; null when it is not there.
MqsimCache::Entry* MqsimCache::find(LogicalPage page) {
  const auto found = entries_.find(page);
  if (found == entries_.end()) {
    return nullptr;
  }
  recent_.splice(recent_.begin(), recent_, found->second.place);
  return &found->second;
}

/// A page that is not there; the least recently used one makes room.
void MqsimCache::insert(LogicalPage page, std::uint64_t sectors, SimTime stamp, Access& eviction) {
  if (static_cast<std::int64_t>(entries_.size()) == config_.pages) {
    const LogicalPage oldest = recent_.back();
    const Entry& entry = entries_.at(oldest);
    if (entry.status == Status::dirty) {
      eviction.evicted.push_back({oldest, entry.sectors, entry.stamp});
      eviction.bytes += std::popcount(entry.sectors) * kSectorBytes;
    }
    recent_.pop_back();
    entries_.erase(oldest);
  }
  recent_.push_front(page);
  entries_[page] = {sectors, stamp, Status::dirty, recent_.begin()};
}

void MqsimCache::destage(std::uint32_t slot, SimTime now) {
  Request& request = requests_[slot];
  Access eviction{0, slot, true, {}};
  std::vector<WriteBack> cold;
  std::int64_t cold_sectors = 0;
  std::int64_t written = 0;
  while (!request.pages.empty() &&
         on_their_way_ + eviction.bytes / kSectorBytes + cold_sectors < config_.sector_limit) {
    const Page page = request.pages.front();
    request.pages.pop_front();
    const std::uint64_t sectors = mask_of(page.part);
    if (Entry* entry = find(page.page)) {
      entry->sectors |= sectors;
      entry->stamp = std::max(entry->stamp, request.arrived);
      entry->status = Status::dirty;
    } else {
      insert(page.page, sectors, request.arrived, eviction);
    }
    written += std::popcount(sectors);
    if (seen_.insert(page.page).second) {
      entries_.at(page.page).status = Status::on_its_way;
      cold.push_back({page.page, sectors, request.arrived});
      cold_sectors += std::popcount(sectors);
    }
  }
  request.dram_sectors += written;
  on_their_way_ += eviction.bytes / kSectorBytes + cold_sectors;
  if (!eviction.evicted.empty()) {
    access(std::move(eviction), now);
  }
  if (written > 0) {
    access({written * kSectorBytes, slot, false, {}}, now);
  }
  write_back(cold, now);
  if (now > forget_at_) {
    seen_.clear();
    forget_at_ = now + kMemory;
  }
}

void MqsimCache::write_back(const std::vector<WriteBack>& pages, SimTime now) {
  if (pages.empty()) {
    return;
  }
  for (const WriteBack& page : pages) {
    auto index = static_cast<std::uint32_t>(write_backs_.size());
    if (free_indices_.empty()) {
      write_backs_.push_back(page);
    } else {
      index = free_indices_.back();
      free_indices_.pop_back();
      write_backs_[index] = page;
    }
    executor_.write(first_request_ + index, page.page, part_of(page.sectors), now);
  }
  executor_.start(now);
}

void MqsimCache::flash_written(std::uint32_t index, SimTime now) {
  const WriteBack done = write_backs_[index];
  free_indices_.push_back(index);
  on_their_way_ -= std::popcount(done.sectors);
  if (const Entry* entry = find(done.page); entry != nullptr && done.stamp >= entry->stamp) {
    recent_.erase(entry->place);
    entries_.erase(done.page);
  }
  for (auto slot = waiting_.begin(); slot != waiting_.end();) {
    destage(*slot, now);
    slot = requests_[*slot].pages.empty() ? waiting_.erase(slot) : slot + 1;
    if (on_their_way_ > config_.sector_limit) {
      break;
    }
  }
}

// -- Requests -------------------------------------------------------------------------------------

void MqsimCache::write(std::uint32_t slot, std::vector<Page> pages, SimTime now) {
  requests_.resize(std::max<std::size_t>(requests_.size(), slot + 1));
  requests_[slot] = {{pages.begin(), pages.end()}, now, 0, 0};
  destage(slot, now);
  if (!requests_[slot].pages.empty()) {
    waiting_.push_back(slot);
  }
}

void MqsimCache::read(std::uint32_t slot, const std::vector<Page>& pages, SimTime now) {
  requests_.resize(std::max<std::size_t>(requests_.size(), slot + 1));
  Request& request = requests_[slot];
  request = {{}, now, 0, 0};
  std::vector<Page> from_flash;
  for (const Page& page : pages) {
    const std::uint64_t wanted = mask_of(page.part);
    const Entry* entry = find(page.page);
    const std::uint64_t here = entry == nullptr ? 0 : entry->sectors & wanted;
    request.dram_sectors += std::popcount(here);
    if (here != wanted) {
      from_flash.push_back({page.page, here == 0 ? page.part : part_of(wanted & ~here)});
    }
  }
  if (request.dram_sectors > 0) {
    access({request.dram_sectors * kSectorBytes, slot, false, {}}, now);
  }
  request.flash_pages = static_cast<std::int64_t>(from_flash.size());
  for (const Page& page : from_flash) {
    executor_.read(slot, page.page, page.part, now);
  }
  executor_.start(now);
}

bool MqsimCache::flash_read(std::uint32_t slot) {
  --requests_[slot].flash_pages;
  return is_done(requests_[slot]);
}

}  // namespace nearkv
