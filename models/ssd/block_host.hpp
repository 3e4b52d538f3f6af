// Hosts of a block device: a closed loop at a queue depth, and open arrivals at given times.
// What they count is a Statistics, with  void add(id, submitted, at)  for each completion.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "models/ssd/block_ssd.hpp"
#include "sim/core/check.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct ResponseTimes {
  std::int64_t requests = 0;
  SimDuration sum{};
  SimDuration least{SimDuration::max()};
  SimDuration most{};
  SimTime last{};  // completion

  void add(std::uint64_t /*id*/, SimTime submitted, SimTime at) {
    const SimDuration took = at - submitted;
    ++requests;
    sum += took;
    least = std::min(least, took);
    most = std::max(most, took);
    last = at;
  }
  [[nodiscard]] double mean_seconds() const {
    return requests == 0 ? 0 : to_seconds(sum) / static_cast<double>(requests);
  }
};

/// The last time that a device can be run to.
inline constexpr SimTime kEndOfTime{SimDuration{SimDuration::max() - SimDuration{1}}};

/// `Source` has  bool next(BlockRequest&)  that is false at the end. The first `depth` requests
/// are submitted at `start`, each other one when one completes.
template <class Source, class Statistics = ResponseTimes>
class ClosedLoop final : public BlockHost {
 public:
  ClosedLoop(BlockSsd& ssd, Source& source) : ssd_(ssd), source_(source) {}
  ClosedLoop(BlockSsd& ssd, Source& source, Statistics statistics)
      : ssd_(ssd), source_(source), statistics_(std::forward<Statistics>(statistics)) {}

  /// Runs until the source is empty, or `stop` has come, and all requests are done.
  const Statistics& run(SimTime start, int depth, SimTime stop = kNever) {
    stop_ = stop;
    for (int i = 0; i < depth; ++i) {
      submit_next(start);
    }
    ssd_.process(kEndOfTime, *this);
    return statistics_;
  }

 private:
  void submit_next(SimTime now) {
    BlockRequest request;
    if (now < stop_ && source_.next(request)) {
      ssd_.submit(now, request);
    }
  }
  void completed(std::uint64_t id, SimTime submitted, SimTime at) override {
    statistics_.add(id, submitted, at);
    submit_next(at);
  }

  BlockSsd& ssd_;
  Source& source_;
  Statistics statistics_{};
  SimTime stop_ = kNever;
};

/// `Source` has  bool next(SimTime& at, BlockRequest&)  with times that never go back (checked).
template <class Source, class Statistics = ResponseTimes>
class OpenArrivals final : public BlockHost {
 public:
  OpenArrivals(BlockSsd& ssd, Source& source) : ssd_(ssd), source_(source) {}
  OpenArrivals(BlockSsd& ssd, Source& source, Statistics statistics)
      : ssd_(ssd), source_(source), statistics_(std::forward<Statistics>(statistics)) {}

  const Statistics& run() {
    SimTime at{};
    SimTime before{};
    BlockRequest request;
    while (source_.next(at, request)) {
      check(at >= before, "arrivals that go back in time");
      before = at;
      ssd_.process(at, *this);
      ssd_.submit(at, request);
    }
    ssd_.process(kEndOfTime, *this);
    return statistics_;
  }

 private:
  void completed(std::uint64_t id, SimTime submitted, SimTime at) override {
    statistics_.add(id, submitted, at);
  }

  BlockSsd& ssd_;
  Source& source_;
  Statistics statistics_{};
};

}  // namespace nearkv
