#include "models/flash/bus_schedule.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

SimTime at(SimDuration since_start) { return SimTime{since_start}; }

SimDuration below(Rng& rng, std::uint64_t n) {
  return SimDuration{static_cast<std::int64_t>(rng.below(n))};
}

/// Straight from the definition: remembers every transfer and looks at all of them each time.
class NaiveBus {
 public:
  explicit NaiveBus(BusOrder order) : order_(order) {}

  SimTime reserve(SimTime ready, SimDuration length) {
    SimTime start = ready;
    if (order_ == BusOrder::fifo) {
      start = std::max(start, last_end_);
    } else {
      while (const Transfer* other = first_conflict(start, length)) {
        start = other->end;
      }
    }
    last_end_ = start + length;
    transfers_.push_back({start, last_end_});
    return last_end_;
  }

 private:
  struct Transfer {
    SimTime start;
    SimTime end;
  };

  [[nodiscard]] const Transfer* first_conflict(SimTime start, SimDuration length) const {
    for (const Transfer& other : transfers_) {
      if (other.start < start + length && start < other.end) {
        return &other;
      }
    }
    return nullptr;
  }

  BusOrder order_;
  SimTime last_end_{};
  std::vector<Transfer> transfers_;
};

constexpr BusOrder kOrders[] = {BusOrder::fifo, BusOrder::first_gap};

}  // namespace

TEST_CASE("bus: an idle bus starts a transfer when it is ready") {
  for (const BusOrder order : kOrders) {
    BusSchedule bus(order);
    CHECK(bus.reserve(at(0ns), 10ns) == at(10ns));
    CHECK(bus.reserve(at(25ns), 10ns) == at(35ns));
    // One picosecond before the end of the last transfer, at it, and one after.
    CHECK(bus.probe(at(35ns - 1_ps), 10ns) == at(45ns));
    CHECK(bus.probe(at(35ns), 10ns) == at(45ns));
    CHECK(bus.probe(at(35ns + 1_ps), 10ns) == at(45ns + 1_ps));
  }
}

TEST_CASE("bus: in fifo order a transfer that is not ready holds up those behind it") {
  BusSchedule bus(BusOrder::fifo);
  CHECK(bus.reserve(at(100ns), 10ns) == at(110ns));
  CHECK(bus.reserve(at(0ns), 10ns) == at(120ns));  // the 100 ns in front stay empty
  CHECK(bus.reserve(at(120ns - 1_ps), 1_ps) == at(120ns + 1_ps));
  CHECK(bus.reserve(at(0ns), 10ns) == at(130ns + 1_ps));
}

TEST_CASE("bus: a gap is taken when it is just long enough") {
  BusSchedule full(BusOrder::first_gap);
  full.reserve(at(10ns), 10ns);  // [10, 20)
  full.reserve(at(30ns), 10ns);  // [30, 40): a gap of 10 ns between them, one before
  CHECK(full.probe(at(0ns), 10ns) == at(10ns));
  CHECK(full.probe(at(0ns), 10ns + 1_ps) == at(50ns + 1_ps));
  CHECK(full.probe(at(1_ps), 10ns) == at(30ns));
  CHECK(full.probe(at(15ns), 10ns) == at(30ns));
  CHECK(full.probe(at(20ns), 10ns) == at(30ns));
  CHECK(full.probe(at(20ns + 1_ps), 10ns) == at(50ns));  // a picosecond too short
  CHECK(full.probe(at(15ns), 10ns + 1_ps) == at(50ns + 1_ps));
  CHECK(full.probe(at(20ns + 1_ps), 10ns - 1_ps) == at(30ns));

  // Filled to the picosecond, the gap is gone.
  BusSchedule filled = full;
  CHECK(filled.reserve(at(12ns), 10ns) == at(30ns));
  CHECK(filled.probe(at(10ns), 1_ps) == at(40ns + 1_ps));
  CHECK(filled.probe(at(0ns), 10ns) == at(10ns));
  CHECK(filled.busy_after(at(0ns)) == std::vector<SimDuration>{10ns, 40ns});
  // One picosecond less leaves a gap of one picosecond.
  CHECK(full.reserve(at(12ns), 10ns - 1_ps) == at(30ns - 1_ps));
  CHECK(full.probe(at(0ns), 1_ps) == at(1_ps));
  CHECK(full.probe(at(10ns), 1_ps) == at(30ns));
  CHECK(full.probe(at(10ns), 2_ps) == at(40ns + 2_ps));
}

TEST_CASE("bus: a gap is filled from its front, and earlier transfers keep their place") {
  BusSchedule bus(BusOrder::first_gap);
  CHECK(bus.reserve(at(100ns), 10ns) == at(110ns));
  for (int i = 1; i <= 10; ++i) {
    CHECK(bus.reserve(at(0ns), 10ns) == at(i * SimDuration{10ns}));
  }
  CHECK(bus.reserve(at(0ns), 10ns) == at(120ns));
  CHECK(bus.busy_after(at(0ns)) == std::vector<SimDuration>{0ns, 120ns});
}

