#include "sim/app/replay_run.hpp"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "kernels/api.hpp"
#include "models/csd/csd.hpp"
#include "models/kv/head_reads.hpp"
#include "sim/app/replay_device.hpp"
#include "sim/app/replay_kv.hpp"
#include "sim/app/replay_output.hpp"
#include "sim/core/check.hpp"
#include "sim/core/event_loop.hpp"
#include "sim/core/random.hpp"
#include "traces/kv_page_trace.hpp"
#include "traces/test_files.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;
using namespace std::chrono_literals;
using traces::AccessKind;
using traces::TemporaryFile;

namespace {

constexpr const char* kSsd = "nearkv:platforms/ssds/samsung_980_pro_2tb.json";
constexpr const char* kFull = "ftl/unwritten_reads=as_if_written";  // reads find data
constexpr const char* kCsd = "nearkv:platforms/csds/instinfer_emulated.json";

ReplayOptions options(const TemporaryFile& file, const char* device = kSsd) {
  ReplayOptions all;
  all.input = file.path();
  all.device = device;
  all.overrides = {kFull};
  return all;
}

/// Random reads and writes of 4 to 64 KiB; times are whole microseconds, so that an fio log can
/// say the same.
struct RandomTrace {
  std::string block;
  std::string fio = "fio version 3 iolog\n0 f add\n0 f open\n";
  std::int64_t bytes = 0;
  std::int64_t last_us = 0;

  explicit RandomTrace(int requests) {
    Rng rng(7, "sim/app/replay_run_test");
    std::int64_t time = 13;
    for (int i = 0; i < requests; ++i) {
      time += static_cast<std::int64_t>(rng.below(50));
      const auto first = static_cast<std::int64_t>(rng.below(1 << 16));
      const std::int64_t sectors = std::int64_t{8} << rng.below(5);
      const bool is_read = rng.below(3) != 0;
      block += fmt::format("{} 0 {} {} {}\n", 1000 * time, first, sectors, is_read ? 1 : 0);
      fio += fmt::format("{} f {} {} {}\n", time, is_read ? "read" : "write", 512 * first,
                         512 * sectors);
      bytes += 512 * sectors;
      last_us = time - 13;
    }
  }
};

std::int64_t bucket_count(const LatencyHistogram& latency) {
  std::int64_t sum = 0;
  for (const LatencyHistogram::Bucket& bucket : latency.buckets()) {
    sum += bucket.count;
  }
  return sum;
}

const traces::KvTraceHeader& kv_header() {
  static const traces::KvTraceHeader header{.model = "test",
                                            .source_kind = "made",
                                            .source = "replay_run_test.cpp",
                                            .source_hash = "none",
                                            .method = "sparf",
                                            .options = {{"r", 16}},
                                            .estimate_channels = 16,
                                            .d_head = 128,
                                            .page_size = 4096,
                                            .tokens_per_group = 16,
                                            .channels_per_group = 4,
                                            .layers = 2,
                                            .kv_heads = 2,
                                            .queries_per_kv_head = 1,
                                            .sequences = 2,
                                            .steps = 3,
                                            .longest_context = 600,
                                            .records = 24};
  return header;
}

std::string kv_text(int* pages) {
  const TemporaryFile file("");
  traces::KvTraceWriter writer(file.path(), kv_header());
  *pages = 0;
  for (int i = 0; i < 24; ++i) {
    traces::KvTraceRecord record{
        i / 8, i / 4 % 2, i / 2 % 2, i % 2, 598 + i / 8, 37, {3, 9}, {1, 2, 3, 30 + i % 7}, {}};
    record.value_pages = record.key_pages;
    *pages += 2 + 2 * 4;
    writer.add(record);
  }
  writer.finish();
  return file.text();
}

}  // namespace

