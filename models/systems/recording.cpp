#include "models/systems/recording.hpp"

#include <fmt/format.h>

#include "models/systems/machine.hpp"
#include "sim/core/activity_scope.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

void Recording::require_steps(int steps, const char* what) const {
  if (part_.last > steps) {
    throw ConfigError(
        fmt::format("{}: there are {} {}, counted from 0; the last one before {} is "
                    "not among them",
                    part_.chosen_by, steps, what, part_.last));
  }
}

void Recording::batch(RunContext& run, BatchSystem& system) {
  Engine& engine = run.machine.engine();
  if (part_.prefill) {
    engine.record(&log_);
    log_.begin_window(engine.now());
    {
      const ActivityScope shown(engine, ActivityLog::Scope::step, "prefill");
      system.prefill(run);
    }
    log_.end_window("prefill", engine.now());
    engine.record(nullptr);
    return;
  }
  require_steps(run.batch->decode_steps(), "decode steps");
  system.prefill(run);
  if (part_.first >= 2) {
    system.warm_up(run, part_.first - 2);
  }
  engine.record(&log_);
  if (part_.first >= 1) {
    step(run, system, part_.first - 1);
  }
  for (int number = part_.first; number < part_.last; ++number) {
    log_.begin_window(engine.now());
    step(run, system, number);
    log_.end_window(fmt::format("decode step {}", number), engine.now());
  }
  engine.record(nullptr);
}

void Recording::step(RunContext& run, BatchSystem& system, int number) {
  const ActivityScope shown(run.machine.engine(), ActivityLog::Scope::step, "decode step", number);
  system.decode_step(run, number);
  run.machine.report_counters();
}

void Recording::begin_pass(Engine& engine) {
  check(!is_done(), "a pass behind the last one that is recorded");
  if (passes_ == part_.first - 1 || (passes_ == 0 && part_.first == 0)) {
    engine.record(&log_);
  }
  if (passes_ >= part_.first) {
    log_.begin_window(engine.now());
  }
  if (engine.activity() != nullptr) {
    log_.begin_scope(ActivityLog::Scope::step, fmt::format("pass {}", passes_), engine.now());
  }
}

void Recording::end_pass(Engine& engine) {
  if (engine.activity() != nullptr) {
    log_.end_scope(engine.now());
  }
  if (passes_ >= part_.first) {
    log_.end_window(fmt::format("pass {}", passes_), engine.now());
  }
  ++passes_;
  if (is_done()) {
    engine.record(nullptr);
  }
}

void Recording::require_done() const { require_steps(passes_, "passes"); }

}  // namespace nearkv
