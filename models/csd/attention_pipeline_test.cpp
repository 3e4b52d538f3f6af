#include "models/csd/attention_pipeline.hpp"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "models/csd/test_csd.hpp"
#include "models/flash/test_flash_oracle.hpp"
#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;
using namespace nearkv::test_csd;
using namespace std::chrono_literals;

namespace {

/// The drive of round numbers, fed page by page: one kernel with one GeMV unit of 1 ns a FLOP. The
/// bus takes 1 us for a command, 3 us for a page; the array 40 us.
CsdConfig pages_config() {
  CsdConfig config = round_config();
  config.flash.policy = FlashPolicy::out_of_order;
  config.engine.gemv_units_per_kernel = 1;
  config.engine.gemv_rate = FlopRate{1'000'000'000};
  config.engine.feed = {.kind = FeedKind::pages,
                        .heads_per_block = 0,
                        .staging_buffers = 0,
                        .key_buffers = 8,
                        .value_buffers = 9,
                        .heads_in_flight = 1};
  return config;
}

constexpr SimDuration kCommand = 2'600ns;     // doorbell 0.5, fetch 0.1, attend_cost 2
constexpr SimDuration kCompletion = 1'500ns;  // completion_cost 0.6, completion 0.9

HeadReads sparf_head() {
  HeadReads reads;
  reads.channel_pages = ascending(6);
  reads.key_pages = {0, 2, 5};
  reads.value_pages = reads.key_pages;
  reads.query_elements = 128;
  reads.score_elements = 1000;
  reads.estimate_flops = Flops{5'000};
  reads.attention_flops = Flops{7'000};
  return reads;
}

}  // namespace

// -- Closed forms -------------------------------------------------------------------------------

TEST_CASE("attention pipeline: one head with a page of K and a page of V") {
  CsdConfig config = pages_config();
  const auto batch = batch_of(1, {dense_head(1, 20'000)});
  // K: command 1, array 40, data-out 3, GeMV 10, softmax 10; V has come meanwhile; GeMV 10.
  CHECK(attend_time(config, batch) == kCommand + 44us + 10us + 10us + 10us + kCompletion);
  // With one slot V is asked for when K is consumed, at 54: 44 later it is there.
  config.engine.feed.value_buffers = 1;
  CHECK(attend_time(config, batch) == kCommand + 54us + 44us + 10us + kCompletion);
  // A slow softmax: V waits in its slot.
  config.engine.softmax_latency = 100us;
  CHECK(attend_time(config, batch) == kCommand + 54us + 100us + 10us + kCompletion);
  // All of K and V in the DRAM buffers: no page, the same work.
  CHECK(attend_time(config, batch_of(1, {dense_head(0, 20'000)})) ==
        kCommand + 10us + 100us + 10us + kCompletion);
}

TEST_CASE("attention pipeline: with one slot for K a page leaves when the one before is consumed") {
  CsdConfig config = pages_config();
  config.engine.feed.key_buffers = 1;
  Drive drive(config);
  // 4 pages of K on units 0 to 3, ready at 41, 42, 43, 44; of V on units 8 to 11, ready at 45, 46,
  // 47, 48. Each K page takes 10 us in the GeMV unit.
  const SimTime done = drive.attend(at(0ns), batch_of(1, {dense_head(4, 80'000)}));
  // K 0 leaves at 44 and is consumed at 54. V 0 to 2 leave from 45 to 54; when the bus is granted
  // at 54 the slot is still taken, so V 3 leaves first. Then K 1 at 60, K 2 at 73, K 3 at 86.
  MESSAGE("K consumed at 54, 70, 83, 96; softmax 106; 4 x V until 146 us; got ", ps(done), " ps");
  CHECK(done == at(kCommand + 146us + kCompletion));
  const Csd::Work work = drive.csd.work();
  CHECK(work.flash.bus_stalled == 1us + 10us + 10us);  // 44 to 45, 60 to 70, 73 to 83
  CHECK(work.flash.bus_busy == 8 * SimDuration{4us});
  CHECK(work.gemv_busy == 80us);
  CHECK(work.computing == 80us);
  CHECK(work.reading == 86us);
  CHECK(work.attending == kCommand + 146us + kCompletion);
  CHECK(drive.csd.gemv_idle() == kCommand + 66us + kCompletion);
}

TEST_CASE("attention pipeline: slower kernels stall the channel, slower flash lets kernels wait") {
  const auto batch = batch_of(1, {dense_head(8, 0)});
  CsdConfig config = pages_config();
  config.engine.feed.key_buffers = 2;
  struct Case {
    std::int64_t flops;  // of the head; a page has a 16th
    SimDuration keys;    // when the last K page is consumed
  };
  for (const auto& [flops, keys] :
       {// 1 us a page: the bus brings one each 3 us; the last leaves at 41 + 24.
        Case{16'000, 65us + 1us},
        // 20 us a page: the unit works without a pause from 44 on.
        Case{320'000, 44us + 8 * SimDuration{20us}}}) {
    config.engine.feed.value_buffers = 1;  // V behind K
    Drive drive(config);
    const SimTime done = drive.attend(at(0ns), batch_of(1, {dense_head(8, flops)}));
    // V: 8 commands, page i ready 41 + i after them; one slot: page after page.
    const SimDuration page = SimDuration{flops / 16 * 1000};
    const SimDuration first = std::max<SimDuration>(44us, 10us);
    const SimDuration values = first + page + 7 * (3us + page);
    MESSAGE(fmt::format("{} FLOP: K until {}, V {} ps later; got {}", flops, keys.count(),
                        values.count(), ps(done)));
    CHECK(done == at(kCommand + keys + values + kCompletion));
    const bool stalls = flops > 100'000;
    // Two pages of K may be out: pages 2 to 7 wait for the unit.
    CHECK((drive.csd.work().flash.bus_stalled > 100us) == stalls);
    CHECK((drive.csd.gemv_idle() > 100us) == true);
  }
}

TEST_CASE("attention pipeline: SparF of one head") {
  const CsdConfig config = pages_config();
  Drive drive(config);
  const SimTime done = drive.attend(at(0ns), batch_of(1, {sparf_head()}));
  CHECK(drive.csd.work().estimating == 6 * SimDuration{834ns});
  // Channel pages leave at 44, 47, ... 59, pass the filter in 2 and take ceil(5000 / 6) ns each.
  const SimDuration first = 44us + 5 * SimDuration{3us} + 2us + 834ns;
  // K pages leave at 44, 47, 50, V pages at 53, 56, 59; ceil(3500 / 3) ns each.
  const SimDuration keys = 50us + 2us + 1'167ns;
  const SimDuration second = keys + 10us + 3 * SimDuration{1'167ns};
  const SimDuration expected = kCommand + 128ns + first + 10us + 1us + second + kCompletion;
  MESSAGE("argtopk 0.128 + channel pages ", first.count(),
          " ps + softmax 10 + argtopk 1 + K and V ", second.count(), " ps; got ", ps(done));
  CHECK(done == at(expected));
}

TEST_CASE("attention pipeline: two heads, one after the other or together") {
  CsdConfig config = pages_config();
  const auto batch = batch_of(2, {dense_head(1, 20'000)});
  CHECK(attend_time(config, batch) == kCommand + 2 * SimDuration{74us} + kCompletion);
  // Together: head 1's command is ready 2 us later. Its V page lies on unit 0, as K of head 0: its
  // command follows when that has left, at 44. K 1 leaves at 51 behind V 0, GeMV from 54 to 64; V 1
  // ready at 85, leaves at 88; GeMV until 98.
  config.engine.feed.heads_in_flight = 2;
  CHECK(attend_time(config, batch) == kCommand + 98us + kCompletion);
}

// -- An oracle ----------------------------------------------------------------------------------

namespace {

/// The pipeline once more, as a list of things to do at times, on the flash oracle.
class Plain {
 public:
  Plain(const CsdConfig& config, const AttendBatch& batch)
      : config_(config),
        batch_(batch),
        flash_(config.flash, Rng(1, "csd/0/flash")),
        heads_(batch.pairs()),
        cores_(config.controller.cores),
        units_(config.engine.attention_kernels,
               std::vector<std::int64_t>(config.engine.gemv_units_per_kernel)),
        in_flight_(config.engine.attention_kernels),
        filters_(config.flash.channels) {
    flash_.set_gate(1, config.engine.feed.key_buffers);
    flash_.set_gate(2, config.engine.feed.value_buffers);
  }

  std::int64_t run() {
    for (int pair = 0; pair < batch_.pairs(); ++pair) {
      const std::int64_t fetched =
          (config_.nvme.doorbell + config_.nvme.command_fetch * (pair + 1)).count();
      at(fetched, kOwn, 0, [this, pair, fetched] {
        const std::int64_t ready = serve(cores_, fetched, config_.engine.attend_cost.count());
        at(ready, kOwn, 0, [this, pair, ready] {
          waiting_.push_back(pair);
          admit(ready);
        });
      });
    }
    while (!events_.empty() || flash_.next_event() != INT64_MAX) {
      const std::int64_t flash = flash_.next_event();
      const bool is_flash =
          events_.empty() || std::pair{flash, 1} < std::pair{std::get<0>(events_.begin()->first),
                                                             std::get<1>(events_.begin()->first)};
      if (is_flash) {
        for (const auto& done : flash_.run(flash)) {
          left_channel(done.tag, done.at);
        }
      } else {
        const auto what = events_.begin()->second;
        events_.erase(events_.begin());
        what();
      }
    }
    return left_ == batch_.pairs() ? posted_ + config_.nvme.completion.count() : -1;
  }

 private:
  enum Class { kOwn = 0, kArrivals = 2, kConsumed = 3, kSteps = 4 };
  struct Part {
    std::vector<int> pages;
    int left = 0;
    std::int64_t time = 0;
    std::size_t asked = 0;
  };
  struct Head {
    int kernel = 0;
    bool is_through = false;
    bool keys_done = false;
    bool wants_values = false;
    int waiting = 0;
    Part part[3];
  };

  void at(std::int64_t time, int what, int kernel, const std::function<void()>& run) {
    events_[{time, what, kernel, sequence_++}] = run;
  }
  static std::int64_t serve(std::vector<std::int64_t>& servers, std::int64_t now,
                            std::int64_t time) {
    std::int64_t& free = *std::min_element(servers.begin(), servers.end());
    return free = std::max(now, free) + time;
  }
  std::int64_t argtopk(std::int64_t now, std::int64_t elements) {
    return serve(argtopk_, now,
                 time_for(Flops{elements}, FlopRate{config_.engine.argtopk_rate}).count());
  }
  const HeadReads& reads(int pair) const { return batch_.reads_of(pair); }

  void set(Part& part, const std::vector<int>& pages, std::int64_t flops) {
    part.pages = pages;
    part.left = std::max<int>(1, static_cast<int>(pages.size()));
    const std::int64_t each = (flops + part.left - 1) / part.left;
    part.time = time_for(Flops{each}, config_.engine.gemv_rate).count();
  }

  void admit(std::int64_t now) {
    while (!waiting_.empty() && heads_in_ < config_.engine.feed.heads_in_flight) {
      const int pair = waiting_.front();
      waiting_.pop_front();
      ++heads_in_;
      const auto least = std::min_element(in_flight_.begin(), in_flight_.end());
      ++*least;
      heads_[pair].kernel = static_cast<int>(least - in_flight_.begin());
      if (reads(pair).has_first_step()) {
        const std::int64_t ranked = argtopk(now, reads(pair).query_elements);
        at(ranked, kSteps, 0, [this, pair, ranked] { estimate(pair, ranked); });
      } else {
        attention(pair, now);
      }
    }
  }

  void estimate(int pair, std::int64_t now) {
    Head& head = heads_[pair];
    set(head.part[0], reads(pair).channel_pages, reads(pair).estimate_flops.count());
    ask(pair, 0, head.part[0].pages.size());
    if (head.part[0].pages.empty()) {
      compute(pair, 0, now);
    } else {
      flash_.start(now);
    }
  }

  void attention(int pair, std::int64_t now) {
    Head& head = heads_[pair];
    const std::int64_t flops = reads(pair).attention_flops.count();
    set(head.part[1], reads(pair).key_pages, flops / 2);
    set(head.part[2], reads(pair).value_pages, flops - flops / 2);
    ask(pair, 1, head.part[1].pages.size());
    head.wants_values = true;
    order_.push_back(pair);
    ask_ahead();
    if (head.part[1].pages.empty()) {
      compute(pair, 1, now);
      head.waiting = 1;
    }
    flash_.start(now);
  }

  /// V pages whose heads' K is not consumed: fewer than slots, the first heads' first.
  void ask_ahead() {
    for (const int pair : order_) {
      Head& head = heads_[pair];
      while (head.wants_values && !head.keys_done &&
             head.part[2].asked < head.part[2].pages.size()) {
        int ahead = 0;
        for (const Head& other : heads_) {
          ahead += other.keys_done ? 0 : static_cast<int>(other.part[2].asked);
        }
        if (ahead + 1 >= config_.engine.feed.value_buffers) {
          return;
        }
        ask(pair, 2, 1);
      }
    }
  }

  void ask(int pair, int part, std::size_t count) {
    const FlashConfig& flash = config_.flash;
    Part& of = heads_[pair].part[part];
    const int stream = part == 0 ? 2 : part - 1;
    for (; count > 0; --count, ++of.asked) {
      std::int64_t slot =
          (std::int64_t{batch_.place_of(pair).pair} * 3 + stream) * config_.layout.stream_skew +
          of.pages[of.asked];
      PageCommand command;
      const auto take = [&slot](int n) {
        const auto digit = static_cast<std::uint16_t>(slot % n);
        slot /= n;
        return digit;
      };
      command.channel = take(flash.channels);  // CPDW
      command.plane = take(flash.planes_per_die);
      command.die = take(flash.dies_per_chip);
      command.chip = take(flash.chips_per_channel);
      command.bytes = static_cast<std::uint32_t>((flash.page_size + flash.spare_size).count());
      command.gate = part == 2 ? 2 : 1;
      command.tag = (std::uint64_t(pair) * 4 + part) * 64 + command.channel;
      flash_.add(command);
    }
  }

  void left_channel(std::uint64_t tag, std::int64_t now) {
    const auto channel = static_cast<int>(tag % 64);
    const auto part = static_cast<int>(tag / 64 % 4);
    const auto pair = static_cast<int>(tag / 256);
    if (!reads(pair).has_first_step()) {
      arrived(pair, part, now);
      return;
    }
    const std::int64_t passed =
        std::max(filters_[channel], now) +
        time_for(config_.flash.page_size, config_.engine.filter_rate).count();
    filters_[channel] = passed;
    at(passed, kArrivals, 0, [this, pair, part, passed] { arrived(pair, part, passed); });
  }

  void arrived(int pair, int part, std::int64_t now) {
    if (part == 2 && !heads_[pair].is_through) {
      ++heads_[pair].waiting;
    } else {
      compute(pair, part, now);
    }
  }

  void compute(int pair, int part, std::int64_t now) {
    const int kernel = heads_[pair].kernel;
    const std::int64_t done = serve(units_[kernel], now, heads_[pair].part[part].time);
    at(done, kConsumed, kernel, [this, pair, part, done] { consumed(pair, part, done); });
  }

  void consumed(int pair, int part, std::int64_t now) {
    Head& head = heads_[pair];
    if (!head.part[part].pages.empty()) {
      flash_.return_credit(part == 2 ? 2 : 1, now);
    }
    if (--head.part[part].left > 0) {
      return;
    }
    const std::int64_t softmax = now + config_.engine.softmax_latency.count();
    if (part == 0) {
      at(softmax, kSteps, 0, [this, pair, softmax] {
        const std::int64_t selected = argtopk(softmax, reads(pair).score_elements);
        at(selected, kSteps, 0, [this, pair, selected] { attention(pair, selected); });
      });
    } else if (part == 1) {
      head.keys_done = true;
      ask(pair, 2, head.part[2].pages.size() - head.part[2].asked);
      ask_ahead();
      flash_.start(now);
      at(softmax, kSteps, 0, [this, pair, softmax] {
        heads_[pair].is_through = true;
        for (; heads_[pair].waiting > 0; --heads_[pair].waiting) {
          compute(pair, 2, softmax);
        }
      });
    } else {
      ++left_;
      --heads_in_;
      --in_flight_[head.kernel];
      admit(now);
      const std::int64_t posted = serve(cores_, now, config_.controller.completion_cost.count());
      posted_ = std::max(posted_, posted);
    }
  }

  const CsdConfig& config_;
  const AttendBatch& batch_;
  test_flash_oracle::Oracle flash_;
  std::vector<Head> heads_;
  std::vector<std::int64_t> cores_;
  std::vector<std::vector<std::int64_t>> units_;
  std::vector<int> in_flight_;
  std::vector<std::int64_t> filters_;
  std::vector<std::int64_t> argtopk_ = {0};
  std::deque<int> waiting_;
  std::vector<int> order_;
  std::map<std::tuple<std::int64_t, int, int, std::int64_t>, std::function<void()>> events_;
  std::int64_t sequence_ = 0;
  std::int64_t posted_ = 0;
  int heads_in_ = 0;
  int left_ = 0;
};

std::vector<int> random_pages(Rng& rng, int limit) {
  std::vector<int> pages;
  for (int page = 0; page < limit; ++page) {
    if (rng.below(2) == 0) {
      pages.push_back(page);
    }
  }
  return pages;
}

std::shared_ptr<const AttendBatch> random_heads(Rng& rng, int pairs, int most_pages) {
  std::vector<HeadReads> patterns(1 + rng.below(4));
  for (HeadReads& reads : patterns) {
    reads.key_pages = random_pages(rng, pick(rng, most_pages));
    reads.value_pages = reads.key_pages;
    reads.attention_flops = Flops{pick(rng, 200)};
    if (rng.below(2) == 0) {
      reads.channel_pages = random_pages(rng, pick(rng, most_pages));
      reads.query_elements = pick(rng, 4);
      reads.score_elements = 1 + pick(rng, 6);
      reads.estimate_flops = Flops{pick(rng, 100)};
    }
  }
  return in_segments(rng, pairs, patterns);
}

/// Few picoseconds a stage, so that many events fall together, or many.
CsdConfig random_pages_config(Rng& rng) {
  const std::int64_t scale = rng.below(2) == 0 ? 6 : 1'000;
  CsdConfig config = pages_config();
  FlashConfig& flash = config.flash;
  flash.policy = rng.below(2) == 0 ? FlashPolicy::data_out_first : FlashPolicy::out_of_order;
  flash.array_unit = rng.below(2) == 0 ? ArrayUnit::die : ArrayUnit::plane;
  flash.cache_read = rng.below(3) == 0;
  flash.multi_plane = rng.below(3) == 0 && (flash.array_unit == ArrayUnit::die ||
                                            flash.policy == FlashPolicy::data_out_first);
  flash.channels = 1 + pick(rng, 4);
  flash.chips_per_channel = 1 + pick(rng, 2);
  flash.dies_per_chip = 1 + pick(rng, 2);
  flash.planes_per_die = 1 + pick(rng, 3);
  flash.page_size = 512_B;
  flash.spare_size = 0_B;
  flash.mega_transfers = static_cast<int>(512'000'000 / (1 + below(rng, 4 * scale).count()));
  flash.read_command.bus = below(rng, 2 * scale);
  flash.t_read.lsb = 1_ps + below(rng, 15 * scale);
  config.layout.stream_skew = pick(rng, 20);
  config.nvme.doorbell = below(rng, scale);
  config.nvme.command_fetch = below(rng, 2 * scale);
  config.controller.cores = 1 + pick(rng, 3);
  config.engine.attend_cost = below(rng, 4 * scale);
  config.controller.completion_cost = below(rng, 3 * scale);
  config.engine.attention_kernels = 1 + pick(rng, 3);
  config.engine.gemv_units_per_kernel = 1 + pick(rng, 3);
  config.engine.gemv_rate = FlopRate{1'000'000'000'000 / (1 + below(rng, scale).count())};
  config.engine.softmax_latency = below(rng, 20 * scale);
  config.engine.filter_rate = Rate{512'000'000'000'000 / (1 + below(rng, 6 * scale).count())};
  config.engine.argtopk_rate = 1'000'000'000'000 / scale;
  config.engine.feed.key_buffers = 1 + pick(rng, rng.below(2) == 0 ? 2 : 12);
  config.engine.feed.value_buffers = 1 + pick(rng, rng.below(2) == 0 ? 2 : 12);
  config.engine.feed.heads_in_flight = 1 + pick(rng, 6);
  return config;
}

}  // namespace

TEST_CASE("attention pipeline: never stands still and equals a plain one on random drives") {
  std::int64_t pages = 0;
  SimDuration stalled{};
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/attention_pipeline_test/oracle");
    const CsdConfig config = random_pages_config(rng);
    const auto batch = random_heads(rng, 1 + pick(rng, 12), 30);
    Drive drive(config);
    Completion done;
    drive.csd.submit_attend(at(0ns), batch, done);
    drive.run_to(kForever);
    REQUIRE(done.done());
    REQUIRE(ps(done.at()) == Plain(config, *batch).run());
    const Csd::Work work = drive.csd.work();
    REQUIRE(work.flash.pages_read == pages_of(*batch));
    REQUIRE(work.attends == batch->pairs());
    REQUIRE(work.computing <= work.gemv_busy);
    REQUIRE(work.gemv_busy <= work.attending * drive.csd.gemv_units());
    pages += work.flash.pages_read;
    stalled += work.flash.bus_stalled;
  }
  MESSAGE(pages, " pages; channels stalled ", stalled.count(), " ps");
  CHECK(stalled > 0_ps);
}

// -- Limits -------------------------------------------------------------------------------------

TEST_CASE("attention pipeline: with many slots and fast kernels it takes the time of the flash") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "models/csd/attention_pipeline_test/limit");
    CsdConfig config = random_pages_config(rng);
    config.engine.feed.key_buffers = 10'000;
    config.engine.feed.value_buffers = 10'000;
    config.engine.feed.heads_in_flight = 1000;
    config.engine.softmax_latency = 0_ps;
    config.engine.attend_cost = config.controller.completion_cost = 0_ps;
    config.nvme.doorbell = config.nvme.command_fetch = config.nvme.completion = 0_ps;
    const auto batch = batch_of(1 + pick(rng, 12), {dense_head(1 + pick(rng, 30), 0)});
    FlashEngine flash(config.flash, Rng(1, "flash"));
    CsdFlash places(config, "csd/0", 1);
    struct Last : PageSink {
      void page_done(std::uint64_t /*tag*/, SimTime at) override { last = at; }
      SimTime last{};
    } sink;
    for (int pair = 0; pair < batch->pairs(); ++pair) {
      for (const KvStream stream : {KvStream::key_tokens, KvStream::value_tokens}) {
        for (const int page : batch->reads_of(0).key_pages) {
          places.add_read(places.stream({}, pair, stream), page, {0, 0});
        }
      }
    }
    places.engine().start(at(0ns));
    places.engine().process(kForever, sink);
    REQUIRE(attend_time(config, batch) == sink.last.time_since_epoch());
  }
}

TEST_CASE("attention pipeline: more slots, units and heads are faster on average") {
  const auto mean = [](auto&& change) {
    double sum = 0;
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      Rng rng(seed, "models/csd/attention_pipeline_test/monotone");
      CsdConfig config = pages_config();
      config.flash.channels = 2;
      config.engine.feed.heads_in_flight = 4;
      const auto batch = random_heads(rng, 8, 60);
      auto slow = std::make_shared<AttendBatch>(*batch);
      for (AttendBatch::Segment& segment : slow->segments) {
        for (HeadReads& reads : segment.patterns) {
          reads.attention_flops = Flops{3'000 * reads.pages()};
          reads.estimate_flops = Flops{3'000 * reads.pages()};
        }
      }
      slow->seal();
      change(config);
      sum += to_seconds(attend_time(config, slow));
    }
    return sum / 100;
  };
  const auto falls = [&](const char* what, const std::vector<int>& values, auto&& set) {
    std::vector<double> means;
    std::string text;
    for (const int value : values) {
      means.push_back(mean([&](CsdConfig& config) { set(config.engine, value); }));
      text += fmt::format(" {}: {:.1f}", value, means.back() * 1e6);
    }
    MESSAGE(what, ", mean us:", text);
    CHECK(std::is_sorted(means.rbegin(), means.rend()));
    CHECK(means.back() < 0.95 * means.front());
  };
  falls("key_buffers", {1, 2, 4, 16}, [](auto& e, int n) { e.feed.key_buffers = n; });
  falls("value_buffers", {1, 2, 4, 16}, [](auto& e, int n) { e.feed.value_buffers = n; });
  falls("heads_in_flight", {1, 2, 4, 8}, [](auto& e, int n) { e.feed.heads_in_flight = n; });
  falls("GeMV units", {1, 2, 4}, [](auto& e, int n) { e.gemv_units_per_kernel = n; });
}
