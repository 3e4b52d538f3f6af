#include "models/ssd/nvme_front_end.hpp"

#include <map>
#include <vector>

#include <doctest/doctest.h>

#include "models/ssd/nvme_arbiter.hpp"
#include "models/ssd/test_nvme.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

// Messages on small_link(): bytes and 28 B a packet of 128 B, over 4 lanes of 1 GB/s.
constexpr SimDuration kDoorbell = 8ns;  // 30 B, 7.5
constexpr SimDuration kRequest = 8ns;
constexpr SimDuration kInterrupt = 8ns;
constexpr SimDuration kEntry = 25ns;
constexpr SimDuration kCompletion = 11ns;
constexpr SimDuration kPage = 1'248ns;  // 4 KiB in 32 packets
constexpr SimDuration kFetched = kDoorbell + kRequest + kEntry;

SimTime at(SimDuration d) { return SimTime{d}; }

/// A drive that takes `work` for each command, as many at once as there are.
class Fixture final : public NvmeTarget, public BlockHost {
 public:
  explicit Fixture(const NvmeConfig& config, SimDuration work = 0ns)
      : front_end(config, small_link()), work_(work) {}

  void submit(SimTime now, BlockRequest request) {
    run(now - 1_ps);
    request.id = submitted++;
    front_end.submit(now, request);
  }
  void run(SimTime until = kNever - 1_ps) {
    while (true) {
      const SimTime own{SimDuration{work_done_.front_at()}};
      const SimTime now = std::min(own, front_end.next_event());
      if (now > until) {
        return;
      }
      if (own == now) {
        const NvmeSlot slot = work_done_.front().what;
        work_done_.pop();
        finish(slot, now);
      } else {
        front_end.process_one(now, *this, *this);
      }
    }
  }

  NvmeFrontEnd front_end;
  std::uint64_t submitted = 0;
  std::map<std::uint64_t, SimTime> fetched;
  std::map<std::uint64_t, SimTime> seen;
  std::vector<std::uint64_t> order;  // in which entries were fetched
  SimTime last{};

 private:
  void command_arrived(NvmeSlot slot, SimTime now) override {
    const BlockRequest& request = front_end.request(slot);
    fetched[request.id] = now;
    order.push_back(request.id);
    if (request.op == BlockOp::read) {
      work(slot, now);
    } else {
      front_end.fetch_data(slot, now);
    }
  }
  void data_arrived(NvmeSlot slot, SimTime now) override { work(slot, now); }
  void work(NvmeSlot slot, SimTime now) {
    if (work_ == 0ns) {
      finish(slot, now);
    } else {
      work_done_.push((now + work_).time_since_epoch().count(), slot);
    }
  }
  void finish(NvmeSlot slot, SimTime now) {
    const BlockRequest& request = front_end.request(slot);
    if (request.op == BlockOp::read) {
      front_end.send_data(slot, now, request.size);
    }
    front_end.complete(slot, now);
  }
  void completed(std::uint64_t id, SimTime, SimTime now) override {
    CHECK(now >= last);
    last = now;
    CHECK(seen.emplace(id, now).second);
  }

  SimDuration work_;
  EventRing work_done_;
};

BlockRequest read(Bytes size, std::uint16_t queue = 0) {
  return {0, 0_B, size, BlockOp::read, queue};
}

NvmeConfig queues(int count) {
  NvmeConfig config = plain_nvme(512);
  config.queue_groups = {{.queues = count, .priority = NvmePriority::medium}};
  return config;
}

std::vector<int> take(NvmeArbiter& arbiter, int times) {
  std::vector<int> taken;
  for (int i = 0; i < times; ++i) {
    taken.push_back(arbiter.take());
  }
  return taken;
}

}  // namespace

// -- Arbitration ----------------------------------------------------------------------------------

TEST_CASE("nvme arbiter: round robin gives each queue with commands a burst in turn") {
  NvmeConfig config = queues(100);
  NvmeArbiter single(config);
  for (const int queue : {99, 3, 70}) {
    single.set_ready(queue, true);
  }
  CHECK(take(single, 5) == std::vector<int>{3, 70, 99, 3, 70});
  single.set_ready(99, false);
  single.set_ready(5, true);
  CHECK(take(single, 4) == std::vector<int>{3, 5, 70, 3});
  config.arbitration_burst = 2;
  NvmeArbiter pairs(config);
  pairs.set_ready(0, true);
  pairs.set_ready(64, true);
  CHECK(take(pairs, 5) == std::vector<int>{0, 0, 64, 64, 0});
  pairs.set_ready(0, false);  // a burst that ends early
  CHECK(take(pairs, 3) == std::vector<int>{64, 64, 64});
  pairs.set_ready(64, false);
  CHECK_FALSE(pairs.is_ready());
  CHECK_THROWS_AS(static_cast<void>(pairs.take()), CheckFailure);
}

