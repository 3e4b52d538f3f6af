#include "models/systems/run_report.hpp"

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "models/systems/energy.hpp"
#include "models/systems/request_metrics.hpp"

namespace nearkv {

namespace {

/// Shares of a decode time of 0 are none, and are not reported.
void report_decode_gauge(const Gauge& gauge, double decode, double decode_time, Metrics& metrics) {
  const bool has_share = decode_time > 0;
  if (gauge.name == Machine::kKvAccess) {
    if (has_share) {
      metrics.add("kv_access_share", decode / decode_time, "1",
                  "share of the decode time: " + gauge.doc);
    }
  } else if (gauge.name.starts_with("phase/")) {
    metrics.add("decode/" + gauge.name, decode, "s", "decode time: " + gauge.doc);
  } else if (gauge.servers > 0) {
    if (has_share) {
      metrics.add("utilization/" + gauge.name, decode / gauge.servers / decode_time, "1",
                  "busy share of the decode time: " + gauge.doc);
    }
  }
}

void report_gauges(Machine& machine, const BatchMeasurements& found, Metrics& metrics) {
  const std::vector<Gauge>& gauges = machine.gauges().all();
  for (std::size_t i = 0; i < gauges.size(); ++i) {
    const Gauge& gauge = gauges[i];
    const double prefill = found.prefill[i];
    const double decode = found.decode[i];
    if (gauge.name == Machine::kExtrapolationBound) {
      continue;
    }
    report_decode_gauge(gauge, decode, found.decode_time, metrics);
    if (gauge.name == Machine::kKvAccess || gauge.name.starts_with("phase/")) {
      continue;
    }
    if (gauge.servers > 0) {
      metrics.add("prefill_busy/" + gauge.name, prefill / gauge.servers, "s",
                  "busy time in prefill: " + gauge.doc);
    } else {
      metrics.add("prefill_traffic/" + gauge.name, prefill, gauge.unit, "prefill: " + gauge.doc);
      metrics.add("decode_traffic/" + gauge.name, decode, gauge.unit, "decode: " + gauge.doc);
    }
  }
}

/// What the CSDs' flash read and programmed, over the time in which some of it was on its way.
void report_flash_rates(Machine& machine, const BatchMeasurements& found, Metrics& metrics) {
  std::map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < machine.gauges().all().size(); ++i) {
    places[machine.gauges().all()[i].name] = i;
  }
  const auto add = [&](const std::vector<double>& phase, const std::string& name,
                       const std::string& bytes, const std::string& busy, const char* doc) {
    const double time = phase[places.at(busy)];
    if (time > 0) {
      metrics.add(name, phase[places.at(bytes)] / time, "B/s", doc);
    }
  };
  for (int i = 0; places.contains(fmt::format("csd/{}/storing", i)); ++i) {
    const std::string drive = fmt::format("csd/{}", i);
    const std::string programmed = drive + "/flash/programmed";
    const std::string storing = drive + "/storing";
    add(found.prefill, "prefill_rate/" + drive + "/write", programmed, storing,
        "prefill: data programmed over the time in which stores were on their way to flash");
    add(found.decode, "decode_rate/" + drive + "/write", programmed, storing,
        "decode: data programmed over the time in which stores were on their way to flash");
    add(found.decode, "decode_rate/" + drive + "/read", drive + "/flash/read", drive + "/reading",
        "decode: data read over the time in which pages were on their way from flash");
  }
}

/// `increments` are those of the gauges over the run.
void report_energy_of(const DesignPoint& point, Machine& machine, double time, double tokens,
                      const std::vector<double>& increments, Metrics& metrics) {
  RunTotals totals{.time = time, .output_tokens = tokens};
  for (std::size_t i = 0; i < increments.size(); ++i) {
    totals.gauges[machine.gauges().all()[i].name] = increments[i];
  }
  report_energy(point, totals, metrics);
}

void report_latencies_of(const Workload& workload, const BatchMeasurements& found,
                         Metrics& metrics) {
  if (!workload.is_fixed()) {
    report_latencies({found.requests, found.times}, metrics);
    return;
  }
  metrics.add("ttft", found.prefill_time, "s", "time to first token");
  metrics.add("tpot", found.decode_time / static_cast<double>(found.decode_steps), "s",
              "mean time of a further token of each sequence");
  metrics.add("decode_step_median", found.median_step, "s", "median time of a decode step");
}

/// How well batches were filled.
void report_filling(const ServedRequests& served, const BatchMeasurements& found,
                    Metrics& metrics) {
  const auto batches = static_cast<double>(found.batches);
  metrics.add("batches", batches, "1", "batches of the run");
  metrics.add("batch_sequences", static_cast<double>(served.requests.size()) / batches, "1",
              "sequences in a batch, mean");
  std::int64_t asked_for = 0;
  for (const Request& request : served.requests) {
    asked_for += std::int64_t{request.prompt_tokens} + request.output_tokens;
  }
  metrics.add("useful_tokens",
              static_cast<double>(asked_for) / static_cast<double>(found.computed_tokens), "1",
              "share of the computed prompt and output tokens that are no padding");
  metrics.add("idle_time", found.idle_time, "s",
              "between batches, until requests came or enough of them were there");
}

}  // namespace

