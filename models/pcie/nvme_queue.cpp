#include "models/pcie/nvme_queue.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void NvmeQueueConfig::fields(FieldVisitor& v) {
  v.parameter("queue_depth", queue_depth, "commands that may be outstanding in one queue pair",
              at_least(1));
  v.constant("host_submit", host_submit,
             "CPU time of the host a command; it submits one after another", range_of(0_ps, 1s));
  v.constant(
      "doorbell", doorbell,
      "time until the doorbell's write reaches the controller; in replays on top of its time "
      "on the link",
      range_of(0_ps, 1s));
  v.constant("command_fetch", command_fetch,
             "time in which the controller fetches a command from host memory; in replays on top "
             "of the messages' time on the link, and for all reads of host memory",
             range_of(0_ps, 1s));
  v.constant("completion", completion,
             "time from the completion entry, the interrupt or the look of a polling host until "
             "the host has seen it",
             range_of(0_ps, 1s));
}

int NvmeQueuePair::outstanding(SimTime now) const {
  const auto unseen = std::upper_bound(seen_at_.begin(), seen_at_.end(), now);
  return in_controller_ + static_cast<int>(seen_at_.end() - unseen);
}

std::optional<SimTime> NvmeQueuePair::next_slot(SimTime now) const {
  if (has_slot(now)) {
    return now;
  }
  const auto unseen = std::upper_bound(seen_at_.begin(), seen_at_.end(), now);
  return unseen == seen_at_.end() ? std::nullopt : std::optional<SimTime>(*unseen);
}

Grant NvmeQueuePair::probe_submit(SimTime now) const {
  check(has_slot(now), "a command was submitted to a full NVMe queue");
  return to_controller(host_.probe(now, config_.host_submit));
}

Grant NvmeQueuePair::submit(SimTime now) {
  check(now >= last_submit_, "NVMe commands were submitted out of time order");
  check(has_slot(now), "a command was submitted to a full NVMe queue");
  last_submit_ = now;
  seen_at_.erase(seen_at_.begin(), std::upper_bound(seen_at_.begin(), seen_at_.end(), now));
  ++in_controller_;
  return to_controller(host_.issue(now, config_.host_submit));
}

SimTime NvmeQueuePair::complete(SimTime now) {
  check(in_controller_ > 0, "an NVMe completion without a command");
  --in_controller_;
  const SimTime seen = now + config_.completion;
  seen_at_.insert(std::upper_bound(seen_at_.begin(), seen_at_.end(), seen), seen);
  return seen;
}

void NvmeQueuePair::report(Metrics& metrics, const std::string& prefix) const {
  metrics.add(prefix + "/commands", static_cast<double>(commands()), "1",
              "NVMe commands submitted.");
  metrics.add(prefix + "/host_busy", to_seconds(host_.busy()), "s",
              "CPU time of the host for submitting commands.");
}

}  // namespace nearkv
