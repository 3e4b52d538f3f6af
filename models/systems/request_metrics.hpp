// What the users of a system see, from the times of its requests:
//     ttft         arrival to first token
//     tpot         mean time of a further token: (last - first token) / (output - 1); requests of
//                  one token have none
//     end_to_end   arrival to last token
//     queueing     arrival to the start of prefill, where the system says when that was
// Each as mean (under its name) and as percentiles NAME/p50, /p90, /p95, /p99: with the n values in
// order from 0, percentile p lies at place p / 100 x (n - 1), linearly between its neighbours
// (type 7 of Hyndman and Fan, The American Statistician 50, 1996).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/systems/request.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

/// A goodput counts the requests that keep all limits (config /workload/limits).
struct LatencyLimit {
  enum class Of { ttft, tpot, end_to_end };
  Of of = Of::ttft;
  SimDuration at_most{};

  void fields(FieldVisitor& v);
};

/// Percentile p, 0 to 100, of values in ascending order; check()s that there is one.
[[nodiscard]] double percentile(const std::vector<double>& ascending, double p);

/// `times[i]` are those of `requests[i]`.
struct ServedRequests {
  const std::vector<Request>& requests;
  const std::vector<RequestTimes>& times;

  /// How many were not turned away.
  [[nodiscard]] std::int64_t count() const;
  /// From the first arrival to the last token.
  [[nodiscard]] SimDuration makespan() const;
  /// Of those that were served.
  [[nodiscard]] std::int64_t output_tokens() const;
};

[[nodiscard]] bool keeps(const std::vector<LatencyLimit>& limits, const Request& request,
                         const RequestTimes& times);

/// Metrics ttft and tpot (the latter unless all requests have one token). check()s that a request
/// was served and that none ends before it begins.
void report_latencies(const ServedRequests& served, Metrics& metrics);

/// The other metrics: requests (those that were served, as in all that follows),
/// requests_turned_away, request_rate, makespan; percentiles of all, means of end_to_end and
/// queueing; and with limits goodput (requests a second), goodput_tokens and requests_in_limits (of
/// all requests).
void report_requests(const ServedRequests& served, const std::vector<LatencyLimit>& limits,
                     Metrics& metrics);

/// The table of all requests as CSV: request, arrival, prompt_tokens, output_tokens, ttft, tpot,
/// end_to_end and queueing, times in seconds; empty where there is none.
[[nodiscard]] std::string requests_csv(const ServedRequests& served);

}  // namespace nearkv
