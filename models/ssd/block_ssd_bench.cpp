// Speed of a replay: random reads of 16 KiB at a queue depth of 256, I/Os a second.
#include <cstdint>

#include <benchmark/benchmark.h>

#include "models/ssd/block_host.hpp"
#include "models/ssd/block_ssd.hpp"
#include "models/ssd/test_drive.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;

namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kPages = 1 << 18;
constexpr Bytes kPage = 16_KiB;

BlockSsdConfig drive(FlashPolicy policy) {
  BlockSsdConfig config = mqsim_like_drive();
  config.flash.channels = 8;
  config.flash.chips_per_channel = 4;
  config.flash.page_size = kPage;
  config.flash.policy = policy;
  config.link.lanes = 16;
  config.link.lane_rate = 4000_MBps;
  return config;
}

struct RandomReads {
  std::int64_t left;
  Rng rng{1, "models/flash/block_ssd_bench"};
  bool next(BlockRequest& request) {
    const auto page = static_cast<std::int64_t>(rng.below(kPages));
    request = {static_cast<std::uint64_t>(left), page * kPage, kPage, BlockOp::read};
    return left-- > 0;
  }
};

void replay_random_reads(benchmark::State& state, FlashPolicy policy) {
  constexpr std::int64_t kRequests = 200'000;
  const BlockSsdConfig config = drive(policy);
  std::int64_t requests = 0;
  double iops = 0;
  for ([[maybe_unused]] auto iteration : state) {
    BlockSsd ssd(config, 1, "bench");
    RandomReads source{kRequests};
    ClosedLoop host(ssd, source);
    const ResponseTimes& times = host.run(SimTime{}, 256);
    requests += times.requests;
    iops = static_cast<double>(times.requests) / to_seconds(times.last);
  }
  state.counters["IO/s"] =
      benchmark::Counter(static_cast<double>(requests), benchmark::Counter::kIsRate);
  state.counters["modelled_IOPS"] = iops;
}

BENCHMARK_CAPTURE(replay_random_reads, data_out_first, FlashPolicy::data_out_first)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(replay_random_reads, out_of_order, FlashPolicy::out_of_order)
    ->Unit(benchmark::kMillisecond);

}  // namespace
