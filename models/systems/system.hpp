// An inference system is a policy: it places weights, KV cache and activations, and issues
// operators on the machine's parts. It contains no timing. A new system is one file that defines a
// subclass, one line in system_table.cpp and one config.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "models/faults/fault_config.hpp"
#include "models/systems/batch.hpp"
#include "models/systems/step_sampler.hpp"
#include "models/systems/workload.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

class FaultInjector;
class Machine;
class ParallelModel;
class Recording;
struct DesignPoint;

/// What a system works with during a run.
struct RunContext {
  const DesignPoint& point;
  Machine& machine;
  ParallelModel& model;             // on the machine's GPUs
  const Batch* batch = nullptr;     // of a BatchSystem: the one at work
  Recording* recording = nullptr;   // of a part of the run; null: the whole run, unrecorded
  FaultInjector* faults = nullptr;  // null: none; recordings show a machine without

  [[nodiscard]] const std::vector<SequenceGroup>& groups() const { return batch->groups(); }
};

/// Data that a fault has taken, noticed between two steps.
struct DataLoss {
  FaultConfig fault;  // one of those with is_loss()
  int index = 0;      // in the config's list
  Rng rng;            // for what the fault leaves open

  /// Kind and number of the device, "csd" and 3.
  [[nodiscard]] std::string_view device_kind() const;
  [[nodiscard]] int device_number() const;
};

/// What it took to go on.
struct Recovered {
  std::int64_t tokens = 0;  // whose K and V were computed again
  std::int64_t pages = 0;   // of flash, lost
};

/// A system cannot go on after a fault: a result of the run ("data_lost: ..."), not an error of the
/// program.
class DataLost : public std::runtime_error {
 public:
  explicit DataLost(const std::string& reason) : std::runtime_error("data_lost: " + reason) {}
};

class System {
 public:
  System() = default;
  System(const System&) = delete;
  System& operator=(const System&) = delete;
  virtual ~System() = default;

  /// The system's own parameters and constants (config /system, besides "kind").
  virtual void fields(FieldVisitor& v) = 0;

  /// Rules over the whole design point ("needs a CSD"); reported as config errors.
  virtual void require_parts(FieldVisitor& v, const DesignPoint& point) const = 0;

  /// Allocates what lives as long as the run, declares the phases of the driver's time and adds the
  /// gauge Machine::kKvAccess. Throws OutOfCapacity and Infeasible. Runs inside an actor, as all
  /// that follows.
  virtual void place(RunContext& run) = 0;

  /// Reacts to a loss behind the `step` first decode steps of a batch: brings the machine into a
  /// state in which step `step` can run. Takes simulated time; not part of any phase. Throws
  /// DataLost when it cannot go on, which is what happens to data on SSDs without redundancy.
  virtual Recovered recover(RunContext& run, const DataLoss& loss, int step);

  /// What a reader of the record must know; asked after the run.
  [[nodiscard]] virtual std::vector<std::string> notes(const DesignPoint& point) const = 0;

  /// Metrics of its own, after those of the run.
  virtual void report(const DesignPoint& /*point*/, Metrics& /*metrics*/) const {}
};

/// Works batch by batch: all sequences of a batch are prefilled together and decoded in lock step.
/// For each batch (run.batch), begin_batch to finish_batch in this order.
class BatchSystem : public System {
 public:
  /// Sequences that it works on at a time; a larger batch is divided into as few parts as that
  /// needs, which follow one another. Asked behind place().
  [[nodiscard]] virtual std::int64_t most_sequences() const {
    return std::numeric_limits<std::int64_t>::max();
  }

  /// Allocates what the batch's KV cache needs. Throws OutOfCapacity.
  virtual void begin_batch(RunContext& run) = 0;

  /// Processes the prompts of the batch, and returns when the first token of every sequence is
  /// known and the KV cache is where decode needs it.
  virtual void prefill(RunContext& run) = 0;

  /// Generates one token for every sequence that is not done: Batch::at_step(step), counted
  /// from 0. Steps may come in any order: a sampled run leaves most of them out.
  virtual void decode_step(RunContext& run, int step) = 0;

  /// The batch is done, whether or not all of its steps were simulated: its KV cache may go.
  virtual void finish_batch(RunContext& /*run*/) {}

  /// Brings the machine into the state in which step `step` leaves it, for a sampled run that
  /// goes on with the step behind it. What cannot be derived is simulated.
  virtual void warm_up(RunContext& run, int step) { decode_step(run, step); }

  /// Whether a step after warm_up() takes the time that it takes in a run of all steps, to the
  /// picosecond. If not, a sampled run repeats some steps to see the difference.
  [[nodiscard]] virtual bool warms_up_exactly() const { return false; }

  /// Steps of equal keys take equal time (step_sampler.hpp).
  [[nodiscard]] virtual StepKey step_key(const RunContext& run, int step) const = 0;
};

/// Schedules requests itself, iteration by iteration.
class ServingSystem : public System {
 public:
  /// Serves all requests, which are in the order of their arrival. The times are those of the
  /// engine, counted from its now() at the call. A recorded run ends when the recording is done.
  virtual std::vector<RequestTimes> serve(RunContext& run,
                                          const std::vector<Request>& requests) = 0;
};

struct SystemKind {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<System> (*make)();
};

/// All systems, in the order in which they are listed to users.
[[nodiscard]] const std::vector<SystemKind>& system_kinds();

// Defined one file a system.
std::unique_ptr<System> make_deepspeed();
std::unique_ptr<System> make_flexgen();
std::unique_ptr<System> make_flexgen_gds();
std::unique_ptr<System> make_flexgen_sparq();
std::unique_ptr<System> make_recompute_static();
std::unique_ptr<System> make_continuous_batching();
std::unique_ptr<System> make_insti_dense();
std::unique_ptr<System> make_insti_sparf();
std::unique_ptr<System> make_near_storage_writeback();

}  // namespace nearkv
