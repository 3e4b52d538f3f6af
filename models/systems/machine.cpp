#include "models/systems/machine.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "models/systems/device_name.hpp"

namespace nearkv {

namespace {

/// A gauge of bytes.
Gauge bytes_gauge(std::string name, std::string doc, std::function<Bytes()> read) {
  return {std::move(name), "B", std::move(doc),
          [read = std::move(read)] { return static_cast<double>(read().count()); }};
}

/// A gauge of the busy time of `servers` equal servers.
Gauge busy_gauge(std::string name, std::string doc, double servers,
                 std::function<SimDuration()> read) {
  return {std::move(name), "s", std::move(doc),
          [read = std::move(read)] { return to_seconds(read()); }, servers};
}

}  // namespace

Machine::GpuPort::GpuPort(Engine& engine, const GpuConfig& config, const std::string& memory_name,
                          const std::string& name, NodeId at)
    : gpu(config, memory_name),
      node(at),
      h2d_engines(engine, "copy engines of " + name, ceil_div(config.copy_engines, 2)),
      compute_name(name + "/compute"),
      h2d_name(name + (config.copy_engines > 1 ? "/copy_engine/h2d" : "/copy_engine")),
      d2h_name(name + (config.copy_engines > 1 ? "/copy_engine/d2h" : "/copy_engine")) {
  if (config.copy_engines > 1) {
    d2h_engines.emplace(engine, "copy engines of " + name, config.copy_engines / 2);
  }
}

Machine::Machine(const DesignPoint& point)
    : fabric_(engine_, point.pcie, device_names(point), "pcie", point.host.dram_rate,
              point.parallelism.network()),
      bounce_chunk_(point.pcie.peer_to_peer.bounce_chunk),
      host_cores_(point.host.cores),
      pageable_h2d_rate_(point.host.pageable_h2d),
      pageable_d2h_rate_(point.host.pageable_d2h) {
  for (const std::string& device : device_names(point)) {
    device_of_node_[fabric_.node(device).index] = device;
  }
  device_of_node_[fabric_.host().index] = "host";
  const int gpus = point.parallelism.gpus();
  for (int i = 0; i < gpus; ++i) {
    const std::string name = fmt::format("gpu/{}", i);
    gpus_.push_back(std::make_unique<GpuPort>(engine_, point.gpu.front(),
                                              gpus == 1 ? "VRAM" : "VRAM of " + name, name,
                                              fabric_.node(name)));
  }
  if (!point.ssd.empty()) {
    ssd_count_ = point.ssd.front().count;
    ssds_ = std::make_unique<SsdArray>(point.ssd.front(), ssd_link());
    host_storage_ = std::make_unique<HostStorage>(engine_.loop(), point.host, host_cores_, *ssds_);
  }
  if (!point.csd.empty()) {
    const Csd::Options options{.reuse = point.simulation.fidelity != Fidelity::exact,
                               .seed = static_cast<std::uint64_t>(point.simulation.seed),
                               .memory = Csd::make_memory()};
    for (int i = 0; i < point.csd.front().count; ++i) {
      csds_.push_back(std::make_unique<Csd>(engine_.loop(), point.csd.front(),
                                            fmt::format("csd/{}", i), options));
    }
  }
  gauges_.add({std::string(kExtrapolationBound), "s",
               "error bound of what was taken to be like simulated work",
               [this] { return to_seconds(extrapolation_bound_); }});
  for (int i = 0; i < gpus; ++i) {
    add_gpu_gauges(i);
  }
  add_host_gauges();
  add_link_gauges();
  for (int i = 0; i < static_cast<int>(csds_.size()); ++i) {
    add_csd_gauges(i);
  }
}

/// RAID-0 keeps all drives at work: a link that they share is divided equally, and the slowest
/// drive's holds all up.
Rate Machine::ssd_link() const {
  std::vector<PcieFabric::Ends> to_host;
  for (int i = 0; i < ssd_count_; ++i) {
    to_host.push_back({fmt::format("ssd/{}", i), "host"});
  }
  Rate slowest = fabric_.shared_paths(to_host).front().bandwidth;
  for (const PcieFabric::Path& path : fabric_.shared_paths(to_host)) {
    slowest = std::min(slowest, path.bandwidth);
  }
  return slowest;
}

std::vector<std::string> Machine::device_names(const DesignPoint& point) {
  std::vector<std::string> names;
  for (int i = 0; i < point.parallelism.gpus(); ++i) {
    names.push_back(fmt::format("gpu/{}", i));
  }
  const auto add = [&](const char* kind, const auto& drives) {
    for (int i = 0; !drives.empty() && i < drives.front().count; ++i) {
      names.push_back(fmt::format("{}/{}", kind, i));
    }
  };
  add("ssd", point.ssd);
  add("csd", point.csd);
  return names;
}

void Machine::wait_for(const Grant& service, std::string_view resource, std::string_view what) {
  if (ActivityLog* log = engine_.activity()) {
    log->service(
        {.resource = resource, .what = what, .start = service.start, .done = service.done});
    log->explain(resource, what, service.start, service.done);
  }
  engine_.wait_until(std::max(service.done, engine_.now()));
}

void Machine::spend(SimDuration time, std::string_view resource, std::string_view what) {
  wait_for({engine_.now(), engine_.now() + time}, resource, what);
}

void Machine::compute(std::span<const OperatorWork> operators, int gpu) {
  const Grant granted = gpus_[gpu]->gpu.issue(engine_.now(), operators);
  report_operators(gpu, granted, {.operators = operators});
  engine_.wait_until(granted.done);
}

/// The times are those of Gpu::time_of(); between operators the GPU waits for the host thread.
void Machine::report_operators(int gpu, const Grant& granted, const IssuedOperators& issued) {
  ActivityLog* log = engine_.activity();
  if (log == nullptr) {
    return;
  }
  const GpuPort& port = *gpus_[gpu];
  SimTime issued_at = granted.start - issued.ahead;
  SimTime gpu_free = granted.start;
  for (const OperatorWork& work : issued.operators) {
    issued_at += issued.kernel_issue * work.kernels;
    const SimTime begun = std::max(gpu_free, issued_at);
    log->explain("host/driver_thread", "issues kernels", gpu_free, begun);
    gpu_free = begun + port.gpu.time_of(work);
    std::vector<ActivityLog::Argument> arguments{
        {"bytes", work.bytes.count()}, {"flops", work.flops.count()}, {"kernels", work.kernels}};
    if (work.size.m > 0) {
      arguments.push_back({"m", work.size.m, false});
      arguments.push_back({"n", work.size.n, false});
      arguments.push_back({"k", work.size.k, false});
    }
    log->service({.resource = port.compute_name,
                  .what = work.name,
                  .start = begun,
                  .done = gpu_free,
                  .arguments = arguments});
    log->explain(port.compute_name, work.name, begun, gpu_free);
  }
}

void Machine::report_counters() {
  ActivityLog* log = engine_.activity();
  if (log == nullptr) {
    return;
  }
  const SimTime now = engine_.now();
  for (const auto& port : gpus_) {
    const CapacityLedger& memory = port->gpu.memory();
    log->counter(memory.resource(), "B", now, memory.held().count());
  }
  if (host_storage_ != nullptr) {
    const HostMemory& memory = host_storage_->memory();
    log->counter("host/pinned memory", "B", now, memory.pinned().held().count());
    log->counter("host/page cache", "B", now, memory.resident(MemoryKind::file).count());
    log->counter("host/dirty page cache", "B", now, memory.dirty().count());
    log->counter("host/anonymous memory", "B", now, memory.resident(MemoryKind::anonymous).count());
    log->counter("host/swapped", "B", now, memory.swapped().count());
  }
  for (std::size_t i = 0; i < csds_.size(); ++i) {
    log->counter(fmt::format("csd/{}/DRAM", i), "B", now, csds_[i]->dram().held().count());
  }
}

void Machine::transfer(NodeId from, NodeId to, Bytes size) {
  if (size <= Bytes{0}) {
    return;
  }
  if (fabric_.is_direct(from, to)) {
    engine_.transfer(from, to, size);
  } else {
    bounce(from, to, size);
  }
}

void Machine::bounce(NodeId from, NodeId to, Bytes size) {
  const Bytes chunk = std::min(bounce_chunk_, size);
  const Bytes rest = size - chunk;
  engine_.transfer(from, host_node(), chunk);
  transfer_together(std::vector<Transfer>{{from, host_node(), rest}, {host_node(), to, rest}});
  engine_.transfer(host_node(), to, chunk);
}

void Machine::transfer_together(std::span<const Transfer> transfers) {
  std::vector<std::function<void()>> actions;
  for (const Transfer& one : transfers) {
    if (one.size > Bytes{0}) {
      actions.emplace_back([this, one] { transfer(one.from, one.to, one.size); });
    }
  }
  together(actions);
}

void Machine::together(std::span<const std::function<void()>> actions) {
  if (actions.empty()) {
    return;
  }
  std::vector<Worker*> helpers;
  std::vector<Completion> done(actions.size() - 1);
  for (std::size_t i = 0; i < done.size(); ++i) {
    if (idle_helpers_.empty()) {
      idle_helpers_.push_back(&add_worker(fmt::format("helper/{}", helpers_++), host_node()));
    }
    helpers.push_back(idle_helpers_.back());
    idle_helpers_.pop_back();
    helpers.back()->post(actions[i + 1], done[i]);
  }
  actions.front()();
  for (Completion& completion : done) {
    engine_.wait(completion);
  }
  idle_helpers_.insert(idle_helpers_.end(), helpers.rbegin(), helpers.rend());
}

std::vector<PcieFabric::Path> Machine::shared_paths(std::span<const Transfer> transfers) const {
  std::vector<PcieFabric::Ends> flows;
  for (const Transfer& one : transfers) {
    flows.push_back({device_of_node_.at(one.from.index), device_of_node_.at(one.to.index)});
  }
  return fabric_.shared_paths(flows);
}

SimDuration Machine::time_together(std::span<const Transfer> transfers) const {
  const std::vector<PcieFabric::Path> paths = shared_paths(transfers);
  SimDuration longest{};
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    longest = std::max(longest, paths[i].latency + time_for(transfers[i].size, paths[i].bandwidth));
  }
  return longest;
}