TEST_CASE("nvme arbiter: urgent queues first, then the classes by their weights") {
  NvmeConfig config = plain_nvme(512);
  config.arbitration = NvmeArbitration::weighted_round_robin;
  config.high_weight = 3;
  config.medium_weight = 2;
  config.low_weight = 1;
  config.queue_groups = {{.queues = 1, .priority = NvmePriority::low},
                         {.queues = 2, .priority = NvmePriority::medium},
                         {.queues = 1, .priority = NvmePriority::high},
                         {.queues = 1, .priority = NvmePriority::urgent}};
  NvmeArbiter arbiter(config);  // 0 low, 1 and 2 medium, 3 high, 4 urgent
  for (int queue = 0; queue < 4; ++queue) {
    arbiter.set_ready(queue, true);
  }
  CHECK(take(arbiter, 12) == std::vector<int>{3, 3, 3, 1, 2, 0, 3, 3, 3, 1, 2, 0});
  CHECK(take(arbiter, 2) == std::vector<int>{3, 3});
  arbiter.set_ready(4, true);
  CHECK(take(arbiter, 3) == std::vector<int>{4, 4, 4});
  arbiter.set_ready(4, false);
  CHECK(take(arbiter, 2) == std::vector<int>{3, 1});  // the round goes on
  arbiter.set_ready(3, false);
  CHECK(take(arbiter, 8) == std::vector<int>{2, 0, 1, 2, 0, 1, 2, 0});
  arbiter.set_ready(3, true);  // of the rounds that it missed nothing is kept: the rest of this one
  CHECK(take(arbiter, 7) == std::vector<int>{3, 3, 3, 3, 3, 3, 1});
}

TEST_CASE("nvme front end: the controller takes commands from its queues in turn") {
  NvmeConfig config = queues(2);
  config.fetch_limit = 1;
  Fixture drive(config, 100us);
  for (int i = 0; i < 4; ++i) {
    drive.submit(at(0ns), read(4_KiB, 0));
  }
  drive.submit(at(0ns), read(4_KiB, 1));
  drive.submit(at(0ns), read(4_KiB, 1));
  drive.run();
  CHECK(drive.order == std::vector<std::uint64_t>{0, 4, 1, 5, 2, 3});
}

// -- Costs ----------------------------------------------------------------------------------------

TEST_CASE("nvme front end: a command is the sum of its messages") {
  Fixture drive(plain_nvme(512), 10us);
  drive.submit(at(1us), read(4_KiB));
  drive.run();
  CHECK(drive.fetched[0] == at(1us + kFetched));
  CHECK(drive.seen[0] == at(1us + kFetched + 10us + kPage + kCompletion));
  // The completion doorbell is on the link when the host hears of it.
  const SimTime second = drive.seen[0];
  drive.submit(second, {0, 0_B, 4_KiB, BlockOp::write});
  drive.run();
  CHECK(drive.fetched[1] == second + kDoorbell + kFetched);
  CHECK(drive.seen[1] == drive.fetched[1] + kRequest + kPage + 10us + kCompletion);
  // A TRIM fetches its range: 44 B.
  const SimTime third = drive.seen[1] + 1us;
  drive.submit(third, {0, 0_B, 1_GiB, BlockOp::trim});
  drive.run();
  CHECK(drive.seen[2] == third + kFetched + kRequest + 11ns + 10us + kCompletion);
  CHECK(drive.front_end.counters().commands == 3);
  CHECK(drive.front_end.counters().up_busy == 4 * kRequest + kRequest + kPage + 3 * kCompletion);
}

