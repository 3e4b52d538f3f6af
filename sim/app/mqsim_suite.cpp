#include "sim/app/mqsim_suite.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "models/ssd/block_host.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr double kLatencyTolerance = 0.001;   // of unloaded latencies
constexpr double kLoadTolerance = 0.005;      // of mean responses and bandwidths of reads
constexpr double kMixedTolerance = 0.02;      // the same with writes among them
constexpr double kCollectionTolerance = 0.1;  // the same with garbage collection
constexpr double kPercent = 100;
constexpr std::int64_t kMega = 1'000'000;
constexpr int kVictimSeed = 432;  // MQSim draws victims from this, whatever its Seed is

/// What MQSim's flow counts of its requests.
struct MqsimTimes {
  ResponseTimes all;
  ResponseTimes reads;
  ResponseTimes writes;

  void add(std::uint64_t id, SimTime submitted, SimTime at) {
    all.add(id, submitted, at);
    ((id & MqsimRequests::kIsWrite) != 0 ? writes : reads).add(id, submitted, at);
  }
};

struct MqsimOutcome {
  MqsimTimes times;
  SimTime end;  // of the last event
  std::int64_t collections;
};

MqsimOutcome simulate(const MqsimParameters& p, const MqsimTiming& timing) {
  const MqsimWorkload workload = mqsim_workload(p);
  BlockSsd ssd(mqsim_ssd(p, timing), 0, "validation/mqsim");
  auto random = std::make_shared<MqsimRandom>(kVictimSeed);
  ssd.ftl().set_draw([random](std::uint64_t below) { return random->uniform(0, below - 1); });
  if (p.text("device", "Enabled_Preconditioning") == "true") {
    precondition_as_mqsim(ssd, p);
  }
  if (const std::optional<MqsimCacheConfig> cache = mqsim_cache(p)) {
    ssd.use_mqsim_cache(*cache);
  }
  MqsimRequests requests(workload);
  ClosedLoop<MqsimRequests, MqsimTimes> host(ssd, requests);
  const MqsimTimes times =
      host.run(SimTime{}, static_cast<int>(p.integer("workload", "Average_No_of_Reqs_in_Queue")));
  if (times.all.requests == 0) {
    p.fail("workload", "Average_No_of_Reqs_in_Queue", "no request was completed");
  }
  return {times, ssd.last_event(), ssd.ftl().counters().collections};
}

void compare(ValidationReport& report, const MqsimPoint& point, const MqsimOutcome& outcome) {
  const MqsimParameters& p = point.parameters;
  const MqsimFigures& reference = point.reference;
  const bool is_unloaded = p.integer("workload", "Average_No_of_Reqs_in_Queue") == 1;
  const bool is_mixed = p.number("workload", "Read_Percentage") < kPercent;
  const double mixed = outcome.collections > 0 ? kCollectionTolerance : kMixedTolerance;
  const double loaded = is_mixed ? mixed : kLoadTolerance;
  const double tolerance = is_unloaded && !is_mixed ? kLatencyTolerance : loaded;
  const double micro = static_cast<double>(kMega);
  const MqsimTimes& times = outcome.times;
  const double bytes =
      static_cast<double>(times.all.requests * p.integer("workload", "Average_Request_Size") *
                          MqsimRequests::kSectorBytes);
  const auto add = [&](const char* figure, const char* unit, double expected, double simulated,
                       double within) {
    report.results.push_back({point.name, figure, unit, expected, simulated, within});
  };
  add("mean response", "us", reference.mean_us, times.all.mean_seconds() * micro, tolerance);
  add("bandwidth", "MB/s", reference.bandwidth_mbps, bytes / to_seconds(outcome.end) / micro,
      tolerance);
  add("least response", "us", reference.least_us, to_seconds(times.all.least) * micro,
      kLatencyTolerance);
  if (reference.mean_read_us) {
    add("mean read", "us", *reference.mean_read_us, times.reads.mean_seconds() * micro, tolerance);
  }
  if (reference.mean_write_us) {
    add("mean write", "us", *reference.mean_write_us, times.writes.mean_seconds() * micro,
        tolerance);
  }
}

}  // namespace

bool ValidationResult::passes() const { return std::abs(error()) <= tolerance; }

bool ValidationReport::passes() const {
  return std::all_of(results.begin(), results.end(),
                     [](const ValidationResult& result) { return result.passes(); });
}

ValidationReport run_mqsim_suite(const std::string& file) {
  const MqsimFile suite = read_mqsim_file(file);
  ValidationReport report;
  report.suite = "mqsim";
  report.reference = suite.reference;
  for (const MqsimPoint& point : suite.points) {
    try {
      if (std::string reason = reason_not_covered(point.parameters); !reason.empty()) {
        report.not_covered.push_back({point.name, std::move(reason)});
      } else {
        compare(report, point, simulate(point.parameters, suite.timing));
      }
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("{}: {}", file, error.what()));
    }
  }
  return report;
}

}  // namespace nearkv
