// Runs a system batch by batch: prefill, then the decode steps that the fidelity asks for.
//
// The requests have a time line of their own, as the engine's clock covers only what is simulated:
// a batch starts as soon as the machine is free and its requests are there (batching.hpp), and
// lasts as long as its prefill and all its decode steps, simulated or not. A request has its first
// token when the batch's prefill is done, and its last one behind the decode step that makes it;
// what a padded batch goes on to compute is nobody's.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/step_sampler.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

/// Sums over all batches; times in seconds, increments of gauges in the order of the gauges.
struct BatchMeasurements {
  double prefill_time = 0;
  double decode_time = 0;
  double decode_bound = 0;   // of the decode time
  double idle_time = 0;      // between batches, while requests were to come or storage was tidied
  double recovery_time = 0;  // from losses, between steps
  StepValues prefill;
  StepValues decode;
  StepValues recovery;
  double median_step = 0;  // time of a decode step of the last batch
  std::int64_t decode_steps = 0;
  std::int64_t steps_simulated = 0;
  std::int64_t batches = 0;
  std::int64_t computed_tokens = 0;  // of prompts and outputs, padding included
  std::vector<Request> requests;
  std::vector<RequestTimes> times;
};

class BatchDriver {
 public:
  BatchDriver(RunContext& run, BatchSystem& system);

  /// All batches of the workload, behind System::place(). Inside an actor.
  void operator()();

  [[nodiscard]] const BatchMeasurements& found() const { return found_; }

 private:
  /// One batch from the end of its prefill on.
  struct Decode {
    SimDuration time{};                   // recoveries included
    std::vector<SimDuration> done_after;  // by decode steps, from 0 of them
  };

  void run_in_parts(const std::vector<int>& chosen, SimTime start);
  void run_batch(const std::vector<int>& chosen, SimTime start);
  void note_times(const std::vector<int>& chosen, SimTime start, SimDuration prefill,
                  const Decode& decode);
  [[nodiscard]] static double median_step(const std::vector<SimDuration>& done_after);
  [[nodiscard]] Decode decode_all();
  [[nodiscard]] Decode decode_sampled();
  void sample(int first, int last, Decode& decode);
  [[nodiscard]] Decode decode_with_faults(SimTime start);
  [[nodiscard]] int steps_before_fault(int step, SimTime now) const;
  void decode_one(int step, Decode& decode);
  SimDuration recover(int step);
  void note_tokens(int step, SimTime at);
  [[nodiscard]] StepValues simulate(int step);
  [[nodiscard]] std::size_t bound_gauge() const;
  [[nodiscard]] double warm_up_error(const std::map<int, double>& warmed);

  RunContext& run_;
  BatchSystem& system_;
  Machine& machine_;
  BatchMeasurements found_;
  SimDuration last_step_{};       // that was simulated
  std::vector<DataLoss> unused_;  // of drives that had not been used when they were lost
  SimTime free_{};                // in the requests' time line
};

}  // namespace nearkv
