#include "models/systems/run.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/step_sampler.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// An interpolation error inside an interval may be larger than the one seen in its middle.
constexpr double kSamplingSafety = 2;
/// Steps that a sampled run repeats to see what warm_up() is worth.
constexpr int kWarmUpChecks = 4;

/// What the driver found; times in seconds.
struct Measurements {
  double prefill_time = 0;
  StepValues prefill;  // increments of the gauges over prefill
  StepValues decode;   // decode time, then increments of the gauges over decode
  double decode_bound = 0;
  int steps_simulated = 0;
};

/// The run's one driver: prefill, then the decode steps that the fidelity asks for.
class Driver {
 public:
  Driver(const DesignPoint& point, Machine& machine)
      : point_(point),
        model_(machine, point),
        run_{point, machine, model_},
        machine_(machine),
        system_(dynamic_cast<BatchSystem&>(*point.system)) {}

  void operator()() {
    system_.place(run_);
    const Batch batch(
        {{point_.workload.batch, point_.workload.prompt_tokens, point_.workload.output_tokens}});
    run_.batch = &batch;
    system_.begin_batch(run_);
    const SimTime begin = machine_.engine().now();
    const StepValues before = machine_.read_gauges();
    system_.prefill(run_);
    found.prefill_time = to_seconds(machine_.engine().now() - begin);
    found.prefill = difference(machine_.read_gauges(), before);
    if (point_.simulation.fidelity == Fidelity::sampled) {
      decode_sampled();
    } else {
      decode_all();
    }
    system_.finish_batch(run_);
    machine_.stop_workers();
  }

  Measurements found;

 private:
  static StepValues difference(StepValues after, const StepValues& before) {
    for (std::size_t i = 0; i < after.size(); ++i) {
      after[i] -= before[i];
    }
    return after;
  }

  /// Time of the step first, then the increments.
  StepValues simulate(int step) {
    const StepValues before = machine_.read_gauges();
    const SimTime begin = machine_.engine().now();
    system_.decode_step(run_, step);
    StepValues values{to_seconds(machine_.engine().now() - begin)};
    const StepValues increments = difference(machine_.read_gauges(), before);
    values.insert(values.end(), increments.begin(), increments.end());
    return values;
  }

  /// Index of the gauge that holds the bound of what was extrapolated within steps.
  std::size_t bound_gauge() const {
    const std::vector<Gauge>& gauges = machine_.gauges().all();
    const auto found_gauge = std::find_if(gauges.begin(), gauges.end(), [](const Gauge& gauge) {
      return gauge.name == Machine::kExtrapolationBound;
    });
    check(found_gauge != gauges.end(), "no gauge of the extrapolation bound");
    return static_cast<std::size_t>(found_gauge - gauges.begin());
  }

  void decode_all() {
    const int steps = run_.batch->decode_steps();
    const StepValues before = machine_.read_gauges();
    const SimTime begin = machine_.engine().now();
    for (int step = 0; step < steps; ++step) {
      system_.decode_step(run_, step);
    }
    found.decode = {to_seconds(machine_.engine().now() - begin)};
    const StepValues increments = difference(machine_.read_gauges(), before);
    found.decode.insert(found.decode.end(), increments.begin(), increments.end());
    found.steps_simulated = steps;
  }

  void decode_sampled() {
    std::vector<StepKey> keys;
    for (int step = 0; step < run_.batch->decode_steps(); ++step) {
      keys.push_back(system_.step_key(run_, step));
    }
    StepSampler sampler(keys, {point_.simulation.sampling_tolerance,
                               point_.simulation.most_sampled_steps, kSamplingSafety});
    int previous = -1;             // the step that the machine has just done
    std::map<int, double> warmed;  // times of the steps that were simulated after warm_up()
    while (const std::optional<int> step = sampler.next()) {
      const bool warms_up = *step > 0 && previous != *step - 1;
      if (warms_up) {
        system_.warm_up(run_, *step - 1);
      }
      StepValues values = simulate(*step);
      if (warms_up) {
        warmed[*step] = values.front();
      }
      sampler.observe(*step, std::move(values));
      previous = *step;
    }
    const StepSampler::Total total = sampler.total();
    found.decode = total.values;
    found.decode_bound = total.time_bound + total.values[1 + bound_gauge()] +
                         kSamplingSafety * warm_up_error(warmed) * total.values.front();
    found.steps_simulated = total.steps_simulated;
  }

