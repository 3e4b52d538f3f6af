#include "models/systems/flexgen_rates.hpp"

#include <algorithm>
#include <deque>

#include "models/systems/design_point.hpp"
#include "sim/core/check.hpp"
#include "sim/core/event_loop.hpp"

namespace nearkv {

namespace {

constexpr std::int64_t kWindows = 256;  // not a constant: long enough to see a steady rate

double rate_of(Bytes size, SimDuration time) {
  return static_cast<double>(size.count()) / to_seconds(std::max(time, 1_ps));
}

/// A host with drives of its own, without actors.
class ScratchHost {
 public:
  ScratchHost(const DesignPoint& point, Rate host_link, int streams)
      : cores_(point.host.cores),
        ssds_(point.ssd.front(), host_link),
        storage_(loop_, point.host, cores_, ssds_),
        size_(point.host.file_system.readahead_window * kWindows) {
    for (int i = 0; i < streams; ++i) {
      files_.push_back(storage_.create_file("scratch " + std::to_string(i), size_));
    }
  }

  void have_contents() {
    for (const MemoryObject file : files_) {
      storage_.assume_stored({file, Bytes{}, size_});
    }
  }
  /// All streams go over their files once.
  double rate(Access access) {
    std::deque<Completion> done(files_.size());
    const SimTime begin = now_;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const MemorySpan span{files_[i], Bytes{}, size_};
      if (access == Access::read) {
        storage_.read_file(now_, span, done[i]);
      } else {
        storage_.write_file(now_, span, done[i]);
      }
    }
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const auto at = loop_.run(kNever - SimDuration{1});
      check(at.has_value(), "the storage path stopped before its work was done");
      now_ = *at;
      loop_.take_finished();
    }
    return rate_of(size_ * static_cast<std::int64_t>(files_.size()), now_ - begin);
  }

 private:
  EventLoop loop_;
  FifoServers cores_;
  SsdArray ssds_;
  HostStorage storage_;
  Bytes size_;
  std::vector<MemoryObject> files_;
  SimTime now_{};
};

}  // namespace

void add_link_rates(const Machine& machine, FlexGenRates& rates) {
  const PcieFabric& fabric = machine.fabric();
  rates.host_to_gpu = static_cast<double>(fabric.path("host", "gpu/0").bandwidth.per_second());
  rates.gpu_to_host = static_cast<double>(fabric.path("gpu/0", "host").bandwidth.per_second());
}

double sustained_write_rate(const DesignPoint& point, Rate host_link, Bytes request) {
  const SsdConfig& config = point.ssd.front();
  Ssd drive(config, host_link);
  // Ten times what the write buffer takes: what is left in it at the end hardly counts.
  const Bytes total = config.ftl.write_buffer.capacity * 10;  // not a constant: of the method
  SimTime now{};
  Bytes written{};
  while (written < total && written + request <= config.capacity) {
    now = drive.write(now, written, request).done;
    written += request;
  }
  return rate_of(written * config.count, drive.drain() - SimTime{});
}

double direct_read_rate(const DesignPoint& point, Rate host_link, Bytes command) {
  Ssd drive(point.ssd.front(), host_link);
  SimTime done{};
  Bytes read{};
  for (int i = 0; i < kWindows && read + command <= point.ssd.front().capacity; ++i) {
    done = std::max(done, drive.read(SimTime{}, read, command).done);
    read += command;
  }
  return rate_of(read, done - SimTime{});
}

FlexGenRates file_rates(const Machine& machine, const DesignPoint& point, int copy_threads) {
  FlexGenRates rates;
  add_link_rates(machine, rates);
  const Rate host_link = machine.fabric().path("ssd/0", "host").bandwidth;
  const int pair = std::min(2, copy_threads);  // K and V
  ScratchHost two(point, host_link, pair);
  two.have_contents();
  rates.disk_read = two.rate(Access::read);
  rates.cached_read = two.rate(Access::read);
  ScratchHost all(point, host_link, copy_threads);
  all.have_contents();
  rates.weight_read = all.rate(Access::read);
  rates.cached_weight_read = all.rate(Access::read);
  ScratchHost writer(point, host_link, pair);
  rates.disk_write =
      std::min(writer.rate(Access::write),
               sustained_write_rate(point, host_link, point.host.file_system.readahead_window));
  return rates;
}

}  // namespace nearkv
