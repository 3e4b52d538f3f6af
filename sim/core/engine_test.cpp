#include "sim/core/engine.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

SimTime at(SimDuration since_start) { return SimTime{} + since_start; }

/// Two nodes and one link from the first to the second.
struct Pair {
  Pair(Engine& engine, Rate rate, SimDuration latency)
      : from(engine.add_node("from")),
        to(engine.add_node("to")),
        link(engine.add_link("link", rate, latency)) {
    engine.add_route(from, to, {link});
  }
  NodeId from;
  NodeId to;
  LinkId link;
};

/// When one flow that starts at `start` on an idle link ends.
SimTime end_of_flow(Bytes size, Rate rate, SimDuration latency, SimTime start = {}) {
  Engine engine;
  const Pair pair(engine, rate, latency);
  SimTime end{};
  engine.spawn("sender", pair.from, [&] {
    engine.wait_until(start);
    engine.transfer(pair.from, pair.to, size);
    end = engine.now();
  });
  engine.run();
  return end;
}

/// What `run` returns in a child process: with a fresh SimGrid, and without effect on the clock of
/// this one, which never goes back.
std::uint64_t in_child(const std::function<std::uint64_t()>& run) {
  std::array<int, 2> ends{};
  REQUIRE(pipe(ends.data()) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::uint64_t result = run();
    const bool sent = write(ends[1], &result, sizeof result) == sizeof result;
    _exit(sent ? 0 : 1);
  }
  close(ends[1]);
  std::uint64_t result = 0;
  CHECK(read(ends[0], &result, sizeof result) == sizeof result);
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  return result;
}

}  // namespace

// -- The pinned network model -------------------------------------------------------------------

