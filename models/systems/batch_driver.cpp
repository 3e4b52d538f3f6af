#include "models/systems/batch_driver.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/fault_injector.hpp"
#include "models/systems/recording.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// An interpolation error inside an interval may be larger than the one seen in its middle.
constexpr double kSamplingSafety = 2;
/// Steps that a sampled run repeats to see what warm_up() is worth.
constexpr int kWarmUpChecks = 4;
/// Fewer steps than that until a fault are simulated one by one.
constexpr int kLeastSampled = 8;
/// So many steps at most go by before it is seen that a lost drive was used after all.
constexpr int kMostBetweenLooks = 16;

StepValues difference(StepValues after, const StepValues& before) {
  for (std::size_t i = 0; i < after.size(); ++i) {
    after[i] -= before[i];
  }
  return after;
}

void add_to(StepValues& sums, const StepValues& values) {
  if (sums.empty()) {
    sums.assign(values.size(), 0);
  }
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums[i] += values[i];
  }
}

SimDuration rounded(double seconds) {
  constexpr double kPicoseconds = 1e12;           // unit: ps
  constexpr double kLongest = 100.0 * 24 * 3600;  // unit: s, what a SimDuration nearly holds
  if (!(seconds < kLongest)) {
    throw ConfigError(
        "/workload: one batch takes more than 100 days; use fewer or shorter sequences");
  }
  return SimDuration{std::llround(seconds * kPicoseconds)};
}

}  // namespace

BatchDriver::BatchDriver(RunContext& run, BatchSystem& system)
    : run_(run), system_(system), machine_(run.machine) {}

void BatchDriver::operator()() {
  const Workload& workload = run_.point.workload;
  found_.requests = workload.requests();
  found_.times.resize(found_.requests.size());
  if (workload.is_fixed()) {
    std::vector<int> all(found_.requests.size());
    std::iota(all.begin(), all.end(), 0);
    run_in_parts(all, SimTime{});
    return;
  }
  BatchFormer former(found_.requests, workload.batching);
  while (!former.is_done()) {
    const FormedBatch formed = former.next(free_);
    found_.idle_time += to_seconds(formed.start - free_);
    run_in_parts(formed.requests, formed.start);
    if (run_.recording != nullptr) {
      return;  // it has what it wants
    }
  }
}

/// As many requests at a time as the system works on.
void BatchDriver::run_in_parts(const std::vector<int>& chosen, SimTime start) {
  auto first = chosen.begin();
  for (const int size : even_parts(static_cast<int>(chosen.size()), system_.most_sequences())) {
    run_batch({first, first + size}, start);
    if (run_.recording != nullptr) {
      return;
    }
    first += size;
    start = free_;
  }
}

void BatchDriver::run_batch(const std::vector<int>& chosen, SimTime start) {
  const Workload& workload = run_.point.workload;
  const Batch batch =
      batch_of(found_.requests, chosen, !workload.is_fixed() && workload.batching.padded);
  Engine& engine = machine_.engine();
  run_.batch = &batch;
  system_.begin_batch(run_);
  if (run_.recording != nullptr) {
    run_.recording->batch(run_, system_);
    system_.finish_batch(run_);
    run_.batch = nullptr;
    return;
  }
  FaultInjector* faults = run_.faults;
  if (faults != nullptr) {
    faults->resume(start);
  }
  const SimTime begin = engine.now();
  const StepValues before = machine_.read_gauges();
  system_.prefill(run_);
  const SimDuration prefill = engine.now() - begin;
  found_.prefill_time += to_seconds(prefill);
  add_to(found_.prefill, difference(machine_.read_gauges(), before));
  const bool is_sampled = run_.point.simulation.fidelity == Fidelity::sampled;
  const Decode decode = faults != nullptr ? decode_with_faults(start + prefill)
                        : is_sampled      ? decode_sampled()
                                          : decode_all();
  const SimTime end = engine.now();
  system_.finish_batch(run_);
  run_.batch = nullptr;
  ++found_.batches;
  found_.decode_steps += batch.decode_steps();
  found_.median_step = median_step(decode.done_after);
  found_.computed_tokens += batch.prompt_tokens() + batch.output_tokens();
  note_times(chosen, start, prefill, decode);
  free_ = start + prefill + decode.time + (engine.now() - end);
  found_.idle_time += to_seconds(engine.now() - end);
}

/// Of the steps between the times in `done_after`; 0 without a step.
double BatchDriver::median_step(const std::vector<SimDuration>& done_after) {
  std::vector<SimDuration> steps;
  for (std::size_t i = 1; i < done_after.size(); ++i) {
    steps.push_back(done_after[i] - done_after[i - 1]);
  }
  if (steps.empty()) {
    return 0;
  }
  std::sort(steps.begin(), steps.end());
  const std::size_t half = steps.size() / 2;
  return to_seconds(steps[half] + steps[(steps.size() - 1) / 2]) / 2;
}