SimDuration Machine::longest_latency(std::span<const Transfer> transfers) const {
  SimDuration longest{};
  for (const PcieFabric::Path& path : shared_paths(transfers)) {
    longest = std::max(longest, path.latency);
  }
  return longest;
}

void Machine::pinned_copy(CopyDirection direction, Bytes size, int gpu) {
  GpuPort& port = *gpus_[gpu];
  const bool to_gpu = direction == CopyDirection::host_to_gpu;
  CreditPool& engines = to_gpu || !port.d2h_engines ? port.h2d_engines : *port.d2h_engines;
  engines.acquire();
  const SimTime begin = engine_.now();
  transfer(to_gpu ? host_node() : port.node, to_gpu ? port.node : host_node(), size);
  if (ActivityLog* log = engine_.activity()) {
    const ActivityLog::Argument bytes{"bytes", size.count()};
    log->service({.resource = to_gpu ? port.h2d_name : port.d2h_name,
                  .what = to_gpu ? "copy to VRAM" : "copy to host memory",
                  .start = begin,
                  .done = engine_.now(),
                  .arguments = std::span(&bytes, 1)});
  }
  engines.release();
}

void Machine::pageable_copy(CopyDirection direction, Bytes size, int gpu) {
  GpuPort& port = *gpus_[gpu];
  const bool to_gpu = direction == CopyDirection::host_to_gpu;
  FifoServers& staging = to_gpu ? port.pageable_h2d : port.pageable_d2h;
  const Grant staged = staging.issue(
      engine_.now(), time_for(size, to_gpu ? pageable_h2d_rate_ : pageable_d2h_rate_));
  pinned_copy(direction, size, gpu);
  wait_for(staged, to_gpu ? "host/staging/h2d" : "host/staging/d2h",
           "copies through pinned buffers");
}

