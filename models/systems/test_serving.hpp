// For tests of serving systems: a run with given requests on an engine of its own.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/test_points.hpp"

namespace nearkv {

struct ServingRun {
  std::vector<RequestTimes> times;
  Metrics metrics;  // the system's own
  std::vector<std::string> notes;

  [[nodiscard]] SimTime end() const {
    SimTime last{};
    for (const RequestTimes& one : times) {
      last = std::max(last, one.is_served() ? one.finished : SimTime{});
    }
    return last;
  }
};

inline ServingRun serve_requests(const DesignPoint& point, const std::vector<Request>& requests) {
  ServingRun run;
  Machine machine(point);
  ParallelModel model(machine, point);
  auto& system = dynamic_cast<ServingSystem&>(*point.system);
  machine.engine().spawn("driver", machine.host_node(), [&] {
    RunContext context{point, machine, model};
    system.place(context);
    run.times = system.serve(context, requests);
    machine.stop_workers();
  });
  machine.engine().run();
  system.report(point, run.metrics);
  run.notes = system.notes(point);
  return run;
}

inline std::vector<Request> equal_requests(int count, int prompt_tokens, int output_tokens) {
  return std::vector<Request>(static_cast<std::size_t>(count),
                              Request{SimTime{}, prompt_tokens, output_tokens});
}

}  // namespace nearkv
