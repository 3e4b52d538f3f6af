#include "models/systems/design_point.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "models/faults/fault_timeline.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

void SimulationConfig::fields(FieldVisitor& v) {
  v.one_of("fidelity", fidelity, {"exact", "reuse", "sampled"},
           "exact: every page of every step; reuse: equal drive work once, same result; sampled: "
           "some decode steps, with an error bound");
  v.parameter("seed", seed, "seed of all random streams", {0, 1e15});
  v.parameter("sampling_tolerance", sampling_tolerance,
              "sampled: wanted error bound of the decode time, relative", {1e-6, 1});
  v.parameter("most_sampled_steps", most_sampled_steps,
              "sampled: simulate at most so many decode steps", {3, 1 << 20});
}

void DesignPoint::fields(FieldVisitor& v) {
  v.parameter("name", name, "name of the design point, used for files");
  v.group("model", model, "shape of the language model");
  v.group("workload", workload, "the requests, and how they are served");
  v.list_of("gpu", gpu, "the GPU; parallelism says how many of it there are");
  v.group("parallelism", parallelism, "how GPUs share the model");
  v.group("host", host, "host CPU, memory and file system");
  v.group("pcie", pcie, "PCIe tree");
  v.list_of("ssd", ssd, "NVMe SSDs; may be empty");
  v.list_of("csd", csd, "computational storage drives; may be empty");
  v.list_of("faults", faults, "what fails or slows down during the run; may be empty", {0, 1000});
  v.group("economics", economics, "what turns power and prices into the cost of a token");
  v.object({"system", "inference system: where weights, KV and activations live"},
           [this](FieldVisitor& inner) {
             std::vector<std::string_view> names;
             for (const SystemKind& kind : system_kinds()) {
               names.push_back(kind.name);
             }
             std::size_t index = 0;
             inner.variant({"kind", "name of the system"}, names, index,
                           [&](std::size_t i, FieldVisitor& fields) {
                             system_kind = names[i];
                             system = system_kinds()[i].make();
                             system->fields(fields);
                           });
           });
  v.group("simulation", simulation, "how exactly to simulate");
  v.require(gpu.size() == 1, "gpu", fmt::format("has {} entries; must have exactly 1", gpu.size()));
  v.require(ssd.size() <= 1, "ssd",
            fmt::format("has {} entries; write one entry and its count", ssd.size()));
  if (!ssd.empty()) {
    v.require([this] { return ssd.front().flash.has_recurrence(); }, "ssd/0/flash/policy",
              "must be fifo or first_gap here, with all pages alike; drives of other policies are "
              "for nearkv replay");
    v.require(ssd.front().ftl.write_buffer.capacity > Bytes{}, "ssd/0/ftl/write_buffer/capacity",
              "must hold at least one flash page; drives without a buffer are for nearkv replay");
    const Bytes storage = ssd.front().capacity * ssd.front().count;
    v.require(host.swap.size < storage, "host/swap/size",
              fmt::format("{} must be less than the SSDs hold, {}", format_exact(host.swap.size),
                          format_exact(storage)));
  }
  if (v.checks_rules()) {
    const auto problem = workload.prepare(simulation.seed, model.max_positions);
    if (problem.has_value()) {
      v.require(false, "workload/" + problem->field, problem->message);
    }
  }
  require_fitting_faults(v);
  parallelism.require_divisible(v, model);
  if (system != nullptr) {
    system->require_parts(v, *this);
  }
}

/// Each fault is of something that is there, and can be.
void DesignPoint::require_fitting_faults(FieldVisitor& v) const {
  if (!v.checks_rules()) {
    return;
  }
  std::map<std::string, const FlashConfig*> devices;  // null: no flash
  std::string names;
  const auto add = [&](const std::string& kind, int count, const FlashConfig* flash) {
    for (int i = 0; i < count; ++i) {
      devices[fmt::format("{}/{}", kind, i)] = flash;
    }
    if (count > 0) {
      names += fmt::format("{}{}/0{}", names.empty() ? "" : ", ", kind,
                           count > 1 ? fmt::format(" to {}/{}", kind, count - 1) : "");
    }
  };
  add("gpu", parallelism.gpus(), nullptr);
  add("ssd", ssd.empty() ? 0 : ssd.front().count, ssd.empty() ? nullptr : &ssd.front().flash);
  add("csd", csd.empty() ? 0 : csd.front().count, csd.empty() ? nullptr : &csd.front().flash);
  for (std::size_t i = 0; i < faults.size(); ++i) {
    const FaultConfig& fault = faults[i];
    const std::string path = fmt::format("faults/{}/", i);
    const auto require = [&](bool holds, const char* field, const std::string& message) {
      v.require(holds, path + field, message);
    };
    if (fault.when.kind == FaultTimes::Kind::trace) {
      try {
        static_cast<void>(read_fault_times(fault.when.file));
      } catch (const ConfigError& problem) {
        require(false, "when/file", problem.what());
      }
    }
    if (fault.kind == FaultKind::host_memory_pressure) {
      require(!ssd.empty(), "kind",
              "needs an SSD: without one, the host has no page cache and no swap that memory "
              "could be taken from");
      continue;
    }
    if (fault.kind == FaultKind::link_degraded) {
      require_fitting_link(v, fault, path, devices.contains(fault.link));
      continue;
    }
    const auto device = devices.find(fault.device);
    require(device != devices.end(), "device",
            fmt::format("there is no {}; must be one of {}", in_quotes(fault.device), names));
    if (device == devices.end()) {
      continue;
    }
    const FlashConfig* flash = device->second;
    require(flash != nullptr || fault.kind == FaultKind::thermal_throttling, "device",
            fmt::format("{} has no flash; {} is of a drive", fault.device, name_of(fault.kind)));
    const bool has_channel =
        fault.kind == FaultKind::die_failure || fault.kind == FaultKind::channel_failure;
    if (flash != nullptr && has_channel) {
      require(fault.channel < flash->channels, "channel",
              fmt::format("{} is none of the {} channels of {}, which are counted from 0",
                          fault.channel, flash->channels, fault.device));
      const int dies = flash->chips_per_channel * flash->dies_per_chip;
      require(fault.kind == FaultKind::channel_failure || fault.die < dies, "die",
              fmt::format("{} is none of the {} dies of a channel of {}, which are counted from 0",
                          fault.die, dies, fault.device));
    }
  }
}

void DesignPoint::require_fitting_link(FieldVisitor& v, const FaultConfig& fault,
                                       const std::string& path, bool is_device) const {
  const PcieLinkConfig* link = nullptr;
  for (const PcieSwitchConfig& one : pcie.switches) {
    link = one.name == fault.link ? &one.link : link;
  }
  for (const PciePortConfig& port : pcie.ports) {
    link = is_device && port.serves(fault.link) ? &port.link : link;
  }
  v.require(link != nullptr, path + "link",
            fmt::format("{} is no device or PCIe switch of this machine", in_quotes(fault.link)));
  if (link == nullptr) {
    return;
  }
  v.require(fault.lanes <= link->lanes, path + "lanes",
            fmt::format("{} are more than the link has, {}", fault.lanes, link->lanes));
  v.require(fault.generation <= link->generation, path + "generation",
            fmt::format("{} is newer than the link's, {}", fault.generation, link->generation));
  const bool is_known =
      std::any_of(pcie.generations.begin(), pcie.generations.end(),
                  [&](const PcieGeneration& g) { return g.generation == fault.generation; });
  v.require(is_known, path + "generation",
            fmt::format("{} is not in pcie/generations", fault.generation));
}

}  // namespace nearkv