void BatchDriver::note_times(const std::vector<int>& chosen, SimTime start, SimDuration prefill,
                             const Decode& decode) {
  // Sums of this size still fit.
  const SimTime latest{std::chrono::hours(24 * 100)};  // unit: hours, what a SimTime nearly holds
  if (start > latest || start + prefill > latest - decode.time) {
    throw ConfigError("/workload: the requests take more than 100 days; use fewer of them");
  }
  for (const int index : chosen) {
    const auto i = static_cast<std::size_t>(index);
    const Request& request = found_.requests[i];
    const SimTime first_token = start + prefill;
    const auto steps = static_cast<std::size_t>(request.output_tokens - 1);
    found_.times[i] = {request.arrival, first_token, first_token + decode.done_after[steps], start};
  }
}

/// Time of the step first, then the increments.
StepValues BatchDriver::simulate(int step) {
  const StepValues before = machine_.read_gauges();
  const SimTime begin = machine_.engine().now();
  system_.decode_step(run_, step);
  last_step_ = machine_.engine().now() - begin;
  StepValues values{to_seconds(last_step_)};
  const StepValues increments = difference(machine_.read_gauges(), before);
  values.insert(values.end(), increments.begin(), increments.end());
  return values;
}

/// Index of the gauge that holds the bound of what was extrapolated within steps.
std::size_t BatchDriver::bound_gauge() const {
  const std::vector<Gauge>& gauges = machine_.gauges().all();
  const auto found = std::ranges::find(gauges, Machine::kExtrapolationBound, &Gauge::name);
  check(found != gauges.end(), "no gauge of the extrapolation bound");
  return static_cast<std::size_t>(found - gauges.begin());
}

BatchDriver::Decode BatchDriver::decode_all() {
  const int steps = run_.batch->decode_steps();
  const StepValues before = machine_.read_gauges();
  const SimTime begin = machine_.engine().now();
  Decode decode{{}, {SimDuration{}}};
  for (int step = 0; step < steps; ++step) {
    system_.decode_step(run_, step);
    decode.time = machine_.engine().now() - begin;
    decode.done_after.push_back(decode.time);
  }
  found_.decode_time += to_seconds(decode.time);
  found_.steps_simulated += steps;
  add_to(found_.decode, difference(machine_.read_gauges(), before));
  return decode;
}

/// Steps in which a fault may come, or begin to act, are simulated with the faults; long stretches
/// without are sampled, where the fidelity says so. Such a stretch is half as long as there is time
/// to the next fault, if steps take as long as the last one.
BatchDriver::Decode BatchDriver::decode_with_faults(SimTime start) {
  const int steps = run_.batch->decode_steps();
  const bool is_sampled = run_.point.simulation.fidelity == Fidelity::sampled;
  FaultInjector& faults = *run_.faults;
  faults.log().pause(start);
  add_to(found_.decode, StepValues(machine_.gauges().all().size()));  // if there are no steps
  Decode decode{{}, {SimDuration{}}};
  int step = 0;
  while (true) {
    decode.time += recover(step);
    if (step == steps) {
      break;
    }
    const int alone = is_sampled ? steps_before_fault(step, start + decode.time) : 0;
    if (alone < std::min(kLeastSampled, steps - step)) {
      decode_one(step++, decode);
      note_tokens(step - 1, start + decode.time);
      continue;
    }
    faults.pause();
    sample(step, step + alone, decode);
    for (int done = 0; done < alone; ++done, ++step) {
      note_tokens(step, start + decode.done_after[static_cast<std::size_t>(step) + 1]);
    }
    faults.resume(start + decode.time);
  }
  faults.pause();
  return decode;
}

/// Steps from `step` on that will be done before the next fault: all that there are, when none is
/// to come; 0 when one may come in this step or when it is not known how long steps take.
int BatchDriver::steps_before_fault(int step, SimTime now) const {
  const int all = run_.batch->decode_steps() - step;
  const int left = unused_.empty() ? all : std::min(all, kMostBetweenLooks);
  const SimTime next = run_.faults->next();
  if (next == kNever) {
    return left;
  }
  if (last_step_ <= SimDuration{} || next <= now) {
    return 0;
  }
  return static_cast<int>(std::min<std::int64_t>(left, (next - now) / (last_step_ * 2)));
}

void BatchDriver::decode_one(int step, Decode& decode) {
  const StepValues values = simulate(step);
  found_.decode_time += values.front();
  ++found_.steps_simulated;
  add_to(found_.decode, {values.begin() + 1, values.end()});
  decode.time += last_step_;
  decode.done_after.push_back(decode.time);
}

