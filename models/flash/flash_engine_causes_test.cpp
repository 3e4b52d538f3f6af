#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include <doctest/doctest.h>

#include "models/flash/flash_engine.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

/// One channel of 1 B/ns; commands take 100, 200 and 300 ns, each further plane 10 ns; reads 1 us,
/// programs 5 us, erases 9 us.
FlashConfig small_flash(int chips) {
  return {.channels = 1,
          .chips_per_channel = chips,
          .dies_per_chip = 1,
          .planes_per_die = 2,
          .blocks_per_plane = 8,
          .pages_per_block = 8,
          .page_size = 512_B,
          .spare_size = 0_B,
          .policy = FlashPolicy::data_out_first,
          .array_unit = ArrayUnit::die,
          .read_priority = true,
          .cache_read = false,
          .multi_plane = true,
          .bus_width = 1,
          .mega_transfers = 1000,
          .transfer_step = 0_ps,
          .bits_per_cell = 1,
          .t_read = {1us, 1us, 1us},
          .t_program = {5us, 5us, 5us},
          .t_erase = 9us,
          .array_spread = 0,
          .read_command = {100ns, 10ns, 0ns},
          .program_command = {200ns, 10ns, 0ns},
          .erase_command = {300ns, 10ns, 0ns},
          .read_retry = {},
          .suspend = {}};
}

struct Done final : PageSink {
  std::map<std::uint64_t, SimDuration> at;
  void page_done(std::uint64_t tag, SimTime when) override { at[tag] = when.time_since_epoch(); }
};

struct Bench {
  explicit Bench(int chips = 1) : engine(small_flash(chips), Rng(1, "test")) {}

  FlashEngine engine;
  Done done;

  FlashEngine::Handle add(std::uint64_t tag, PageOp op, PageCause cause, int plane, int page,
                          bool is_held = false, int chip = 0) {
    PageCommand command;
    command.tag = tag;
    command.op = op;
    command.cause = cause;
    command.is_held = is_held;
    command.chip = static_cast<std::uint16_t>(chip);
    command.plane = static_cast<std::uint16_t>(plane);
    command.page = static_cast<std::uint32_t>(page);
    command.bytes = op == PageOp::erase ? 0 : 500;
    return engine.add(command);
  }
  void run(SimTime now = SimTime{}) {
    engine.start(now);
    engine.process(SimTime{SimDuration::max() - SimDuration{1}}, done);
  }
};

constexpr SimDuration kRead = 100ns + 1us + 500ns;
constexpr SimDuration kProgram = 200ns + 500ns + 5us;
constexpr SimDuration kErase = 300ns + 9us;

}  // namespace

TEST_CASE("flash engine: a chip serves collections before the host, and merges after its reads") {
  Bench bench;
  bench.add(1, PageOp::read, PageCause::merge, 0, 1);
  bench.add(2, PageOp::read, PageCause::host, 0, 2);
  bench.add(3, PageOp::program, PageCause::host, 0, 3);
  bench.add(4, PageOp::erase, PageCause::collection, 0, 0);
  bench.add(5, PageOp::program, PageCause::collection, 0, 4);
  bench.add(6, PageOp::read, PageCause::collection, 0, 5);
  bench.add(7, PageOp::read, PageCause::mapping, 0, 6);
  bench.run();
  // look-up, move in, move out, erase; then the host's read, the merge, the program
  CHECK(bench.done.at[7] == kRead);
  CHECK(bench.done.at[6] == 2 * kRead);
  CHECK(bench.done.at[5] == 2 * kRead + kProgram);
  CHECK(bench.done.at[4] == 2 * kRead + kProgram + kErase);
  CHECK(bench.done.at[2] == 3 * kRead + kProgram + kErase);
  CHECK(bench.done.at[1] == 4 * kRead + kProgram + kErase);
  CHECK(bench.done.at[3] == 4 * kRead + 2 * kProgram + kErase);
}

TEST_CASE("flash engine: an erase that is held keeps the host out of its chip") {
  Bench bench(2);
  const FlashEngine::Handle erase = bench.add(1, PageOp::erase, PageCause::collection, 0, 0, true);
  bench.add(2, PageOp::read, PageCause::host, 0, 1);
  bench.add(3, PageOp::read, PageCause::host, 0, 1, false, 1);  // the other chip works
  bench.run();
  CHECK(bench.done.at.count(1) == 0);
  CHECK(bench.done.at.count(2) == 0);
  CHECK(bench.done.at[3] == kRead);
  bench.engine.release(erase);
  bench.run(SimTime{20us});
  CHECK(bench.done.at[1] == 20us + kErase);
  CHECK(bench.done.at[2] == 20us + kErase + kRead);
}

