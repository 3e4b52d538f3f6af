// An NVMe queue pair: the way of a command to the controller and of its completion back.
//
// Passive timing and credit. With `depth` slots and a host that submits one command at a time:
//     submit(now):   start = max(now, host free);  host free = start + host_submit
//                    the controller has the command at start + host_submit + doorbell
//                    + command_fetch
//     complete(now): the host sees it at now + completion, and the slot is free again then
// What the controller does between the two is the drive's model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct NvmeQueueConfig {
  int queue_depth = 0;
  SimDuration host_submit{};    // CPU time a command; the host submits one after another
  SimDuration doorbell{};       // the tail doorbell's write reaches the controller
  SimDuration command_fetch{};  // the controller reads the 64 B entry from host memory
  SimDuration completion{};     // completion entry written and seen by the host

  void fields(FieldVisitor& v);
};

class NvmeQueuePair {
 public:
  explicit NvmeQueuePair(const NvmeQueueConfig& config) : config_(config) {}

  /// Commands whose completion the host has not seen at `now`.
  [[nodiscard]] int outstanding(SimTime now) const;
  [[nodiscard]] bool has_slot(SimTime now) const { return outstanding(now) < config_.queue_depth; }
  /// Earliest time from `now` on with a free slot, as far as completions are known; nothing while
  /// the controller still holds all of them.
  [[nodiscard]] std::optional<SimTime> next_slot(SimTime now) const;

  /// start: the host begins; done: the controller has the command. check()s has_slot(now).
  [[nodiscard]] Grant probe_submit(SimTime now) const;
  /// Calls come in time order.
  Grant submit(SimTime now);

  /// The controller has finished one command at `now`; returns when the host sees it. check()s
  /// that the controller holds one.
  SimTime complete(SimTime now);

  [[nodiscard]] std::int64_t commands() const { return host_.jobs(); }
  /// Commands and the host's time for them.
  void report(Metrics& metrics, const std::string& prefix) const;

 private:
  [[nodiscard]] Grant to_controller(const Grant& host) const {
    return {host.start, host.done + config_.doorbell + config_.command_fetch};
  }

  NvmeQueueConfig config_;
  FifoServers host_{1};
  SimTime last_submit_{};
  int in_controller_ = 0;
  std::vector<SimTime> seen_at_;  // completions on their way to the host, ascending
};

}  // namespace nearkv
