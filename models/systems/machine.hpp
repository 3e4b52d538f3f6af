// The simulated machine of a design point: every part, built and wired, and what actors need to
// use them. Systems issue work here; the parts say how long it takes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/csd/csd.hpp"
#include "models/gpu/gpu.hpp"
#include "models/host/host_storage.hpp"
#include "models/llm/operators.hpp"
#include "models/pcie/pcie.hpp"
#include "models/ssd/drive_conditions.hpp"
#include "models/ssd/ssd.hpp"
#include "models/systems/design_point.hpp"
#include "sim/core/activity_scope.hpp"
#include "sim/core/check.hpp"
#include "sim/core/engine.hpp"
#include "sim/core/gauges.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/worker.hpp"

namespace nearkv {

class Machine {
 public:
  // Gauges that a run looks up by name.
  static constexpr std::string_view kExtrapolationBound = "extrapolation_bound";
  /// Added by systems: time in which KV data were on their way to where attention is computed.
  static constexpr std::string_view kKvAccess = "kv_access";

  /// Throws ConfigError when the parts do not fit together (a drive without a PCIe port).
  explicit Machine(const DesignPoint& point);

  [[nodiscard]] Engine& engine() { return engine_; }
  [[nodiscard]] int gpu_count() const { return static_cast<int>(gpus_.size()); }
  [[nodiscard]] Gpu& gpu(int index = 0) { return gpus_[index]->gpu; }
  [[nodiscard]] std::vector<std::unique_ptr<Csd>>& csds() { return csds_; }
  /// Only with an SSD, which it reads and swaps to.
  [[nodiscard]] bool has_host_storage() const { return host_storage_ != nullptr; }
  [[nodiscard]] HostStorage& host_storage() {
    check(host_storage_ != nullptr, "host storage without an SSD");
    return *host_storage_;
  }
  /// The same drives for what goes past the page cache; only with an SSD.
  [[nodiscard]] SsdArray& ssds() {
    check(ssds_ != nullptr, "SSDs that are not there");
    return *ssds_;
  }
  [[nodiscard]] FifoServers& host_cores() { return host_cores_; }
  /// The host thread that submits commands to the drives.
  [[nodiscard]] FifoServers& submitter() { return submitter_; }
  [[nodiscard]] Gauges& gauges() { return gauges_; }

  [[nodiscard]] NodeId gpu_node(int index = 0) const { return gpus_[index]->node; }
  [[nodiscard]] NodeId host_node() const { return fabric_.host(); }
  [[nodiscard]] NodeId csd_node(int index) const {
    return fabric_.node("csd/" + std::to_string(index));
  }

  // -- Inside an actor: each returns when the work is done.
  /// Waits for a service that was granted here, if it is not done; `resource` and `what` say for
  /// the activity log what it is.
  void wait_for(const Grant& service, std::string_view resource, std::string_view what);
  /// So much time of something that has no queue.
  void spend(SimDuration time, std::string_view resource, std::string_view what);
  void compute(std::span<const OperatorWork> operators, int gpu = 0);
  /// Direct memory access by a drive or between drives and VRAM; nothing happens for no bytes.
  /// Where the platform refuses peer-to-peer traffic, the data pass host memory in chunks of
  /// pcie/peer_to_peer/bounce_chunk, one arriving while the one before leaves:
  ///     time = chunk over one way + rest over the slower way + chunk over the other way.
  void transfer(NodeId from, NodeId to, Bytes size);
  struct Transfer {
    NodeId from;
    NodeId to;
    Bytes size;
  };
  /// Starts all of them now; returns when the last one is done.
  void transfer_together(std::span<const Transfer> transfers);
  /// Does several things at the same time, as threads would; returns when all are done.
  void together(std::span<const std::function<void()>> actions);
  enum class CopyDirection { host_to_gpu, gpu_to_host };
  /// A copy of pinned memory by one of the GPU's copy engines.
  void pinned_copy(CopyDirection direction, Bytes size, int gpu = 0);
  /// A copy of pageable memory: the driver stages it through pinned buffers, so that it moves at
  /// the slower of the host's pageable rate and the link.
  void pageable_copy(CopyDirection direction, Bytes size, int gpu = 0);

  /// What transfer_together() takes on an idle fabric if each link is divided equally among the
  /// transfers, all of which must be direct.
  [[nodiscard]] SimDuration time_together(std::span<const Transfer> transfers) const;
  [[nodiscard]] SimDuration longest_latency(std::span<const Transfer> transfers) const;
  /// Payload a second that one device gets to another ("host" is a valid end).
  [[nodiscard]] const PcieFabric& fabric() const { return fabric_; }

  /// Tells the activity log of operators that a GPU was given now: Gpu::issue() with the same
  /// arguments has granted it.
  struct IssuedOperators {
    std::span<const OperatorWork> operators;
    SimDuration kernel_issue{};
    SimDuration ahead{};
  };
  void report_operators(int gpu, const Grant& granted, const IssuedOperators& issued);
  /// Memory and queues as they are now, for the activity log.
  void report_counters();