TEST_CASE("flash engine: a program that is held lets those behind it pass") {
  Bench bench;
  const FlashEngine::Handle held = bench.add(1, PageOp::program, PageCause::host, 0, 3, true);
  bench.add(2, PageOp::program, PageCause::host, 0, 4);
  // Partners have the page of the front, which is held: this one may not join the command of 4.
  bench.add(3, PageOp::program, PageCause::host, 1, 4);
  bench.run();
  CHECK(bench.done.at[2] == kProgram);
  CHECK(bench.done.at[3] == 2 * kProgram);
  CHECK(bench.done.at.count(1) == 0);
  bench.engine.release(held);
  bench.run(SimTime{20us});
  CHECK(bench.done.at[1] == 20us + kProgram);
}

TEST_CASE("flash engine: the host's pages join a collection's command in another plane") {
  Bench bench;
  bench.add(1, PageOp::read, PageCause::collection, 0, 5);
  bench.add(2, PageOp::read, PageCause::host, 1, 4);
  bench.add(3, PageOp::read, PageCause::host, 1, 5);
  bench.run();
  CHECK(bench.engine.counters().commands == 2);
  // Both planes in one command; their pages leave one after the other.
  CHECK(bench.done.at[1] == kRead + 10ns);
  CHECK(bench.done.at[3] == kRead + 10ns + 500ns);
  CHECK(bench.done.at[2] == kRead + 10ns + 500ns + kRead);
}

TEST_CASE("flash engine: pages of collections leave last") {
  Bench bench(4);
  // Commands one after another at 0, 100, 200 ns; the long program's data hold the bus while all
  // three pages become ready.
  bench.add(1, PageOp::read, PageCause::collection, 0, 0, false, 0);
  bench.add(2, PageOp::read, PageCause::host, 0, 0, false, 1);
  bench.add(3, PageOp::read, PageCause::mapping, 0, 0, false, 2);
  PageCommand program;
  program.tag = 4;
  program.op = PageOp::program;
  program.chip = 3;
  program.bytes = 5000;
  bench.engine.add(program);
  bench.run();
  const SimDuration bus_free = 3 * 100ns + 200ns + 5000ns;
  CHECK(bench.done.at[3] == bus_free + 500ns);
  CHECK(bench.done.at[2] == bus_free + 1000ns);
  CHECK(bench.done.at[1] == bus_free + 1500ns);
}

TEST_CASE("flash engine: events of one time by channel, or by age") {
  // A program on channel 1 began before a read on channel 0, and both end at 5.7 us.
  for (const bool by_age : {false, true}) {
    FlashConfig config = small_flash(1);
    config.channels = 2;
    FlashEngine engine(config, Rng(1, "test"));
    if (by_age) {
      engine.order_ties_by_age();
    }
    struct Order final : PageSink {
      std::vector<std::uint64_t> tags;
      void page_done(std::uint64_t tag, SimTime) override { tags.push_back(tag); }
    } order;
    PageCommand program;
    program.tag = 1;
    program.op = PageOp::program;
    program.channel = 1;
    program.bytes = 500;
    engine.add(program);
    engine.start(SimTime{});
    PageCommand read;
    read.tag = 2;
    read.bytes = 500;
    const SimTime later{kProgram - kRead};
    engine.process(later, order);
    engine.add(read);
    engine.start(later);
    engine.process(SimTime{10us}, order);
    CHECK(order.tags ==
          (by_age ? std::vector<std::uint64_t>{1, 2} : std::vector<std::uint64_t>{2, 1}));
  }
}

TEST_CASE("flash engine: of many events of one time the oldest is first") {
  // Reads on four channels whose data come out until the same picosecond: the more, the earlier.
  std::array<std::uint32_t, 4> bytes{100, 200, 300, 400};
  do {
    FlashConfig config = small_flash(1);
    config.channels = 4;
    FlashEngine engine(config, Rng(1, "test"));
    engine.order_ties_by_age();
    struct Order final : PageSink {
      std::vector<std::uint64_t> bytes;
      std::vector<SimTime> times;
      void page_done(std::uint64_t tag, SimTime at) override {
        bytes.push_back(tag);
        times.push_back(at);
      }
    } order;
    for (std::uint32_t most = 400; most > 0; most -= 100) {
      const SimTime start{std::chrono::nanoseconds(1000 - most)};
      engine.process(start - SimDuration{1}, order);
      PageCommand read;
      read.tag = most;
      read.channel =
          static_cast<std::uint16_t>(std::find(bytes.begin(), bytes.end(), most) - bytes.begin());
      read.bytes = most;
      engine.add(read);
      engine.start(start);
    }
    engine.process(SimTime{1ms}, order);
    CHECK(order.bytes == std::vector<std::uint64_t>{400, 300, 200, 100});
    CHECK(order.times.front() == order.times.back());
  } while (std::next_permutation(bytes.begin(), bytes.end()));
}