TEST_CASE("nvme front end: latencies add to the messages and do not occupy the link") {
  NvmeConfig config = queues(2);
  static_cast<NvmeQueueConfig&>(config) = {.queue_depth = 8,
                                           .host_submit = 100ns,
                                           .doorbell = 250ns,
                                           .command_fetch = 600ns,
                                           .completion = 3us};
  const SimDuration fetched = 100ns + kFetched + 250ns + 600ns;
  Fixture drive(config);
  drive.submit(at(0ns), {0, 0_B, 4_KiB, BlockOp::write, 0});
  drive.submit(at(0ns), {0, 0_B, 4_KiB, BlockOp::write, 0});
  drive.submit(at(0ns), {0, 0_B, 4_KiB, BlockOp::write, 1});
  drive.run();
  // Each queue pair has a core that submits; the doorbells of the first and third share the link.
  CHECK(drive.fetched[0] == at(fetched));
  CHECK(drive.fetched[2] == at(fetched + 25ns));  // entries one behind the other
  CHECK(drive.fetched[1] == at(fetched + 100ns));
  CHECK(drive.seen[0] == at(fetched + kRequest + 600ns + kPage + kCompletion + 3us));
  CHECK(drive.seen[2] == drive.seen[0] + kPage);
  CHECK(drive.seen[1] == drive.seen[0] + 2 * kPage);
}

TEST_CASE("nvme config: lists of data pointers") {
  NvmeConfig config = plain_nvme(512);
  CHECK(config.listed_pointers(1_MiB) == 0);
  config.data_pointers = DataPointers::prp;
  CHECK(config.listed_pointers(8_KiB) == 0);
  CHECK(config.listed_pointers(8_KiB + 1_B) == 2);
  CHECK(config.listed_pointers(2_MiB) == 511);
  CHECK(config.next_list_piece(511).size == 4088_B);
  CHECK(config.next_list_piece(512).pointers == 512);
  CHECK(config.next_list_piece(513).pointers == 511);  // and the address of the next page
  CHECK(config.next_list_piece(513).size == 4_KiB);
  config.data_pointers = DataPointers::sgl;
  config.sgl_block = 64_KiB;
  CHECK(config.listed_pointers(64_KiB) == 0);
  CHECK(config.listed_pointers(128_KiB) == 2);
  CHECK(config.next_list_piece(2).size == 32_B);
}

