#include "models/pcie/nvme_queue.hpp"

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

/// 2 slots; 100 ns to submit, 250 + 600 ns to the controller, 350 ns back.
NvmeQueueConfig two_slots() {
  return {.queue_depth = 2,
          .host_submit = 100ns,
          .doorbell = 250ns,
          .command_fetch = 600ns,
          .completion = 350ns};
}

constexpr SimTime at(SimDuration time) { return SimTime{time}; }

}  // namespace

TEST_CASE("nvme queue: a lone command, to the picosecond") {
  NvmeQueuePair queue(two_slots());
  CHECK(queue.probe_submit(at(1us)).start == at(1us));
  CHECK(queue.probe_submit(at(1us)).done == at(1950ns));
  CHECK(queue.outstanding(at(1us)) == 0);  // a probe takes nothing
  CHECK(queue.submit(at(1us)).done == at(1950ns));
  CHECK(queue.outstanding(at(1us)) == 1);
  CHECK(queue.complete(at(5us)) == at(5350ns));
  // The slot is held until the host has seen the completion.
  CHECK(queue.outstanding(at(5350ns - 1_ps)) == 1);
  CHECK(queue.outstanding(at(5350ns)) == 0);
}

TEST_CASE("nvme queue: the host submits one command after another, the way is pipelined") {
  NvmeQueuePair queue(two_slots());
  CHECK(queue.submit(at(0ns)).done == at(950ns));
  const Grant second = queue.submit(at(30ns));
  CHECK(second.start == at(100ns));
  CHECK(second.done == at(1050ns));
}

TEST_CASE("nvme queue: at most queue_depth commands are outstanding") {
  NvmeQueuePair queue(two_slots());
  queue.submit(at(0ns));
  queue.submit(at(0ns));
  CHECK_FALSE(queue.has_slot(at(1us)));
  CHECK_FALSE(queue.next_slot(at(1us)).has_value());
  CHECK_THROWS_AS(queue.submit(at(1us)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(queue.probe_submit(at(1us))), CheckFailure);

  queue.complete(at(3us));
  CHECK(queue.next_slot(at(1us)) == at(3350ns));
  CHECK_FALSE(queue.has_slot(at(3350ns - 1_ps)));
  CHECK_THROWS_AS(queue.submit(at(3350ns - 1_ps)), CheckFailure);
  CHECK(queue.has_slot(at(3350ns)));
  CHECK(queue.submit(at(3350ns)).done == at(4300ns));
  CHECK_FALSE(queue.has_slot(at(3350ns)));
}

TEST_CASE("nvme queue: completions may be announced ahead of time and out of order") {
  NvmeQueuePair queue(two_slots());
  queue.submit(at(0ns));
  queue.submit(at(0ns));
  CHECK(queue.complete(at(9us)) == at(9350ns));
  CHECK(queue.complete(at(4us)) == at(4350ns));
  CHECK(queue.next_slot(at(1us)) == at(4350ns));
  CHECK(queue.outstanding(at(4350ns - 1_ps)) == 2);
  CHECK(queue.outstanding(at(4350ns)) == 1);
  CHECK(queue.outstanding(at(9350ns)) == 0);
}

TEST_CASE("nvme queue: a full queue sustains depth commands a round trip (Little's law)") {
  // The controller takes 4 us a command: a slot's round is 950 + 4000 + 350 ns.
  NvmeQueuePair queue(two_slots());
  SimTime now{};
  const int commands = 1000;
  for (int i = 0; i < commands; ++i) {
    now = *queue.next_slot(now);
    queue.complete(queue.submit(now).done + 4us);
  }
  // Two slots, 500 rounds; the second slot started 100 ns after the first and stays behind.
  CHECK(*queue.next_slot(now) == at(500 * 5300ns));
  CHECK(queue.commands() == commands);
}

TEST_CASE("nvme queue: misuse is our bug") {
  NvmeQueuePair queue(two_slots());
  CHECK_THROWS_AS(queue.complete(at(0ns)), CheckFailure);
  queue.submit(at(1us));
  CHECK_THROWS_AS(queue.submit(at(1us - 1_ps)), CheckFailure);
  queue.complete(at(2us));
  CHECK_THROWS_AS(queue.complete(at(2us)), CheckFailure);
}

TEST_CASE("nvme queue: report") {
  NvmeQueuePair queue(two_slots());
  queue.submit(at(0ns));
  queue.submit(at(0ns));
  Metrics metrics;
  queue.report(metrics, "csd/0/nvme");
  CHECK(metrics.at("csd/0/nvme/commands") == 2);
  CHECK(metrics.at("csd/0/nvme/host_busy") == doctest::Approx(200e-9));
}