  /// By how much, relative to its time, a step differs between a machine that was warmed up for it
  /// and one that has done the step before: the mean of a few differences.
  double warm_up_error(const std::map<int, double>& warmed) {
    double sum = 0;
    int checks = 0;
    const double spacing = static_cast<double>(warmed.size()) / kWarmUpChecks;
    for (int i = 0; i < kWarmUpChecks && !warmed.empty() && !system_.warms_up_exactly(); ++i) {
      const auto [step, time] = *std::next(warmed.begin(), static_cast<int>(spacing * i));
      if (step > 1) {
        system_.warm_up(run_, step - 2);
        simulate(step - 1);
        sum += std::abs(simulate(step).front() - time) / time;
        ++checks;
      }
    }
    return checks > 0 ? sum / checks : 0;
  }

  const DesignPoint& point_;
  ParallelModel model_;
  RunContext run_;
  Machine& machine_;
  BatchSystem& system_;
};

void report(const DesignPoint& point, const Machine& machine, const Gauges& gauges,
            const Measurements& found, Metrics& metrics) {
  const Workload& work = point.workload;
  const double decode_time = found.decode.front();
  const double total = found.prefill_time + decode_time;
  const auto tokens = static_cast<double>(work.batch) * work.output_tokens;
  const auto decode_tokens = static_cast<double>(work.batch) * work.decode_steps();
  metrics.add("throughput", tokens / total, "token/s",
              "output tokens of the batch over prefill and decode time");
  metrics.add("throughput_bound", tokens / (total - found.decode_bound) - tokens / total, "token/s",
              "error bound of the throughput; 0 unless sampled");
  metrics.add("decode_throughput", decode_tokens / decode_time, "token/s",
              "tokens of the decode steps over the decode time");
  metrics.add("prefill_time", found.prefill_time, "s",
              "until the first token of every sequence is known and its KV is stored");
  metrics.add("decode_time", decode_time, "s", "all decode steps");
  metrics.add("decode_time_bound", found.decode_bound, "s",
              "error bound of the decode time; 0 unless sampled");
  metrics.add("decode_steps", work.decode_steps(), "1", "decode steps of the run");
  metrics.add("decode_steps_simulated", found.steps_simulated, "1",
              "decode steps that were simulated; the others are interpolated");
  metrics.add("ttft", found.prefill_time, "s", "time to first token");
  metrics.add("tpot", decode_time / work.decode_steps(), "s",
              "mean time of a further token of each sequence");
  for (std::size_t i = 0; i < gauges.all().size(); ++i) {
    const Gauge& gauge = gauges.all()[i];
    const double prefill = found.prefill[i];
    const double decode = found.decode[i + 1];
    if (gauge.name == Machine::kExtrapolationBound) {
      continue;
    }
    if (gauge.name == Machine::kKvAccess) {
      metrics.add("kv_access_share", decode / decode_time, "1",
                  "share of the decode time: " + gauge.doc);
    } else if (gauge.name.starts_with("phase/")) {
      metrics.add("decode/" + gauge.name, decode, "s", "decode time: " + gauge.doc);
    } else if (gauge.servers > 0) {
      metrics.add("utilization/" + gauge.name, decode / gauge.servers / decode_time, "1",
                  "busy share of the decode time: " + gauge.doc);
      metrics.add("prefill_busy/" + gauge.name, prefill / gauge.servers, "s",
                  "busy time in prefill: " + gauge.doc);
    } else {
      metrics.add("prefill_traffic/" + gauge.name, prefill, gauge.unit, "prefill: " + gauge.doc);
      metrics.add("decode_traffic/" + gauge.name, decode, gauge.unit, "decode: " + gauge.doc);
    }
  }
  machine.report_memories(metrics);
  machine.report_kv_storage(metrics);
}

}  // namespace

RunOutcome run_design_point(const DesignPoint& point) {
  RunOutcome outcome;
  Machine machine(point);
  Driver driver(point, machine);
  machine.engine().spawn("driver", machine.host_node(), [&driver] { driver(); });
  try {
    machine.engine().run();
    report(point, machine, machine.gauges(), driver.found, outcome.metrics);
    point.system->report(point, outcome.metrics);
  } catch (const OutOfCapacity& overflow) {
    outcome.status = RunStatus::out_of_memory;
    outcome.status_detail = overflow.what();
    machine.report_memories(outcome.metrics);
  } catch (const Infeasible& problem) {
    outcome.status = RunStatus::infeasible;
    outcome.status_detail = problem.what();
    machine.report_memories(outcome.metrics);
  }
  outcome.notes = point.system->notes(point);
  outcome.digest = machine.engine().digest();
  outcome.wakeups = machine.engine().wakeups();
  return outcome;
}

}  // namespace nearkv
