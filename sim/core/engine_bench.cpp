// Speed of the SimGrid adapter: wake-ups of sleeping actors, flows, and events of the own loop.
#include <queue>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "sim/core/engine.hpp"

using namespace nearkv;

namespace {

using namespace std::chrono_literals;

constexpr int kWakeupsPerRun = 100'000;

/// Actors that sleep, each with a period of its own (or all with one: ties at every instant).
void sleeping_actors(benchmark::State& state, SimDuration stagger) {
  const auto actors = static_cast<int>(state.range(0));
  std::int64_t wakeups = 0;
  for ([[maybe_unused]] auto iteration : state) {
    Engine engine;
    const NodeId node = engine.add_node("node");
    for (int i = 0; i < actors; ++i) {
      engine.spawn("sleeper " + std::to_string(i), node, [&engine, actors, stagger, i] {
        const SimDuration period = 1us + stagger * i;
        for (int n = 0; n < kWakeupsPerRun / actors; ++n) {
          engine.wait_until(engine.now() + period);
        }
      });
    }
    engine.run();
    wakeups += engine.wakeups();
  }
  state.counters["wakeups"] =
      benchmark::Counter(static_cast<double>(wakeups), benchmark::Counter::kIsRate);
}

void wakeups_apart(benchmark::State& state) { sleeping_actors(state, 7ns); }
void wakeups_together(benchmark::State& state) { sleeping_actors(state, 0ns); }
BENCHMARK(wakeups_apart)->Arg(1)->Arg(16)->Arg(256)->Unit(benchmark::kMillisecond);
BENCHMARK(wakeups_together)->Arg(16)->Arg(256)->Unit(benchmark::kMillisecond);

/// Actors that send 4 KiB flows over one shared link, one after another.
void flows(benchmark::State& state) {
  constexpr int kFlowsPerRun = 10'000;
  const auto actors = static_cast<int>(state.range(0));
  for ([[maybe_unused]] auto iteration : state) {
    Engine engine;
    const NodeId from = engine.add_node("from");
    const NodeId to = engine.add_node("to");
    engine.add_route(from, to, {engine.add_link("link", Rate{32'000'000'000}, 300ns)});
    for (int i = 0; i < actors; ++i) {
      engine.spawn("sender " + std::to_string(i), from, [&engine, actors, from, to] {
        for (int n = 0; n < kFlowsPerRun / actors; ++n) {
          engine.transfer(from, to, 4_KiB);
        }
      });
    }
    engine.run();
  }
  state.counters["flows"] =
      benchmark::Counter(static_cast<double>(state.iterations() * (kFlowsPerRun / actors) * actors),
                         benchmark::Counter::kIsRate);
}
BENCHMARK(flows)->Arg(1)->Arg(8)->Arg(64)->Unit(benchmark::kMillisecond);

/// A component with a heap of pending events, of which somebody waits for the last one only: the
/// cost of running ahead.
class Machine final : public Component {
 public:
  Machine(EventLoop& loop, std::int64_t events, Completion& done)
      : loop_(loop), left_(events), done_(done) {
    constexpr int kPending = 1000;
    for (int i = 0; i < kPending; ++i) {
      queue_.push(SimTime{SimDuration{i}});
    }
    loop.attach(*this);
  }
  [[nodiscard]] SimTime next_event() const override {
    return queue_.empty() ? kNever : queue_.top();
  }
  void process(SimTime until) override {
    while (next_event() <= until) {
      const SimTime now = queue_.top();
      queue_.pop();
      queue_.push(now + 1us + SimDuration{(left_ * 7919) % 1'000'000});
      if (--left_ == 0) {
        loop_.finish(done_, now);
        return;
      }
    }
  }

 private:
  EventLoop& loop_;
  std::priority_queue<SimTime, std::vector<SimTime>, std::greater<>> queue_;
  std::int64_t left_;
  Completion& done_;
};

void run_ahead(benchmark::State& state) {
  constexpr std::int64_t kEvents = 1'000'000;
  for ([[maybe_unused]] auto iteration : state) {
    Engine engine;
    Completion done;
    const Machine machine(engine.loop(), kEvents, done);
    engine.spawn("waiter", engine.add_node("node"), [&] { engine.wait(done); });
    engine.run();
  }
  state.counters["events"] = benchmark::Counter(static_cast<double>(state.iterations() * kEvents),
                                                benchmark::Counter::kIsRate);
}
BENCHMARK(run_ahead)->Unit(benchmark::kMillisecond);

}  // namespace