TEST_CASE("replay: nothing is lost, and twice the same bytes") {
  const RandomTrace trace(3000);
  const TemporaryFile file(trace.block);
  const ReplayResult result = run_replay(options(file));
  CHECK(result.stats.requests() == 3000);
  CHECK((result.stats.bytes(AccessKind::read) + result.stats.bytes(AccessKind::write)).count() ==
        trace.bytes);
  for (const AccessKind kind : {AccessKind::read, AccessKind::write}) {
    CHECK(result.stats.requests(kind) > 900);
    CHECK(bucket_count(result.stats.latency(kind)) == result.stats.requests(kind));
  }
  CHECK(result.stats.requests(AccessKind::trim) == 0);
  CHECK(result.stats.last() > SimTime{trace.last_us * 1us});
  CHECK(result.record.outcome.status == RunStatus::ok);
  const ReplayResult again = run_replay(options(file));
  CHECK(replay_json(result).dump() == replay_json(again).dump());
  CHECK(replay_csv(result) == replay_csv(again));
  CHECK(replay_summary(result) == replay_summary(again));
}

TEST_CASE("replay: a block trace and an fio log of the same requests give the same latencies") {
  const RandomTrace trace(1000);
  const TemporaryFile block(trace.block);
  const TemporaryFile fio(trace.fio);
  CHECK(replay_csv(run_replay(options(block))) == replay_csv(run_replay(options(fio))));
  ReplayOptions closed_block = options(block);
  ReplayOptions closed_fio = options(fio);
  closed_block.depth = closed_fio.depth = 7;
  CHECK(replay_csv(run_replay(closed_block)) == replay_csv(run_replay(closed_fio)));
}

TEST_CASE("replay: reads far apart do not see each other, at any time scale") {
  std::string text;
  for (int i = 0; i < 20; ++i) {
    text += fmt::format("{} 0 {} 8 1\n", 10'000'000 * i, 32 * i);
  }
  const TemporaryFile file(text);
  ReplayOptions at_once = options(file);
  const ReplayResult one = run_replay(at_once);
  const LatencyHistogram& latency = one.stats.latency(AccessKind::read);
  CHECK(latency.least() == latency.most());
  CHECK(one.stats.last() == SimTime{190ms} + latency.most());
  for (const double scale : {0.5, 3.0}) {
    at_once.time_scale = scale;
    const ReplayResult scaled = run_replay(at_once);
    CHECK(scaled.stats.latency(AccessKind::read).most() == latency.most());
    CHECK(scaled.stats.last() ==
          SimTime{SimDuration{static_cast<std::int64_t>(scale * 190e9)}} + latency.most());
  }
  // One at a time is the same without the pauses; between two of them the host may be busy with the
  // first one's completion.
  at_once.time_scale.reset();
  at_once.depth = 1;
  const SimTime last = run_replay(at_once).stats.last();
  CHECK(last >= SimTime{20 * latency.most()});
  CHECK(last < SimTime{20 * (latency.most() + 2us)});
}

TEST_CASE("replay: more outstanding requests take less time in all, never more of it for one") {
  const RandomTrace trace(2000);
  const TemporaryFile file(trace.block);
  ReplayOptions all = options(file);
  SimTime before = kNever;
  double latency_before = 0;
  for (const int depth : {1, 4, 16, 64}) {
    all.depth = depth;
    const ReplayResult result = run_replay(all);
    CHECK(result.stats.last() < before);
    const double latency = result.stats.latency(AccessKind::read).mean_seconds();
    CHECK(latency > latency_before);
    before = result.stats.last();
    latency_before = latency;
  }
}

TEST_CASE("replay: at most so many requests, the first ones") {
  const RandomTrace trace(100);
  const TemporaryFile all(trace.block);
  ReplayOptions some = options(all);
  some.max_requests = 40;
  std::size_t end = 0;
  for (int line = 0; line < 40; ++line) {
    end = trace.block.find('\n', end) + 1;
  }
  const TemporaryFile first(trace.block.substr(0, end));
  CHECK(replay_csv(run_replay(some)) == replay_csv(run_replay(options(first))));
}