TEST_CASE("engine: a flow takes the latency plus size over bandwidth, to the picosecond") {
  // SimGrid's default model (LV08, TCP slow start) would say 6.505 us for the first.
  CHECK(end_of_flow(1_B, Rate{1'000'000'000}, 500ns) == at(501ns));
  CHECK(end_of_flow(1_B, Rate{3'000'000'000}, 500ns) == at(500ns + 334_ps));
  CHECK(end_of_flow(4_KiB, Rate{32'000'000'000}, 300ns) == at(428ns));
  CHECK(end_of_flow(1_B, Rate{1'000'000'000}, 0ns) == at(1ns));
  CHECK(end_of_flow(16_GiB, Rate{25'000'000'000}, 1us) ==
        at(1us + time_for(16_GiB, Rate{25'000'000'000})));
  CHECK(end_of_flow(4_KiB, Rate{32'000'000'000}, 300ns, at(2s)) == at(2s + 428ns));
  // Less than a picosecond on the link: late, never early.
  CHECK(end_of_flow(1_B, Rate{4'000'000'000'000}, 0ns) == at(1_ps));
}

TEST_CASE("engine: latencies of a route add up, its slowest link counts") {
  Engine engine;
  const NodeId a = engine.add_node("a");
  const NodeId b = engine.add_node("b");
  const LinkId fast = engine.add_link("fast", Rate{64'000'000'000}, 150ns);
  const LinkId slow = engine.add_link("slow", Rate{16'000'000'000}, 250ns);
  engine.add_route(a, b, {fast, slow});
  engine.spawn("sender", a, [&] {
    engine.transfer(a, b, 16'000_B);
    CHECK(engine.now() == at(400ns + 1us));
  });
  engine.run();
  CHECK(engine.carried(fast) == 16'000_B);
  CHECK(engine.carried(slow) == 16'000_B);
  CHECK(engine.busy(fast) == 1400ns);
}

TEST_CASE("engine: random flows on an idle link take the closed form within 1 ps") {
  Engine engine;
  const Pair pair(engine, Rate{13'700'000'000}, 730ns);
  engine.spawn("sender", pair.from, [&] {
    Rng rng{3, "sim/core/engine_test/flows"};
    for (int i = 0; i < 2000; ++i) {
      engine.wait_until(engine.now() +
                        SimDuration{static_cast<std::int64_t>(rng.below(1ULL << 32))});
      const SimTime start = engine.now();
      const Bytes size{1 + static_cast<std::int64_t>(rng.below(1ULL << rng.below(24)))};
      engine.transfer(pair.from, pair.to, size);
      const SimDuration expected = 730ns + time_for(size, Rate{13'700'000'000});
      const SimDuration error = (engine.now() - start) - expected;
      REQUIRE(error >= SimDuration{-1});
      REQUIRE(error <= SimDuration{1});
    }
  });
  engine.run();
}

TEST_CASE("engine: two flows on one link share it evenly") {
  Engine engine;
  const Pair pair(engine, Rate{1'000'000'000}, 500ns);
  SimTime small_end{};
  SimTime large_end{};
  engine.spawn("small", pair.from, [&] {
    engine.transfer(pair.from, pair.to, 1'000_B);
    small_end = engine.now();
  });
  engine.spawn("large", pair.from, [&] {
    engine.transfer(pair.from, pair.to, 3'000_B);
    large_end = engine.now();
  });
  engine.run();
  CHECK(small_end == at(500ns + 2us));  // 1000 B at half the rate
  CHECK(large_end == at(500ns + 4us));  // the link is never idle: 4000 B in all
  CHECK(engine.carried(pair.link) == 4'000_B);
  CHECK(engine.busy(pair.link) == 500ns + 4us);
}

TEST_CASE("engine: a flow's share does not depend on its latency") {
  // CM02 alone would give the flow with a tenth of the latency ten times the share.
  Engine engine;
  const NodeId a = engine.add_node("a");
  const NodeId near = engine.add_node("near");
  const NodeId far = engine.add_node("far");
  const LinkId shared = engine.add_link("shared", Rate{1'000'000'000}, 1us);
  const LinkId remote = engine.add_link("remote", Rate{100'000'000'000}, 9us);
  engine.add_route(a, near, {shared});
  engine.add_route(a, far, {shared, remote});
  SimTime near_end{};
  SimTime far_end{};
  engine.spawn("near", a, [&] {
    engine.transfer(a, near, 109'000_B);
    near_end = engine.now();
  });
  engine.spawn("far", a, [&] {
    engine.transfer(a, far, 100'000_B);
    far_end = engine.now();
  });
  engine.run();
  // near alone from 1 us to 10 us: 9000 B; then both at half the rate, 100,000 B each.
  CHECK(near_end == at(10us + 200us));
  CHECK(far_end == at(10us + 200us));
}

TEST_CASE("engine: three flows on two links get the max-min fair shares") {
  // L1 1 GB/s: A and C; L2 3 GB/s: B and C. A = C = 0.5 GB/s, B = 2.5 GB/s.
  Engine engine;
  const NodeId x = engine.add_node("x");
  const NodeId y = engine.add_node("y");
  const NodeId z = engine.add_node("z");
  const LinkId l1 = engine.add_link("L1", Rate{1'000'000'000}, 0ns);
  const LinkId l2 = engine.add_link("L2", Rate{3'000'000'000}, 0ns);
  engine.add_route(x, y, {l1});
  engine.add_route(y, z, {l2});
  engine.add_route(x, z, {l1, l2});
  std::vector<SimTime> ends(3);
  const auto send = [&](int number, NodeId from, NodeId to, Bytes size) {
    engine.spawn("sender " + std::to_string(number), from,
                 [&engine, &ends, number, from, to, size] {
                   engine.transfer(from, to, size);
                   ends[number] = engine.now();
                 });
  };
  send(0, x, y, 500'000_B);
  send(1, y, z, 2'500'000_B);
  send(2, x, z, 500'000_B);
  engine.run();
  CHECK(ends[0] == at(1ms));
  CHECK(ends[1] == at(1ms));
  CHECK(ends[2] == at(1ms));
}

TEST_CASE("engine: 4 KiB flows at depth 8 proceed in step") {
  // 300 ns, then 8 x 4 KiB share 32 GB/s: 1324 ns a round (FIFO arbitration would hide the 300 ns).
  Engine engine;
  const Pair pair(engine, Rate{32'000'000'000}, 300ns);
  constexpr int kRounds = 100;
  for (int i = 0; i < 8; ++i) {
    engine.spawn("sender " + std::to_string(i), pair.from, [&] {
      for (int n = 1; n <= kRounds; ++n) {
        engine.transfer(pair.from, pair.to, 4_KiB);
        REQUIRE(engine.now() == at(n * SimDuration{1324ns}));
      }
    });
  }
  engine.run();
  CHECK(engine.carried(pair.link) == 8 * kRounds * 4_KiB);
  CHECK(engine.busy(pair.link) == kRounds * SimDuration{1324ns});
}

TEST_CASE("engine: many flows on a link end when the sum of their bytes has passed") {
  Engine engine;
  const Pair pair(engine, Rate{1'000'000'000}, 0ns);
  constexpr int kFlows = 300;
  std::vector<SimTime> ends(kFlows);
  for (int i = 0; i < kFlows; ++i) {
    engine.spawn("sender " + std::to_string(i), pair.from, [&, i] {
      engine.transfer(pair.from, pair.to, Bytes{1000 * (i + 1)});
      ends[i] = engine.now();
    });
  }
  engine.run();
  // Flow i ends after all have sent as much as it: sum over j of 1000 * min(i, j) bytes.
  for (int i = 0; i < kFlows; ++i) {
    std::int64_t sent = 0;
    for (int j = 0; j < kFlows; ++j) {
      sent += 1000 * (std::min(i, j) + 1);
    }
    const SimDuration error = ends[i] - at(time_for(Bytes{sent}, Rate{1'000'000'000}));
    CHECK(error >= SimDuration{-1});
    CHECK(error <= SimDuration{1});
  }
  CHECK(engine.carried(pair.link) == Bytes{1000 * kFlows * (kFlows + 1) / 2});
}

// -- Time ---------------------------------------------------------------------------------------

TEST_CASE("engine: events 1 ps apart stay apart") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  std::vector<SimTime> seen;
  for (int i = 4; i >= 0; --i) {
    engine.spawn("sleeper " + std::to_string(i), node, [&, i] {
      for (int n = 0; n < 3; ++n) {
        engine.wait_until(at(n * SimDuration{1ms} + SimDuration{i}));
        seen.push_back(engine.now());
      }
    });
  }
  engine.run();
  REQUIRE(seen.size() == 15);
  for (int k = 0; k < 15; ++k) {
    CHECK(seen[k] == at(k / 5 * SimDuration{1ms} + SimDuration{k % 5}));
  }
}

TEST_CASE("engine: sleeps are exact integers at any time") {
  // A double of seconds resolves 4 ps at 20,000 s, and of picoseconds 2 ps above 2^53 ps.
  for (const SimDuration start : {SimDuration{9'007s}, SimDuration{(1LL << 53) + 1},
                                  SimDuration{20'000s}, SimDuration{1'000h}}) {
    const std::uint64_t errors = in_child([start] {
      Engine engine;
      const NodeId node = engine.add_node("node");
      std::vector<std::pair<int, SimTime>> seen;
      std::uint64_t wrong = 0;
      for (int i = 0; i < 4; ++i) {
        engine.spawn("sleeper " + std::to_string(i), node, [&, i] {
          engine.wait_until(at(start + SimDuration{3 * (3 - i)}));
          seen.emplace_back(i, engine.now());
          for (int n = 0; n < 100; ++n) {
            const SimTime next = engine.now() + SimDuration{1 + (n + i) % 5};
            engine.wait_until(next);
            wrong += engine.now() == next ? 0 : 1;
          }
        });
      }
      engine.run();
      for (int k = 0; k < 4; ++k) {
        wrong += seen.at(k) == std::pair{3 - k, at(start + SimDuration{3 * k})} ? 0 : 1;
      }
      return wrong;
    });
    CHECK(errors == 0);
  }
}

TEST_CASE("engine: late in a run, what an actor finishes precedes a timer 1 ps later") {
  // At 40,000 s SimGrid's clock resolves 7 ps; some of these times it rounds up.
  constexpr int kRounds = 20;
  const auto run = [] {
    const auto time_of = [](int round) { return at(40'000s + round * 1us + SimDuration{round}); };
    Engine engine;
    const NodeId node = engine.add_node("node");
    std::array<Completion, kRounds> turns;
    std::uint64_t right = 0;
    engine.spawn("finisher", node, [&] {
      for (int round = 0; round < kRounds; ++round) {
        engine.wait_until(time_of(round));
        engine.finish(turns[round]);
      }
    });
    engine.spawn("waiter", node, [&] {
      for (int round = 0; round < kRounds; ++round) {
        engine.wait(turns[round]);
        right += engine.now() == time_of(round) ? 1 : 0;
      }
    });
    engine.spawn("timer", node, [&] {
      for (int round = 0; round < kRounds; ++round) {
        engine.wait_until(time_of(round) + 1_ps);
        right += engine.now() == time_of(round) + 1_ps ? 1 : 0;
      }
    });
    engine.run();
    return right;
  };
  CHECK(in_child(run) == 2 * kRounds);
}

TEST_CASE("engine: a run that is too long ends with the reason") {
  const auto refused = [](const std::function<void(Engine&)>& act) {
    return in_child([&act] {
      Engine engine;
      const NodeId node = engine.add_node("node");
      engine.spawn("actor", node, [&] { act(engine); });
      try {
        engine.run();
      } catch (const ConfigError& too_long) {
        return std::uint64_t{
            std::string_view(too_long.what())
                .starts_with("the run takes more than 50 days of simulated time; ")};
      }
      return std::uint64_t{0};
    });
  };
  CHECK(refused([](Engine& engine) { engine.wait_until(at(kLongestRun)); }) == 0);
  CHECK(refused([](Engine& engine) { engine.wait_until(at(kLongestRun + 1_ps)); }) == 1);
  CHECK(refused([](Engine& engine) {
          for (int day = 0; day < 100; ++day) {
            engine.wait_until(engine.now() + 24h);
          }
        }) == 1);
}

TEST_CASE("engine: flows at long times are right to SimGrid's resolution") {
  const auto end = static_cast<std::int64_t>(in_child([] {
    const SimTime time = end_of_flow(1_MiB, Rate{1'000'000'000}, 1us, at(20'000s));
    return static_cast<std::uint64_t>(time.time_since_epoch().count());
  }));
  const SimDuration error =
      SimDuration{end} - (20'000s + 1us + time_for(1_MiB, Rate{1'000'000'000}));
  CHECK(error >= SimDuration{-4});
  CHECK(error <= SimDuration{4});
}

TEST_CASE("engine: waiting until now is no wake-up, waiting for the past is our bug") {
  Engine engine;
  engine.spawn("actor", engine.add_node("node"), [&] {
    engine.wait_until(engine.now());
    CHECK(engine.wakeups() == 1);  // its start
    engine.wait_until(at(1ns));
    CHECK(engine.wakeups() == 2);
    CHECK_THROWS_AS(engine.wait_until(at(999_ps)), CheckFailure);
  });
  engine.run();
}

// -- Order at one instant -----------------------------------------------------------------------

TEST_CASE("engine: actors due at one instant go on in the order in which they were spawned") {
  Engine engine;
  const Pair pair(engine, Rate{1'000'000'000}, 0ns);
  std::vector<std::string> order;
  const auto log = [&](const std::string& name) { order.push_back(name); };
  // Different histories, so that no heap keeps the order by luck; a flow, timers, completions.
  Completion signal;
  engine.spawn("a", pair.from, [&] {
    engine.wait_until(at(700ns));
    engine.wait_until(at(1us));
    log("a");
  });
  engine.spawn("b", pair.from, [&] {
    engine.transfer(pair.from, pair.to, 1'000_B);  // arrives at 1 us
    log("b");
  });
  engine.spawn("c", pair.from, [&] {
    engine.wait(signal);
    log("c");
  });
  engine.spawn("d", pair.from, [&] {
    for (int i = 1; i <= 10; ++i) {
      engine.wait_until(at(i * SimDuration{100ns}));
    }
    log("d");
  });
  engine.spawn("e", pair.from, [&] {
    engine.wait_until(at(1us));
    log("e");
    engine.finish(signal);
    engine.spawn("g", pair.from, [&] { log("g"); });
    engine.wait_until(at(1us));
    log("e again");
  });
  engine.spawn("f", pair.from, [&] {
    engine.wait_until(at(1us));
    log("f");
  });
  engine.run();
  // What e set free at this instant follows in the next round, in the order of spawning.
  CHECK(order == std::vector<std::string>{"a", "b", "d", "e", "e again", "f", "c", "g"});
}

TEST_CASE("engine: 64 actors wake in the order of spawning, whatever woke them before") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  std::vector<int> order;
  for (int i = 0; i < 64; ++i) {
    engine.spawn("actor " + std::to_string(i), node, [&, i] {
      Rng rng{5, "sim/core/engine_test/order/" + std::to_string(i)};
      for (std::uint64_t n = rng.below(5); n > 0; --n) {
        engine.wait_until(engine.now() + SimDuration{1 + static_cast<std::int64_t>(rng.below(99))});
      }
      engine.wait_until(at(1us));
      order.push_back(i);
    });
  }
  engine.run();
  CHECK(order.size() == 64);
  CHECK(std::is_sorted(order.begin(), order.end()));
}

TEST_CASE("engine: an actor is not interrupted before it waits") {
  Engine engine;
  const Pair pair(engine, Rate{1'000'000'000}, 0ns);
  Completion first;
  Completion second;
  bool in_turn = false;
  const auto take_turn = [&](const std::function<void()>& work) {
    CHECK_FALSE(in_turn);
    in_turn = true;
    work();
    in_turn = false;
  };
  engine.spawn("low", pair.from, [&] {
    engine.wait(first);
    take_turn([] {});
  });
  engine.spawn("finisher", pair.from, [&] {
    engine.wait_until(at(1us));
    take_turn([&] {
      engine.finish(first);
      engine.spawn("child", pair.from, [&] { take_turn([] {}); });
      engine.finish(second);
    });
  });
  engine.spawn("other", pair.from, [&] {
    engine.wait_until(at(1us));
    take_turn([] {});
  });
  engine.spawn("high", pair.from, [&] {
    engine.wait(second);
    take_turn([] {});
  });
  engine.run();
}

TEST_CASE("engine: flows and timers due at the same instant meet at the same picosecond") {
  for (const SimDuration offset : {SimDuration{-1}, SimDuration{0}, SimDuration{1}}) {
    Engine engine;
    const Pair pair(engine, Rate{3'000'000'000}, 7ns);
    // 7 ns + 333.33 ps, from a time that is no nice double: arrives at a whole picosecond.
    const SimTime arrival = at(123'457_ps + 7ns + 334_ps);
    std::vector<std::string> order;
    engine.spawn("timer", pair.from, [&] {
      engine.wait_until(arrival + offset);
      order.emplace_back("timer");
    });
    engine.spawn("flow", pair.from, [&] {
      engine.wait_until(at(123'457_ps));
      engine.transfer(pair.from, pair.to, 1_B);
      CHECK(engine.now() == arrival);
      order.emplace_back("flow");
    });
    engine.run();
    CHECK(order.front() == (offset <= SimDuration{0} ? "timer" : "flow"));
  }
}

TEST_CASE("engine: flows that arrive within one picosecond go on in the order of spawning") {
  Engine engine;
  const NodeId from = engine.add_node("from");
  const NodeId near = engine.add_node("near");
  const NodeId far = engine.add_node("far");
  engine.add_route(from, far, {engine.add_link("slow", Rate{9'930'486'594}, 0ns)});
  engine.add_route(from, near, {engine.add_link("fast", Rate{9'960'159'362}, 0ns)});
  std::vector<std::string> order;
  const auto send = [&](const std::string& name, NodeId to) {
    engine.spawn(name, from, [&engine, &order, from, name, to] {
      engine.transfer(from, to, 1_B);
      CHECK(engine.now() == at(101_ps));
      order.push_back(name);
    });
  };
  send("after 100.7 ps", far);
  send("after 100.4 ps", near);
  engine.run();
  CHECK(order == std::vector<std::string>{"after 100.7 ps", "after 100.4 ps"});
}

TEST_CASE("engine: an actor that is spawned starts at the time of its spawning") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  std::vector<SimTime> starts;
  const std::function<void(int)> body = [&](int depth) {
    starts.push_back(engine.now());
    if (depth < 5) {
      engine.wait_until(engine.now() + 10ns);
      engine.spawn("child " + std::to_string(depth), node, [&, depth] { body(depth + 1); });
    }
  };
  engine.spawn("parent", node, [&] { body(0); });
  engine.run();
  REQUIRE(starts.size() == 6);
  for (int i = 0; i < 6; ++i) {
    CHECK(starts[i] == at(i * SimDuration{10ns}));
  }
}

// -- Completions --------------------------------------------------------------------------------

TEST_CASE("engine: a completion that is finished before somebody waits does not block") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  Completion done;
  engine.spawn("finisher", node, [&] { engine.finish(done); });
  engine.spawn("waiter", node, [&] {
    engine.wait_until(at(5ns));
    const std::int64_t before = engine.wakeups();
    engine.wait(done);
    engine.wait(done);
    CHECK(engine.wakeups() == before);
    CHECK(engine.now() == at(5ns));
    CHECK(done.at() == at(0ns));
  });
  engine.run();
}

TEST_CASE("engine: a completion that nobody waits for is seen from its time on") {
  // The loop may run ahead over it, but not over an actor that looks.
  struct Ticker final : Component {
    explicit Ticker(EventLoop& l) : loop(l), done(1000) { l.attach(*this); }
    [[nodiscard]] SimTime next_event() const override {
      return next < 1000 ? at(SimDuration{next * 1000}) : kNever;
    }
    void process(SimTime until) override {
      if (next_event() <= until) {
        loop.finish(done[next], next_event());
        ++next;
      }
    }
    EventLoop& loop;
    std::vector<Completion> done;
    int next = 0;
  };
  Engine engine;
  Ticker ticker(engine.loop());
  engine.spawn("observer", engine.add_node("node"), [&] {
    Rng rng{1, "sim/core/engine_test/observer"};
    while (engine.now() < at(990ns)) {
      engine.wait_until(engine.now() + SimDuration{1 + static_cast<std::int64_t>(rng.below(5000))});
      for (int i = 0; i < 1000; ++i) {
        REQUIRE(ticker.done[i].done() == (at(SimDuration{i * 1000}) <= engine.now()));
      }
      const auto index = static_cast<int>(engine.now().time_since_epoch() / 1ns) + 1;
      if (index < 1000) {
        engine.wait(ticker.done[index]);
        REQUIRE(engine.now() == at(SimDuration{index * 1000}));
      }
    }
  });
  engine.run();
}

TEST_CASE("engine: misuse is found out") {
  Engine engine;
  const Pair pair(engine, Rate{1}, 0ns);
  Completion shared;
  Completion outside;
  CHECK_THROWS_AS(engine.wait(outside), CheckFailure);
  CHECK_THROWS_AS(engine.finish(outside), CheckFailure);
  CHECK_THROWS_AS(engine.transfer(pair.from, pair.to, 1_B), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(engine.add_node("from")), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(engine.add_link("link", Rate{1}, 0ns)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(engine.add_link("none", Rate{0}, 0ns)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(engine.add_link("back", Rate{1}, -1ns)), CheckFailure);
  CHECK_THROWS_AS(engine.add_route(pair.from, pair.to, {pair.link}), CheckFailure);
  CHECK_THROWS_AS(engine.add_route(pair.to, pair.from, {}), CheckFailure);
  CHECK_THROWS_AS(engine.add_route(pair.to, pair.to, {pair.link}), CheckFailure);
  CHECK_THROWS_AS(engine.spawn("nothing", pair.from, nullptr), CheckFailure);
  engine.spawn("first", pair.from, [&] { engine.wait(shared); });
  engine.spawn("second", pair.from, [&] {
    CHECK_THROWS_AS(engine.wait(shared), CheckFailure);
    CHECK_THROWS_AS(engine.transfer(pair.to, pair.from, 1_B), CheckFailure);
    CHECK_THROWS_AS(engine.transfer(pair.from, pair.to, 0_B), CheckFailure);
    CHECK_THROWS_AS(static_cast<void>(engine.add_node("late")), CheckFailure);
    CHECK_THROWS_AS(engine.run(), CheckFailure);
    engine.finish(shared);
    CHECK_THROWS_AS(engine.finish(shared), CheckFailure);
  });
  engine.run();
  CHECK_THROWS_AS(engine.run(), CheckFailure);
}

// -- Determinism --------------------------------------------------------------------------------

namespace {

/// A run with sleeps, flows, completions and spawns; `late` shifts one sleep of one actor.
std::uint64_t digest_of_run(SimDuration late = {}) {
  Engine engine;
  const Pair pair(engine, Rate{2'000'000'000}, 100ns);
  std::vector<Completion> done(10);
  for (int i = 0; i < 10; ++i) {
    engine.spawn("actor " + std::to_string(i), pair.from, [&, i, late] {
      Rng rng{9, "sim/core/engine_test/digest/" + std::to_string(i)};
      for (int n = 0; n < 20; ++n) {
        const SimDuration pause{static_cast<std::int64_t>(rng.below(5)) * 1000};
        engine.wait_until(engine.now() + pause + (i == 3 && n == 7 ? late : SimDuration{}));
        engine.transfer(pair.from, pair.to,
                        Bytes{2 * (1 + static_cast<std::int64_t>(rng.below(50)))});
      }
      engine.finish(done[i]);
      engine.wait(done[(i + 1) % 10]);
    });
  }
  engine.run();
  CHECK(engine.wakeups() >= 210);
  return engine.digest();
}

}  // namespace

TEST_CASE("engine: equal runs have equal digests, in one process and in two") {
  const std::uint64_t first = in_child([] { return digest_of_run(); });
  const std::uint64_t second = in_child([] { return digest_of_run(); });
  CHECK(first == second);
  CHECK(digest_of_run() == first);
  CHECK(digest_of_run() == first);  // SimGrid's clock is not 0 when this engine begins
}

TEST_CASE("engine: one picosecond of difference changes the digest") {
  CHECK(digest_of_run() != digest_of_run(SimDuration{1}));
}

TEST_CASE("engine: the digest covers who wakes, not only when") {
  const auto digest = [](bool swapped) {
    Engine engine;
    const NodeId node = engine.add_node("node");
    for (int i = 0; i < 2; ++i) {
      engine.spawn("actor " + std::to_string(i), node, [&engine, i, swapped] {
        engine.wait_until(at((i == 1) == swapped ? 1ns : 2ns));
      });
    }
    engine.run();
    return engine.digest();
  };
  CHECK(digest(false) != digest(true));
}

// -- Failures -----------------------------------------------------------------------------------

TEST_CASE("engine: a deadlock names the actors and what they wait for") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  Completion never;
  Completion neither;
  bool unwound = false;
  engine.spawn("gpu/0/stream", node, [&] {
    struct Guard {
      ~Guard() { *flag = true; }
      bool* flag;
    };
    const Guard guard{&unwound};
    engine.wait(never);
  });
  engine.spawn("host/thread", node, [&] {
    engine.wait_until(at(18'300us));
    engine.wait(neither, "the KV cache of layer 3");
  });
  engine.spawn("done", node, [&] { engine.wait_until(at(1us)); });
  std::string message;
  try {
    engine.run();
  } catch (const Deadlock& deadlock) {
    message = deadlock.what();
  }
  CHECK(message ==
        "deadlock at 18.3 ms: nothing is left to happen, but gpu/0/stream waits for a completion; "
        "host/thread waits for the KV cache of layer 3");
  CHECK(unwound);
}

TEST_CASE("engine: a deadlock of many actors names the first of them") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  std::vector<Completion> never(100);
  for (int i = 0; i < 100; ++i) {
    engine.spawn("a" + std::to_string(i), node, [&, i] { engine.wait(never[i]); });
  }
  CHECK_THROWS_WITH_AS(engine.run(), doctest::Contains("a19 waits for a completion; and 80 more"),
                       Deadlock);
}

TEST_CASE("engine: actors that wake each other at one instant are found out") {
  Engine engine;
  engine.set_most_at_one_instant(100);
  const NodeId node = engine.add_node("node");
  std::array<Completion*, 2> waiting{};
  const auto play = [&](std::size_t me) {
    for (;;) {
      Completion turn;
      waiting[me] = &turn;
      if (waiting[1 - me] != nullptr) {
        engine.finish(*std::exchange(waiting[1 - me], nullptr));
      }
      engine.wait(turn);
    }
  };
  bool unwound = false;
  engine.spawn("bystander", node, [&] {
    struct Guard {
      ~Guard() { *flag = true; }
      bool* flag;
    };
    const Guard guard{&unwound};
    engine.wait_until(at(2s));
  });
  engine.spawn("waits first", node, [&] { engine.wait_until(at(18'300us)); });
  engine.spawn("ping", node, [&] {
    engine.wait_until(at(18'300us));
    play(0);
  });
  engine.spawn("pong", node, [&] {
    engine.wait_until(at(18'300us));
    play(1);
  });
  CHECK_THROWS_WITH_AS(engine.run(),
                       "no progress: over 100 wake-ups at 18.3 ms (18300000000 ps); the actors "
                       "that went on last: ping, pong",
                       NoProgress);
  CHECK(engine.now() == at(18'300us));
  CHECK(unwound);
}

TEST_CASE("engine: actors that are spawned at one instant without end are found out") {
  Engine engine;
  engine.set_most_at_one_instant(50);
  const NodeId node = engine.add_node("node");
  std::function<void()> again = [&] { engine.spawn("offspring", node, again); };
  engine.spawn("first", node, again);
  CHECK_THROWS_WITH_AS(
      engine.run(),
      "no progress: over 50 wake-ups at 0 ps (0 ps); the actors that went on last: "
      "offspring",
      NoProgress);
}

TEST_CASE("engine: as many wake-ups at one instant as may be are no error") {
  for (const int more : {0, 1}) {
    Engine engine;
    engine.set_most_at_one_instant(20);
    const NodeId node = engine.add_node("node");
    for (int i = 0; i < 20 + more; ++i) {
      engine.spawn("actor", node, [&] { engine.wait_until(at(1us)); });
    }
    if (more == 0) {
      engine.run();  // 20 starts, and 20 wake-ups at another instant
      CHECK(engine.wakeups() == 40);
    } else {
      CHECK_THROWS_AS(engine.run(), NoProgress);
    }
  }
}

TEST_CASE("engine: a component that never leaves an instant is found out") {
  /// Finishes completions for which nobody waits, at one time, for ever.
  struct Stuck final : Component {
    explicit Stuck(EventLoop& to) : loop(to) { loop.attach(*this); }
    [[nodiscard]] SimTime next_event() const override { return next; }
    void process(SimTime /*until*/) override {
      finished.push_back(std::make_unique<Completion>());
      loop.finish(*finished.back(), next);
    }
    EventLoop& loop;
    SimTime next = at(7us);
    std::vector<std::unique_ptr<Completion>> finished;
  };
  Engine engine;
  engine.set_most_at_one_instant(100);
  const NodeId node = engine.add_node("node");
  Stuck stuck(engine.loop());
  engine.spawn("early", node, [&] { engine.wait_until(at(1us)); });
  engine.spawn("late", node, [&] { engine.wait_until(at(1ms)); });
  std::string message;
  try {
    engine.run();
  } catch (const NoProgress& found) {
    message = found.what();
  }
  CHECK_MESSAGE(message.starts_with("no progress: over 100 dispatches of components at 7 us "
                                    "(7000000 ps), the last one of a "),
                message);
  CHECK_MESSAGE(message.ends_with("::Stuck; the actors that went on last: early"), message);
  CHECK(stuck.finished.size() == 100);
}

TEST_CASE("engine: SimGrid prints nothing, whatever happens") {
  std::array<char, 32> name{"/tmp/nearkv_stderr_XXXXXX"};
  const int file = mkstemp(name.data());
  REQUIRE(file >= 0);
  std::fflush(stderr);
  const int saved = dup(STDERR_FILENO);
  dup2(file, STDERR_FILENO);
  for (int kind = 0; kind < 2; ++kind) {
    Engine engine;
    const Pair pair(engine, Rate{1'000'000}, 1us);
    Completion never;
    engine.spawn("waiter", pair.from, [&] { engine.wait(never); });
    engine.spawn("sender", pair.from, [&] { engine.transfer(pair.from, pair.to, 1'000_B); });
    engine.spawn("thrower", pair.from, [&] {
      engine.wait_until(at(10us));  // in the middle of the flow
      check(kind == 0, "fails on purpose");
    });
    CHECK_THROWS(engine.run());
  }
  std::fflush(stderr);
  dup2(saved, STDERR_FILENO);
  close(saved);
  CHECK(lseek(file, 0, SEEK_END) == 0);
  close(file);
  unlink(name.data());
}

TEST_CASE("engine: an exception of an actor ends the run and is rethrown") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  int unwound = 0;
  bool went_on = false;
  Completion never;
  struct Guard {
    ~Guard() {
      ++*count;
      engine->finish(completion);  // harmless: the run has failed
    }
    int* count;
    Engine* engine;
    Completion& completion;
  };
  std::vector<Completion> completions(3);
  engine.spawn("sleeper", node, [&] {
    const Guard guard{&unwound, &engine, completions[0]};
    engine.wait_until(at(2us));
    went_on = true;
  });
  engine.spawn("thrower", node, [&] {
    const Guard guard{&unwound, &engine, completions[1]};
    engine.wait_until(at(1us));
    throw std::runtime_error("the first");
  });
  engine.spawn("at the same instant", node, [&] {
    const Guard guard{&unwound, &engine, completions[2]};
    engine.wait_until(at(1us));
    went_on = true;
    throw std::runtime_error("the second");
  });
  CHECK_THROWS_WITH_AS(engine.run(), "the first", std::runtime_error);
  CHECK(unwound == 3);
  CHECK_FALSE(went_on);
}

TEST_CASE("engine: any type of exception passes, also at the start and in a component") {
  {
    Engine engine;
    engine.spawn("thrower", engine.add_node("node"), [] { throw 42; });
    CHECK_THROWS_AS(engine.run(), int);
  }
  {
    struct Broken final : Component {
      [[nodiscard]] SimTime next_event() const override { return at(5ns); }
      void process(SimTime /*until*/) override { throw std::runtime_error("no such page"); }
    };
    Engine engine;
    Broken broken;
    engine.loop().attach(broken);
    bool unwound = false;
    engine.spawn("waiter", engine.add_node("node"), [&] {
      const std::unique_ptr<bool, void (*)(bool*)> guard(&unwound,
                                                         [](bool* flag) { *flag = true; });
      engine.wait_until(at(10ns));
    });
    CHECK_THROWS_WITH_AS(engine.run(), "no such page", std::runtime_error);
    CHECK(unwound);
  }
  CHECK(digest_of_run() == digest_of_run());  // the process still works
}

TEST_CASE("engine: an event in the past is found out") {
  struct Late final : Component {
    explicit Late(EventLoop& l) : loop(l) { l.attach(*this); }
    [[nodiscard]] SimTime next_event() const override { return pending ? at(3ns) : kNever; }
    void process(SimTime /*until*/) override {
      pending = false;
      loop.finish(done, at(3ns));
    }
    EventLoop& loop;
    Completion done;
    bool pending = false;
  };
  Engine engine;
  Late late(engine.loop());
  engine.spawn("actor", engine.add_node("node"), [&] {
    engine.wait_until(at(10ns));
    late.pending = true;
    engine.wait(late.done);
  });
  CHECK_THROWS_WITH_AS(engine.run(), doctest::Contains("an event in the past"), CheckFailure);
}

TEST_CASE("engine: engines without actors, never run, and one after another") {
  { const Engine unused; }
  {
    Engine engine;
    static_cast<void>(engine.add_node("node"));
    engine.run();
    CHECK(engine.wakeups() == 0);
  }
  {
    Engine engine;
    engine.spawn("never started", engine.add_node("node"), [] {});
  }
  for (int i = 0; i < 20; ++i) {
    CHECK(end_of_flow(1_B, Rate{1'000'000'000}, 500ns) == at(501ns));
  }
}

TEST_CASE("engine: the run ends with its actors, not with events that go on forever") {
  struct Refresh final : Component {
    [[nodiscard]] SimTime next_event() const override { return next; }
    void process(SimTime until) override {
      for (; next <= until; next += 1us) {
      }
    }
    SimTime next{};
  };
  Engine engine;
  Refresh refresh;
  engine.loop().attach(refresh);
  engine.spawn("actor", engine.add_node("node"), [&] { engine.wait_until(at(1ms)); });
  engine.run();
  CHECK(engine.now() == at(1ms));
  CHECK(refresh.next == at(1ms + 1us));  // events due at the last instant were done
}

TEST_CASE("engine: Ctrl-C is left to the program") {
  const auto ours = std::signal(SIGINT, SIG_IGN);
  {
    const Engine engine;
    const bool is_kept = std::signal(SIGINT, SIG_IGN) == SIG_IGN;
    CHECK(is_kept);
  }
  static_cast<void>(std::signal(SIGINT, ours));
}

// -- Running ahead ------------------------------------------------------------------------------

namespace {

/// A machine with random work: an event makes others by its hash; every few one finishes the next
/// of a list of completions. The log is its whole history.
class Machine final : public Component {
 public:
  struct Event {
    SimTime time;
    std::uint64_t id;
    auto operator<=>(const Event&) const = default;
  };
  static constexpr std::uint64_t kFinishEvery = 13;

  Machine(EventLoop& loop, std::size_t completions) : loop_(loop), completions_(completions) {
    loop.attach(*this);
  }
  void inject(const Event& event) { queue_.push(event); }
  Completion& completion(std::size_t i) { return completions_[i]; }
  [[nodiscard]] const std::vector<Event>& log() const { return log_; }

  [[nodiscard]] SimTime next_event() const override {
    return queue_.empty() ? kNever : queue_.top().time;
  }
  void process(SimTime until) override {
    while (next_event() <= until) {
      const Event event = queue_.top();
      queue_.pop();
      log_.push_back(event);
      for (const Event& child : children(event)) {
        queue_.push(child);
      }
      if (event.id % kFinishEvery == 0 && finished_ < completions_.size()) {
        loop_.finish(completions_[finished_++], event.time);
        return;
      }
    }
  }

  /// 0 to 2 further events, less and less of them over the generations.
  static std::vector<Event> children(const Event& event) {
    std::vector<Event> made;
    std::uint64_t state = event.id;
    for (int i = 0; i < 2; ++i) {
      const std::uint64_t hash = splitmix64(state);
      if (hash % 100 < 47) {
        made.push_back(
            {event.time + SimDuration{static_cast<std::int64_t>(hash >> 40) % 5000}, hash});
      }
    }
    return made;
  }

 private:
  EventLoop& loop_;
  std::vector<Completion> completions_;
  std::size_t finished_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
  std::vector<Event> log_;
};

struct Injection {
  SimTime when;
  Machine::Event event;
};

/// The same history by one queue, one event at a time: at an instant all events that are due come
/// before the injections of actors.
std::vector<Machine::Event> step_through(const std::vector<Injection>& injections,
                                         std::size_t events) {
  std::priority_queue<Machine::Event, std::vector<Machine::Event>, std::greater<>> queue;
  std::vector<Machine::Event> log;
  std::size_t injected = 0;
  while (log.size() < events) {
    const bool injects = injected < injections.size() &&
                         (queue.empty() || injections[injected].when < queue.top().time);
    if (injects) {
      queue.push(injections[injected++].event);
      continue;
    }
    REQUIRE_FALSE(queue.empty());
    const Machine::Event event = queue.top();
    queue.pop();
    log.push_back(event);
    for (const Machine::Event& child : Machine::children(event)) {
      queue.push(child);
    }
  }
  return log;
}

}  // namespace

TEST_CASE("engine: running ahead gives the sequence of stepping, with injections by actors") {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    Engine engine;
    const Pair pair(engine, Rate{1'000'000'000}, 100ns);
    Machine machine(engine.loop(), 100'000);
    std::vector<Injection> injections;
    const auto inject = [&](Rng& rng, std::uint64_t id) {
      const Machine::Event event{
          engine.now() + SimDuration{static_cast<std::int64_t>(rng.below(3000))}, id};
      injections.push_back({engine.now(), event});
      machine.inject(event);
    };
    bool over = false;
    engine.spawn("waiter", pair.from, [&] {
      Rng rng{seed, "sim/core/engine_test/waiter"};
      for (std::size_t i = 0; i < 300; i += 1 + rng.below(3)) {
        const bool was_done = machine.completion(i).done();
        engine.wait(machine.completion(i));
        REQUIRE((was_done || machine.completion(i).at() == engine.now()));
      }
      over = true;
    });
    engine.spawn("timer", pair.from, [&] {
      Rng rng{seed, "sim/core/engine_test/timer"};
      for (int i = 0; i < 200 || !over; ++i) {
        engine.wait_until(engine.now() + SimDuration{static_cast<std::int64_t>(rng.below(3000))});
        // After 200 random injections such that the waiter comes to its end.
        inject(rng, i < 200 ? rng.next() : rng.below(1ULL << 59) * Machine::kFinishEvery);
      }
    });
    engine.spawn("sender", pair.from, [&] {
      Rng rng{seed, "sim/core/engine_test/sender"};
      while (!over) {
        engine.transfer(pair.from, pair.to, Bytes{1 + static_cast<std::int64_t>(rng.below(100))});
        inject(rng, rng.next());
      }
    });
    engine.run();
    REQUIRE(machine.log().size() > 200);
    REQUIRE(machine.log() == step_through(injections, machine.log().size()));
  }
}

TEST_CASE("engine: a link's bandwidth changes under a flow, at the picosecond") {
  Engine engine;
  const Pair pair(engine, Rate{1'000'000'000}, 1us);
  SimTime end{};
  SimTime second{};
  engine.spawn("sender", pair.from, [&] {
    engine.transfer(pair.from, pair.to, Bytes{4'000'000});
    end = engine.now();
    engine.transfer(pair.from, pair.to, Bytes{1'000'000});
    second = engine.now();
  });
  engine.spawn("changer", pair.from, [&] {
    engine.wait_until(at(1us + 1ms));  // a quarter has arrived
    engine.set_bandwidth(pair.link, Rate{500'000'000});
    CHECK(engine.now() == at(1us + 1ms));
  });
  engine.run();
  CHECK(end == at(1us + 1ms + 6ms));
  CHECK(second == end + 1us + 2ms);
}
