// The metrics of a run, from what its driver measured (run.hpp lists them).
#pragma once

#include <vector>

#include "models/systems/batch_driver.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/machine.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

/// What a system that schedules requests itself did with them.
struct ServingMeasurements {
  double time = 0;        // seconds, until all was done
  StepValues increments;  // of the gauges
  std::vector<Request> requests;
  std::vector<RequestTimes> times;
};

void report_batches(const DesignPoint& point, Machine& machine, const BatchMeasurements& found,
                    Metrics& metrics);

void report_serving(const DesignPoint& point, Machine& machine, const ServingMeasurements& found,
                    Metrics& metrics);

}  // namespace nearkv
