#include "models/systems/request_metrics.hpp"

#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

using namespace nearkv;
using namespace std::chrono_literals;
using doctest::Approx;

namespace {

SimTime at(SimDuration since_start) { return SimTime{since_start}; }

/// Four requests: ttft 1, 2, 4, 5 s; tpot 0.5, none, 1, 2 s; end to end 3, 2, 6, 9 s.
struct Example {
  std::vector<Request> requests{{at(0s), 10, 5}, {at(1s), 10, 1}, {at(2s), 10, 3}, {at(5s), 10, 3}};
  std::vector<RequestTimes> times{{at(0s), at(1s), at(3s), at(500ms)},
                                  {at(1s), at(3s), at(3s), at(1s)},
                                  {at(2s), at(6s), at(8s), at(5s)},
                                  {at(5s), at(10s), at(14s), at(8s)}};
  [[nodiscard]] ServedRequests served() const { return {requests, times}; }
};

Metrics metrics_of(const Example& example, const std::vector<LatencyLimit>& limits = {}) {
  Metrics metrics;
  report_latencies(example.served(), metrics);
  report_requests(example.served(), limits, metrics);
  return metrics;
}

}  // namespace

TEST_CASE("request metrics: percentiles lie linearly between the values") {
  CHECK(percentile({7}, 99) == 7);
  CHECK(percentile({1, 2}, 50) == 1.5);
  CHECK(percentile({1, 2, 4, 5}, 0) == 1);
  CHECK(percentile({1, 2, 4, 5}, 50) == 3);
  CHECK(percentile({1, 2, 4, 5}, 90) == Approx(4.7));  // place 2.7
  CHECK(percentile({1, 2, 4, 5}, 100) == 5);
  CHECK_THROWS_AS(static_cast<void>(percentile({}, 50)), CheckFailure);
}

TEST_CASE("request metrics: an example by hand") {
  const Metrics metrics = metrics_of({});
  CHECK(metrics.at("ttft") == Approx(3));
  CHECK(metrics.at("ttft/p50") == Approx(3));
  CHECK(metrics.at("ttft/p90") == Approx(4.7));
  CHECK(metrics.at("ttft/p95") == Approx(4.85));
  CHECK(metrics.at("ttft/p99") == Approx(4.97));
  CHECK(metrics.at("tpot") == Approx(3.5 / 3));
  CHECK(metrics.at("tpot/p50") == Approx(1));
  CHECK(metrics.at("end_to_end") == Approx(5));
  CHECK(metrics.at("end_to_end/p50") == Approx(4.5));
  CHECK(metrics.at("queueing") == Approx(6.5 / 4));
  CHECK(metrics.at("makespan") == Approx(14));
  CHECK(metrics.at("request_rate") == Approx(4.0 / 14));
  CHECK(metrics.at("requests") == 4);
  CHECK_FALSE(metrics.find("goodput").has_value());
}

TEST_CASE("request metrics: goodput counts the requests that keep all limits") {
  using Of = LatencyLimit::Of;
  const Metrics ttft = metrics_of({}, {{Of::ttft, 4s}});
  CHECK(ttft.at("goodput") == Approx(3.0 / 14));
  CHECK(ttft.at("goodput_tokens") == Approx(9.0 / 14));
  CHECK(ttft.at("requests_in_limits") == Approx(0.75));
  const Metrics just_missed = metrics_of({}, {{Of::ttft, 4s - 1_ps}});
  CHECK(just_missed.at("requests_in_limits") == Approx(0.5));
  // A request of one token has no further one that could be late.
  CHECK(metrics_of({}, {{Of::tpot, 500ms}}).at("requests_in_limits") == Approx(0.5));
  CHECK(metrics_of({}, {{Of::ttft, 4s}, {Of::tpot, 500ms}, {Of::end_to_end, 2s}})
            .at("requests_in_limits") == Approx(0.25));
}

TEST_CASE("request metrics: what no request has is not reported") {
  Example example;
  for (Request& request : example.requests) {
    request.output_tokens = 1;
  }
  example.times[2].started.reset();
  for (RequestTimes& times : example.times) {
    times.finished = times.first_token;
  }
  Metrics metrics = metrics_of(example);
  CHECK_FALSE(metrics.find("tpot").has_value());
  CHECK_FALSE(metrics.find("tpot/p50").has_value());
  CHECK(metrics.at("queueing") == Approx(3.5 / 3));
}

TEST_CASE("request metrics: the mean of equal times is that time") {
  constexpr SimDuration kOdd{123'456'789'011};
  const std::vector<Request> requests(7, {at(0s), 1, 1});
  const std::vector<RequestTimes> times(7, {at(0s), at(kOdd), at(kOdd), at(0s)});
  Metrics metrics;
  report_latencies({requests, times}, metrics);
  CHECK(metrics.at("ttft") == to_seconds(kOdd));
}

TEST_CASE("request metrics: a request that was turned away counts for nothing but itself") {
  Example example;
  example.requests.push_back({at(6s), 5000, 100});
  example.times.push_back({at(6s), kNever, kNever, {}});
  const Metrics metrics = metrics_of(example, {{LatencyLimit::Of::ttft, 4s}});
  CHECK(metrics.at("requests") == 4);
  CHECK(metrics.at("requests_turned_away") == 1);
  CHECK(metrics.at("ttft") == Approx(3));
  CHECK(metrics.at("makespan") == Approx(14));
  CHECK(metrics.at("requests_in_limits") == Approx(3.0 / 5));
  CHECK(example.served().output_tokens() == 12);
  CHECK(requests_csv(example.served()).ends_with("\n4,6,5000,100,,,,\n"));
  for (RequestTimes& times : example.times) {
    times.finished = kNever;
  }
  CHECK_THROWS_AS(metrics_of(example), CheckFailure);
}

TEST_CASE("request metrics: impossible times are our bug") {
  Example example;
  example.times[1].first_token = at(500ms);
  CHECK_THROWS_AS(metrics_of(example), CheckFailure);
  example = {};
  example.times[1].finished = at(2s);
  CHECK_THROWS_AS(metrics_of(example), CheckFailure);
  example = {};
  example.times.pop_back();
  CHECK_THROWS_AS(metrics_of(example), CheckFailure);
}

TEST_CASE("request metrics: the table has a row for each request") {
  const Example example;
  CHECK(requests_csv(example.served()) ==
        "request,arrival,prompt_tokens,output_tokens,ttft,tpot,end_to_end,queueing\n"
        "0,0,10,5,1,0.5,3,0.5\n"
        "1,1,10,1,2,,2,0\n"
        "2,2,10,3,4,1,6,3\n"
        "3,5,10,3,5,2,9,3\n");
}