  /// Gauges, what extrapolate() added to them included.
  [[nodiscard]] std::vector<double> read_gauges() const;
  /// Work that is taken to be like work that was simulated.
  struct Extrapolation {
    std::int64_t times;
    SimDuration time;                // of one
    std::vector<double> increments;  // of the gauges, of one
    SimDuration bound;               // one may be off by so much
    bool is_explained = false;       // to the activity log
  };
  /// Advances time and gauges; inside an actor.
  void extrapolate(const Extrapolation& work);

  // -- Conditions of parts, from now on; inside an actor. Devices by name ("gpu/0", "csd/1").
  /// A GPU takes the speed alone.
  void set_conditions(const std::string& device, const DriveConditions& conditions);
  /// The cores of a drive's controller do nothing for so long.
  void stall(const std::string& device, SimDuration duration);
  /// Of the link above a device or switch, in both directions.
  void set_link_bandwidth(const std::string& name, Rate bandwidth);

  /// Whether no part of a step may be taken to be like another: something may happen in it.
  void simulate_whole_steps(bool whole) { simulates_whole_steps_ = whole; }
  [[nodiscard]] bool simulates_whole_steps() const { return simulates_whole_steps_; }

  /// A worker that stop_workers() ends.
  Worker& add_worker(const std::string& name, NodeId node);
  void stop_workers();

  // -- Where the driver's time goes.
  void add_to_phase(const std::string& phase, SimDuration time);
  /// Names a phase; before the first reading of the gauges, which show it as "phase/NAME".
  void declare_phase(const std::string& phase, const std::string& doc);
  [[nodiscard]] SimDuration phase(const std::string& phase) const { return phases_.at(phase); }

  /// check()s what must hold at the end of a run, whatever ran: pages asked for were read, memories
  /// hold what was allocated and not released. The engine does so for its links.
  void audit() const;
  /// High-water marks of all memories.
  void report_memories(Metrics& metrics) const;
  /// What the CSDs' FTLs hold and how worn they are.
  void report_kv_storage(Metrics& metrics) const;

 private:
  [[nodiscard]] static std::vector<std::string> device_names(const DesignPoint& point);
  [[nodiscard]] Rate ssd_link() const;
  void add_gpu_gauges(int index);
  void bounce(NodeId from, NodeId to, Bytes size);
  [[nodiscard]] std::vector<PcieFabric::Path> shared_paths(
      std::span<const Transfer> transfers) const;
  void add_link_gauges();
  void add_csd_gauges(int index);
  void add_host_gauges();

  /// A GPU and what its copies pass.
  struct GpuPort {
    GpuPort(Engine& engine, const GpuConfig& config, const std::string& memory_name,
            const std::string& name, NodeId at);

    Gpu gpu;
    NodeId node;
    // One engine serves both directions in turn; of several, each direction has its own.
    CreditPool h2d_engines;
    std::optional<CreditPool> d2h_engines;
    FifoServers pageable_h2d{1};  // the thread that stages
    FifoServers pageable_d2h{1};
    std::string compute_name;  // in the activity log
    std::string h2d_name;
    std::string d2h_name;
  };

  Engine engine_;
  PcieFabric fabric_;
  std::vector<std::unique_ptr<GpuPort>> gpus_;
  std::map<int, std::string> device_of_node_;  // by index
  Bytes bounce_chunk_;
  std::vector<Worker*> idle_helpers_;  // of together()
  int helpers_ = 0;
  FifoServers host_cores_;
  int ssd_count_ = 0;
  bool simulates_whole_steps_ = false;
  std::unique_ptr<SsdArray> ssds_;
  std::unique_ptr<HostStorage> host_storage_;
  std::vector<std::unique_ptr<Csd>> csds_;
  FifoServers submitter_{1};
  Rate pageable_h2d_rate_;
  Rate pageable_d2h_rate_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::map<std::string, SimDuration> phases_;
  Gauges gauges_;
  std::vector<double> extrapolated_;  // by gauge
  SimDuration extrapolation_bound_{};
};

/// Adds the simulated time between construction and destruction to a phase of the driver.
class ScopedPhase {
 public:
  ScopedPhase(Machine& machine, std::string phase)
      : machine_(machine),
        phase_(std::move(phase)),
        begin_(machine.engine().now()),
        shown_(machine.engine(), ActivityLog::Scope::phase, phase_) {}
  ~ScopedPhase() { machine_.add_to_phase(phase_, machine_.engine().now() - begin_); }
  ScopedPhase(const ScopedPhase&) = delete;
  ScopedPhase& operator=(const ScopedPhase&) = delete;

 private:
  Machine& machine_;
  std::string phase_;
  SimTime begin_;
  ActivityScope shown_;
};

}  // namespace nearkv
