// Runs one design point: builds the machine, prefills, decodes, and reports.
#pragma once

#include "models/systems/design_point.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

/// Simulates `point`. At most one run at a time in a process. An overflow of a simulated memory is
/// an outcome (RunStatus::out_of_memory), not an exception.
///
/// Metrics of every completed run; sums over all batches:
///   throughput                token/s  output tokens over first arrival to last token; for a fixed
///                                      batch that is prefill and decode time
///   throughput_bound          token/s  its error bound, from decode_time_bound
///   decode_throughput         token/s  tokens of the decode steps over the decode time
///   prefill_time, decode_time s        decode_time is an estimate in sampled fidelity
///   decode_time_bound         s        error bound of decode_time (0 unless sampled)
///   decode_steps, decode_steps_simulated   1
///   ttft, tpot                s        time to first token; mean time a further token
///   decode/phase/NAME         s        where the decode time went; the phases add up to it
///   kv_access_share           1        share of the decode time in which KV was on its way
///   utilization/PART          1        busy share of each resource over the decode time
///   prefill_busy/PART         s        busy time of each resource in prefill
///   decode_traffic/PART, prefill_traffic/PART   B   bytes over each link and flash array
///   high_water/MEMORY         B        high-water mark of each memory
///   energy..., cost...                 energy.hpp
/// What is a share of a decode time of 0 (outputs of one token) is left out. Workloads of kind
/// lengths and trace have those of request_metrics.hpp too, and
///   batches, batch_sequences  1        number of batches; sequences in one, mean
///   useful_tokens             1        share of the computed tokens that are no padding
///   idle_time                 s        between batches
/// A ServingSystem has those of its requests, throughput, phase/NAME, utilization/PART and
/// traffic/PART over the time of the run, and high_water/MEMORY.
[[nodiscard]] RunOutcome run_design_point(const DesignPoint& point);

}  // namespace nearkv
