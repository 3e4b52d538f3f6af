// Hosts of a block device: a closed loop at a queue depth, and open arrivals at given times.
#pragma once

#include <algorithm>
#include <cstdint>

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

  void add(SimTime submitted, SimTime at) {
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

/// `Source` has  bool next(BlockRequest&)  that is false at the end. The first `depth` requests
/// are submitted at `start`, each other one when one completes.
template <class Source>
class ClosedLoop final : public BlockHost {
 public:
  ClosedLoop(BlockSsd& ssd, Source& source) : ssd_(ssd), source_(source) {}

  /// Runs until the source is empty and all requests are done.
  const ResponseTimes& run(SimTime start, int depth) {
    for (int i = 0; i < depth; ++i) {
      submit_next(start);
    }
    ssd_.process(SimTime{SimDuration{SimDuration::max() - SimDuration{1}}}, *this);
    return times_;
  }

 private:
  void submit_next(SimTime now) {
    BlockRequest request;
    if (source_.next(request)) {
      ssd_.submit(now, request);
    }
  }
  void completed(std::uint64_t, SimTime submitted, SimTime at) override {
    times_.add(submitted, at);
    submit_next(at);
  }

  BlockSsd& ssd_;
  Source& source_;
  ResponseTimes times_;
};

/// `Source` has  bool next(SimTime& at, BlockRequest&)  with times that never go back (checked).
template <class Source>
class OpenArrivals final : public BlockHost {
 public:
  OpenArrivals(BlockSsd& ssd, Source& source) : ssd_(ssd), source_(source) {}

  const ResponseTimes& run() {
    SimTime at{};
    SimTime before{};
    BlockRequest request;
    while (source_.next(at, request)) {
      check(at >= before, "arrivals that go back in time");
      before = at;
      ssd_.process(at, *this);
      ssd_.submit(at, request);
    }
    ssd_.process(SimTime{SimDuration{SimDuration::max() - SimDuration{1}}}, *this);
    return times_;
  }

 private:
  void completed(std::uint64_t, SimTime submitted, SimTime at) override {
    times_.add(submitted, at);
  }

  BlockSsd& ssd_;
  Source& source_;
  ResponseTimes times_;
};

}  // namespace nearkv
