#include "models/flash/flash_engine.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/flash/flash_array.hpp"
#include "models/flash/test_flash_oracle.hpp"
#include "sim/core/check.hpp"

using namespace nearkv;
using namespace std::chrono_literals;
using test_flash_oracle::Done;
using test_flash_oracle::Oracle;

namespace {

constexpr SimTime at(SimDuration since_start) { return SimTime{since_start}; }

struct Completions final : PageSink {
  std::vector<Done> all;
  void page_done(std::uint64_t tag, SimTime when) override {
    all.push_back({tag, when.time_since_epoch().count()});
  }
  [[nodiscard]] SimDuration of(std::uint64_t tag) const {
    for (const Done& done : all) {
      if (done.tag == tag) {
        return SimDuration{done.at};
      }
    }
    return -1_ps;
  }
};

/// One transfer of one byte takes 1 ns; a 1000-byte page takes 1 us on the bus.
FlashConfig small() {
  return {.channels = 1,
          .chips_per_channel = 2,
          .dies_per_chip = 2,
          .planes_per_die = 2,
          .blocks_per_plane = 16,
          .pages_per_block = 64,
          .page_size = Bytes{1000},
          .spare_size = 0_B,
          .policy = FlashPolicy::out_of_order,
          .array_unit = ArrayUnit::die,
          .read_priority = true,
          .cache_read = false,
          .multi_plane = true,
          .bus_width = 1,
          .mega_transfers = 1000,
          .transfer_step = 0_ps,
          .bits_per_cell = 1,
          .t_read = {50us, 60us, 70us},
          .t_program = {500us, 600us, 700us},
          .t_erase = 3ms,
          .array_spread = 0,
          .read_command = {300ns, 650ns, 20ns},
          .program_command = {400ns, 800ns, 0ns},
          .erase_command = {200ns, 700ns, 0ns},
          .read_retry = {},
          .suspend = {}};
}

PageCommand read_of(std::uint64_t tag, int chip, int die = 0, int plane = 0,
                    std::uint32_t page = 0) {
  return {.tag = tag,
          .op = PageOp::read,
          .chip = static_cast<std::uint16_t>(chip),
          .die = static_cast<std::uint16_t>(die),
          .plane = static_cast<std::uint16_t>(plane),
          .page = page,
          .bytes = 1000};
}
PageCommand as(PageOp op, PageCommand command) {
  command.op = op;
  return command;
}

struct Bench {
  explicit Bench(const FlashConfig& config) : engine(config, Rng(1, "test")) {}
  void give(SimDuration when, const std::vector<PageCommand>& commands) {
    engine.process(at(when), done);
    for (const PageCommand& command : commands) {
      engine.add(command);
    }
    engine.start(at(when));
  }
  void finish() { engine.process(at(SimDuration{INT64_MAX - 1}), done); }

  FlashEngine engine;
  Completions done;
};

}  // namespace

