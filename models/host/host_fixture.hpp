// For tests and benchmarks: a host with its SSDs in an event loop, without SimGrid.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>

#include "models/host/host_config.hpp"
#include "models/host/host_storage.hpp"
#include "models/ssd/ssd.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/event_loop.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

template <class Config>
Config shipped(const char* path) {
  Config config;
  read_fields(load_config(shipped_configs() / path), [&](FieldVisitor& v) { config.fields(v); });
  return config;
}
inline HostConfig shipped_host() {
  return shipped<HostConfig>("platforms/hosts/xeon_5320_96gb.json");
}
inline SsdConfig shipped_ssd() {
  return shipped<SsdConfig>("platforms/ssds/samsung_980_pro_2tb.json");
}

struct HostFixture {
  HostFixture(const HostConfig& host_config, const SsdConfig& ssd_config)
      : host(host_config), ssd(ssd_config) {}

  /// After the configs have been set.
  void build() {
    cores = std::make_unique<FifoServers>(host.cores);
    ssds = std::make_unique<SsdArray>(ssd, host_link);
    storage = std::make_unique<HostStorage>(loop, host, *cores, *ssds);
  }

  /// Starts `count` pieces of work at `now` and runs until all are done; returns when that was.
  template <class Start>
  SimTime run_all(SimTime now, std::size_t count, Start start) {
    std::deque<Completion> completions(count);
    for (std::size_t i = 0; i < count; ++i) {
      start(i, now, completions[i]);
    }
    SimTime last = now;
    for (std::size_t i = 0; i < count; ++i) {
      const auto at = loop.run(kNever - SimDuration{1});
      check(at.has_value(), "the storage path stopped before its work was done");
      last = *at;
      loop.take_finished();
    }
    return last;
  }

  HostConfig host;
  SsdConfig ssd;
  Rate host_link{6'998'000'000};  // not a constant: what PCIe 4.0 x4 carries of payload
  EventLoop loop;
  std::unique_ptr<FifoServers> cores;
  std::unique_ptr<SsdArray> ssds;
  std::unique_ptr<HostStorage> storage;
};

}  // namespace nearkv
