#include "sim/core/activity_log.hpp"

#include <vector>

#include <doctest/doctest.h>

#include "sim/core/activity_scope.hpp"
#include "sim/core/critical_path.hpp"
#include "sim/core/engine.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/test_trace.hpp"
#include "sim/core/trace_events.hpp"
#include "sim/core/worker.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t kMany = 1'000'000;

SimTime at(SimDuration since_start) { return SimTime{since_start}; }

/// Waits for a service of a queue, as systems do.
void use(Engine& engine, FifoServers& servers, const char* resource, SimDuration time) {
  const Grant granted = servers.issue(engine.now(), time);
  if (ActivityLog* log = engine.activity()) {
    log->service(
        {.resource = resource, .what = "work", .start = granted.start, .done = granted.done});
    log->explain(resource, "work", granted.start, granted.done);
  }
  engine.wait_until(granted.done);
}

SimDuration time_of(const std::vector<PathShare>& path, const std::string& resource,
                    Activity activity) {
  SimDuration sum{};
  for (const PathShare& share : path) {
    sum += share.resource == resource && share.activity == activity ? share.time : SimDuration{};
  }
  return sum;
}

}  // namespace

TEST_CASE("activity log: the critical path goes through who was waited for") {
  // The driver computes 3 us, then gives a worker 10 us of work on a disk that another actor has
  // taken for 7 us at 0 us: the worker gets it at 7 us, is done at 17 us. Meanwhile the driver
  // computes 5 us (until 8 us) and waits for the worker. Then a flow of 1000 B at 1 GB/s and 2 us
  // of latency: 20 us in all.
  Engine engine;
  const NodeId here = engine.add_node("here");
  const NodeId there = engine.add_node("there");
  engine.add_route(here, there, {engine.add_link("link", Rate{1'000'000'000}, 2us)});
  ActivityLog log({.most_spans = kMany});
  FifoServers cpu(1);
  FifoServers disk(1);
  Worker worker(engine, "worker", here);
  engine.spawn("other", here, [&] { use(engine, disk, "disk", 7us); });
  engine.record(&log);
  engine.spawn("driver", here, [&] {
    log.begin_window(engine.now());
    {
      const ActivityScope step(engine, ActivityLog::Scope::step, "step");
      use(engine, cpu, "cpu", 3us);
      Completion done;
      worker.post(
          [&] {
            const ActivityScope phase(engine, ActivityLog::Scope::phase, "reading");
            use(engine, disk, "disk", 10us);
          },
          done);
      use(engine, cpu, "cpu", 5us);
      engine.wait(done, "the worker");
      engine.transfer(here, there, Bytes{1000});
    }
    log.end_window("step", engine.now());
    worker.stop();
  });
  engine.run();

  CHECK(log.windows().front().end == at(20us));
  const std::vector<PathShare> path = critical_path(log, log.windows().front());
  CHECK(time_of(path, "cpu", Activity::working) == 3us);   // the other 5 us are hidden
  CHECK(time_of(path, "disk", Activity::waiting) == 4us);  // 3 us to 7 us
  CHECK(time_of(path, "disk", Activity::working) == 10us);
  CHECK(time_of(path, "link", Activity::working) == 3us);
  SimDuration sum{};
  for (const PathShare& share : path) {
    sum += share.time;
    CAPTURE(share.resource);
    // What happens in no phase counts for the one that waits for it: the driver's work before.
    CHECK(share.phase == (share.resource == "link" ? "" : "reading"));
  }
  CHECK(sum == 20us);

  const std::string text = trace_events(log, {{{"name", "test"}}, {"a note"}});
  const ReadTrace trace = read_trace(text);
  CHECK(text == trace_events(log, {{{"name", "test"}}, {"a note"}}));
  CHECK(trace.busy("cpu") == SimDuration(8us).count());
  CHECK(trace.busy("disk") == SimDuration(17us).count());
  CHECK(trace.sum_of("link", "bytes") == 1000);
  CHECK(trace.other.at("notes").front() == "a note");
  CHECK(trace.tracks.at("driver").size() == 5);  // the step, two times cpu, the worker, the flow
}

TEST_CASE("activity log: a flow is limited by the link with the smallest share for it") {
  // Links of 2 GB/s each into one of 3 GB/s. Two flows of 3000 B at the same time get 1.5 GB/s, so
  // they take 2 us, of which each would have taken 1 us on the shared link alone; a third flow
  // later takes 1.5 us on its own link.
  Engine engine;
  const NodeId hub = engine.add_node("hub");
  const LinkId shared = engine.add_link("shared", Rate{3'000'000'000}, SimDuration{});
  ActivityLog log({.most_spans = kMany});
  std::vector<NodeId> nodes;
  for (const std::string name : {"a", "b"}) {
    nodes.push_back(engine.add_node(name));
    const LinkId own = engine.add_link("own/" + name, Rate{2'000'000'000}, SimDuration{});
    engine.add_route(nodes.back(), hub, {own, shared});
  }
  engine.record(&log);
  engine.spawn("b", nodes[1], [&] { engine.transfer(nodes[1], hub, Bytes{3000}); });
  engine.spawn("a", nodes[0], [&] {
    for (const std::string window : {"both", "one"}) {
      log.begin_window(engine.now());
      engine.transfer(nodes[0], hub, Bytes{3000});
      log.end_window(window, engine.now());
    }
  });
  engine.run();

  const std::vector<PathShare> both = critical_path(log, log.windows().at(0));
  CHECK(time_of(both, "shared", Activity::working) == 1us);
  CHECK(time_of(both, "shared", Activity::waiting) == 1us);
  CHECK(time_of(both, "own/a", Activity::working) == SimDuration{});
  CHECK(time_of(both, "own/a", Activity::waiting) == SimDuration{});
  const std::vector<PathShare> one = critical_path(log, log.windows().at(1));
  CHECK(time_of(one, "own/a", Activity::working) == 1500ns);
  CHECK(time_of(one, "shared", Activity::working) == SimDuration{});
}

TEST_CASE("activity log: recording changes nothing that is simulated") {
  const auto digest = [](bool is_recorded) {
    Engine engine;
    const NodeId here = engine.add_node("here");
    ActivityLog log({.most_spans = kMany});
    FifoServers disk(2);
    for (int i = 0; i < 4; ++i) {
      engine.spawn("actor " + std::to_string(i), here, [&, i] {
        for (int n = 0; n < 10; ++n) {
          use(engine, disk, "disk", 1us + SimDuration(7ns) * i);
        }
      });
    }
    engine.record(is_recorded ? &log : nullptr);
    engine.run();
    CHECK(is_recorded == !log.lanes().empty());
    return engine.digest();
  };
  CHECK(digest(true) == digest(false));
}

TEST_CASE("activity log: services that overlap lie on lanes of their own, as on servers") {
  ActivityLog log({.most_spans = kMany});
  FifoServers cores(3);
  for (int i = 0; i < 30; ++i) {
    const Grant granted = cores.issue(at(1us * i), 2us + 1us * (i % 3));
    log.service(
        {.resource = "cores", .what = "work", .start = granted.start, .done = granted.done});
  }
  log.begin_window(at(0us));
  const auto& lanes = log.lanes().at("cores");
  CHECK(lanes.size() == 3);
  for (const ActivityLog::Lane& lane : lanes) {
    for (std::size_t i = 1; i < lane.spans.size(); ++i) {
      CHECK(lane.spans[i - 1].done <= lane.spans[i].start);
    }
  }
}

TEST_CASE("activity log: too many services become fewer spans with the same sums") {
  ActivityLog log({.most_spans = 100});
  for (int i = 0; i < 10'000; ++i) {
    const ActivityLog::Argument arguments[]{{"bytes", 10}, {"m", 7, false}};
    log.service({.resource = "disk",
                 .what = "read",
                 .start = at(2us * i),
                 .done = at(2us * i + 1us),
                 .arguments = arguments});
  }
  const ActivityLog::Lane& lane = log.lanes().at("disk").front();
  CHECK(lane.spans.size() <= 101);
  CHECK(log.merged_gap() > 1us);
  std::int64_t busy = 0;
  std::int64_t count = 0;
  std::int64_t bytes = 0;
  for (const ActivityLog::Span& span : lane.spans) {
    busy += span.busy_ps;
    count += span.count;
    for (std::int32_t i = 0; i < span.arguments; ++i) {
      const ActivityLog::StoredArgument& argument = log.argument(span.first_argument + i);
      bytes += log.text(argument.name) == "bytes" ? argument.value : 0;
      CHECK((span.count == 1 || log.text(argument.name) != "m"));
    }
  }
  CHECK(busy == SimDuration(10'000us).count());
  CHECK(count == 10'000);
  CHECK(bytes == 100'000);
  CHECK(log.services() == 10'000);
}

TEST_CASE("activity log: the first window cuts what came before") {
  Engine engine;
  ActivityLog log({.most_spans = kMany});
  FifoServers cpu(1);
  engine.record(&log);
  engine.spawn("driver", engine.add_node("here"), [&] {
    use(engine, cpu, "cpu", 3us);
    log.service({.resource = "disk", .what = "work", .start = at(1us), .done = at(6us)});
    log.begin_window(engine.now());
    use(engine, cpu, "cpu", 2us);
    log.end_window("step", engine.now());
  });
  engine.run();
  REQUIRE(log.lanes().at("cpu").front().spans.size() == 1);
  CHECK(log.lanes().at("cpu").front().spans.front().start == at(3us));
  CHECK(log.lanes().at("disk").front().spans.front().start == at(3us));
  CHECK(log.lanes().at("disk").front().spans.front().busy_ps == SimDuration(3us).count());
  const std::vector<PathShare> path = critical_path(log, log.windows().front());
  REQUIRE(path.size() == 1);
  CHECK(path.front().time == 2us);
}

TEST_CASE("activity log: a path that begins before the window is cut at its begin") {
  Engine engine;
  ActivityLog log({.most_spans = kMany});
  FifoServers disk(1);
  const NodeId here = engine.add_node("here");
  Worker worker(engine, "worker", here);
  engine.record(&log);
  engine.spawn("driver", here, [&] {
    Completion done;
    worker.post([&] { use(engine, disk, "disk", 10us); }, done);
    engine.wait_until(at(4us));
    log.begin_window(engine.now());
    engine.wait(done);
    log.end_window("step", engine.now());
    worker.stop();
  });
  engine.run();
  const std::vector<PathShare> path = critical_path(log, log.windows().front());
  REQUIRE(path.size() == 1);
  CHECK(path.front().resource == "disk");
  CHECK(path.front().time == 6us);
}

TEST_CASE("activity log: a wait that nobody explains is said to be unrecorded") {
  Engine engine;
  ActivityLog log({.most_spans = kMany});
  engine.record(&log);
  engine.spawn("driver", engine.add_node("here"), [&] {
    log.begin_window(engine.now());
    engine.wait_until(at(4us));
    log.end_window("step", engine.now());
  });
  engine.run();
  CHECK(critical_path(log, log.windows().front()).front().resource == "unrecorded");
}

TEST_CASE("activity log: actors that wait at the same time have reasons of their own") {
  Engine engine;
  ActivityLog log({.most_spans = kMany});
  FifoServers cpu(1);
  FifoServers disk(1);
  const NodeId here = engine.add_node("here");
  engine.record(&log);
  engine.spawn("driver", here, [&] {
    log.begin_window(engine.now());
    use(engine, cpu, "cpu", 10us);
    log.end_window("step", engine.now());
  });
  engine.spawn("other", here, [&] { use(engine, disk, "disk", 4us); });
  engine.run();
  CHECK(critical_path(log, log.windows().front()).front().resource == "cpu");
}

TEST_CASE("activity log: names without numbers") {
  CHECK(family_of("csd/0/flash/channels") == "csd/flash/channels");
  CHECK(family_of("pcie/csd/12/up") == "pcie/csd/up");
  CHECK(family_of("host/cores") == "host/cores");
  CHECK(family_of("ssd") == "ssd");
  CHECK(family_of("") == "");
}

TEST_CASE("trace events: parts are processes, numbers sort as numbers, times are whole") {
  ActivityLog log({.most_spans = kMany});
  log.begin_window(at(5_ps));
  for (const char* name : {"csd/0/flash/channel/10", "csd/0/flash/channel/2", "host/cores"}) {
    log.service({.resource = name, .what = "w\"ork", .start = at(6_ps), .done = at(1us + 7_ps)});
  }
  log.counter("VRAM", "B", at(6_ps), 17);
  const std::string text = trace_events(log, {});
  CHECK(text.find("channel/2\"") < text.find("channel/10\""));
  CHECK(text.find("{\"name\":\"csd/0\"}") != std::string::npos);
  CHECK(text.find("{\"name\":\"host\"}") != std::string::npos);
  const ReadTrace trace = read_trace(text);
  CHECK(trace.tracks.at("host/cores").front().begin == 1);
  CHECK(trace.tracks.at("host/cores").front().end == 1'000'002);
  CHECK(trace.tracks.at("host/cores").front().name == "w\"ork");
  CHECK(trace.counters.at("VRAM [B]") == std::vector<double>{17});
}
