#include "sim/core/servers.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

SimTime at(SimDuration since_start) { return SimTime{} + since_start; }

}  // namespace

TEST_CASE("servers: a free server starts at once, a busy one a picosecond at a time") {
  FifoServers server(1);
  const Grant first = server.issue(at(100ns), 50ns);
  CHECK(first.start == at(100ns));
  CHECK(first.done == at(150ns));
  // One picosecond before the edge, at it, and one after.
  CHECK(server.probe(at(150ns - 1_ps), 7ns).start == at(150ns));
  CHECK(server.probe(at(150ns), 7ns).start == at(150ns));
  CHECK(server.probe(at(150ns + 1_ps), 7ns).start == at(150ns + 1_ps));
  CHECK(server.probe(at(150ns), 7ns).done == at(157ns));
  CHECK(server.probe(at(150ns), 0ns).done == at(150ns));
  CHECK(server.busy() == 50ns);
  CHECK(server.jobs() == 1);
  CHECK(server.servers() == 1);
}

TEST_CASE("servers: n jobs on k equal servers end at ceil(n / k) services") {
  for (const int k : {1, 2, 3, 8}) {
    FifoServers servers(k);
    SimTime last{};
    for (int n = 1; n <= 20; ++n) {
      last = servers.issue(at(0ns), 10ns).done;
      CHECK(last == at(ceil_div(n, k) * SimDuration{10ns}));
    }
    CHECK(servers.busy() == 200ns);
  }
}

TEST_CASE("servers: misuse is found out") {
  CHECK_THROWS_AS(FifoServers{0}, CheckFailure);
  FifoServers server(1);
  CHECK_THROWS_AS(static_cast<void>(server.issue(at(0ns), -1ns)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(server.probe(at(0ns), -1ns)), CheckFailure);
}

TEST_CASE("servers: what would begin after the longest run is refused") {
  FifoServers server(1);
  CHECK(server.issue(at(0ns), kLongestRun).done == at(kLongestRun));
  CHECK(server.issue(at(0ns), kLongestRun).done == at(2 * kLongestRun));
  CHECK_THROWS_AS(static_cast<void>(server.probe(at(0ns), 0ns)), ConfigError);
  CHECK_THROWS_AS(static_cast<void>(server.issue(at(0ns), 0ns)), ConfigError);
}

// Brute force: the earliest picosecond at which fewer than k of the earlier jobs are in service,
// not before the start of an earlier job.
TEST_CASE("servers: probe equals issue equals brute force") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Rng rng{seed, "sim/core/servers_test"};
    const auto k = static_cast<int>(1 + rng.below(5));
    FifoServers servers(k);
    std::vector<Grant> granted;
    SimTime now{};
    for (int job = 0; job < 40; ++job) {
      now += SimDuration{static_cast<std::int64_t>(rng.below(8))};
      const SimDuration service{static_cast<std::int64_t>(rng.below(20))};
      SimTime start = granted.empty() ? now : std::max(now, granted.back().start);
      const auto in_service = [&](SimTime t) {
        return std::count_if(granted.begin(), granted.end(), [t](const Grant& other) {
          return other.start <= t && t < other.done;
        });
      };
      while (in_service(start) >= k) {
        start += SimDuration{1};
      }
      const Grant probed = servers.probe(now, service);
      const Grant issued = servers.issue(now, service);
      REQUIRE(probed.start == issued.start);
      REQUIRE(probed.done == issued.done);
      REQUIRE(issued.start == start);
      REQUIRE(issued.done == start + service);
      granted.push_back(issued);
    }
    SimDuration sum{};
    for (const Grant& grant : granted) {
      sum += grant.done - grant.start;
    }
    REQUIRE(servers.busy() == sum);
    REQUIRE(servers.jobs() == 40);
  }
}

TEST_CASE("credits: taken at once while there are some, then in first-come order") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  CreditPool pool(engine, "slots", 2);
  std::vector<std::pair<std::string, SimTime>> taken;
  // They come in the order e, d, c, b, a, against the order of spawning; each holds for 10 ns.
  for (int i = 0; i < 5; ++i) {
    engine.spawn(std::string(1, static_cast<char>('a' + i)), node, [&, i] {
      engine.wait_until(at((5 - i) * SimDuration{1ns}));
      pool.acquire();
      taken.emplace_back(std::string(1, static_cast<char>('a' + i)), engine.now());
      engine.wait_until(engine.now() + 10ns);
      pool.release();
    });
  }
  engine.run();
  REQUIRE(taken.size() == 5);
  CHECK(taken[0] == std::pair<std::string, SimTime>{"e", at(1ns)});
  CHECK(taken[1] == std::pair<std::string, SimTime>{"d", at(2ns)});
  CHECK(taken[2] == std::pair<std::string, SimTime>{"c", at(11ns)});
  CHECK(taken[3] == std::pair<std::string, SimTime>{"b", at(12ns)});
  CHECK(taken[4] == std::pair<std::string, SimTime>{"a", at(21ns)});
  CHECK(pool.available() == 2);
}