TEST_CASE("nvme config: the shipped ones are complete") {
  for (const char* name : {"nvme_polled.json", "nvme_kernel.json"}) {
    NvmeConfig config;
    read_fields(load_config(shipped_configs() / "platforms" / "pcie" / name),
                [&](FieldVisitor& v) { config.fields(v); });
    CHECK(config.queue_depth == 128);
    CHECK(config.host_submit > SimDuration{});
    CHECK(config.queue_pairs() == 1);
    CHECK(config.data_pointers == DataPointers::prp);
  }
  nlohmann::json json = load_config(shipped_configs() / "platforms" / "pcie" / "nvme_kernel.json");
  json["queue_groups"] = nlohmann::json::array();
  for (int group = 0; group < 3; ++group) {
    json["queue_groups"].push_back({{"queues", 22'000}, {"priority", "low"}});
  }
  NvmeConfig config;
  CHECK_THROWS_WITH_AS(read_fields(json, [&](FieldVisitor& v) { config.fields(v); }),
                       "/queue_groups: must have at most 65535 queue pairs in all", ConfigError);
}

TEST_CASE("nvme front end: data wait for the lists of their pointers") {
  NvmeConfig config = plain_nvme(512);
  config.data_pointers = DataPointers::prp;
  {
    Fixture drive(config);  // 12 KiB: two entries, 44 B on the link
    drive.submit(at(0ns), read(12_KiB));
    drive.run();
    CHECK(drive.seen[0] == at(kFetched + kRequest + 11ns + 3 * kPage + kCompletion));
  }
  {
    Fixture drive(config);  // the request for the data follows the list
    drive.submit(at(0ns), {0, 0_B, 12_KiB, BlockOp::write});
    drive.run();
    CHECK(drive.seen[0] == at(kFetched + kRequest + 11ns + kRequest + 3 * kPage + kCompletion));
  }
  {
    // 1025 pages: 511, 511 and 2 pointers, one piece after the other
    config.command_fetch = 600ns;
    Fixture drive(config);
    drive.submit(at(0ns), read(4_MiB + 4_KiB));
    drive.run();
    const SimDuration lists = 3 * (kRequest + 600ns) + 2 * kPage + 11ns;
    CHECK(drive.seen[0] == at(kFetched + 600ns + lists + 1025 * kPage + kCompletion));
    CHECK(drive.front_end.counters().lists == 3);
  }
  {
    Fixture drive(config, 10us);  // the list comes while the drive works
    drive.submit(at(0ns), read(12_KiB));
    drive.run();
    CHECK(drive.seen[0] == at(kFetched + 600ns + 10us + 3 * kPage + kCompletion));
  }
}

TEST_CASE("nvme front end: a queue pair holds queue_depth commands") {
  NvmeConfig config = queues(2);
  config.queue_depth = 1;
  Fixture drive(config, 10us);
  drive.submit(at(0ns), read(4_KiB, 0));
  drive.submit(at(0ns), read(4_KiB, 0));
  drive.submit(at(0ns), read(4_KiB, 1));
  drive.run();
  CHECK(drive.fetched[2] == at(kFetched + kEntry));  // behind the first one's entry
  // The second one enters when the host has seen the first; the request for its entry waits until
  // the link has carried the third one's data.
  CHECK(drive.seen[2] == drive.seen[0] + kPage + kCompletion);
  CHECK(drive.fetched[1] == drive.seen[2] + kRequest + kEntry);
}

// -- What tells the host --------------------------------------------------------------------------

TEST_CASE("nvme front end: interrupts are sent at the threshold or after the time") {
  NvmeConfig config = plain_nvme(512);
  config.notice = CompletionNotice::interrupt;
  config.completion = 2us;
  config.host_complete = 50ns;
  const SimDuration done = kFetched + 10us;
  SUBCASE("one for each") {
    config.aggregation_threshold = 1;
    Fixture drive(config, 10us);
    drive.submit(at(0ns), read(4_KiB));
    drive.run();
    CHECK(drive.seen[0] == at(done + kPage + kCompletion + kInterrupt + 2us + 50ns));
  }
  SUBCASE("time 0 is one for each") {
    config.aggregation_threshold = 100;
    Fixture drive(config, 10us);
    drive.submit(at(0ns), read(4_KiB));
    drive.run();
    CHECK(drive.seen[0] == at(done + kPage + kCompletion + kInterrupt + 2us + 50ns));
  }
  SUBCASE("threshold") {
    config.aggregation_threshold = 2;
    config.aggregation_time = 100us;
    Fixture drive(config, 10us);
    drive.submit(at(0ns), read(4_KiB));
    drive.submit(at(50us), read(4_KiB));
    drive.run();
    const SimDuration handled = 50us + done + kPage + kCompletion + kInterrupt + 2us;
    CHECK(drive.seen[0] == at(handled + 50ns));
    CHECK(drive.seen[1] == at(handled + 100ns));
    CHECK(drive.front_end.counters().interrupts == 1);
    // Two submissions; one doorbell for both completions.
    CHECK(drive.front_end.counters().down_busy == 3 * kDoorbell + 2 * kEntry);
  }
  SUBCASE("time") {
    config.aggregation_threshold = 3;
    config.aggregation_time = 100us;
    Fixture drive(config, 10us);
    drive.submit(at(0ns), read(4_KiB));
    drive.submit(at(50us), read(4_KiB));
    drive.submit(at(100us) + 1_ps, read(4_KiB));  // posted 1 ps late for the interrupt
    drive.run();
    const SimDuration handled = done + 100us + kInterrupt + 2us;
    CHECK(drive.seen[0] == at(handled + 50ns));
    CHECK(drive.seen[1] == at(handled + 100ns));
    // Its entry was there when the host looked; the interrupt of its own finds nothing.
    CHECK(drive.seen[2] == at(handled + 150ns));
    CHECK(drive.front_end.counters().interrupts == 2);
  }
}

TEST_CASE("nvme front end: a timer that came too late does nothing") {
  NvmeConfig config = plain_nvme(512);
  config.notice = CompletionNotice::interrupt;
  config.aggregation_threshold = 2;
  config.aggregation_time = 100us;
  Fixture drive(config, 10us);
  drive.submit(at(0ns), read(4_KiB));
  drive.submit(at(50us), read(4_KiB));  // the second: an interrupt
  drive.submit(at(60us), read(4_KiB));  // its own timer, not that of the first, ends its wait
  drive.run();
  CHECK(drive.seen[1] == at(50us + kFetched + 10us + kPage + kCompletion + kInterrupt));
  CHECK(drive.seen[2] == at(160us + kFetched + 10us + kInterrupt));
  CHECK(drive.front_end.counters().interrupts == 2);
}

TEST_CASE("nvme front end: a polling host looks at multiples of its interval") {
  NvmeConfig config = plain_nvme(512);
  config.notice = CompletionNotice::polling;
  config.poll_interval = 5us;
  config.completion = 100ns;
  config.host_complete = 50ns;
  const SimDuration arrives = kFetched + kPage + kCompletion;
  Fixture drive(config);
  drive.submit(at(5us - arrives), read(4_KiB));
  drive.submit(at(20us - arrives), read(4_KiB));
  drive.submit(at(30us - arrives) + 1_ps, read(4_KiB));
  drive.submit(at(33us), read(4_KiB));
  drive.run();
  CHECK(drive.seen[0] == at(5us + 150ns));
  CHECK(drive.seen[1] == at(20us + 150ns));
  CHECK(drive.seen[2] == at(35us + 150ns));  // came 1 ps late
  CHECK(drive.seen[3] == at(35us + 200ns));
}

TEST_CASE("nvme front end: the host's core handles one completion after another") {
  NvmeConfig config = plain_nvme(512);
  config.host_complete = 3us;
  Fixture drive(config, 10us);
  drive.submit(at(0ns), read(4_KiB));
  drive.submit(at(0ns), read(4_KiB));
  drive.run();
  CHECK(drive.seen[0] == at(kFetched + 10us + kPage + kCompletion + 3us));
  CHECK(drive.seen[1] == drive.seen[0] + 3us);
}

// -- Properties -----------------------------------------------------------------------------------

TEST_CASE("nvme front end: no command is lost or done twice, and the link carries their bytes") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Rng rng(seed, "models/ssd/nvme_front_end_test");
    const auto below = [&rng](std::uint64_t n) { return static_cast<std::int64_t>(rng.below(n)); };
    NvmeConfig config = plain_nvme(static_cast<int>(1 + below(20)));
    static_cast<NvmeQueueConfig&>(config) = {
        .queue_depth = static_cast<int>(1 + below(10)),
        .host_submit = SimDuration{below(2) * below(1'000'000)},
        .doorbell = SimDuration{below(500'000)},
        .command_fetch = SimDuration{below(900'000)},
        .completion = SimDuration{below(3'000'000)}};
    config.arbitration = static_cast<NvmeArbitration>(below(2));
    config.arbitration_burst = static_cast<int>(1 + below(4));
    config.queue_groups.clear();
    for (std::int64_t group = below(4); group >= 0; --group) {
      config.queue_groups.push_back({.queues = static_cast<int>(1 + below(40)),
                                     .priority = static_cast<NvmePriority>(below(4))});
    }
    config.data_pointers = static_cast<DataPointers>(below(3));
    config.notice = static_cast<CompletionNotice>(below(3));
    config.aggregation_threshold = static_cast<int>(1 + below(8));
    config.aggregation_time = SimDuration{below(2) * below(20'000'000)};
    config.poll_interval = SimDuration{below(2) * below(5'000'000)};
    config.host_complete = SimDuration{below(2) * below(500'000)};
    Fixture drive(config, SimDuration{below(2) * below(50'000'000)});
    SimTime now{};
    SimDuration data{};
    std::int64_t pieces = 0;
    for (int i = 0; i < 500; ++i) {
      BlockRequest request = read(512_B * (1 + below(4000)));
      request.queue =
          static_cast<std::uint16_t>(below(static_cast<std::uint64_t>(config.queue_pairs())));
      if (request.size > 100_KiB && below(10) > 0) {
        request.size = 4_KiB;
      }
      data += small_link().message_time(request.size);
      for (std::int64_t left = config.listed_pointers(request.size); left > 0; ++pieces) {
        left -= config.next_list_piece(left).pointers;
      }
      drive.submit(now, request);  // all before the drive runs: every time is now
    }
    drive.run();
    INFO("seed ", seed);
    REQUIRE(drive.seen.size() == 500);
    REQUIRE(drive.order.size() == 500);
    const NvmeFrontEnd::Counters counters = drive.front_end.counters();
    CHECK(counters.lists == pieces);
    CHECK(counters.up_busy ==
          data + (500 + pieces) * kRequest + 500 * kCompletion + counters.interrupts * kInterrupt);
  }
}