std::vector<double> Machine::read_gauges() const {
  std::vector<double> values = gauges_.read();
  for (std::size_t i = 0; i < extrapolated_.size(); ++i) {
    values[i] += extrapolated_[i];
  }
  return values;
}

void Machine::extrapolate(const Extrapolation& work) {
  extrapolated_.resize(gauges_.all().size());
  for (std::size_t i = 0; i < extrapolated_.size(); ++i) {
    extrapolated_[i] += work.increments.at(i) * static_cast<double>(work.times);
  }
  extrapolation_bound_ += work.bound * work.times;
  const SimTime end = engine_.now() + work.time * work.times;
  if (engine_.activity() != nullptr && !work.is_explained) {
    engine_.activity()->explain("simulation", "taken to be like what was simulated", engine_.now(),
                                end);
  }
  engine_.wait_until(end);
}

void Machine::set_conditions(const std::string& device, const DriveConditions& conditions) {
  const DeviceName name(device);
  if (name.kind == "gpu") {
    gpu(name.number).set_compute_speed(conditions.speed);
  } else if (name.kind == "csd") {
    csds_.at(static_cast<std::size_t>(name.number))->set_conditions(engine_.now(), conditions);
  } else {
    ssds().drive(name.number).set_conditions(conditions);
  }
}