void report_batches(const DesignPoint& point, Machine& machine, const BatchMeasurements& found,
                    Metrics& metrics) {
  const ServedRequests served{found.requests, found.times};
  const double total =
      found.prefill_time + found.decode_time + found.idle_time + found.recovery_time;
  const auto tokens = static_cast<double>(served.output_tokens());
  const auto decode_tokens = tokens - static_cast<double>(served.requests.size());
  metrics.add("throughput", tokens / total, "token/s",
              "output tokens of all requests over the time from the first arrival to the last "
              "token");
  metrics.add("throughput_bound", tokens / (total - found.decode_bound) - tokens / total, "token/s",
              "error bound of the throughput; 0 unless sampled");
  if (found.decode_time > 0) {
    metrics.add("decode_throughput", decode_tokens / found.decode_time, "token/s",
                "tokens of the decode steps over the decode time");
  }
  metrics.add("prefill_time", found.prefill_time, "s",
              "until the first token of every sequence is known and its KV is stored");
  metrics.add("decode_time", found.decode_time, "s", "all decode steps");
  metrics.add("decode_time_bound", found.decode_bound, "s",
              "error bound of the decode time; 0 unless sampled");
  metrics.add("decode_steps", static_cast<double>(found.decode_steps), "1",
              "decode steps of the run");
  metrics.add("decode_steps_simulated", static_cast<double>(found.steps_simulated), "1",
              "decode steps that were simulated; the others are interpolated");
  report_latencies_of(point.workload, found, metrics);
  if (!point.workload.is_fixed()) {
    report_requests(served, point.workload.limits, metrics);
    report_filling(served, found, metrics);
  }
  report_gauges(machine, found, metrics);
  report_flash_rates(machine, found, metrics);
  machine.report_memories(metrics);
  machine.report_kv_storage(metrics);
  std::vector<double> increments = found.prefill;
  for (std::size_t i = 0; i < increments.size(); ++i) {
    increments[i] += found.decode[i] + (found.recovery.empty() ? 0 : found.recovery[i]);
  }
  report_energy_of(point, machine, total, tokens, increments, metrics);
}

void report_serving(const DesignPoint& point, Machine& machine, const ServingMeasurements& found,
                    Metrics& metrics) {
  const ServedRequests served{found.requests, found.times};
  metrics.add("throughput",
              static_cast<double>(served.output_tokens()) / to_seconds(served.makespan()),
              "token/s",
              "output tokens of all requests over the time from the first arrival to the last "
              "token");
  report_latencies(served, metrics);
  report_requests(served, point.workload.limits, metrics);
  const std::vector<Gauge>& gauges = machine.gauges().all();
  for (std::size_t i = 0; i < gauges.size(); ++i) {
    const Gauge& gauge = gauges[i];
    const double increment = found.increments[i];
    if (gauge.name == Machine::kExtrapolationBound) {
      continue;
    }
    if (gauge.name == Machine::kKvAccess) {
      metrics.add("kv_access_share", increment / found.time, "1",
                  "share of the time: " + gauge.doc);
    } else if (gauge.name.starts_with("phase/")) {
      metrics.add(gauge.name, increment, "s", gauge.doc);
    } else if (gauge.servers > 0) {
      metrics.add("utilization/" + gauge.name, increment / gauge.servers / found.time, "1",
                  "busy share of the time: " + gauge.doc);
    } else {
      metrics.add("traffic/" + gauge.name, increment, gauge.unit, gauge.doc);
    }
  }
  machine.report_memories(metrics);
  machine.report_kv_storage(metrics);
  report_energy_of(point, machine, found.time, static_cast<double>(served.output_tokens()),
                   found.increments, metrics);
}

}  // namespace nearkv
