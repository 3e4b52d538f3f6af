// For tests of batch systems: a given batch on an engine of its own, step by step.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/test_points.hpp"

namespace nearkv {

struct BatchRun {
  double prefill_time = 0;
  std::vector<double> step_times;
  std::map<std::string, double> prefill;  // increments of the gauges
  std::map<std::string, double> decode;
  std::int64_t pages_programmed = 0;  // by the first drive's FTL
  std::vector<std::string> notes;
  Metrics metrics;  // the system's own

  [[nodiscard]] double decode_time() const {
    double sum = 0;
    for (const double time : step_times) {
      sum += time;
    }
    return sum;
  }
};

/// `again`: the batch is run so many times on the same machine; the last one is told of.
inline BatchRun run_batch(const DesignPoint& point, const Batch& batch, int times = 1) {
  BatchRun run;
  Machine machine(point);
  ParallelModel model(machine, point);
  auto& system = dynamic_cast<BatchSystem&>(*point.system);
  const auto timed = [&](const std::function<void()>& body) {
    const SimTime begin = machine.engine().now();
    body();
    return to_seconds(machine.engine().now() - begin);
  };
  const auto increments = [&](const std::vector<double>& before) {
    const std::vector<double> now = machine.read_gauges();
    std::map<std::string, double> found;
    for (std::size_t i = 0; i < now.size(); ++i) {
      found[machine.gauges().all()[i].name] = now[i] - before[i];
    }
    return found;
  };
  machine.engine().spawn("driver", machine.host_node(), [&] {
    RunContext context{point, machine, model};
    system.place(context);
    context.batch = &batch;
    for (int i = 0; i < times; ++i) {
      run.step_times.clear();
      system.begin_batch(context);
      std::vector<double> before = machine.read_gauges();
      run.prefill_time = timed([&] { system.prefill(context); });
      run.prefill = increments(before);
      before = machine.read_gauges();
      for (int step = 0; step < batch.decode_steps(); ++step) {
        run.step_times.push_back(timed([&] { system.decode_step(context, step); }));
      }
      run.decode = increments(before);
      system.finish_batch(context);
    }
    machine.stop_workers();
  });
  machine.engine().run();
  run.pages_programmed = machine.csds().front()->ftl().counters().programs;
  run.notes = system.notes(point);
  system.report(point, run.metrics);
  return run;
}

}  // namespace nearkv
