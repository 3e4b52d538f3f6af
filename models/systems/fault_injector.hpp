// Brings the faults of a design point into a run.
//
// Faults have times on the clock of the run, which the engine's clock follows only in part: a
// sampled run leaves most decode steps out. Between resume() and pause() the two go together, and
// what comes due acts on the machine at its picosecond: conditions at once, on what begins from
// then on; losses are kept until the driver asks for them between two steps, as a system meets them
// when it next uses the data. While the clocks do not go together nothing happens; the driver takes
// care that no fault is due then.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/faults/fault_log.hpp"
#include "models/faults/fault_timeline.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

class FaultInjector {
 public:
  /// Both must outlive the engine's run.
  FaultInjector(const DesignPoint& point, Machine& machine);

  [[nodiscard]] bool is_on() const { return !point_.faults.empty(); }
  [[nodiscard]] FaultLog& log() { return log_; }
  [[nodiscard]] const FaultLog& log() const { return log_; }

  // -- Inside an actor.

  /// The run is at `at`, and goes on with the engine. What was due before comes now.
  void resume(SimTime at);
  void pause();
  /// Of the run, between resume() and pause().
  [[nodiscard]] SimTime now() const { return machine_.engine().now() + offset_; }
  /// When the next fault begins or ends, on the run's clock; kNever: never.
  [[nodiscard]] SimTime next() const { return timeline_.next(); }

  /// The last time that it knows of.
  [[nodiscard]] SimTime end() const { return end_; }

  /// Losses since the last call, in the order in which they came.
  [[nodiscard]] std::vector<DataLoss> take_losses();
  /// Losses are not kept but end the run, for systems that never ask: those for which the data
  /// would be gone.
  void fail_at_losses() { fails_at_losses_ = true; }

 private:
  void act(const FaultTimeline::Event& event);
  void follow(std::uint64_t generation);
  void apply(const FaultConfig& fault, bool is_begin);
  void set_device_conditions(const std::string& device);
  void set_link(const std::string& name);
  [[nodiscard]] bool is_active(std::size_t fault) const { return active_[fault] > 0; }

  const DesignPoint& point_;
  Machine& machine_;
  FaultTimeline timeline_;
  FaultLog log_;
  std::vector<int> active_;          // by fault: conditions that have begun and not ended
  std::vector<std::int64_t> drawn_;  // by fault: losses so far
  std::vector<DataLoss> losses_;
  SimDuration offset_{};  // from the engine's clock to the run's
  SimTime end_{};
  std::uint64_t generation_ = 0;  // of resume() and pause()
  int followers_ = 0;
  bool fails_at_losses_ = false;
};

}  // namespace nearkv
