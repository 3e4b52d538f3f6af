#include "models/systems/request_metrics.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// Latency of one kind of a request, or none.
using Latency = std::optional<double> (*)(const Request&, const RequestTimes&);

std::optional<double> ttft(const Request& /*request*/, const RequestTimes& times) {
  return to_seconds(times.first_token - times.arrival);
}

std::optional<double> tpot(const Request& request, const RequestTimes& times) {
  if (request.output_tokens == 1) {
    return std::nullopt;
  }
  return to_seconds(times.finished - times.first_token) / (request.output_tokens - 1);
}

std::optional<double> end_to_end(const Request& /*request*/, const RequestTimes& times) {
  return to_seconds(times.finished - times.arrival);
}

std::optional<double> queueing(const Request& /*request*/, const RequestTimes& times) {
  return times.started.has_value() ? std::optional(to_seconds(*times.started - times.arrival))
                                   : std::nullopt;
}

struct LatencyKind {
  std::string_view name;
  std::string_view doc;
  Latency of;
};
constexpr std::array kLatencies{
    LatencyKind{"ttft", "time to first token", ttft},
    LatencyKind{"tpot", "time of a further token", tpot},
    LatencyKind{"end_to_end", "arrival to last token", end_to_end},
    LatencyKind{"queueing", "arrival to start of prefill", queueing},
};

/// In ascending order.
std::vector<double> values_of(Latency latency, const ServedRequests& served) {
  std::vector<double> values;
  for (std::size_t i = 0; i < served.requests.size(); ++i) {
    if (!served.times[i].is_served()) {
      continue;
    }
    const std::optional<double> value = latency(served.requests[i], served.times[i]);
    if (value.has_value()) {
      values.push_back(*value);
    }
  }
  std::ranges::sort(values);
  return values;
}

/// Of equal values exactly that value.
double mean_of(const std::vector<double>& ascending) {
  const double least = ascending.front();
  double above = 0;
  for (const double value : ascending) {
    above += value - least;
  }
  return least + above / static_cast<double>(ascending.size());
}

void check_served(const ServedRequests& served) {
  check(served.requests.size() == served.times.size(), "not a time for each request");
  check(served.count() > 0, "no request was served");
  for (std::size_t i = 0; i < served.times.size(); ++i) {
    const RequestTimes& times = served.times[i];
    check(times.arrival == served.requests[i].arrival, "a request that came at another time");
    if (!times.is_served()) {
      continue;
    }
    check(times.started.value_or(times.arrival) >= times.arrival &&
              times.first_token >= times.started.value_or(times.arrival) &&
              times.finished >= times.first_token,
          "a request that was served before it came, or ended before it began");
  }
}

}  // namespace

void LatencyLimit::fields(FieldVisitor& v) {
  v.one_of("of", of, {"ttft", "tpot", "end_to_end"},
           "which time of a request is limited: to the first token, of a further token, or all");
  v.parameter("at_most", at_most, "the limit", range_of(SimDuration{1}, std::chrono::hours(1000)));
}

double percentile(const std::vector<double>& ascending, double p) {
  constexpr double kPercent = 100;  // unit: percent
  check(!ascending.empty() && p >= 0 && p <= kPercent, "a percentile of nothing");
  const double place = p / kPercent * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, ascending.size() - 1);
  const double share = place - static_cast<double>(below);
  return ascending[below] + share * (ascending[above] - ascending[below]);
}

std::int64_t ServedRequests::count() const {
  return std::ranges::count_if(times, &RequestTimes::is_served);
}

SimDuration ServedRequests::makespan() const {
  SimTime first = kNever;
  SimTime last{};
  for (const RequestTimes& request : times) {
    first = std::min(first, request.arrival);
    last = request.is_served() ? std::max(last, request.finished) : last;
  }
  return last - first;
}

std::int64_t ServedRequests::output_tokens() const {
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    tokens += times[i].is_served() ? requests[i].output_tokens : 0;
  }
  return tokens;
}

bool keeps(const std::vector<LatencyLimit>& limits, const Request& request,
           const RequestTimes& times) {
  return times.is_served() && std::ranges::all_of(limits, [&](const LatencyLimit& limit) {
           const Latency latency = kLatencies[static_cast<std::size_t>(limit.of)].of;
           return latency(request, times).value_or(0) <= to_seconds(limit.at_most);
         });
}

void report_latencies(const ServedRequests& served, Metrics& metrics) {
  check_served(served);
  metrics.add("ttft", mean_of(values_of(ttft, served)), "s", "time to first token");
  if (const std::vector<double> values = values_of(tpot, served); !values.empty()) {
    metrics.add("tpot", mean_of(values), "s", "mean time of a further token of each sequence");
  }
}

void report_requests(const ServedRequests& served, const std::vector<LatencyLimit>& limits,
                     Metrics& metrics) {
  const double makespan = to_seconds(served.makespan());
  const auto count = static_cast<double>(served.count());
  const auto all = static_cast<double>(served.requests.size());
  metrics.add("requests", count, "1", "requests that were served");
  metrics.add("requests_turned_away", all - count, "1", "requests that were turned away");
  metrics.add("makespan", makespan, "s", "first arrival to last token");
  metrics.add("request_rate", count / makespan, "request/s", "requests over the makespan");
  for (const LatencyKind& kind : kLatencies) {
    const std::vector<double> values = values_of(kind.of, served);
    if (values.empty()) {
      continue;
    }
    if (kind.of == end_to_end || kind.of == queueing) {
      metrics.add(std::string(kind.name), mean_of(values), "s", std::string(kind.doc) + ", mean");
    }
    for (const int p : {50, 90, 95, 99}) {  // not a constant: what users ask for
      metrics.add(fmt::format("{}/p{}", kind.name, p), percentile(values, p), "s",
                  fmt::format("{}, percentile {}", kind.doc, p));
    }
  }
  if (limits.empty()) {
    return;
  }
  double good = 0;
  double tokens = 0;
  for (std::size_t i = 0; i < served.requests.size(); ++i) {
    if (keeps(limits, served.requests[i], served.times[i])) {
      ++good;
      tokens += served.requests[i].output_tokens;
    }
  }
  metrics.add("goodput", good / makespan, "request/s",
              "requests within the limits over the makespan");
  metrics.add("goodput_tokens", tokens / makespan, "token/s",
              "output tokens of the requests within the limits over the makespan");
  metrics.add("requests_in_limits", good / all, "1", "share of all requests within the limits");
}

std::string requests_csv(const ServedRequests& served) {
  std::string text = "request,arrival,prompt_tokens,output_tokens,ttft,tpot,end_to_end,queueing\n";
  for (std::size_t i = 0; i < served.requests.size(); ++i) {
    const Request& request = served.requests[i];
    text += fmt::format("{},{},{},{}", i, to_seconds(request.arrival), request.prompt_tokens,
                        request.output_tokens);
    for (const LatencyKind& kind : kLatencies) {
      const std::optional<double> value =
          served.times[i].is_served() ? kind.of(request, served.times[i]) : std::nullopt;
      text += value.has_value() ? fmt::format(",{}", *value) : ",";
    }
    text += "\n";
  }
  return text;
}

}  // namespace nearkv