TEST_CASE("credits: a newcomer does not overtake at the instant of a release") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  CreditPool pool(engine, "slots", 1);
  std::vector<std::string> taken;
  const auto hold = [&](const std::string& name) {
    pool.acquire();
    taken.push_back(name);
    engine.wait_until(engine.now() + 10ns);
    pool.release();
  };
  engine.spawn("holder", node, [&] { hold("holder"); });  // gives back at 10 ns
  engine.spawn("newcomer", node, [&] {
    engine.wait_until(at(10ns));
    hold("newcomer");
  });
  engine.spawn("waiter", node, [&] {
    engine.wait_until(at(5ns));
    hold("waiter");
  });
  engine.run();
  CHECK(taken == std::vector<std::string>{"holder", "waiter", "newcomer"});
  CHECK(engine.now() == at(30ns));
}

TEST_CASE("credits: never more out than there are, and none is lost") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  CreditPool pool(engine, "slots", 3);
  int out = 0;
  int most = 0;
  for (int i = 0; i < 20; ++i) {
    engine.spawn("actor " + std::to_string(i), node, [&, i] {
      Rng rng{4, "sim/core/servers_test/credits/" + std::to_string(i)};
      for (int n = 0; n < 50; ++n) {
        pool.acquire();
        most = std::max(most, ++out);
        REQUIRE(out <= 3);
        engine.wait_until(engine.now() + SimDuration{static_cast<std::int64_t>(rng.below(5))});
        --out;
        pool.release();
      }
    });
  }
  engine.run();
  CHECK(most == 3);
  CHECK(pool.available() == 3);
}

TEST_CASE("credits: misuse is found out, a shortage is a deadlock that says so") {
  Engine engine;
  CHECK_THROWS_AS(CreditPool(engine, "slots", 0), CheckFailure);
  CreditPool pool(engine, "slots", 1);
  engine.spawn("nvme/0/submitter", engine.add_node("node"), [&] {
    CHECK_THROWS_AS(pool.release(), CheckFailure);
    pool.acquire();
    pool.acquire();
  });
  CHECK_THROWS_WITH_AS(engine.run(),
                       "deadlock at 0 ps: nothing is left to happen, in a cycle: nvme/0/submitter "
                       "waits for a credit of slots, held by itself",
                       Deadlock);
}

TEST_CASE("credits: two actors that take two credits in opposite order are named as a cycle") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  CreditPool slots(engine, "slots", 1);
  CreditPool buffers(engine, "buffers", 1);
  const auto take = [&](CreditPool& first, CreditPool& second) {
    first.acquire();
    engine.wait_until(at(3us));
    second.acquire();
  };
  engine.spawn("bystander", node, [&] {
    engine.wait_until(at(4us));
    slots.acquire();
  });
  engine.spawn("reader", node, [&] { take(slots, buffers); });
  engine.spawn("writer", node, [&] { take(buffers, slots); });
  CHECK_THROWS_WITH_AS(engine.run(),
                       "deadlock at 4 us: nothing is left to happen, in a cycle: reader waits for "
                       "a credit of buffers, held by writer; writer waits for a credit of slots, "
                       "held by reader; besides, bystander waits for a credit of slots, held by "
                       "reader",
                       Deadlock);
}

TEST_CASE("credits: who holds one is known, also when others give it back") {
  Engine engine;
  const NodeId node = engine.add_node("node");
  CreditPool pool(engine, "slots", 2);
  ActorId taker{};
  ActorId waiter{};
  taker = engine.spawn("taker", node, [&] {
    CHECK(engine.current() == taker);
    pool.acquire();
    pool.acquire();
    CHECK(pool.holders() == std::vector{taker, taker});
    engine.wait_until(at(1us));
    pool.release();  // to the one who waits
    CHECK(pool.holders() == std::vector{taker, waiter});
    engine.wait_until(at(2us));
    CHECK(pool.holders() == std::vector{waiter});
    pool.release();  // what the other one took
    CHECK(pool.available() == 2);
    CHECK_THROWS_AS(pool.hand_to(waiter), CheckFailure);
    pool.acquire();
    pool.hand_to(waiter);
    CHECK(pool.holders() == std::vector{waiter});
  });
  waiter = engine.spawn("waiter", node, [&] {
    pool.acquire();
    CHECK(engine.now() == at(1us));
    engine.spawn("helper", node, [&] { pool.release(); });  // the oldest: taker's
  });
  CHECK(engine.current() == kNoActor);
  engine.run();
}
