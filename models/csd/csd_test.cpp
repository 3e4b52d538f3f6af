#include "models/csd/csd.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "models/csd/test_csd.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;
using namespace nearkv::test_csd;
using namespace std::chrono_literals;

// -- Closed forms -----------------------------------------------------------------------------

TEST_CASE("csd: one dense head is the sum of its stages") {
  Drive drive(round_config());
  const SimTime done = drive.attend(at(7ns), batch_of(1, {dense_head(4, 30'000)}));
  // 4 K pages on units 0 to 3 and 4 V pages on units 8 to 11: eight arrays, one bus.
  const SimDuration reads = kPage + 7 * kSlot;
  MESSAGE(
      "doorbell 0.5 + fetch 0.1 + attend_cost 2 + reads (44 + 7 x 4) + compute 30,000 FLOP at "
      "1 GFLOP/s 30 + softmax 10 + completion_cost 0.6 + completion 0.9 = 116.1 us; got ",
      ps(done) - 7'000, " ps");
  CHECK(done == at(7ns + 500ns + 100ns + 2us + reads + 30us + 10us + 600ns + 900ns));
  CHECK(done == at(7ns + 116'100ns));

  const Csd::Work work = drive.csd.work();
  CHECK(work.flash.pages_read == 8);
  CHECK(work.attends == 1);
  CHECK(work.reading == reads);
  CHECK(work.computing == 40us);
  CHECK(work.firmware == 2'600ns);
  CHECK(drive.csd.bytes_read() == 32_KiB);
  CHECK(drive.csd.channel_time() == 8 * kSlot);
}

TEST_CASE("csd: with one staging buffer reading and computing alternate") {
  for (const int blocks : {1, 2, 3, 10}) {
    const SimDuration reads = kPage + 7 * kSlot;
    const SimDuration computing = 30us + 10us;
    const SimDuration expected = 2'600ns + blocks * (reads + computing) + 1'500ns;
    const SimDuration time = attend_time(round_config(), batch_of(blocks, {dense_head(4, 30'000)}));
    MESSAGE(blocks, " blocks: 2.6 us + ", blocks, " x (72 + 40) us + 1.5 us = ", expected.count(),
            " ps; got ", time.count());
    CHECK(time == expected);
  }
}

TEST_CASE("csd: with two staging buffers they overlap, and the longer one counts") {
  CsdConfig config = round_config();
  config.engine.feed.staging_buffers = 2;
  const SimDuration reads = kPage + 7 * kSlot;  // 72 us
  for (const int blocks : {1, 2, 3, 10}) {
    // Reading is longer: the last block's computing follows all the reading.
    CHECK(attend_time(config, batch_of(blocks, {dense_head(4, 30'000)})) ==
          2'600ns + blocks * reads + 40us + 1'500ns);
    // Computing is longer, by more than a softmax, whose end frees the buffer.
    CHECK(attend_time(config, batch_of(blocks, {dense_head(4, 90'000)})) ==
          2'600ns + reads + blocks * SimDuration{90us} + 10us + 1'500ns);
  }
  // Three buffers are no faster: one stage is busy all the time.
  config.engine.feed.staging_buffers = 3;
  CHECK(attend_time(config, batch_of(10, {dense_head(4, 30'000)})) ==
        2'600ns + 10 * reads + 40us + 1'500ns);
}

TEST_CASE("csd: the kernels share the heads of a block, the softmax is pipelined") {
  CsdConfig config = round_config();
  config.engine.feed.heads_per_block = 8;
  config.layout.stream_skew = 2;
  for (const int kernels : {1, 2, 3, 8}) {
    config.engine.attention_kernels = kernels;
    // 8 heads of 2 pages on units 0 to 31: with a skew of 2 every second unit.
    const SimDuration time = attend_time(config, batch_of(8, {dense_head(1, 30'000)}));
    const SimDuration reads = kPage + 15 * kSlot;
    CHECK(time == 600ns + 8 * SimDuration{2us} + reads + ceil_div(8, kernels) * SimDuration{30us} +
                      10us + 8 * SimDuration{600ns} + 900ns);
  }
}

TEST_CASE("csd: firmware cores share commands and completions") {
  // No pages, no work, one block: only the firmware is left.
  CsdConfig config = round_config();
  config.engine.feed.heads_per_block = 64;
  config.engine.softmax_latency = 0_ps;
  for (const int cores : {1, 2, 3, 4, 64}) {
    config.controller.cores = cores;
    config.nvme.command_fetch = 0_ps;
    const std::int64_t turns = ceil_div(30, cores);
    const SimDuration time = attend_time(config, batch_of(30, {HeadReads{}}));
    MESSAGE("30 commands on ", cores, " cores: doorbell 0.5 us + ", turns,
            " x (2 + 0.6) us + "
            "completion 0.9 us = ",
            (1'400ns + turns * SimDuration{2'600ns}).count(), " ps; got ", time.count());
    CHECK(time == 1'400ns + turns * SimDuration{2'600ns});
    // A slow fetch: the last command comes after 30 x 3 us and waits for nobody.
    config.nvme.command_fetch = 3us;
    CHECK(attend_time(config, batch_of(30, {HeadReads{}})) ==
          500ns + 30 * SimDuration{3us} + 2us + turns * SimDuration{600ns} + 900ns);
  }
}

TEST_CASE("csd: completions do not wait for commands that are fetched later") {
  // Blocks of one head without pages: each is complete long before the next command is there, so
  // that the core is idle when it comes.
  CsdConfig config = round_config();
  config.nvme.command_fetch = 20us;
  config.controller.completion_cost = 5us;
  const SimDuration time = attend_time(config, batch_of(10, {HeadReads{}}));
  MESSAGE(
      "doorbell 0.5 + 10 x fetch 20 + attend_cost 2 + softmax 10 + completion_cost 5 + "
      "completion 0.9 = 218.4 us; got ",
      time.count(), " ps");
  CHECK(time == 218'400ns);
}

TEST_CASE("csd: the cores serve commands and completions in the order in which these come") {
  // Blocks of one head without pages; each is in the softmax alone. An oracle that goes from
  // arrival to arrival at the cores; a command comes before a completion of the same picosecond.
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/cores");
    CsdConfig config = round_config();
    config.nvme.command_fetch = below(rng, 12);
    config.controller.cores = 1 + pick(rng, 3);
    config.engine.attend_cost = below(rng, 30);
    config.controller.completion_cost = below(rng, 10);
    config.engine.softmax_latency = below(rng, 40);
    const int pairs = 1 + pick(rng, 30);

    struct Arrival {
      SimTime at;
      bool is_completion;
      int pair;
      auto operator<=>(const Arrival&) const = default;
    };
    std::set<Arrival> arrivals;
    for (int pair = 0; pair < pairs; ++pair) {
      arrivals.insert({at(500ns + (pair + 1) * config.nvme.command_fetch), false, pair});
    }
    std::vector<SimTime> free_at(static_cast<std::size_t>(config.controller.cores));
    SimTime computed{};
    SimTime posted{};
    while (!arrivals.empty()) {
      const Arrival next = *arrivals.begin();
      arrivals.erase(arrivals.begin());
      SimTime& core = *std::min_element(free_at.begin(), free_at.end());
      core = std::max(core, next.at) +
             (next.is_completion ? config.controller.completion_cost : config.engine.attend_cost);
      if (next.is_completion) {
        posted = std::max(posted, core);
      } else {
        computed = std::max(computed, core) + config.engine.softmax_latency;
        arrivals.insert({computed, true, next.pair});
      }
    }
    const SimDuration time = attend_time(config, batch_of(pairs, {HeadReads{}}));
    REQUIRE(at(time) == posted + config.nvme.completion);
  }
}

TEST_CASE("csd: SparF of one head is two reads with a selection before each") {
  CsdConfig config = round_config();
  HeadReads reads;
  reads.channel_pages = ascending(6);  // units 16 to 21
  reads.key_pages = {0, 2, 5};         // units 0, 2, 5 and for V 8, 10, 13
  reads.value_pages = reads.key_pages;
  reads.query_elements = 128;
  reads.score_elements = 1000;
  reads.estimate_flops = Flops{5'000};
  reads.attention_flops = Flops{7'000};
  struct Case {
    Rate filter_rate;
    SimDuration first;   // pages through the filter
    SimDuration second;  // likewise
  };
  const SimDuration last_first = kPage + 5 * kSlot;
  for (const auto& [filter_rate, first, second] :
       {// 2 us a page, the bus brings one each 4 us: only the last page's filter time shows.
        Case{Rate{2'048'000'000}, last_first + 2us, last_first + 2us},
        // 8 us a page: the pages queue for the filter.
        Case{Rate{512'000'000}, kPage + 6 * SimDuration{8us}, kPage + 6 * SimDuration{8us}}}) {
    config.engine.filter_rate = filter_rate;
    Drive drive(config);
    const SimTime done = drive.attend(at(0ns), batch_of(1, {reads}));
    const SimDuration expected =
        2'600ns + 128ns + first + 5us + 10us + 1us + second + 7us + 10us + 1'500ns;
    MESSAGE("commands 2.6 us + argtopk 0.128 + first read ", first.count(),
            " ps + scores 5 us + softmax 10 + argtopk 1 + second read ", second.count(),
            " ps + attention 7 us + softmax 10 + completion 1.5 = ", expected.count(), " ps; got ",
            ps(done));
    CHECK(done == at(expected));
    CHECK(drive.csd.work().flash.pages_read == 12);
    CHECK(drive.csd.work().reading == 128ns + first + 16us + second);
    CHECK(drive.csd.work().computing == 17us);
    CHECK(drive.csd.work().gemv_busy == 2 * (5us + 7us));  // two units
    CHECK(drive.csd.work().estimating == 2 * 5us);
  }
}

TEST_CASE("csd: SparF's events come in their order, at their times") {
  // Two heads a block: the argtopk unit, the kernel and the flash serve them one after another.
  CsdConfig config = round_config();
  config.engine.feed.heads_per_block = 2;
  config.layout.stream_skew = 5;  // all pages on units of their own
  HeadReads reads;
  reads.channel_pages = {0};
  reads.key_pages = {0};
  reads.value_pages = {0};
  reads.query_elements = 1000;  // 1 us
  reads.score_elements = 2000;  // 2 us
  reads.estimate_flops = Flops{5'000};
  reads.attention_flops = Flops{7'000};
  Drive drive(config);
  Completion done;
  drive.csd.submit_attend(at(0ns), batch_of(2, {reads}), done);
  std::vector<SimDuration> events;
  while (!done.done()) {
    const SimTime next = drive.csd.next_event();
    if (events.empty() || events.back() != next.time_since_epoch()) {
      events.push_back(next.time_since_epoch());
    }
    drive.run_to(next);
  }
  const std::vector<SimDuration> expected{
      700ns,      // both commands are there: doorbell 0.5, fetch 2 x 0.1
      4'600ns,    // and ready: the core had the first at 0.6, attend_cost 2 x 2
      5'600ns,    // head 0: argtopk 1
      6'600ns,    // head 1: argtopk 1
      51'600ns,   // head 0: page 44 from 5.6 on, filter 2
      55'600ns,   // head 1: the bus had head 0's page until 50.6; transfer 3, filter 2
      68'600ns,   // head 0: kernel 5, softmax 10, argtopk 2
      73'600ns,   // head 1: kernel from 56.6 to 61.6, softmax 10, argtopk 2
      126'600ns,  // head 0's pages take the bus from 109.6 to 117.6, head 1's to 125.6; filter 2
      150'600ns,  // kernel 2 x 7, softmax 10
      152'700ns,  // completion_cost 2 x 0.6, completion 0.9
  };
  CHECK(events == expected);
}

TEST_CASE("csd: a page that waits for its unit does not hold up the filter of its channel") {
  CsdConfig config = round_config();
  config.engine.feed.heads_per_block = 2;
  config.engine.softmax_latency = 100us;
  HeadReads reads;
  reads.channel_pages = {0};
  reads.query_elements = 1;
  reads.score_elements = 1;
  reads.estimate_flops = Flops{50'000};
  for (const Rate filter_rate : {Rate{2'048'000'000}, Rate{512'000'000}}) {  // 2 us and 8 us a page
    config.engine.filter_rate = filter_rate;
    Drive drive(config);
    // A background program on the unit of head 0's page, until 204 us.
    drive.csd.submit_store(at(0ns), {0, 1, {{KvStream::key_channels, 0, 1}}}, nullptr);
    const SimTime done = drive.attend(at(0ns), batch_of(2, {reads}));
    // Head 1 has its scores when head 0's page comes: the kernel is free for head 0.
    const SimDuration filter = time_for(4_KiB, filter_rate);
    CHECK(done == at(204us + kPage + filter + 50us + 100us + 1ns + 100us + 1'200ns + 900ns));
  }
}

TEST_CASE("csd: a store is the bus time of its pages and one program") {
  Drive drive(round_config());
  CHECK(drive.store(at(3ns), {0, 1, {{KvStream::key_tokens, 0, 1}}}) == at(3ns + kSlot + 200us));
  // K and V of one head, 8 pages each, on 16 units.
  const PageBatch store{0, 1, {{KvStream::key_tokens, 0, 8}, {KvStream::value_tokens, 0, 8}}};
  CHECK(store.pages() == 16);
  CHECK(drive.store(at(1ms), store) == at(1ms + 16 * kSlot + 200us));
  CHECK(drive.csd.work().flash.pages_programmed == 17);
  CHECK(drive.csd.work().storing == 204us + 264us);
  CHECK(drive.csd.bytes_programmed() == 68_KiB);
  // The pages before `first` and those of other pairs lie elsewhere.
  CHECK(drive.store(at(2ms), {5, 2, {{KvStream::key_channels, 7, 9}}}) ==
        at(2ms + 4 * kSlot + 200us));
  // Nothing to store is done at once.
  CHECK(drive.store(at(3ms), {0, 0, {{KvStream::key_tokens, 0, 8}}}) == at(3ms));
}

TEST_CASE("csd: a batch behind another starts when that is done") {
  const auto first = batch_of(3, {dense_head(4, 30'000)});
  const auto second = batch_of(5, {dense_head(2, 10'000)});
  for (const bool reuse : {false, true}) {
    Drive drive(round_config(), reuse);
    std::array<Completion, 4> done;
    drive.csd.submit_attend(at(0ns), first, done[0]);
    drive.run_to(at(50us));
    drive.csd.submit_attend(at(50us), second, done[1]);
    drive.csd.submit_attend(at(50us), first, done[2]);
    drive.run_to(at(60us));
    drive.csd.submit_attend(at(60us), second, done[3]);
    drive.run_to(kForever);
    const SimDuration a = attend_time(round_config(), first);
    const SimDuration b = attend_time(round_config(), second);
    CHECK(done[0].at() == at(a));
    CHECK(done[1].at() == at(a + b));
    CHECK(done[2].at() == at(a + b + a));
    CHECK(done[3].at() == at(a + b + a + b));
    CHECK(drive.csd.work().reused_batches == (reuse ? 2 : 0));
  }
}

// -- Regimes ----------------------------------------------------------------------------------

namespace {

/// The drive of configs/platforms/csds/instinfer_emulated.json.
CsdConfig shipped_config() {
  CsdConfig config;
  read_fields(load_config(shipped_configs() / "platforms" / "csds" / "instinfer_emulated.json"),
              [&](FieldVisitor& v) { config.fields(v); });
  return config;
}

std::shared_ptr<const AttendBatch> dense_batch(int pairs, int context) {
  const kernels::PageGeometry geometry(
      {.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
  return batch_of(pairs, {dense_reads(geometry, {128, 1}, context)});
}

/// Page sets of SparF's shape: half of the channel groups, half of the token groups.
std::shared_ptr<const AttendBatch> sparse_batch(Rng& rng, int pairs) {
  std::vector<HeadReads> patterns(32);
  for (HeadReads& reads : patterns) {
    for (int page = 0; page < 96; ++page) {
      if (rng.below(2) == 0) {
        reads.channel_pages.push_back(page);
      }
      if (rng.below(2) == 0) {
        reads.key_pages.push_back(page);
      }
    }
    reads.value_pages = reads.key_pages;
    reads.query_elements = 128;
    reads.score_elements = 1536;
    reads.estimate_flops = Flops{2 * 1536 * 16};
    reads.attention_flops = Flops{4 * 96 * 128};
  }
  return batch_of(pairs, patterns);
}

}  // namespace

TEST_CASE("csd: a batch of many pages reads at the rate of the channels") {
  const CsdConfig config = shipped_config();
  const FlashConfig& flash = config.flash;
  const double slot = to_seconds(flash.read_command.bus + flash.recurrence().transfer);
  const double limit = flash.channels * static_cast<double>(flash.page_size.count()) / slot;
  Rng rng(1, "models/csd/csd_test/regimes");
  for (const auto& [name, batch] :
       {std::pair{"dense", dense_batch(2560, 1536)}, {"SparF", sparse_batch(rng, 2560)}}) {
    Drive drive(config);
    const double total = to_seconds(drive.attend(at(0ns), batch));
    const double reading = to_seconds(drive.csd.work().reading);
    const auto bytes = static_cast<double>(drive.csd.bytes_read().count());
    MESSAGE(
        fmt::format("{}: 8 channels x 4 KiB / (t_command + transfer) = {:.2f} GB/s; {:.2f} "
                    "while reading, {:.2f} over the whole batch",
                    name, limit / 1e9, bytes / reading / 1e9, bytes / total / 1e9));
    CHECK(bytes / reading < limit);
    CHECK(bytes / reading > 0.9 * limit);
    CHECK(drive.csd.channel_time() <= SimDuration{drive.csd.work().reading} * flash.channels);
  }
}

TEST_CASE("csd: a batch of many heads and few pages runs at the rate of the firmware") {
  CsdConfig config = shipped_config();
  config.engine.softmax_latency = 0_ps;
  config.engine.feed.staging_buffers = 4;
  constexpr int kHeads = 20'000;
  const auto batch = batch_of(kHeads, {dense_head(1, 1000)});
  for (const int cores : {1, 2, 4}) {
    config.controller.cores = cores;
    config.engine.attend_cost = 20us;
    const double firmware =
        to_seconds(config.engine.attend_cost + config.controller.completion_cost) * kHeads / cores;
    Drive drive(config);
    const double total = to_seconds(drive.attend(at(0ns), batch));
    MESSAGE(fmt::format("20,000 heads x 20.5 us / {} cores = {:.2f} ms; {:.2f} ms", cores,
                        firmware * 1e3, total * 1e3));
    CHECK(total >= firmware);
    CHECK(total == doctest::Approx(firmware).epsilon(0.01));
    CHECK(drive.csd.work().firmware ==
          kHeads * (config.engine.attend_cost + config.controller.completion_cost));
  }
}

TEST_CASE("csd: more channels, units, kernels, buffers, cores are never slower on dense batches") {
  for (const int pairs : {1, 7, 64, 200}) {
    for (const int context : {40, 513, 2048}) {
      CAPTURE(pairs);
      CAPTURE(context);
      const auto batch = dense_batch(pairs, context);
      const auto falls = [&](auto&& set, const std::vector<int>& values) {
        SimDuration last = SimDuration::max();
        for (const int value : values) {
          CAPTURE(value);
          CsdConfig config = shipped_config();
          config.engine.feed.heads_per_block = 16;
          set(config, value);
          const SimDuration time = attend_time(config, batch);
          CHECK(time <= last);
          last = time;
        }
      };
      falls([](CsdConfig& c, int n) { c.flash.channels = n; }, {1, 2, 4, 8, 16});
      falls([](CsdConfig& c, int n) { c.flash.chips_per_channel = n; }, {1, 2, 4, 8, 16});
      falls([](CsdConfig& c, int n) { c.engine.attention_kernels = n; }, {1, 2, 3, 4, 8});
      falls([](CsdConfig& c, int n) { c.engine.gemv_units_per_kernel = n; }, {1, 2, 3, 4, 8});
      falls([](CsdConfig& c, int n) { c.engine.feed.staging_buffers = n; }, {1, 2, 3});
      falls([](CsdConfig& c, int n) { c.controller.cores = n; }, {1, 2, 3, 4});
      falls([](CsdConfig& c, int n) { c.flash.mega_transfers = n * 100; }, {5, 10, 14, 20, 40});
      falls([](CsdConfig& c, int n) { c.flash.t_read.lsb = SimDuration{n * 1us}; },
            {80, 50, 36, 3});
      falls([](CsdConfig& c, int n) { c.flash.read_command.bus = SimDuration{n * 1ns}; },
            {2000, 950, 300, 0});
      falls([](CsdConfig& c, int n) { c.engine.softmax_latency = SimDuration{n * 1us}; },
            {300, 164, 1, 0});
    }
  }
}

// -- Reuse ------------------------------------------------------------------------------------

namespace {

void make_event_driven(Rng& rng, CsdConfig& config) {
  FlashConfig& flash = config.flash;
  flash.policy = rng.below(2) == 0 ? FlashPolicy::data_out_first : FlashPolicy::out_of_order;
  flash.array_unit = rng.below(2) == 0 ? ArrayUnit::die : ArrayUnit::plane;
  flash.cache_read = rng.below(3) == 0;
  flash.read_priority = rng.below(2) == 0;
  flash.multi_plane = rng.below(3) == 0 && (flash.array_unit == ArrayUnit::die ||
                                            flash.policy == FlashPolicy::data_out_first);
  flash.suspend.program = flash.read_priority && rng.below(2) == 0;
  flash.suspend.at_most = 2;
}

/// Few picoseconds a stage, so that many events fall together, or the scale of real drives.
CsdConfig random_config(Rng& rng) {
  const std::int64_t scale = rng.below(2) == 0 ? 6 : 1'000'000;
  const auto often_zero = [&](std::int64_t n) {
    return rng.below(3) == 0 ? 0_ps : below(rng, n * scale);
  };
  CsdConfig config = round_config();
  config.flash.channels = 1 + pick(rng, 4);
  config.flash.chips_per_channel = 1 + pick(rng, 3);
  config.flash.planes_per_die = 1 + pick(rng, 3);
  config.flash.page_size = 512_B;
  config.flash.spare_size = 0_B;
  const std::int64_t page_time = 1 + below(rng, 4 * scale).count();  // ps
  config.flash.mega_transfers = static_cast<int>(512'000'000 / page_time);
  config.flash.policy = rng.below(3) == 0 ? FlashPolicy::fifo : FlashPolicy::first_gap;
  config.flash.cache_read = rng.below(3) == 0;
  config.flash.read_command.bus = often_zero(2);
  config.flash.program_command.bus = config.flash.read_command.bus;
  config.flash.t_read.lsb = 1_ps + below(rng, 15 * scale);
  config.flash.t_program.lsb = 1_ps + below(rng, 60 * scale);
  if (rng.below(2) == 0) {
    make_event_driven(rng, config);
  }
  config.layout.stream_skew = pick(rng, 20);
  config.nvme.doorbell = often_zero(3);
  config.nvme.command_fetch = often_zero(2);
  config.nvme.completion = often_zero(3);
  config.controller.cores = 1 + pick(rng, 3);
  config.engine.attend_cost = often_zero(4);
  config.controller.completion_cost = often_zero(3);
  config.controller.command_cost = often_zero(3);
  config.engine.feed.heads_per_block = 1 + pick(rng, 5);
  config.engine.feed.staging_buffers = 1 + pick(rng, 3);
  if (config.flash.is_event_driven() && rng.below(2) == 0) {
    config.engine.feed.kind = FeedKind::pages;
    config.engine.feed.key_buffers = 1 + pick(rng, 6);
    config.engine.feed.value_buffers = 1 + pick(rng, 6);
    config.engine.feed.heads_in_flight = 1 + pick(rng, 4);
  }
  config.engine.attention_kernels = 1 + pick(rng, 3);
  config.engine.gemv_rate = FlopRate{1'000'000'000'000 / scale};
  config.engine.softmax_latency = often_zero(20);
  config.engine.filter_rate = Rate{512'000'000'000'000 / (1 + below(rng, 6 * scale).count())};
  config.engine.argtopk_rate = 1'000'000'000'000 / scale;
  return config;
}

std::vector<int> some_pages(Rng& rng) {
  std::vector<int> pages;
  const std::uint64_t share = 1 + rng.below(4);
  const int limit = pick(rng, 30);
  for (int page = 0; page < limit; ++page) {
    if (rng.below(4) < share) {
      pages.push_back(page);
    }
  }
  return pages;
}

/// Dense heads, SparF heads and heads without pages, also mixed in one batch.
std::shared_ptr<const AttendBatch> random_batch(Rng& rng) {
  std::vector<HeadReads> patterns(1 + rng.below(4));
  const std::uint64_t kind = rng.below(3);
  for (HeadReads& reads : patterns) {
    reads.key_pages = some_pages(rng);
    reads.value_pages = reads.key_pages;
    reads.attention_flops = Flops{pick(rng, 20)};
    if (kind == 0 || (kind == 1 && rng.below(2) == 0)) {
      reads.channel_pages = some_pages(rng);
      reads.query_elements = pick(rng, 4);
      reads.score_elements = 1 + pick(rng, 6);
      reads.estimate_flops = Flops{pick(rng, 10)};
    }
  }
  return in_segments(rng, 1 + pick(rng, 12), patterns);
}

/// The same but for one thing.
PageBatch similar_store(Rng& rng, PageBatch store) {
  switch (rng.below(4)) {
    case 0:
      ++store.first_pair;
      break;
    case 1:
      ++store.pairs;
      break;
    case 2:
      ++store.spans[rng.below(store.spans.size())].last;
      break;
    default:
      std::swap(store.spans[0].stream, store.spans[1].stream);
  }
  return store;
}

PageBatch random_store(Rng& rng) {
  PageBatch store{.first_pair = pick(rng, 6), .pairs = 1 + pick(rng, 4), .spans = {}};
  for (const KvStream stream :
       {KvStream::key_tokens, KvStream::value_tokens, KvStream::key_channels}) {
    const int first = pick(rng, 20);
    store.spans.push_back({stream, first, first + pick(rng, 4)});
  }
  return store;
}

constexpr int kPairsARead = 2;

struct Operation {
  SimTime at;
  std::shared_ptr<const AttendBatch> attend;  // or else a store or a read
  PageBatch pages;
  bool background = false;  // of a store
  bool is_read = false;
  bool waits = false;  // a store: for the batch at work
};

void submit(Csd& csd, const Operation& operation, Completion& done) {
  if (operation.attend) {
    csd.submit_attend(operation.at, operation.attend, done);
  } else if (operation.is_read) {
    csd.submit_read(operation.at, {operation.pages, kPairsARead}, done);
  } else {
    Completion* const finished = operation.background ? nullptr : &done;
    if (operation.waits) {
      csd.submit_background_store(operation.at, operation.pages, finished);
    } else {
      csd.submit_store(operation.at, operation.pages, finished);
    }
  }
}

/// What one can see of a run: when each operation was done, and the work counted when all was
/// quiet.
struct Trace {
  std::vector<std::int64_t> done_at;
  std::vector<std::int64_t> work;
  std::int64_t reused = 0;

  bool operator==(const Trace& o) const { return done_at == o.done_at && work == o.work; }
};

void append_work(Trace& trace, const Csd& csd) {
  const Csd::Work work = csd.work();
  trace.work.insert(
      trace.work.end(),
      {work.flash.pages_read, work.flash.pages_programmed, work.attends, work.reads,
       work.reading.count(), work.computing.count(), work.firmware.count(), work.storing.count(),
       work.attending.count(), work.gemv_busy.count(), work.estimating.count(),
       work.flash.bus_busy.count(), work.flash.bus_stalled.count()});
}

/// Who comes first when an operation is submitted at the picosecond of one of the drive's events.
enum class Ties { drive_first, operation_first };

/// Runs the operations; each is submitted when a timer rings.
Trace run(const CsdConfig& config, const std::vector<Operation>& operations, bool reuse, Ties ties,
          const char* name = "csd/0", const std::shared_ptr<Csd::Memory>& memory = nullptr) {
  EventLoop loop;
  std::optional<TimerQueue> timers;
  if (ties == Ties::operation_first) {
    timers.emplace(loop);
  }
  Csd csd(loop, config, name, {.reuse = reuse, .seed = 1, .memory = memory});
  if (!timers) {
    timers.emplace(loop);
  }
  std::deque<Completion> rings(operations.size());
  std::deque<Completion> done(operations.size());
  for (std::size_t i = 0; i < operations.size(); ++i) {
    timers->finish_at(operations[i].at, rings[i]);
  }
  Trace trace;
  for (std::size_t i = 0; i < operations.size();) {
    loop.run(kForever);
    static_cast<void>(loop.take_finished());
    for (; i < operations.size() && rings[i].done(); ++i) {
      const Operation& operation = operations[i];
      if (csd.next_event() == kNever) {
        append_work(trace, csd);
      }
      submit(csd, operation, done[i]);
    }
  }
  while (loop.run(kForever)) {
    static_cast<void>(loop.take_finished());
  }
  append_work(trace, csd);
  for (std::size_t i = 0; i < operations.size(); ++i) {
    trace.done_at.push_back(done[i].done() ? ps(done[i].at()) : -1);
  }
  trace.reused = csd.work().reused_batches;
  return trace;
}

/// Times of all events of a drive on which an operation may be made to fall.
std::vector<SimTime> event_times(const CsdConfig& config,
                                 const std::shared_ptr<const AttendBatch>& batch) {
  Drive drive(config);
  Completion done;
  drive.csd.submit_attend(at(0ns), batch, done);
  std::vector<SimTime> times{at(0ns)};
  while (drive.csd.next_event() != kNever) {
    times.push_back(drive.csd.next_event());
    drive.run_to(times.back());
  }
  return times;
}

/// A sequence that repeats itself, so that there is something to reuse, and disturbs itself at
/// random picoseconds and at those of the drive's own events.
std::vector<Operation> random_operations(Rng& rng, const CsdConfig& config, bool with_stores) {
  const std::array batches{random_batch(rng), random_batch(rng)};
  const PageBatch store = random_store(rng);
  const std::array stores{store, similar_store(rng, store)};
  PageBatch read = random_store(rng);
  ++read.spans.front().last;
  const std::array times{event_times(config, batches[0]), event_times(config, batches[1])};
  const std::int64_t longest =
      2 + std::max(ps(times[0].back()), ps(times[1].back())) + config.flash.t_program.lsb.count();
  std::vector<Operation> operations;
  SimTime now{};
  for (int round = 0; round < 6; ++round) {
    const std::uint64_t which = rng.below(2);
    operations.push_back({now, batches[which], {}});
    const int more = pick(rng, 4);
    SimTime next = now;
    for (int i = 0; i < more; ++i) {
      // On an event of the first batch of this round, at a random time, or at the same time again.
      const std::uint64_t dice = rng.below(3);
      if (dice == 0) {
        next =
            std::max(next, now + times[which][rng.below(times[which].size())].time_since_epoch());
      } else if (dice == 1) {
        next += below(rng, longest);
      }
      if (!with_stores && rng.below(4) == 0) {
        operations.push_back({next, nullptr, read, false, true});
      } else if (!with_stores || rng.below(3) == 0) {
        operations.push_back({next, batches[rng.below(2)], {}});
      } else if (rng.below(3) == 0) {
        operations.push_back({next, nullptr, read, false, true});
      } else {
        operations.push_back(
            {next, nullptr, stores[rng.below(2)], rng.below(2) == 0, false, rng.below(3) == 0});
      }
    }
    // The next round begins in the quiet, or in the middle of this one.
    now = next + (rng.below(3) != 0 ? SimDuration{40 * longest} : below(rng, 2 * longest));
  }
  return operations;
}

}  // namespace

TEST_CASE("csd: reuse equals the simulation of every page to the picosecond") {
  std::int64_t reused = 0;
  std::int64_t batches = 0;
  for (std::uint64_t seed = 0; seed < 1500; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/reuse");
    const CsdConfig config = random_config(rng);
    const std::vector<Operation> operations = random_operations(rng, config, false);
    const Trace exact = run(config, operations, false, Ties::drive_first);
    const Trace fast = run(config, operations, true, Ties::drive_first);
    REQUIRE(exact.done_at == fast.done_at);
    REQUIRE(exact.work == fast.work);
    reused += fast.reused;
    batches += static_cast<std::int64_t>(operations.size());
  }
  MESSAGE(reused, " of ", batches, " batches were reused");
  CHECK(reused > batches / 2);
}

TEST_CASE("csd: blocks whose pages differ in the names of units alone are read once") {
  CsdConfig config = round_config();
  config.flash.channels = 2;
  config.flash.chips_per_channel = 4;
  config.layout.stream_skew = 1;
  config.engine.feed.heads_per_block = 4;  // the next block's pages lie 12 slots further on
  for (const int buffers : {1, 2}) {
    config.engine.feed.staging_buffers = buffers;
    Drive exact(config, false);
    Drive fast(config, true);
    const auto batch = batch_of(40, {dense_head(4, 30'000)});
    CHECK(exact.attend(at(0ns), batch) == fast.attend(at(0ns), batch));
    CHECK(fast.csd.work().flash.pages_read == 40 * 2 * 4);
    CHECK(exact.csd.work().reused_blocks == 0);
    // With two buffers the second block finds the last command cycles on a bus, as all later ones.
    CHECK(fast.csd.work().reused_blocks == 10 - buffers);
  }
}

TEST_CASE("csd: reuse that stores disturb at any time equals the simulation of every page") {
  std::int64_t reused = 0;
  std::int64_t batches = 0;
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/disturbed");
    const CsdConfig config = random_config(rng);
    const std::vector<Operation> operations = random_operations(rng, config, true);
    const Trace exact = run(config, operations, false, Ties::drive_first);
    const Trace fast = run(config, operations, true, Ties::drive_first);
    REQUIRE(exact.done_at == fast.done_at);
    REQUIRE(exact.work == fast.work);
    // The same where a submission comes before the drive's events of its picosecond.
    const Trace exact_ties = run(config, operations, false, Ties::operation_first);
    const Trace fast_ties = run(config, operations, true, Ties::operation_first);
    REQUIRE(fast_ties.done_at == exact_ties.done_at);
    reused += fast.reused;
    batches += std::count_if(operations.begin(), operations.end(),
                             [](const Operation& o) { return o.attend != nullptr; });
  }
  MESSAGE(reused, " of ", batches, " batches were reused");
  CHECK(reused > batches / 5);
}

TEST_CASE("csd: equal drives that share what they remember are as fast as alone") {
  std::int64_t alone = 0;
  std::int64_t shared = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/shared");
    const CsdConfig config = random_config(rng);
    const std::vector<Operation> operations = random_operations(rng, config, true);
    const Trace first = run(config, operations, true, Ties::drive_first);
    const std::shared_ptr<Csd::Memory> memory = Csd::make_memory();
    for (const char* name : {"csd/0", "csd/1"}) {
      CAPTURE(name);
      const Trace trace = run(config, operations, true, Ties::drive_first, name, memory);
      REQUIRE(trace == first);
      shared += trace.reused;
      alone += first.reused;
    }
  }
  CHECK(shared > alone);
}

TEST_CASE("csd: stores that are reused equal those that are simulated") {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/stores");
    const CsdConfig config = random_config(rng);
    const PageBatch store = random_store(rng);
    const std::array stores{store, similar_store(rng, store)};
    std::vector<Operation> operations;
    SimTime now{};
    for (int i = 0; i < 30; ++i) {
      now += rng.below(3) == 0 ? 0_ps : below(rng, 40 * config.flash.t_program.lsb.count());
      operations.push_back({now, nullptr, stores[rng.below(2)], rng.below(2) == 0});
    }
    REQUIRE(run(config, operations, true, Ties::drive_first) ==
            run(config, operations, false, Ties::drive_first));
  }
}

TEST_CASE("csd: a batch is reused at any time, from equal states only") {
  const auto batch = dense_batch(100, 512);
  Drive drive(shipped_config(), true);
  const SimDuration first = drive.attend(at(1us), batch) - at(1us);
  CHECK(drive.csd.work().reused_batches == 0);
  const Csd::Work once = drive.csd.work();
  for (int i = 1; i <= 5; ++i) {
    const SimTime start = at(i * 1s + i * 1_ps);
    CHECK(drive.attend(start, batch) == start + first);
    CHECK(drive.csd.work().reused_batches == i);
    CHECK(drive.csd.work().flash.pages_read == (i + 1) * once.flash.pages_read);
    CHECK(drive.csd.work().reading == (i + 1) * once.reading);
  }
  // Another batch, or another state of the flash, is simulated.
  drive.attend(at(10s), dense_batch(100, 528));
  CHECK(drive.csd.work().reused_batches == 5);
  drive.run_to(at(11s));
  drive.csd.submit_store(at(11s), {0, 1, {{KvStream::key_tokens, 0, 1}}}, nullptr);
  CHECK(drive.attend(at(11s), batch) >= at(11s) + first);
  CHECK(drive.csd.work().reused_batches == 5);
  // The same store and batch again: both are reused.
  drive.run_to(at(12s));
  drive.csd.submit_store(at(12s), {0, 1, {{KvStream::key_tokens, 0, 1}}}, nullptr);
  drive.attend(at(12s), batch);
  CHECK(drive.csd.work().reused_batches == 6);
}

TEST_CASE("csd: a reused batch leaves the buses as it found and used them") {
  // Nothing but flash takes time, so that a store at the end of the batch meets the bus in the
  // command cycles behind the last page.
  CsdConfig config = round_config();
  config.nvme.doorbell = config.nvme.command_fetch = config.nvme.completion = 0_ps;
  config.engine.attend_cost = config.controller.completion_cost = 0_ps;
  config.engine.softmax_latency = 0_ps;
  for (const FlashPolicy policy : {FlashPolicy::fifo, FlashPolicy::first_gap}) {
    config.flash.policy = policy;
    for (const bool reuse : {false, true}) {
      Drive drive(config, reuse);
      const auto batch = batch_of(1, {dense_head(4, 0)});
      CHECK(drive.attend(at(0ns), batch) == at(72us));
      CHECK(drive.attend(at(1ms), batch) == at(1ms + 72us));
      CHECK(drive.csd.work().reused_batches == (reuse ? 1 : 0));
      CHECK(drive.store(at(1ms + 72us), {0, 1, {{KvStream::key_channels, 0, 1}}}) ==
            at(1ms + 73us + kSlot + 200us));
    }
  }
}

// -- The FTL at work ----------------------------------------------------------------------------

namespace {

kernels::PageGeometry small_pages() {  // 8 tokens a group, 32 a channel page, 4 channel groups
  return kernels::PageGeometry({.d_head = 32, .page_bytes = 512, .channels_per_group = 8});
}

/// A drive on which pages are redirected and blocks erased: some blocks are bad, few are free.
CsdConfig crowded_config(Rng& rng) {
  CsdConfig config = random_config(rng);
  config.layout.channels_per_group = 8;
  config.flash.chips_per_channel = 1;
  config.flash.planes_per_die = 1 + pick(rng, 2);
  config.flash.blocks_per_plane = 2 + pick(rng, 12);
  config.flash.pages_per_block = 8;
  config.flash.t_erase = 1_ps + below(rng, 200);
  config.kv_ftl.plane_order = rng.below(kPlaneOrders.size());
  config.kv_ftl.sharing =
      rng.below(3) == 0 ? KvBlockSharing::shared_blocks : KvBlockSharing::own_blocks;
  config.kv_ftl.reclaim_below = 0.6;
  config.kv_ftl.reclaim_until = 0.9;
  config.kv_ftl.bad_blocks.factory_share = rng.below(2) == 0 ? 0.3 : 0;
  return config;
}

struct CrowdedRun {
  std::vector<std::int64_t> trace;
  std::int64_t reused = 0;
  std::int64_t redirected = 0;
  std::int64_t erased = 0;
  bool overflowed = false;
};

/// Tasks come and go; each is stored layer by layer and attended to, with decode steps that flush.
CrowdedRun run_tasks(const CsdConfig& config, std::uint64_t seed, bool reuse) {
  Rng rng(seed, "models/csd/csd_test/tasks");
  Drive drive(config, reuse);
  CrowdedRun run;
  SimTime now{};
  struct Open {
    KvFtl::TaskId task = KvLayer::kNoTask;
    int layers = 0;
    int pairs = 0;
  };
  Open previous;  // of the round before, attended to as a second segment; or none
  const auto finish = [&](KvFtl::TaskId task) {
    drive.csd.finish_task(task, now);
    now += rng.below(2) == 0 ? 0_ps : below(rng, 2000);
    drive.run_to(now);
  };
  const auto store = [&](const KvLayer& layer, int pairs, int before, int after, bool copy) {
    drive.csd.append(layer, after - before, now);
    const KvPageCounts from = flushed_pages(small_pages(), before, copy);
    const KvPageCounts to = flushed_pages(small_pages(), after, copy);
    const PageBatch batch{0,
                          pairs,
                          {{KvStream::key_tokens, int(from.key_tokens), int(to.key_tokens)},
                           {KvStream::value_tokens, int(from.value_tokens), int(to.value_tokens)},
                           {KvStream::key_channels, int(from.key_channels), int(to.key_channels)}}};
    drive.csd.submit_store(now, batch, nullptr, layer);
  };
  try {
    for (int round = 0; round < 4; ++round) {
      const bool copy = rng.below(2) == 0;
      const KvTaskShape shape{.sequences = 1 + pick(rng, 2),
                              .layers = 1 + pick(rng, 3),
                              .kv_heads = 1 + pick(rng, 2),
                              .max_tokens = 48,
                              .channel_copy = copy};
      const int pairs = shape.sequences * shape.kv_heads;
      const KvFtl::TaskId task = drive.csd.open_task(shape, small_pages());
      for (int layer = 0; layer < shape.layers; ++layer) {
        store({task, layer}, pairs, 0, 30, copy);
        now += below(rng, 3) == 0_ps ? 0_ps : below(rng, 1000);
        drive.run_to(now);
      }
      const std::vector<HeadReads> patterns{dense_head(3, 10), dense_head(2, 20)};
      for (int step = 31; step <= 34; ++step) {
        for (int layer = 0; layer < shape.layers; ++layer) {
          Completion done;
          const bool disturbs = rng.below(4) == 0;
          AttendWork work{batch_of(pairs, patterns), {{task, layer}}};
          if (layer < previous.layers) {
            work.batch = batch_of({{pairs, patterns}, {previous.pairs, {dense_head(2, 5)}}});
            work.layers.push_back({previous.task, layer});
          }
          drive.csd.submit_attend(now, work, done);
          if (disturbs) {
            store({task, layer}, pairs, step - 1, step, copy);
          }
          drive.run_until(done);  // stores and erases may be under way still
          now = done.at();
          if (!disturbs) {
            store({task, layer}, pairs, step - 1, step, copy);
          }
          now += rng.below(2) == 0 ? 0_ps : below(rng, 1000) * (rng.below(2) == 0 ? 1 : 1'000'000);
          drive.run_to(now);
          run.trace.push_back(ps(done.at()));
        }
        if (previous.layers > 0 && step == 32) {  // it has ended earlier than those beside it
          finish(previous.task);
          previous = {};
        }
      }
      previous = {task, shape.layers, pairs};
      if (rng.below(2) == 0) {
        finish(task);
        previous = {};
      }
    }
    drive.run_to(kForever);
  } catch (const OutOfCapacity&) {
    run.overflowed = true;
  }
  const Csd::Work work = drive.csd.work();
  const KvFtl& ftl = drive.csd.ftl();
  run.trace.insert(run.trace.end(),
                   {work.flash.pages_read, work.flash.pages_programmed, work.flash.blocks_erased,
                    work.flash.bus_busy.count(), work.storing.count(), work.reading.count(),
                    ftl.counters().programs, ftl.counters().erases, ftl.pages().free});
  REQUIRE((run.overflowed || work.flash.blocks_erased == ftl.counters().erases));
  ftl.audit();
  run.reused = work.reused_batches;
  run.redirected = ftl.counters().redirected_pages;
  run.erased = work.flash.blocks_erased;
  return run;
}

}  // namespace

TEST_CASE("csd: with redirected pages and erases reuse equals the simulation of every page") {
  CrowdedRun sum;
  int overflows = 0;
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/crowded");
    const CsdConfig config = crowded_config(rng);
    const CrowdedRun exact = run_tasks(config, seed, false);
    const CrowdedRun fast = run_tasks(config, seed, true);
    REQUIRE(exact.trace == fast.trace);
    REQUIRE(exact.overflowed == fast.overflowed);
    sum.reused += fast.reused;
    sum.redirected += fast.redirected;
    sum.erased += fast.erased;
    overflows += fast.overflowed ? 1 : 0;
  }
  MESSAGE(sum.reused, " batches reused, ", sum.redirected, " pages redirected, ", sum.erased,
          " blocks erased, ", overflows, " full drives");
  CHECK(sum.reused > 500);
  CHECK(sum.redirected > 500);
  CHECK(sum.erased > 5'000);
  CHECK(overflows < 300);
}

TEST_CASE("csd: pages are read where the FTL has put them") {
  // One channel of two planes; the first has a single block of two pages, as good as full.
  CsdConfig config = round_config();
  config.flash.chips_per_channel = 2;
  config.flash.planes_per_die = 1;
  config.flash.pages_per_block = 2;
  config.flash.blocks_per_plane = 8;
  config.layout.stream_skew = 0;
  const kernels::PageGeometry pages({.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
  Drive drive(config);
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 16, .channel_copy = false};
  // Tasks of one page of K and of V, both in plane 0: each takes a block of plane 0 alone.
  std::vector<KvLayer> tasks;
  for (int i = 0; i < 9; ++i) {
    tasks.push_back({drive.csd.open_task(shape, pages), 0});
    drive.csd.append(tasks.back(), 16, at(0ns));
  }
  CHECK(drive.csd.ftl().counters().redirected_pages == 2);  // of the ninth
  const auto batch = batch_of(1, {dense_head(1, 0)});
  // Both pages on one unit: the second is read when the first has left.
  const SimDuration two = 2 * kPage;
  drive.run_to(at(1ms));
  CHECK(drive.csd.ftl().plane_of(tasks[0].task, {}, KvStream::key_tokens, 0) == 0);
  CHECK(drive.csd.ftl().plane_of(tasks[8].task, {}, KvStream::key_tokens, 0) == 1);
  // A program on unit 0, until 204 us, holds up the first task's pages and not those of the ninth.
  const PageBatch store{0, 1, {{KvStream::key_channels, 0, 1}}};
  drive.csd.submit_store(at(1ms), store, nullptr);
  Completion done;
  drive.csd.submit_attend(at(1ms), batch, done, tasks[8]);
  CHECK(drive.finish(done) == at(1ms + 2'600ns + two + 10us + 1'500ns));
  drive.run_to(at(2ms));
  drive.csd.submit_store(at(2ms), store, nullptr);
  Completion behind;
  drive.csd.submit_attend(at(2ms), batch, behind, tasks[0]);
  CHECK(drive.finish(behind) == at(2ms + 204us + two + 10us + 1'500ns));
}

TEST_CASE("csd: plain reads by hand") {
  for (const FlashPolicy policy : {FlashPolicy::first_gap, FlashPolicy::out_of_order}) {
    CsdConfig config = round_config();
    config.flash.policy = policy;
    config.controller.command_cost = 3us;
    Drive drive(config);
    Completion done;
    drive.csd.submit_read(at(0ns), {{0, 2, {{KvStream::key_tokens, 0, 3}}}, 1}, done);
    drive.finish(done);
    // The commands of all six pages are over when the first one is ready: with events a page's
    // data-out takes 3 us, in the recurrence a command's bus time behind it, too.
    const SimDuration apart = policy == FlashPolicy::first_gap ? kSlot : kSlot - 1us;
    MESSAGE(
        "doorbell 0.5 + fetch 0.1 + command 3; the first page leaves 44 us later, five behind "
        "it, ",
        apart.count(), " ps apart; completion_cost 0.6 + completion 0.9; got ", ps(done.at()));
    CHECK(done.at() == at(3'600ns + kPage + 5 * apart + 1'500ns));
    const Csd::Work work = drive.csd.work();
    CHECK(work.reads == 2);
    CHECK(work.attends == 0);
    CHECK(work.attending == 0_ps);
    CHECK(work.reading == kPage + 5 * apart);
    CHECK(work.firmware == 2 * 3us + 2 * 600ns);
    // A batch behind it waits for its last completion.
    Completion read;
    Completion attended;
    const auto batch = batch_of(1, {dense_head(1, 0)});
    drive.csd.submit_read(at(1ms), {{0, 2, {{KvStream::value_tokens, 4, 5}}}, 2}, read);
    drive.csd.submit_attend(at(1ms), batch, attended);
    drive.finish(attended);
    CHECK(read.at() == at(1ms + 3'600ns + kPage + apart + 1'500ns));
    CHECK(attended.at() - read.at() == attend_time(config, batch));
  }
}

TEST_CASE("csd: a background store waits for the batch at work, and not for the next one") {
  const CsdConfig config = round_config();
  const auto batch = batch_of(2, {dense_head(4, 10'000)});
  const PageBatch store{0, 3, {{KvStream::value_tokens, 0, 2}}};
  Drive alone(config);
  const SimTime one = alone.attend(at(0ns), batch);
  // The same store when the drive is idle, and a batch behind it.
  Drive quiet(config);
  Completion programmed_alone;
  Completion behind_alone;
  quiet.csd.submit_store(at(0ns), store, &programmed_alone);
  quiet.csd.submit_attend(at(0ns), batch, behind_alone);
  quiet.run_to(kForever);
  Drive drive(config);
  Completion first;
  Completion second;
  Completion programmed;
  drive.csd.submit_attend(at(0ns), batch, first);
  drive.csd.submit_attend(at(0ns), batch, second);
  drive.run_to(at(10us));
  drive.csd.submit_background_store(at(10us), store, &programmed);
  drive.run_to(kForever);
  CHECK(first.at() == one);
  CHECK(programmed.at() - one == programmed_alone.at().time_since_epoch());
  CHECK(second.at() - one == behind_alone.at().time_since_epoch());
  CHECK(second.at() - one > one.time_since_epoch());
}

TEST_CASE("csd: inputs in place of K and V take one stream") {
  const kernels::PageGeometry pages({.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
  KvTaskShape shape{
      .sequences = 2, .layers = 3, .kv_heads = 5, .max_tokens = 100, .channel_copy = false};
  Drive kv(round_config());
  const KvLayer kv_layer{kv.csd.open_task(shape, pages), 1};
  shape.inputs_only = true;
  Drive inputs(round_config());
  const KvLayer inputs_layer{inputs.csd.open_task(shape, pages), 1};
  CHECK(inputs.csd.flash_capacity().held() * 2 == kv.csd.flash_capacity().held());
  kv.csd.append(kv_layer, 41, at(0ns));
  inputs.csd.append(inputs_layer, 41, at(0ns));
  CHECK(inputs.csd.ftl().counters().programs == 2 * 5 * 2);
  CHECK(inputs.csd.ftl().counters().programs * 2 == kv.csd.ftl().counters().programs);
  CHECK(inputs.csd.ftl().buffered() == Bytes{2 * 5 * 9 * 256});
  inputs.csd.ftl().audit();
}

TEST_CASE("csd: a batch of several tasks takes the time of its heads") {
  // Without skew every head of every task begins in the same place.
  CsdConfig config = round_config();
  config.layout.stream_skew = 0;
  config.engine.feed.heads_per_block = 3;
  const HeadReads a = dense_head(3, 4'000);
  const HeadReads b = dense_head(7, 90'000);
  const SimDuration whole = attend_time(config, batch_of(8, {a, a, a, a, a, b, b, b}));
  CHECK(attend_time(config, batch_of({{5, {a}}, {3, {b}}})) == whole);
  CHECK(attend_time(config, batch_of({{1, {a}}, {4, {a}}, {2, {b}}, {1, {b}}})) == whole);
  CHECK(attend_time(config, batch_of({{5, {a}}, {2, {b}}})) < whole);
}

TEST_CASE("csd: each segment of a batch reads the pages of its own task") {
  for (const FlashPolicy policy : {FlashPolicy::first_gap, FlashPolicy::out_of_order}) {
    CsdConfig config = round_config();
    config.flash.policy = policy;
    config.kv_ftl.sharing = KvBlockSharing::shared_blocks;  // tables
    const kernels::PageGeometry pages({.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
    Drive drive(config);
    const int lengths[] = {96, 32};
    AttendWork work;
    std::vector<AttendBatch::Segment> segments;
    std::vector<PhysicalPage> expected;
    for (int i = 0; i < 2; ++i) {
      const KvTaskShape shape{.sequences = 2 - i,
                              .layers = 2,
                              .kv_heads = 3,
                              .max_tokens = lengths[i],
                              .channel_copy = false};
      const KvLayer layer{drive.csd.open_task(shape, pages), 1};
      drive.csd.append(layer, lengths[i], at(0ns));
      work.layers.push_back(layer);
      segments.push_back({shape.sequences * 3, {dense_head(lengths[i] / 16, 10)}});
      for (int pair = 0; pair < segments.back().pairs; ++pair) {
        for (const KvStream stream : {KvStream::key_tokens, KvStream::value_tokens}) {
          for (int page = 0; page < lengths[i] / 16; ++page) {
            expected.push_back(drive.csd.ftl().page_of(
                layer.task, {.sequence = pair / 3, .layer = 1, .head = pair % 3}, stream, page));
          }
        }
      }
    }
    work.batch = batch_of(segments);
    std::vector<CsdFlash::ReadPage> log;
    drive.csd.set_log(&log);
    Completion done;
    drive.csd.submit_attend(at(0ns), work, done);
    drive.finish(done);
    std::vector<PhysicalPage> read;
    for (const CsdFlash::ReadPage& page : log) {
      read.push_back(page.at);
    }
    std::sort(read.begin(), read.end());
    std::sort(expected.begin(), expected.end());
    CHECK(read == expected);
  }
}

TEST_CASE("csd: an idle drive erases a block of each plane at a time, and stops for a batch") {
  for (const FlashPolicy policy : {FlashPolicy::first_gap, FlashPolicy::out_of_order}) {
    CsdConfig config = round_config();
    config.flash.policy = policy;
    config.flash.blocks_per_plane = 4;
    config.flash.pages_per_block = 2;
    config.kv_ftl.reclaim_below = 0.9;
    config.kv_ftl.reclaim_until = 1;
    const kernels::PageGeometry pages({.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
    Drive drive(config);
    // 32 units; 64 pages of K and of V: 4 a plane, 2 blocks.
    const KvTaskShape shape{
        .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 1024, .channel_copy = false};
    const KvLayer task{drive.csd.open_task(shape, pages), 0};
    drive.csd.append(task, 1024, at(0ns));
    CHECK(drive.csd.flash_capacity().held().count() == 512 * 1024);
    drive.csd.finish_task(task.task, at(0ns));
    CHECK(drive.csd.flash_capacity().held().count() == 0);
    // 32 erase commands of 1 us, then 3 ms.
    drive.run_to(at(3'032us));
    CHECK(drive.csd.work().flash.blocks_erased == (policy == FlashPolicy::first_gap ? 64 : 32));
    CHECK(drive.csd.ftl().counters().erases == 64);  // the second round has begun
    const auto batch = batch_of(1, {dense_head(1, 0)});
    const SimTime done = drive.attend(at(4ms), batch);
    // Units 0 and 8 are erased until 6,033 and 6,041 us; the later one's page leaves 44 us after.
    CHECK(done == at(6'041us + kPage + 10us + 1'500ns));
    CHECK(drive.csd.work().flash.blocks_erased == 64);
    CHECK(!drive.csd.ftl().wants_reclaim());
  }
}

TEST_CASE("csd: a full drive erases finished tasks first, then says what is full") {
  CsdConfig config = round_config();
  config.flash.chips_per_channel = 1;
  config.flash.blocks_per_plane = 4;
  config.flash.pages_per_block = 8;  // 4 planes: 128 pages
  config.kv_ftl.reclaim_below = 0;
  config.kv_ftl.reclaim_until = 0;
  const kernels::PageGeometry pages({.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
  const KvTaskShape shape{
      .sequences = 1, .layers = 1, .kv_heads = 1, .max_tokens = 16 * 40, .channel_copy = false};
  Drive drive(config);
  const KvLayer first{drive.csd.open_task(shape, pages), 0};  // 80 pages
  drive.csd.append(first, 16 * 40, at(0ns));
  CHECK_THROWS_WITH_AS(
      static_cast<void>(drive.csd.open_task(shape, pages)),
      "out_of_memory: CSD flash: KV cache needs 327.7 KB, 196.6 KB of 524.3 KB are free",
      OutOfCapacity);
  drive.csd.finish_task(first.task, at(0ns));
  CHECK(drive.csd.ftl().counters().erases == 0);
  const KvLayer second{drive.csd.open_task(shape, pages), 0};
  drive.csd.append(second, 16 * 40, at(1ms));
  CHECK(drive.csd.ftl().counters().erases == 12);  // 80 pages: 2 1/2 blocks of 4 planes
  drive.run_to(kForever);
  CHECK(drive.csd.work().flash.blocks_erased == 12);
}

// -- Conservation, determinism, misuse --------------------------------------------------------

TEST_CASE("csd: every page that was asked for is read once, and every page stored is programmed") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/conservation");
    const CsdConfig config = random_config(rng);
    const std::vector<Operation> operations = random_operations(rng, config, true);
    std::int64_t read = 0;
    std::int64_t attends = 0;
    std::int64_t reads = 0;
    std::int64_t programmed = 0;
    for (const Operation& operation : operations) {
      if (operation.attend) {
        read += pages_of(*operation.attend);
        attends += operation.attend->pairs();
      } else if (operation.is_read) {
        read += operation.pages.pages();
        reads += ceil_div(operation.pages.pairs, kPairsARead);
      } else {
        programmed += operation.pages.pages();
      }
    }
    for (const bool reuse : {false, true}) {
      Drive drive(config, reuse);
      std::deque<Completion> done(operations.size());
      for (std::size_t i = 0; i < operations.size(); ++i) {
        drive.run_to(operations[i].at);
        Operation waited_for = operations[i];
        waited_for.background = false;
        submit(drive.csd, waited_for, done[i]);
      }
      drive.run_to(kForever);
      const Csd::Work work = drive.csd.work();
      REQUIRE(work.flash.pages_read == read);
      REQUIRE(work.flash.pages_programmed == programmed);
      REQUIRE(work.attends == attends);
      REQUIRE(work.reads == reads);
      REQUIRE(work.firmware == attends * config.engine.attend_cost +
                                   reads * config.controller.command_cost +
                                   (attends + reads) * config.controller.completion_cost);
      REQUIRE(drive.csd.bytes_read() == config.flash.page_size * read);
      REQUIRE(std::all_of(done.begin(), done.end(),
                          [](const Completion& completion) { return completion.done(); }));
      REQUIRE(work.computing <= done.back().at().time_since_epoch() + work.storing);
    }
  }
}

TEST_CASE("csd: equal runs give equal traces") {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/csd_test/determinism");
    const CsdConfig config = random_config(rng);
    const std::vector<Operation> operations = random_operations(rng, config, true);
    REQUIRE(run(config, operations, true, Ties::drive_first) ==
            run(config, operations, true, Ties::drive_first));
  }
}

TEST_CASE("csd: the time in which the kernels compute is counted once") {
  // Two kernels and two buffers: block 1 is computed while block 0 still is.
  CsdConfig config = round_config();
  config.engine.feed.staging_buffers = 2;
  config.engine.attention_kernels = 2;
  config.engine.softmax_latency = 0_ps;
  Drive drive(config);
  // Block 0: read by 2.6 + 72, computed by 1074.6. Block 1: read by 146.6, computed by 156.6.
  drive.attend(at(0ns), batch_of(2, {dense_head(4, 1'000'000), dense_head(4, 10'000)}));
  CHECK(drive.csd.work().computing == 1ms);
  CHECK(drive.csd.work().reading == 144us);
}

TEST_CASE("csd: differences of two readings of the work describe a phase") {
  Drive drive(round_config());
  drive.attend(at(0ns), batch_of(3, {dense_head(4, 30'000)}));
  const Csd::Work before = drive.csd.work();
  drive.attend(at(1s), batch_of(3, {dense_head(4, 30'000)}));
  const Csd::Work phase = drive.csd.work() - before;
  CHECK(phase.flash.pages_read == before.flash.pages_read);
  CHECK(phase.attends == before.attends);
  CHECK(phase.reading == before.reading);
  CHECK(phase.computing == before.computing);
  CHECK(phase.firmware == before.firmware);
  Csd::Work sum = before;
  sum += phase;
  CHECK(sum.reading == drive.csd.work().reading);
}

TEST_CASE("csd: a sealed batch's hash names its pairs and patterns") {
  const auto hash = [](int pairs, const std::vector<HeadReads>& patterns) {
    return batch_of(pairs, patterns)->hash();
  };
  const HeadReads a = dense_head(4, 100);
  const HeadReads b = dense_head(5, 100);
  CHECK(hash(7, {a, b}) == hash(7, {a, b}));
  std::vector<std::uint64_t> hashes{hash(7, {a, b}),   hash(7, {b, a}), hash(8, {a, b}),
                                    hash(7, {a}),      hash(7, {b}),    hash(7, {a, a}),
                                    hash(7, {a, b, a})};
  hashes.push_back(batch_of({{4, {a}}, {3, {b}}})->hash());
  hashes.push_back(batch_of({{3, {a}}, {4, {b}}})->hash());
  hashes.push_back(batch_of({{4, {a}}, {3, {a}}})->hash());
  std::sort(hashes.begin(), hashes.end());
  CHECK(std::adjacent_find(hashes.begin(), hashes.end()) == hashes.end());
}

TEST_CASE("csd: misuse is found out") {
  Drive drive(round_config());
  Completion done;
  CHECK_THROWS_AS(drive.csd.submit_attend(at(0ns), batch_of(0, {dense_head(1, 1)}), done),
                  CheckFailure);
  CHECK_THROWS_AS(drive.csd.submit_attend(at(0ns), batch_of(1, {}), done), CheckFailure);
  CHECK_THROWS_AS(drive.csd.submit_attend(at(0ns), std::make_shared<AttendBatch>(), done),
                  CheckFailure);
  const AttendWork no_task{batch_of(1, {dense_head(1, 1)}), {}};
  CHECK_THROWS_AS(drive.csd.submit_attend(at(0ns), no_task, done), CheckFailure);
  CHECK_THROWS_AS(drive.csd.submit_store(at(0ns), {0, 1, {{KvStream::key_tokens, 2, 1}}}, nullptr),
                  CheckFailure);
  HeadReads odd = dense_head(4, 1);
  odd.value_pages.pop_back();
  drive.csd.submit_attend(at(0ns), batch_of(1, {odd}), done);
  CHECK_THROWS_AS(drive.run_to(kForever), CheckFailure);
}

TEST_CASE("csd: impossible sizes are config errors that start with their path") {
  const nlohmann::json shipped =
      load_config(shipped_configs() / "platforms" / "csds" / "instinfer_emulated.json");
  const auto problem_with = [&](const char* pointer, const nlohmann::json& value) -> std::string {
    nlohmann::json config = shipped;
    nlohmann::json& field = config[nlohmann::json::json_pointer(pointer)];
    if (field.is_object()) {
      field["value"] = value;
    } else {
      field = value;
    }
    CsdConfig csd;
    try {
      read_fields(config, [&](FieldVisitor& v) { csd.fields(v); });
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(problem_with("/count", 1).empty());
  const std::vector<std::pair<const char*, nlohmann::json>> impossible{
      {"/count", 0},
      {"/flash/channels", 0},
      {"/flash/channels", 65},
      {"/flash/chips_per_channel", 0},
      {"/flash/dies_per_chip", 0},
      {"/flash/planes_per_die", 0},
      {"/flash/planes_per_die", 17},
      {"/flash/blocks_per_plane", 0},
      {"/flash/pages_per_block", 0},
      {"/flash/page_size", "0B"},
      {"/flash/page_size", "511B"},
      {"/flash/page_size", "128KiB"},
      {"/flash/spare_size", "17KiB"},
      {"/flash/mega_transfers", 0},
      {"/flash/bus_width", 9},
      {"/flash/array_unit", "block"},
      {"/flash/policy", "lifo"},
      {"/flash/cache_read", 1},
      {"/flash/t_read", "0ps"},
      {"/flash/t_read", "2s"},
      {"/flash/t_program", "0ps"},
      {"/flash/t_erase", "0ps"},
      {"/flash/read_command/bus", "2ms"},
      {"/layout/channels_per_group", 0},
      {"/layout/stream_skew", -1},
      {"/nvme/queue_depth", 0},
      {"/controller/cores", 0},
      {"/engine/attend_cost", "-1us"},
      {"/dram/capacity", "1KiB"},
      {"/store_chunk", "0B"},
      {"/store_chunk", "65GiB"},
      {"/engine/feed/heads_per_block", 0},
      {"/engine/feed/staging_buffers", 0},
      {"/engine/feed/staging_buffers", 17},
      {"/engine/feed/kind", "lines"},
      {"/engine/on_chip_memory", "-1B"},
      {"/kv_ftl/plane_order", "CCDP"},
      {"/kv_ftl/sharing", "none"},
      {"/kv_ftl/reclaim_until", 0.05},
      {"/kv_ftl/bad_blocks/pe_cycles", 0},
      {"/engine/attention_kernels", 0},
      {"/engine/gemv_units_per_kernel", 0},
      {"/engine/gemv_rate", "0FLOP/s"},
      {"/engine/filter_rate", "0B/s"},
      {"/engine/argtopk_rate", 0},
  };
  for (const auto& [pointer, value] : impossible) {
    CAPTURE(pointer);
    CAPTURE(value.dump());
    const std::string problem = problem_with(pointer, value);
    CAPTURE(problem);
    CHECK(problem.rfind(std::string(pointer), 0) == 0);
    CHECK(problem.find('\n') == std::string::npos);
  }
  // The largest of everything is more than 8 EiB.
  nlohmann::json huge = shipped;
  for (const auto& [key, value] : {std::pair{"channels", nlohmann::json(64)},
                                   {"chips_per_channel", nlohmann::json(64)},
                                   {"dies_per_chip", nlohmann::json(64)},
                                   {"planes_per_die", nlohmann::json(16)},
                                   {"blocks_per_plane", nlohmann::json(1 << 20)},
                                   {"pages_per_block", nlohmann::json(1 << 16)},
                                   {"page_size", nlohmann::json("64KiB")}}) {
    huge["flash"][key]["value"] = value;
  }
  CsdConfig csd;
  CHECK_THROWS_WITH_AS(read_fields(huge, [&](FieldVisitor& v) { csd.fields(v); }),
                       "/flash/blocks_per_plane: must give a drive of less than 8 EiB",
                       ConfigError);
}

TEST_CASE("csd: a page-fed engine needs event-driven flash and room for its slots") {
  const nlohmann::json shipped =
      load_config(shipped_configs() / "platforms" / "csds" / "instinfer_emulated.json");
  const auto problem_with = [&](const char* policy, int slots) -> std::string {
    nlohmann::json config = shipped;
    config["flash"]["policy"] = policy;
    config["engine"]["feed"] = {{"kind", "pages"},
                                {"key_buffers", slots},
                                {"value_buffers", slots},
                                {"heads_in_flight", 8}};
    CsdConfig csd;
    try {
      read_fields(config, [&](FieldVisitor& v) { csd.fields(v); });
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(problem_with("out_of_order", 48).empty());
  CHECK(problem_with("data_out_first", 306).empty());  // 612 x 4 KiB in 2,507,776 B
  CHECK(problem_with("out_of_order", 307).find("do not fit in on_chip_memory") !=
        std::string::npos);
  for (const char* policy : {"fifo", "first_gap"}) {
    CHECK(problem_with(policy, 48).find("feed pages needs the flash policy") != std::string::npos);
  }
}
