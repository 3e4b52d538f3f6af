// A part of a run that is recorded in an activity log: some decode steps of the first batch, or its
// prefill; of a system that serves requests, some passes (iterations). What lies before is not
// simulated in detail: the machine is brought into the state in which the steps before leave it
// (BatchSystem::warm_up), and the step in front of the first one is recorded for its causes alone.
// The run ends behind the last one, and reports nothing.
#pragma once

#include <string>

#include "models/systems/design_point.hpp"
#include "models/systems/system.hpp"
#include "sim/core/activity_log.hpp"
#include "sim/core/engine.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

struct RecordedPart {
  bool prefill = false;  // or else steps first to last - 1
  int first = 0;
  int last = 0;

  /// What option or field of the user chose it, for messages.
  std::string chosen_by;
};

class Recording {
 public:
  Recording(const RecordedPart& part, ActivityLog& log) : part_(part), log_(log) {}

  /// The first batch, from its prefill on. Inside an actor. Throws ConfigError when it has not so
  /// many steps.
  void batch(RunContext& run, BatchSystem& system);

  // -- Of a system that serves requests: around each of its passes.
  void begin_pass(Engine& engine);
  void end_pass(Engine& engine);
  [[nodiscard]] bool is_done() const { return passes_ >= part_.last; }
  /// Of a run that ended before that. Throws ConfigError.
  void require_done() const;

 private:
  static void step(RunContext& run, BatchSystem& system, int number);
  void require_steps(int steps, const char* what) const;

  RecordedPart part_;
  ActivityLog& log_;
  int passes_ = 0;
};

/// As run_design_point(), of a part of the run. The outcome has no metrics. When the first batch's
/// steps are recorded from the first to the last one, its digest is that of an exact run.
[[nodiscard]] RunOutcome record_design_point(const DesignPoint& point, const RecordedPart& part,
                                             ActivityLog& log);

}  // namespace nearkv