void Machine::stall(const std::string& device, SimDuration duration) {
  const DeviceName name(device);
  if (name.kind == "csd") {
    csds_.at(static_cast<std::size_t>(name.number))->stall(engine_.now(), duration);
  } else {
    ssds().drive(name.number).stall(engine_.now(), duration);
  }
}

void Machine::set_link_bandwidth(const std::string& name, Rate bandwidth) {
  fabric_.set_bandwidth(name, bandwidth);
  if (ssds_ != nullptr) {
    ssds_->set_host_link(ssd_link());
  }
}

Worker& Machine::add_worker(const std::string& name, NodeId node) {
  return *workers_.emplace_back(std::make_unique<Worker>(engine_, name, node));
}

void Machine::stop_workers() {
  for (const auto& worker : workers_) {
    worker->stop();
  }
}

void Machine::add_to_phase(const std::string& phase, SimDuration time) {
  phases_.at(phase) += time;
}

void Machine::declare_phase(const std::string& phase, const std::string& doc) {
  phases_[phase] = SimDuration{0};
  gauges_.add(
      {"phase/" + phase, "s", doc, [this, phase] { return to_seconds(phases_.at(phase)); }});
}

void Machine::add_gpu_gauges(int index) {
  const Gpu* gpu = &gpus_[index]->gpu;
  gauges_.add(busy_gauge(fmt::format("gpu/{}/compute", index), "GPU busy with operators", 1, [gpu] {
    SimDuration busy{};
    for (const SimDuration part : gpu->counters().busy) {
      busy += part;
    }
    return busy;
  }));
  const auto add_kinds = [&](const char* name, const char* doc, std::vector<OperatorKind> kinds) {
    gauges_.add(
        busy_gauge(fmt::format("gpu/{}/{}", index, name), doc, 1, [gpu, kinds = std::move(kinds)] {
          SimDuration busy{};
          for (const OperatorKind kind : kinds) {
            busy += gpu->counters().busy[static_cast<std::size_t>(kind)];
          }
          return busy;
        }));
  };
  add_kinds("gemm", "GPU busy with GEMMs: they read the weights", {OperatorKind::gemm});
  add_kinds("attention", "GPU busy with attention, its softmax, masks and copies",
            {OperatorKind::attention, OperatorKind::softmax, OperatorKind::strided});
  gauges_.add(bytes_gauge(fmt::format("gpu/{}/memory", index),
                          "bytes that operators moved from and to VRAM",
                          [gpu] { return gpu->counters().bytes; }));
}

void Machine::add_host_gauges() {
  gauges_.add(busy_gauge("host/submitter", "host thread that submits commands to the drives", 1,
                         [this] { return submitter_.busy(); }));
  if (host_storage_ == nullptr) {
    return;
  }
  gauges_.add(busy_gauge("host/cores", "host cores busy with page faults, copies and I/O",
                         host_cores_.servers(), [this] { return host_cores_.busy(); }));
  gauges_.add(
      bytes_gauge("ssd/read", "bytes read from the SSDs", [this] { return ssds_->bytes_read(); }));
  gauges_.add(bytes_gauge("ssd/written", "bytes written to the SSDs",
                          [this] { return ssds_->bytes_written(); }));
}

