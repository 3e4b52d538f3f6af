#include "sim/app/validation/mqsim_suite.hpp"

#include <memory>
#include <utility>

#include "models/ssd/block_host.hpp"
#include "sim/core/check.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

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

}  // namespace

RunRecord simulate_mqsim(const PreparedPoint& point) {
  const json& config = point.config;
  const MqsimParameters p(json::object(), config.at("parameters"), config.at("where"));
  MqsimTiming timing;
  timing.add(config.at("timing_constants"), "/timing_constants");
  const MqsimOutcome outcome = simulate(p, timing);
  const MqsimTimes& times = outcome.times;
  const double micro = static_cast<double>(kMega);
  const double bytes =
      static_cast<double>(times.all.requests * p.integer("workload", "Average_Request_Size") *
                          MqsimRequests::kSectorBytes);
  RunRecord record;
  record.name = point.name;
  record.config = config;
  record.fidelity = "exact";
  Metrics& metrics = record.outcome.metrics;
  const auto add_time = [&](const char* name, double seconds) {
    metrics.add(name, seconds * micro, "us", "Time of a request.");
  };
  add_time("mean response", times.all.mean_seconds());
  add_time("least response", to_seconds(times.all.least));
  add_time("mean read", times.reads.mean_seconds());
  add_time("mean write", times.writes.mean_seconds());
  metrics.add("bandwidth", bytes / to_seconds(outcome.end) / micro, "MB/s", "Of the requests.");
  metrics.add("collections", static_cast<double>(outcome.collections), "1", "Garbage collections.");
  return record;
}

}  // namespace nearkv