TEST_CASE("replay: the devices of a trace together are all of it") {
  const TemporaryFile file("5 0 0 8 1\n9 1 64 8 1\n12 0 0 8 0\n");
  ReplayOptions all = options(file);
  CHECK(run_replay(all).stats.requests() == 3);
  all.trace_device = "0";
  const ReplayResult zero = run_replay(all);
  CHECK(zero.stats.requests() == 2);
  REQUIRE(zero.record.outcome.notes.size() == 1);
  CHECK(zero.record.outcome.notes.front() == "1 requests of other devices were left out");
  all.trace_device = "1";
  CHECK(run_replay(all).stats.requests() == 1);
}

TEST_CASE("replay: a closed loop of a duration submits nothing from then on") {
  const TemporaryFile file(R"({"extends": "nearkv:workloads/random_read_16k.json",)"
                           R"("length": {"extends": [], "kind": "duration", "duration": "3ms"}})",
                           ".json");
  const ReplayResult result = run_replay(options(file));
  CHECK(result.stats.last() > SimTime{3ms});
  CHECK(result.stats.last() < SimTime{3ms} + 2 * result.stats.latency(AccessKind::read).most());
}

TEST_CASE("replay: paths below workload/ change the workload, all others the drive") {
  ReplayOptions all;
  all.input = (shipped_configs() / "workloads" / "random_read_16k.json").string();
  all.device = kSsd;
  all.overrides = {"workload/length/requests=500", "/workload/arrivals/queue_depth=1",
                   "flash/t_read=1ms", kFull};
  const ReplayResult result = run_replay(all);
  CHECK(result.stats.requests() == 500);
  CHECK(result.stats.latency(AccessKind::read).least() > 1ms);
  CHECK(result.mode == "closed loop, depth 1");
  all.depth = 5;
  CHECK(run_replay(all).mode == "closed loop, depth 5");
}

TEST_CASE("replay: a real trace, where it is") {
  const std::string file = source_folder() + "/../shared/traces/tpcc_small.block.trace";
  if (!std::filesystem::exists(file)) {
    return;
  }
  ReplayOptions all;
  all.input = file;
  all.device = kSsd;
  all.overrides = {kFull};
  const ReplayResult result = run_replay(all);
  CHECK(result.stats.requests(AccessKind::read) == 4381);
  CHECK(result.stats.requests(AccessKind::write) == 2618);
  CHECK(result.stats.last() > SimTime{136ms});  // 938.513 ms to 1075.002 ms
  CHECK(result.stats.last() < SimTime{137ms});
  all.trace_device = "8";
  CHECK(run_replay(all).stats.requests() == 150);
}

// -- KV page traces -----------------------------------------------------------------------------

// Longest context 600: 37 token groups, one chunk of 512 tokens in 32 channel groups; a head has
// 2 x 37 + 32 = 106 pages.
TEST_CASE("replay of KV pages: the plain layout") {
  traces::KvTraceRecord record;
  CHECK(kv_first_page(kv_header(), record) == 0);
  record.kv_head = 1;
  CHECK(kv_first_page(kv_header(), record) == 106);
  record.layer = 1;
  CHECK(kv_first_page(kv_header(), record) == 3 * 106);
  record.sequence = 1;
  CHECK(kv_first_page(kv_header(), record) == 7 * 106);
  CHECK(kv_cache_size(kv_header()) == 8 * 106 * 4_KiB);
  traces::KvTraceHeader dense = kv_header();
  dense.method = "dense";
  dense.estimate_channels = 0;
  CHECK(kv_cache_size(dense) == 8 * 74 * 4_KiB);
}