/// The tokens of a step have come out.
void BatchDriver::note_tokens(int step, SimTime at) {
  run_.faults->log().tokens(at, run_.batch->active_sequences(step));
}

/// From all losses so far, before step `step`; one may come while another is recovered from.
/// Throws DataLost when data are lost faster than they come back, so that no token ever would.
SimDuration BatchDriver::recover(int step) {
  constexpr int kMostRecoveries = 1000;  // not a constant: a limit beyond any real drive
  FaultInjector& faults = *run_.faults;
  for (const DataLoss& loss : unused_) {
    static_cast<void>(system_.recover(run_, loss, step));
  }
  SimDuration time{};
  int recoveries = 0;
  for (std::vector<DataLoss> losses = faults.take_losses(); !losses.empty();
       losses = faults.take_losses()) {
    for (const DataLoss& loss : losses) {
      if (++recoveries > kMostRecoveries) {
        throw DataLost(fmt::format(
            "{}: {} losses without a token between them; they come faster than the system recovers",
            loss.fault.label(), kMostRecoveries));
      }
      const SimTime begin = faults.now();
      const StepValues before = machine_.read_gauges();
      const Recovered recovered = system_.recover(run_, loss, step);
      const SimDuration took = faults.now() - begin;
      if (loss.device_kind() == "ssd") {
        unused_.push_back(loss);
      }
      add_to(found_.recovery, difference(machine_.read_gauges(), before));
      found_.recovery_time += to_seconds(took);
      time += took;
      faults.log().tokens(faults.now(), 0);
      faults.log().recovered(loss.index, {.begin = begin,
                                          .end = faults.now(),
                                          .recomputed_tokens = recovered.tokens,
                                          .lost_pages = recovered.pages});
    }
  }
  return time;
}

BatchDriver::Decode BatchDriver::decode_sampled() {
  const int steps = run_.batch->decode_steps();
  if (steps == 0) {
    return decode_all();
  }
  Decode decode{{}, {SimDuration{}}};
  sample(0, steps, decode);
  return decode;
}

/// Steps [first, last), of which it simulates some.
void BatchDriver::sample(int first, int last, Decode& decode) {
  std::vector<StepKey> keys;
  for (int step = first; step < last; ++step) {
    keys.push_back(system_.step_key(run_, step));
  }
  const SimulationConfig& simulation = run_.point.simulation;
  StepSampler sampler(
      keys, {simulation.sampling_tolerance, simulation.most_sampled_steps, kSamplingSafety});
  int previous = first - 1;      // the step that the machine has just done
  std::map<int, double> warmed;  // times of the steps that were simulated after warm_up()
  while (const std::optional<int> chosen = sampler.next()) {
    const int step = first + *chosen;
    const bool warms_up = step > 0 && previous != step - 1;
    if (warms_up) {
      system_.warm_up(run_, step - 1);
    }
    StepValues values = simulate(step);
    if (warms_up) {
      warmed[step] = values.front();
    }
    sampler.observe(*chosen, std::move(values));
    previous = step;
  }
  StepSampler::Total total = sampler.total();
  const double time = total.values.front();
  found_.decode_time += time;
  found_.decode_bound += total.time_bound + total.values[1 + bound_gauge()] +
                         kSamplingSafety * warm_up_error(warmed) * time;
  found_.steps_simulated += total.steps_simulated;
  total.values.erase(total.values.begin());
  add_to(found_.decode, total.values);

  const SimDuration before = decode.time;
  decode.time += rounded(time);
  double until = 0;
  for (int step = 0; step < last - first; ++step) {
    until += sampler.time_of(step);
    decode.done_after.push_back(std::min(before + rounded(until), decode.time));
  }
  decode.done_after.back() = decode.time;  // the same sum in another order
}

/// By how much, relative to its time, a step differs between a machine that was warmed up for it
/// and one that has done the step before: the mean of a few differences.
double BatchDriver::warm_up_error(const std::map<int, double>& warmed) {
  double sum = 0;
  int checks = 0;
  const double spacing = static_cast<double>(warmed.size()) / kWarmUpChecks;
  for (int i = 0; i < kWarmUpChecks && !warmed.empty() && !system_.warms_up_exactly(); ++i) {
    const auto [step, time] = *std::next(warmed.begin(), static_cast<int>(spacing * i));
    if (step > 1) {
      system_.warm_up(run_, step - 2);
      static_cast<void>(simulate(step - 1));
      sum += std::abs(simulate(step).front() - time) / time;
      ++checks;
    }
  }
  return checks > 0 ? sum / checks : 0;
}

}  // namespace nearkv
