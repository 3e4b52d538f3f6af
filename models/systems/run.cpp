#include "models/systems/run.hpp"

#include <optional>
#include <utility>

#include "models/systems/batch_driver.hpp"
#include "models/systems/fault_injector.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/recording.hpp"
#include "models/systems/request_metrics.hpp"
#include "models/systems/run_report.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// The run's one driver.
class Driver {
 public:
  Driver(const DesignPoint& point, Machine& machine, Recording* recording)
      : model_(machine, point),
        faults_(point, machine),
        run_{.point = point,
             .machine = machine,
             .model = model_,
             .batch = nullptr,
             .recording = recording,
             .faults = faults_.is_on() && recording == nullptr ? &faults_ : nullptr},
        machine_(machine) {
    if (auto* const system = dynamic_cast<BatchSystem*>(point.system.get())) {
      batches_.emplace(run_, *system);
    }
  }

  /// Inside an actor.
  void operator()() {
    run_.point.system->place(run_);
    if (batches_.has_value()) {
      (*batches_)();
    } else {
      serve();
    }
    machine_.stop_workers();
  }

  void report(RunOutcome& outcome) const {
    if (run_.recording != nullptr) {
      return;
    }
    const DesignPoint& point = run_.point;
    if (batches_.has_value()) {
      report_batches(point, machine_, batches_->found(), outcome.metrics);
    } else {
      report_serving(point, machine_, serving_, outcome.metrics);
    }
    report_faults(outcome.metrics);
    if (!point.workload.is_fixed()) {
      outcome.requests_table = requests_csv(
          batches_.has_value() ? ServedRequests{batches_->found().requests, batches_->found().times}
                               : ServedRequests{serving_.requests, serving_.times});
    }
  }

  /// Also of a run that a fault has ended.
  void report_faults(Metrics& metrics) const {
    if (run_.faults != nullptr) {
      faults_.log().report(metrics, faults_.end());
    }
  }

 private:
  void serve() {
    auto* const system = dynamic_cast<ServingSystem*>(run_.point.system.get());
    check(system != nullptr, "a system that neither takes batches nor serves");
    serving_.requests = run_.point.workload.requests();
    const StepValues before = machine_.read_gauges();
    const SimTime begin = machine_.engine().now();
    if (run_.faults != nullptr) {
      faults_.fail_at_losses();
      faults_.resume(SimTime{});
    }
    serving_.times = system->serve(run_, serving_.requests);
    faults_.pause();
    serving_.time = to_seconds(machine_.engine().now() - begin);
    serving_.increments = machine_.read_gauges();
    for (std::size_t i = 0; i < before.size(); ++i) {
      serving_.increments[i] -= before[i];
    }
  }

  ParallelModel model_;
  FaultInjector faults_;
  RunContext run_;
  Machine& machine_;
  std::optional<BatchDriver> batches_;
  ServingMeasurements serving_;
};

}  // namespace

namespace {

RunOutcome run_or_record(const DesignPoint& point, Recording* recording) {
  RunOutcome outcome;
  Machine machine(point);
  Driver driver(point, machine, recording);
  machine.engine().spawn("driver", machine.host_node(), [&driver] { driver(); });
  try {
    machine.engine().run();
    machine.audit();
    driver.report(outcome);
    if (recording == nullptr) {
      point.system->report(point, outcome.metrics);
    }
  } catch (const OutOfCapacity& overflow) {
    outcome.status = RunStatus::out_of_memory;
    outcome.status_detail = overflow.what();
    machine.report_memories(outcome.metrics);
  } catch (const Infeasible& problem) {
    outcome.status = RunStatus::infeasible;
    outcome.status_detail = problem.what();
    machine.report_memories(outcome.metrics);
  } catch (const DataLost& failure) {
    outcome.status = RunStatus::data_lost;
    outcome.status_detail = failure.what();
    driver.report_faults(outcome.metrics);
    machine.report_memories(outcome.metrics);
  }
  outcome.notes = point.system->notes(point);
  if (recording != nullptr && !point.faults.empty()) {
    outcome.notes.emplace_back("faults are not in the timeline: it shows the machine without them");
  }
  for (std::string& note : point.workload.notes()) {
    outcome.notes.push_back(std::move(note));
  }
  outcome.digest = machine.engine().digest();
  outcome.wakeups = machine.engine().wakeups();
  return outcome;
}

}  // namespace

RunOutcome run_design_point(const DesignPoint& point) { return run_or_record(point, nullptr); }

RunOutcome record_design_point(const DesignPoint& point, const RecordedPart& part,
                               ActivityLog& log) {
  Recording recording(part, log);
  return run_or_record(point, &recording);
}

}  // namespace nearkv