TEST_CASE("replay of KV pages: every page is read, batch by batch") {
  int pages = 0;
  const TemporaryFile file(kv_text(&pages));
  ReplayOptions ssd = options(file);
  ssd.depth = 8;
  const ReplayResult on_ssd = run_replay(ssd);
  CHECK(on_ssd.stats.requests(AccessKind::read) == pages);
  CHECK(on_ssd.stats.bytes(AccessKind::read) == pages * 4_KiB);
  CHECK(on_ssd.batches.count() == 6);
  // A batch begins when the one before is done.
  CHECK(on_ssd.batches.mean_seconds() * 6 ==
        doctest::Approx(to_seconds(on_ssd.stats.last())).epsilon(1e-12));

  const ReplayResult on_csd = run_replay(options(file, kCsd));
  CHECK(on_csd.record.outcome.metrics.at("drive/flash/pages_read") == pages);
  CHECK(on_csd.record.outcome.metrics.at("attend_commands") == 24);
  CHECK(on_csd.batches.count() == 6);

  ReplayOptions first_layer = options(file, kCsd);
  first_layer.max_requests = 4;
  const ReplayResult one = run_replay(first_layer);
  CHECK(one.batches.count() == 1);
  CHECK(one.batches.most() <= on_csd.batches.most());
}

// Context 600, 37 tokens attended to, 16 channels estimate the scores: 2 x 600 x 16 operations,
// then q . K and scores . V with 2 x 37 x 128 each.
TEST_CASE("replay of KV pages on a CSD: what the drive does with the same batches") {
  traces::KvTraceHeader header = kv_header();
  header.records = 8;
  header.steps = 2;
  for (const bool is_dense : {false, true}) {
    CAPTURE(is_dense);
    if (is_dense) {
      header.method = "dense";
      header.estimate_channels = 0;
    }
    const TemporaryFile file("");
    traces::KvTraceWriter writer(file.path(), header);
    const kernels::PageGeometry geometry(
        {.d_head = 128, .page_bytes = 4096, .channels_per_group = 4});
    const ReplayDrive drive = load_replay_drive(kCsd, {});
    EventLoop loop;
    Csd csd(loop, drive.csd, "csd", {.reuse = false, .seed = 1});
    const KvFtl::TaskId task = csd.open_task(
        {.sequences = 2, .layers = 2, .kv_heads = 2, .max_tokens = 600, .channel_copy = !is_dense},
        geometry);
    csd.append({task, 0}, 600, std::nullopt);
    std::vector<SimTime> ends{SimTime{}};
    for (int step = 0; step < 2; ++step) {
      std::vector<HeadReads> heads;
      for (int head = 0; head < 4; ++head) {
        HeadReads reads = dense_reads(geometry, {128, 1}, 600);
        if (!is_dense) {
          reads = {.channel_pages = {head, 9},
                   .key_pages = {1, 5 + step, 30},
                   .value_pages = {1, 5 + step, 30},
                   .estimate_flops = Flops{2 * 600 * 16},
                   .attention_flops = Flops{2 * 2 * 37 * 128},
                   .query_elements = 128,
                   .score_elements = 600};
        }
        writer.add({step, 0, head / 2, head % 2, 600, is_dense ? 600 : 37, reads.channel_pages,
                    reads.key_pages, reads.value_pages});
        heads.push_back(reads);
      }
      auto batch = std::make_shared<AttendBatch>();
      batch->segments.push_back({4, heads});
      batch->seal();
      Completion done;
      csd.submit_attend(ends.back(), batch, done, {task, 0});
      while (!done.done()) {
        loop.run(kNever);
        loop.take_finished();
      }
      ends.push_back(done.at());
    }
    writer.finish();
    const ReplayResult result = run_replay(options(file, kCsd));
    REQUIRE(result.batches.count() == 2);
    const SimDuration first = ends[1] - ends[0];
    const SimDuration second = ends[2] - ends[1];
    CHECK(result.batches.least() == std::min(first, second));
    CHECK(result.batches.most() == std::max(first, second));
  }
}