TEST_CASE("bus: with gaps, a transfer that takes no time is refused") {
  BusSchedule bus(BusOrder::first_gap);
  CHECK_THROWS_AS(bus.reserve(at(1ns), 0ns), CheckFailure);
  CHECK_THROWS_AS(bus.reserve(at(1ns), -1_ps), CheckFailure);
  bus.reserve(at(1ns), 1ns);
  CHECK_THROWS_AS(bus.reserve(at(0ns), 0ns), CheckFailure);
}

TEST_CASE("bus: what is forgotten changes no later answer") {
  BusSchedule bus(BusOrder::first_gap);
  for (int i = 0; i < 1000; ++i) {  // every second slot, often enough to compact the memory
    bus.reserve(at(i * SimDuration{20ns}), 10ns);
    bus.forget(at(i * SimDuration{20ns}));
  }
  CHECK(bus.busy_after(at(19'980ns)) == std::vector<SimDuration>{0ns, 10ns});
  CHECK(bus.probe(at(19'985ns), 10ns) == at(20us));
  bus.forget(at(30us));  // all of it
  CHECK(bus.busy_after(at(30us)).empty());
  CHECK(bus.probe(at(30us), 10ns) == at(30'010ns));
  CHECK(bus.reserve(at(40us), 10ns) == at(40'010ns));
  CHECK(bus.reserve(at(30us), 10ns) == at(30'010ns));
}

TEST_CASE("bus: busy times are relative to the time that is asked about") {
  BusSchedule bus(BusOrder::first_gap);
  bus.reserve(at(10ns), 10ns);
  bus.reserve(at(30ns), 10ns);
  CHECK(bus.busy_after(at(0ns)) == std::vector<SimDuration>{10ns, 20ns, 30ns, 40ns});
  CHECK(bus.busy_after(at(20ns - 1_ps)) ==
        std::vector<SimDuration>{0_ps, 1_ps, 10'001_ps, 20'001_ps});
  CHECK(bus.busy_after(at(20ns)) == std::vector<SimDuration>{10ns, 20ns});
  CHECK(bus.busy_after(at(40ns - 1_ps)) == std::vector<SimDuration>{0_ps, 1_ps});
  CHECK(bus.busy_after(at(40ns)).empty());
}

TEST_CASE("bus: both orders equal the naive oracle on random transfers") {
  int gaps_filled = 0;
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/flash/bus_schedule_test/oracle");
    const BusOrder order = kOrders[seed % 2];
    // Small numbers for many exact fits, large ones for deep schedules.
    const std::uint64_t longest = 1 + rng.below(seed % 3 == 0 ? 4 : 40);
    const std::uint64_t ahead = 1 + rng.below(seed % 5 == 0 ? 2000 : 100);
    const std::uint64_t step = 1 + rng.below(8);
    const std::int64_t only_length = rng.below(3) == 0 ? 1 + below(rng, longest).count() : -1;
    BusSchedule bus(order);
    NaiveBus naive(order);
    SimTime now{};
    SimTime latest{};
    for (int i = 0; i < 150; ++i) {
      now += below(rng, step);
      if (rng.below(4) != 0) {
        bus.forget(now);
      }
      const SimTime ready = now + below(rng, ahead);
      const SimDuration length =
          only_length > 0 ? SimDuration{only_length} : 1_ps + below(rng, longest);
      const SimTime probed = bus.probe(ready, length);
      const SimTime reserved = bus.reserve(ready, length);
      REQUIRE(probed == reserved);
      REQUIRE(reserved == naive.reserve(ready, length));
      gaps_filled += reserved < latest ? 1 : 0;
      latest = std::max(latest, reserved);
    }
  }
  MESSAGE(gaps_filled, " of 300,000 transfers went before an earlier one");
  CHECK(gaps_filled > 50'000);
}

TEST_CASE("bus: restored at another time, a bus has the same future") {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/flash/bus_schedule_test/restore");
    const BusOrder order = kOrders[seed % 2];
    BusSchedule bus(order);
    SimTime now{};
    const auto transfers = static_cast<int>(rng.below(100));
    for (int i = 0; i < transfers; ++i) {
      now += below(rng, 10);
      bus.forget(now);
      bus.reserve(now + below(rng, 200), 1_ps + below(rng, 30));
    }
    now += below(rng, 300);
    const std::vector<SimDuration> busy = bus.busy_after(now);
    REQUIRE(std::is_sorted(busy.begin(), busy.end()));

    // Later or earlier than the original, over whatever the other one did before.
    const SimDuration shift = below(rng, 1000) - SimDuration{now.time_since_epoch()} / 2;
    BusSchedule other(order);
    other.reserve(at(below(rng, 500)), 1_ps + below(rng, 500));
    other.restore(busy, now + shift);
    REQUIRE(other.busy_after(now + shift) == busy);
    for (int i = 0; i < 100; ++i) {
      now += below(rng, 10);
      const SimTime ready = now + below(rng, 200);
      const SimDuration length = 1_ps + below(rng, 30);
      other.forget(now + shift);
      REQUIRE(other.probe(ready + shift, length) == bus.probe(ready, length) + shift);
      REQUIRE(other.reserve(ready + shift, length) == bus.reserve(ready, length) + shift);
      REQUIRE(other.busy_after(now + shift) == bus.busy_after(now));
    }
  }
}