TEST_CASE("flash engine: one command takes bus, array and ready times") {
  // read: 300 ns command + 50 us + 20 ns ready + 1 us data; erase: 200 ns + 3 ms
  Bench bench(small());
  bench.give(7ns, {read_of(1, 0)});
  CHECK(bench.engine.next_event() == at(7ns + 300ns));
  bench.engine.process(at(7ns + 51'320ns - 1_ps), bench.done);
  CHECK(bench.done.all.empty());
  bench.engine.process(at(7ns + 51'320ns), bench.done);
  CHECK(bench.done.of(1) == 7ns + 51'320ns);
  bench.give(1ms, {as(PageOp::program, read_of(2, 0)), as(PageOp::erase, read_of(3, 1))});
  bench.finish();
  CHECK(bench.done.of(3) == 1ms + 200ns + 3ms);  // first: it is the turn of chip 0's second die
  CHECK(bench.done.of(2) == 1ms + 200ns + 1'400ns + 500us);  // 400 ns command + 1 us data
  CHECK(bench.engine.next_event() == kNever);
  CHECK(bench.engine.counters().bus_busy == 300ns + 1us + 1'400ns + 200ns);
}

TEST_CASE("flash engine: a partial read moves only its bytes; 333 MT/s can be cut to 3 ns") {
  FlashConfig config = small();
  CHECK(config.transfer_time(1000) == 1us);
  config.bus_width = 4;
  CHECK(config.transfer_time(1001) == 251ns);  // 251 transfers of 1 ns
  config.mega_transfers = 333;
  CHECK(config.transfer_time(4) == 3'004_ps);  // 3003.003 ps, late
  config.transfer_step = 1ns;
  CHECK(config.transfer_time(4000) == 3us);
}

TEST_CASE("flash engine: page types by index") {
  CHECK(page_type(7, 1) == 0);
  CHECK(page_type(6, 2) == 0);
  CHECK(page_type(7, 2) == 1);
  const int expected[] = {0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 0, 0};
  for (std::uint32_t page = 0; page < 16; ++page) {
    CHECK(page_type(page, 3) == expected[page]);
  }
  FlashConfig config = small();
  config.bits_per_cell = 2;
  CHECK(config.array_time(PageOp::read, 1) == 70us);
  config.bits_per_cell = 3;
  CHECK(config.array_time(PageOp::read, 6) == 60us);
  CHECK(config.array_time(PageOp::program, 12) == 700us);
}

TEST_CASE("flash engine: dies of one chip overlap, but not with MQSim's rules") {
  FlashConfig config = small();
  {
    Bench bench(config);
    bench.give(0ns, {read_of(1, 0, 0), read_of(2, 0, 1)});
    bench.finish();
    CHECK(bench.done.of(1) == 51'320ns);
    CHECK(bench.done.of(2) == 52'320ns);  // the second command is hidden, the bus is not
  }
  config.policy = FlashPolicy::data_out_first;
  Bench bench(config);
  bench.give(0ns, {read_of(1, 0, 0), read_of(2, 0, 1)});
  bench.finish();
  CHECK(bench.done.of(2) == 2 * 51'320ns);
}

TEST_CASE("flash engine: a page that is ready goes before a command with data_out_first only") {
  for (const bool data_first : {true, false}) {
    FlashConfig config = small();
    config.policy = data_first ? FlashPolicy::data_out_first : FlashPolicy::out_of_order;
    config.dies_per_chip = 1;
    config.chips_per_channel = 3;
    config.planes_per_die = 1;
    config.multi_plane = false;
    Bench bench(config);
    // Chips 0 and 1 are ready at 50.32 and 50.62 us; chip 0 is empty again at 51.32 us.
    bench.give(0ns, {read_of(1, 0), read_of(2, 1), read_of(3, 0)});
    bench.finish();
    CHECK(bench.done.of(1) == 51'320ns);
    CHECK(bench.done.of(2) == 52'320ns + (data_first ? 0ns : 300ns));
    CHECK(bench.done.of(3) == (data_first ? 52'320ns : 51'320ns) + 51'320ns);
  }
}

TEST_CASE("flash engine: a page that is ready when the bus becomes free is seen by it") {
  // Chip 1 becomes ready at the picosecond at which the bus is free after chip 0's command.
  FlashConfig config = small();
  config.policy = FlashPolicy::data_out_first;
  config.multi_plane = false;
  const SimDuration ready = 50'320ns;  // of a read given at 0
  for (const SimDuration offset : {-1_ps, 0_ps, 1_ps}) {
    Bench bench(config);
    bench.give(0ns, {read_of(1, 1)});
    bench.give(ready - 300ns + offset, {read_of(2, 0)});
    bench.give(ready - 200ns, {as(PageOp::erase, read_of(3, 0)), read_of(4, 0)});
    bench.finish();
    const SimDuration bus_free = ready + offset;
    CHECK(bench.done.of(1) == std::max(bus_free, ready) + 1us);
  }
}

TEST_CASE("flash engine: multi-plane needs one die, equal pages and different planes") {
  Bench bench(small());
  bench.give(0ns, {read_of(1, 0, 0, 0, 5), read_of(2, 0, 0, 1, 6), read_of(3, 0, 0, 1, 5),
                   read_of(4, 0, 0, 0, 5)});
  bench.finish();
  CHECK(bench.engine.counters().commands == 3);
  const SimDuration first = 950ns + 50'020ns;  // two planes: 300 + 650 ns of command
  CHECK(bench.done.of(1) == first + 1us);
  CHECK(bench.done.of(3) == first + 2us);
  CHECK(bench.done.of(2) == first + 2us + 51'320ns);
  CHECK(bench.done.of(4) == first + 2us + 2 * 51'320ns);
}

TEST_CASE("flash engine: cache read overlaps the next array read with the transfer") {
  FlashConfig config = small();
  config.cache_read = true;
  config.multi_plane = false;
  Bench bench(config);
  bench.give(0ns, {read_of(1, 0), read_of(2, 0), as(PageOp::program, read_of(3, 0))});
  bench.finish();
  CHECK(bench.done.of(1) == 50'320ns + 300ns + 1us);  // the next command goes first
  CHECK(bench.done.of(2) == 2 * 50'320ns + 1us);
  CHECK(bench.done.of(3) == 2 * 50'320ns + 1us + 1'400ns + 500us);  // needs an empty unit
}

TEST_CASE("flash engine: reads interrupt a program when it is worth it") {
  FlashConfig config = small();
  config.suspend = {.program = true,
                    .erase = false,
                    .t_program = 5us,
                    .t_erase = 0_ps,
                    .least_remaining = 100us,
                    .at_most = 1};
  const SimDuration end = 501'400ns;  // of a program alone
  for (const SimDuration when : {end - 100us, end - 100us + 1_ps}) {
    Bench bench(config);
    bench.give(0ns, {as(PageOp::program, read_of(1, 0))});
    bench.give(when, {read_of(2, 0), read_of(3, 0, 0, 0, 1)});
    bench.finish();
    const bool interrupts = end - when >= 100us;
    CHECK(bench.engine.counters().suspensions == (interrupts ? 1 : 0));
    const SimDuration read_done = interrupts ? when + 5us + 51'320ns : end + 51'320ns;
    CHECK(bench.done.of(2) == read_done);
    // The rest of the program runs when the read has left; it may not be interrupted again.
    CHECK(bench.done.of(1) == (interrupts ? read_done + (end - when) : end));
  }
}

TEST_CASE("flash engine: read retries have the given mean and bound, and cost array time") {
  const ReadRetry retry{{60, 20, 10, 10}};
  CHECK(retry.mean() == doctest::Approx(0.2 + 2 * 0.1 + 3 * 0.1));
  FlashConfig config = small();
  config.multi_plane = false;
  config.read_retry = retry;
  Bench bench(config);
  constexpr int kReads = 20'000;
  SimDuration when{};
  std::int64_t sum = 0;
  for (int i = 0; i < kReads; ++i) {
    bench.give(when, {read_of(static_cast<std::uint64_t>(i), 0)});
    bench.finish();
    const SimDuration took = SimDuration{bench.done.all.back().at} - when;
    const std::int64_t retries = (took - 51'320ns) / 50us;
    REQUIRE(took == 51'320ns + retries * 50us);
    REQUIRE(retries <= 3);
    sum += retries;
    when += took;
  }
  CHECK(sum == bench.engine.counters().retries);
  // Standard deviation below 1.5 a read: five sigma of the mean.
  CHECK(static_cast<double>(sum) / kReads == doctest::Approx(0.7).epsilon(0.075));
}

TEST_CASE("flash engine: a sink may start commands from a completion") {
  struct Chain final : PageSink {
    FlashEngine* engine = nullptr;
    int left = 100;
    std::vector<SimTime> times;
    void page_done(std::uint64_t tag, SimTime when) override {
      times.push_back(when);
      if (left-- > 0) {
        engine->add(read_of(tag, static_cast<int>(tag % 2)));
        engine->start(when);
      }
    }
  };
  for (const FlashPolicy policy :
       {FlashPolicy::fifo, FlashPolicy::data_out_first, FlashPolicy::out_of_order}) {
    FlashConfig config = small();
    config.policy = policy;
    config.multi_plane = false;
    config.read_priority = false;
    FlashEngine engine(config, Rng(1, "test"));
    Chain chain;
    chain.engine = &engine;
    engine.add(read_of(0, 0));
    engine.start(at(0ns));
    engine.process(at(1s), chain);
    REQUIRE(chain.times.size() == 101);
    for (std::size_t i = 0; i < chain.times.size(); ++i) {
      CHECK(chain.times[i] == at((i + 1) * SimDuration{51'320ns}));
    }
  }
}

TEST_CASE("flash engine: misuse is a failed check") {
  Bench bench(small());
  CHECK_THROWS_AS(bench.engine.add(read_of(1, 2)), CheckFailure);
  CHECK_THROWS_AS(bench.engine.add(read_of(1, 0, 2)), CheckFailure);
  bench.give(1us, {read_of(1, 0)});
  CHECK_THROWS_AS(bench.engine.start(at(999ns)), CheckFailure);
  CHECK_THROWS_AS(bench.engine.start(at(1us + 300ns + 1_ps)), CheckFailure);  // an event before it
}

// -- Properties over random configurations and workloads ------------------------------------------

namespace {

struct Batch {
  std::int64_t at;
  std::vector<PageCommand> commands;
};

int pick(Rng& rng, int lowest, int highest) {
  return lowest + static_cast<int>(rng.below(static_cast<std::uint64_t>(highest - lowest + 1)));
}
bool flip(Rng& rng) { return rng.below(2) == 1; }
/// Few distinct values, so that many events meet at one picosecond.
SimDuration some(Rng& rng, int lowest, int highest) {
  return SimDuration{pick(rng, lowest, highest) * std::int64_t{100}};
}

FlashConfig random_config(Rng& rng) {
  FlashConfig c = small();
  c.channels = pick(rng, 1, 3);
  c.chips_per_channel = pick(rng, 1, 4);
  c.dies_per_chip = pick(rng, 1, 3);
  c.planes_per_die = pick(rng, 1, 3);
  c.policy = std::array{FlashPolicy::fifo, FlashPolicy::data_out_first,
                        FlashPolicy::out_of_order}[rng.below(3)];
  const bool is_fifo = c.policy == FlashPolicy::fifo;
  c.array_unit = flip(rng) ? ArrayUnit::die : ArrayUnit::plane;
  c.read_priority = !is_fifo && flip(rng);
  c.cache_read = flip(rng);
  c.multi_plane = !is_fifo && flip(rng) &&
                  (c.policy == FlashPolicy::data_out_first || c.array_unit == ArrayUnit::die);
  c.mega_transfers = flip(rng) ? 10'000 : 7'777;
  c.bits_per_cell = pick(rng, 1, 3);
  c.t_read = {some(rng, 1, 60), some(rng, 1, 60), some(rng, 1, 60)};
  c.t_program = {some(rng, 1, 200), some(rng, 1, 200), some(rng, 1, 200)};
  c.t_erase = some(rng, 1, 500);
  for (CommandTiming* timing : {&c.read_command, &c.program_command, &c.erase_command}) {
    *timing = {some(rng, 0, 4), some(rng, 0, 4), some(rng, 0, 2)};
  }
  if (is_fifo) {  // FlashArray has one command time; completions come in order then
    c.program_command.bus = c.erase_command.bus = c.read_command.bus;
  }
  if (flip(rng)) {
    c.read_retry.weights = {2, pick(rng, 0, 2), 1};
  }
  c.array_spread = flip(rng) ? 0 : 0.3;
  c.suspend.program = c.read_priority && flip(rng);
  c.suspend.erase = c.read_priority && flip(rng);
  c.suspend.t_program = some(rng, 0, 5);
  c.suspend.t_erase = some(rng, 0, 5);
  c.suspend.least_remaining = some(rng, 0, 30);
  c.suspend.at_most = pick(rng, 0, 3);
  return c;
}

std::vector<Batch> random_workload(Rng& rng, const FlashConfig& config) {
  std::vector<Batch> batches(static_cast<std::size_t>(pick(rng, 1, 12)));
  const int reads_of_ten = pick(rng, 0, 10);
  const bool whole_pages = flip(rng);
  std::int64_t now = 0;
  std::uint64_t tag = 0;
  for (Batch& batch : batches) {
    now += some(rng, 0, flip(rng) ? 20 : 300).count();
    batch.at = now;
    for (int i = pick(rng, 1, 24); i > 0; --i) {
      PageCommand command;
      command.tag = tag++;
      command.op = pick(rng, 0, 9) < reads_of_ten ? PageOp::read
                   : pick(rng, 0, 3) == 0         ? PageOp::erase
                                                  : PageOp::program;
      command.channel = static_cast<std::uint16_t>(pick(rng, 0, config.channels - 1));
      command.chip = static_cast<std::uint16_t>(pick(rng, 0, config.chips_per_channel - 1));
      command.die = static_cast<std::uint16_t>(pick(rng, 0, config.dies_per_chip - 1));
      command.plane = static_cast<std::uint16_t>(pick(rng, 0, config.planes_per_die - 1));
      command.page = static_cast<std::uint32_t>(pick(rng, 0, 3));
      command.bytes = whole_pages ? 16u : static_cast<std::uint32_t>(pick(rng, 1, 4) * 8);
      batch.commands.push_back(command);
    }
  }
  return batches;
}

/// In half of the runs the event-driven policies have gates; how long a credit is away, or 0.
int set_gates(Rng& rng, FlashEngine& engine, Oracle& oracle, const FlashConfig& config) {
  if (!config.is_event_driven() || flip(rng)) {
    return 0;
  }
  for (int gate = 1; gate <= FlashEngine::kGates; ++gate) {
    const int credits = pick(rng, 1, 3);
    engine.set_gate(gate, credits);
    oracle.set_gate(gate, credits);
  }
  return pick(rng, 1, 60);
}

template <class Array>
void give(Array& array, const Batch& batch) {
  for (const PageCommand& command : batch.commands) {
    array.add(command);
  }
}

}  // namespace

TEST_CASE("flash engine: the same picosecond for every page as a plain event queue") {
  constexpr int kRuns = 3000;
  std::int64_t pages = 0;
  std::int64_t suspensions = 0;
  std::int64_t stalls = 0;
  for (std::uint64_t seed = 0; seed < kRuns; ++seed) {
    INFO("seed ", seed);
    Rng rng(seed, "models/flash/flash_engine_test");
    const FlashConfig config = random_config(rng);
    std::vector<Batch> workload = random_workload(rng, config);
    FlashEngine engine(config, Rng(seed, "retries"));
    Oracle oracle(config, Rng(seed, "retries"));
    Completions done;
    std::vector<Done> expected;
    const int gate_delay = set_gates(rng, engine, oracle, config);
    std::multimap<std::int64_t, int> returns;  // credits on their way back
    std::map<std::uint64_t, int> gates;
    std::size_t next_batch = 0;
    while (true) {
      const std::int64_t batch_at =
          next_batch < workload.size() ? workload[next_batch].at : INT64_MAX;
      const std::int64_t return_at = returns.empty() ? INT64_MAX : returns.begin()->first;
      const std::int64_t event_at = engine.next_event().time_since_epoch().count();
      const std::int64_t now = std::min({batch_at, return_at, event_at});
      if (now == INT64_MAX) {
        break;
      }
      const std::size_t before = done.all.size();
      engine.process(SimTime{SimDuration{now}}, done);
      const std::vector<Done> some_more = oracle.run(now);
      expected.insert(expected.end(), some_more.begin(), some_more.end());
      for (std::size_t i = before; i < done.all.size(); ++i) {
        if (const int gate = gates[done.all[i].tag]; gate > 0) {
          returns.emplace(done.all[i].at + gate_delay, gate);
        }
      }
      for (; !returns.empty() && returns.begin()->first == now; returns.erase(returns.begin())) {
        engine.return_credit(returns.begin()->second, SimTime{SimDuration{now}});
        oracle.return_credit(returns.begin()->second, now);
      }
      if (batch_at == now) {
        Batch& batch = workload[next_batch++];
        for (PageCommand& command : batch.commands) {
          const bool has_gate = gate_delay > 0 && command.op == PageOp::read;
          command.gate = static_cast<std::uint8_t>(has_gate ? pick(rng, 0, 2) : 0);
          gates[command.tag] = command.gate;
        }
        give(engine, batch);
        give(oracle, batch);
        engine.start(SimTime{SimDuration{now}});
        oracle.start(now);
      }
    }

    std::size_t given = 0;
    for (const Batch& batch : workload) {
      given += batch.commands.size();
    }
    REQUIRE(done.all.size() == given);  // conservation
    if (config.policy == FlashPolicy::fifo) {
      // Completions of one picosecond on one channel: the order is not part of the rules.
      const auto by_time = [](const Done& a, const Done& b) {
        return a.at != b.at ? a.at < b.at : a.tag < b.tag;
      };
      std::sort(done.all.begin(), done.all.end(), by_time);
      std::sort(expected.begin(), expected.end(), by_time);
    }
    REQUIRE(done.all == expected);
    REQUIRE(std::is_sorted(done.all.begin(), done.all.end(),
                           [](const Done& a, const Done& b) { return a.at < b.at; }));
    pages += static_cast<std::int64_t>(given);
    suspensions += engine.counters().suspensions;
    stalls += engine.counters().bus_stalled > 0_ps ? 1 : 0;
  }
  MESSAGE(kRuns << " runs, seeds 0 to " << kRuns - 1 << ", " << pages << " pages, " << suspensions
                << " suspensions, " << stalls << " runs with stalled channels");
  CHECK(suspensions > 100);
  CHECK(stalls > 100);
}

TEST_CASE("flash engine: policies fifo and first_gap equal the recurrence of FlashArray") {
  constexpr int kRuns = 1000;
  for (std::uint64_t seed = 0; seed < kRuns; ++seed) {
    INFO("seed ", seed);
    Rng rng(seed, "models/flash/flash_engine_test/recurrence");
    FlashConfig config = random_config(rng);
    config.policy = flip(rng) ? FlashPolicy::fifo : FlashPolicy::first_gap;
    config.page_size = 16_B;
    config.read_priority = config.multi_plane = false;
    config.suspend = {};
    config.read_retry = {};
    config.array_spread = 0;
    config.bits_per_cell = 1;
    config.program_command.bus = config.erase_command.bus = config.read_command.bus;
    std::vector<Batch> workload = random_workload(rng, config);
    FlashArray array(config.recurrence());
    Bench bench(config);
    std::map<std::uint64_t, SimDuration> expected;
    for (Batch& batch : workload) {
      const SimTime now{SimDuration{batch.at}};
      for (PageCommand& command : batch.commands) {
        command.bytes = 16;
        const int die = command.chip * config.dies_per_chip + command.die;
        const int unit =
            config.array_unit == ArrayUnit::die ? die : die * config.planes_per_die + command.plane;
        const Grant grant = command.op == PageOp::read ? array.read(now, command.channel, unit)
                            : command.op == PageOp::program
                                ? array.program(now, command.channel, unit)
                                : array.erase(now, command.channel, unit);
        expected[command.tag] = grant.done.time_since_epoch();
      }
      bench.give(SimDuration{batch.at}, batch.commands);
    }
    bench.finish();
    REQUIRE(bench.done.all.size() == expected.size());
    for (const Done& done : bench.done.all) {
      REQUIRE(SimDuration{done.at} == expected[done.tag]);
    }
  }
}

TEST_CASE("flash engine: a saturated channel moves one page each command and transfer") {
  // 8 dies at tR 5 us and 1.3 us a page on the bus: the bus never waits after the first pages.
  for (const FlashPolicy policy : {FlashPolicy::fifo, FlashPolicy::out_of_order}) {
    FlashConfig config = small();
    config.policy = policy;
    config.read_priority = config.multi_plane = false;
    config.chips_per_channel = 8;
    config.dies_per_chip = 1;
    config.t_read.lsb = 5us;
    Bench bench(config);
    std::vector<PageCommand> reads;
    constexpr int kPages = 8000;
    for (int i = 0; i < kPages; ++i) {
      reads.push_back(read_of(static_cast<std::uint64_t>(i), i % 8));
    }
    bench.give(0ns, reads);
    bench.finish();
    const double bound = to_seconds(kPages * SimDuration{1'300ns});
    CHECK(to_seconds(SimDuration{bench.done.all.back().at}) ==
          doctest::Approx(bound).epsilon(0.001));
  }
}

TEST_CASE("flash engine: slower parts never finish a batch of reads earlier") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    INFO("seed ", seed);
    Rng rng(seed, "models/flash/flash_engine_test/monotone");
    FlashConfig config = small();
    config.policy = FlashPolicy::fifo;  // other policies have scheduling anomalies, as in Graham's
    config.read_priority = config.multi_plane = false;
    Bench fast(config);
    config.t_read.lsb += some(rng, 0, 100);
    config.read_command.bus += some(rng, 0, 3);
    Bench slow(config);
    std::vector<PageCommand> reads;
    for (int i = 0; i < 40; ++i) {
      reads.push_back(read_of(static_cast<std::uint64_t>(i), pick(rng, 0, 1), pick(rng, 0, 1)));
    }
    fast.give(0ns, reads);
    slow.give(0ns, reads);
    fast.finish();
    slow.finish();
    for (const PageCommand& command : reads) {
      REQUIRE(fast.done.of(command.tag) <= slow.done.of(command.tag));
    }
  }
}
