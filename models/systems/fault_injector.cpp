#include "models/systems/fault_injector.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "models/ssd/drive_conditions.hpp"
#include "models/systems/device_name.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

std::vector<std::string> labels_of(const std::vector<FaultConfig>& faults) {
  std::vector<std::string> labels;
  for (const FaultConfig& fault : faults) {
    labels.push_back(fault.label());
  }
  return labels;
}

/// Something was read from them or written to them.
bool has_used_ssds(Machine& machine) {
  return machine.ssds().bytes_read() + machine.ssds().bytes_written() > Bytes{};
}

}  // namespace

std::string_view DataLoss::device_kind() const { return DeviceName(fault.device).kind; }

int DataLoss::device_number() const { return DeviceName(fault.device).number; }

/// Only SSDs that the system has used hold its data; the driver asks again.
Recovered System::recover(RunContext& run, const DataLoss& loss, int /*step*/) {
  if (loss.device_kind() == "ssd" && has_used_ssds(run.machine)) {
    throw DataLost(fmt::format(
        "{}: its data are lost, as the SSDs are striped without redundancy, and {} has no copy",
        loss.fault.label(), run.point.system_kind));
  }
  return {};
}

FaultInjector::FaultInjector(const DesignPoint& point, Machine& machine)
    : point_(point),
      machine_(machine),
      timeline_(point.faults, static_cast<std::uint64_t>(point.simulation.seed)),
      log_(labels_of(point.faults)),
      active_(point.faults.size()),
      drawn_(point.faults.size()) {}

void FaultInjector::resume(SimTime at) {
  offset_ = at - machine_.engine().now();
  const std::uint64_t generation = ++generation_;
  machine_.simulate_whole_steps(true);
  while (timeline_.next() <= at) {
    act(timeline_.take());
  }
  // A follower waits for one fault after another. It cannot be called back: one of an older
  // generation does nothing when it wakes up.
  constexpr SimTime kLatest{std::chrono::hours(24 * 100)};  // unit: hours, what a SimTime holds
  if (timeline_.next() < kLatest && machine_.engine().now() < kLatest - offset_) {
    machine_.engine().spawn(fmt::format("faults/{}", followers_++), machine_.host_node(),
                            [this, generation] { follow(generation); });
  }
}

void FaultInjector::follow(std::uint64_t generation) {
  while (generation == generation_ && timeline_.next() != kNever) {
    const SimTime due = timeline_.next();
    machine_.engine().wait_until(std::max(due - offset_, machine_.engine().now()));
    if (generation == generation_ && timeline_.next() <= now()) {
      act(timeline_.take());
    }
  }
}

void FaultInjector::act(const FaultTimeline::Event& event) {
  const auto index = static_cast<std::size_t>(event.fault);
  const FaultConfig& fault = point_.faults[index];
  // What came due while nothing was simulated acts from now on.
  const SimTime at = std::max(event.at, now());
  end_ = std::max(end_, at);
  if (fault.is_loss()) {
    log_.begins(event.fault, at);
    const Rng rng(static_cast<std::uint64_t>(point_.simulation.seed),
                  fmt::format("faults/{}/pages/{}", event.fault, drawn_[index]++));
    losses_.push_back({.fault = fault, .index = event.fault, .rng = rng});
    if (fails_at_losses_) {
      if (losses_.back().device_kind() == "ssd" && has_used_ssds(machine_)) {
        throw DataLost(fault.label() + ": its data are lost");
      }
      losses_.clear();  // the system keeps nothing there
      log_.ends(event.fault, at);
    }
    return;
  }
  active_[index] += event.is_begin ? 1 : -1;
  if (event.is_begin) {
    log_.begins(event.fault, at);
  } else {
    log_.ends(event.fault, at);
  }
  apply(fault, event.is_begin);
}

void FaultInjector::apply(const FaultConfig& fault, bool is_begin) {
  const SimTime now = machine_.engine().now();
  switch (fault.kind) {
    case FaultKind::read_retries:
    case FaultKind::thermal_throttling:
      set_device_conditions(fault.device);
      break;
    case FaultKind::link_degraded:
      set_link(fault.link);
      break;
    case FaultKind::controller_stall:
      if (is_begin) {
        machine_.stall(fault.device, fault.lasts);
      }
      break;
    case FaultKind::host_memory_pressure:
      if (is_begin) {
        machine_.host_storage().press(now, fault.size);
      } else {
        machine_.host_storage().relieve(fault.size);
      }
      break;
    default:
      check(false, "a loss that is applied as a condition");
  }
}

/// Of several faults the slowest speed counts, and the most reads.
void FaultInjector::set_device_conditions(const std::string& device) {
  DriveConditions conditions;
  for (std::size_t i = 0; i < point_.faults.size(); ++i) {
    const FaultConfig& fault = point_.faults[i];
    if (!is_active(i) || fault.device != device) {
      continue;
    }
    if (fault.kind == FaultKind::thermal_throttling) {
      conditions.speed = std::min(conditions.speed, fault.speed);
    } else if (fault.kind == FaultKind::read_retries) {
      conditions.further_reads = std::max(conditions.further_reads, fault.further_reads);
    }
  }
  machine_.set_conditions(device, conditions);
}

/// Of several faults the slowest link counts.
void FaultInjector::set_link(const std::string& name) {
  const PcieLinkConfig& normal = machine_.fabric().link_above(name);
  Rate slowest = point_.pcie.bandwidth_of(normal);
  for (std::size_t i = 0; i < point_.faults.size(); ++i) {
    const FaultConfig& fault = point_.faults[i];
    if (is_active(i) && fault.kind == FaultKind::link_degraded && fault.link == name) {
      PcieLinkConfig trained = normal;
      trained.generation = fault.generation;
      trained.lanes = fault.lanes;
      slowest = std::min(slowest, point_.pcie.bandwidth_of(trained));
    }
  }
  machine_.set_link_bandwidth(name, slowest);
}

std::vector<DataLoss> FaultInjector::take_losses() {
  end_ = std::max(end_, now());
  return std::exchange(losses_, {});
}

void FaultInjector::pause() {
  end_ = std::max(end_, now());
  ++generation_;
  machine_.simulate_whole_steps(false);
}

}  // namespace nearkv
