// MQSim's data cache in the mode WRITE_CACHE (Caching_Mechanism ADVANCED, one flow), for
// comparisons with it; a drive of one's own has the write buffer (block_ssd.hpp).
//
// Data of a write go into DRAM, and the write is done then. A page that was not written for a while
// (a second, roughly) goes to the flash at the same time; others stay until they are the least
// recently used of a full cache. While the sectors on their way to the flash reach a limit, further
// pages wait. Reads take what is in the cache from DRAM and the rest from the flash. DRAM serves
// one request after another; in it rows are opened one by one, and long accesses take half of the
// time that their rows would need.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "models/ssd/ftl_executor.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct MqsimCacheConfig {
  std::int64_t pages = 0;         // of the cache
  std::int64_t sector_limit = 0;  // on their way to the flash
  std::int64_t row_bytes = 0;
  std::int64_t burst_bytes = 0;
  double burst_ns = 0;            // of one transfer at the data rate
  std::int64_t activate_ns = 0;   // tRCD
  std::int64_t access_ns = 0;     // tCL
  std::int64_t precharge_ns = 0;  // tRP

  /// Time of one access, whole ns.
  [[nodiscard]] SimDuration access_time(std::int64_t bytes) const;
};

class MqsimCache {
 public:
  /// Requests of the executor from `first_request` on are the cache's.
  MqsimCache(const MqsimCacheConfig& config, FtlExecutor& executor, std::uint32_t first_request);

  struct Page {
    LogicalPage page;
    FtlExecutor::Part part;
  };
  void write(std::uint32_t slot, std::vector<Page> pages, SimTime now);
  void read(std::uint32_t slot, const std::vector<Page>& pages, SimTime now);

  /// A page of a read has come from the flash; true: the request is done.
  bool flash_read(std::uint32_t slot);
  /// A page of the cache's was programmed; `index` counts from first_request.
  void flash_written(std::uint32_t index, SimTime now);

  /// Of the DRAM; kNever: idle.
  [[nodiscard]] SimTime next_event() const { return busy_until_; }
  /// The access that ends at `now`; returns the request that is done with it.
  std::optional<std::uint32_t> process(SimTime now);

 private:
  enum class Status : std::uint8_t { dirty, on_its_way };
  struct Entry {
    std::uint64_t sectors;
    SimTime stamp;  // of its newest data
    Status status;
    std::list<LogicalPage>::iterator place;
  };
  struct Request {
    std::deque<Page> pages;  // of a write, that wait
    SimTime arrived;
    std::int64_t dram_sectors = 0;
    std::int64_t flash_pages = 0;
  };
  struct WriteBack {
    LogicalPage page;
    std::uint64_t sectors;
    SimTime stamp;
  };
  struct Access {
    std::int64_t bytes;
    std::uint32_t slot;
    bool is_eviction;
    std::vector<WriteBack> evicted;
  };

  [[nodiscard]] Entry* find(LogicalPage page);
  void insert(LogicalPage page, std::uint64_t sectors, SimTime stamp, Access& eviction);
  void destage(std::uint32_t slot, SimTime now);
  void write_back(const std::vector<WriteBack>& pages, SimTime now);
  void access(Access access, SimTime now);
  [[nodiscard]] bool is_done(const Request& request) const {
    return request.pages.empty() && request.dram_sectors == 0 && request.flash_pages == 0;
  }

  MqsimCacheConfig config_;
  FtlExecutor& executor_;
  std::uint32_t first_request_;
  std::unordered_map<LogicalPage, Entry> entries_;
  std::list<LogicalPage> recent_;         // most recently used first
  std::unordered_set<LogicalPage> seen_;  // written lately
  SimTime forget_at_{};                   // empties seen_
  std::int64_t on_their_way_ = 0;         // sectors
  std::vector<Request> requests_;         // by slot
  std::deque<std::uint32_t> waiting_;     // slots of writes
  std::vector<WriteBack> write_backs_;    // by index
  std::vector<std::uint32_t> free_indices_;
  std::deque<Access> accesses_;  // the first one is under way
  SimTime busy_until_ = kNever;
};

}  // namespace nearkv