void Machine::add_link_gauges() {
  for (const PcieFabric::DirectedLink& link : fabric_.links()) {
    if (link.name.find("/ssd/") != std::string::npos) {
      continue;  // SSDs time their links themselves: see ssd/read and ssd/written
    }
    // The time at full rate, not the time with some flow: small transfers would hide the rate.
    gauges_.add(
        {link.name, "s", "PCIe link direction, as time at full rate",
         [this, link] { return to_seconds(time_for(engine_.carried(link.id), link.bandwidth)); },
         1});
    gauges_.add(bytes_gauge(link.name + "/bytes", "bytes that flows moved over the link direction",
                            [this, link] { return engine_.carried(link.id); }));
  }
}

void Machine::add_csd_gauges(int index) {
  const Csd* csd = csds_[static_cast<std::size_t>(index)].get();
  const std::string name = fmt::format("csd/{}", index);
  const FlashConfig& flash = csd->config().flash;
  gauges_.add({name + "/flash/channels", "s", "flash channels busy with pages",
               [csd] { return to_seconds(csd->channel_time()); },
               static_cast<double>(flash.channels)});
  gauges_.add(bytes_gauge(name + "/flash/read", "user data read from flash",
                          [csd] { return csd->bytes_read(); }));
  gauges_.add(bytes_gauge(name + "/flash/programmed", "user data programmed to flash",
                          [csd] { return csd->bytes_programmed(); }));
  gauges_.add(busy_gauge(name + "/reading", "KV pages on their way from flash", 1,
                         [csd] { return csd->work().reading; }));
  gauges_.add(busy_gauge(name + "/attention_kernels", "attention kernels at work on a block", 1,
                         [csd] { return csd->work().computing; }));
  gauges_.add(busy_gauge(name + "/gemv_units", "GeMV units at work", csd->gemv_units(),
                         [csd] { return csd->work().gemv_busy; }));
  gauges_.add(busy_gauge(name + "/logit_0", "GeMV units at work on SparF's estimated scores",
                         csd->gemv_units(), [csd] { return csd->work().estimating; }));
  gauges_.add(busy_gauge(name + "/gemv_units_idle", "GeMV units without work while attention runs",
                         csd->gemv_units(), [csd] { return csd->gemv_idle(); }));
  gauges_.add(busy_gauge(name + "/flash/stalled_channels",
                         "flash channels whose pages find no free slot", flash.channels,
                         [csd] { return csd->work().flash.bus_stalled; }));
  gauges_.add(busy_gauge(name + "/controller_cores", "firmware", csd->config().controller.cores,
                         [csd] { return csd->work().firmware; }));
  gauges_.add(busy_gauge(name + "/storing", "stores on their way to flash", 1,
                         [csd] { return csd->work().storing; }));
}

void Machine::audit() const {
  for (const auto& port : gpus_) {
    port->gpu.memory().audit();
  }
  for (const auto& csd : csds_) {
    csd->audit();
  }
  if (host_storage_ != nullptr) {
    host_storage_->memory().pinned().audit();
  }
}

void Machine::report_memories(Metrics& metrics) const {
  const auto add = [&](const std::string& name, Bytes high_water, Bytes capacity) {
    metrics.add("high_water/" + name, static_cast<double>(high_water.count()), "B",
                fmt::format("most that was held, of {}", format_short(capacity)));
  };
  for (const auto& port : gpus_) {
    const CapacityLedger& memory = port->gpu.memory();
    add(memory.resource(), memory.high_water(), memory.capacity());
  }
  if (host_storage_ != nullptr) {
    const HostMemory& memory = host_storage_->memory();
    add("host DRAM", memory.high_water(), memory.capacity() + memory.pinned().held());
  }
  for (std::size_t i = 0; i < csds_.size(); ++i) {
    const CapacityLedger& flash = csds_[i]->flash_capacity();
    const CapacityLedger& dram = csds_[i]->dram();
    add(fmt::format("csd/{}/flash", i), flash.high_water(), flash.capacity());
    add(fmt::format("csd/{}/DRAM", i), dram.high_water(), dram.capacity());
    add(fmt::format("csd/{}/group buffers", i), csds_[i]->ftl().buffered_high_water(),
        dram.capacity());
  }
}

void Machine::report_kv_storage(Metrics& metrics) const {
  for (std::size_t i = 0; i < csds_.size(); ++i) {
    csds_[i]->ftl().report(metrics, fmt::format("kv_ftl/csd/{}", i));
  }
}

}  // namespace nearkv
