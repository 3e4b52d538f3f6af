// The requests that MQSim's synthetic flow generates (IO_Flow_Synthetic), one for one: a comparison
// with MQSim on a random workload then has no sampling error.
#pragma once

#include <array>
#include <cstdint>

#include "models/ssd/block_request.hpp"

namespace nearkv {

/// MRG32k3a (L'Ecuyer, Oper. Res. 47(1), 1999), started as MQSim does: its jump-ahead works in
/// 64-bit integers that wrap around, and this gives the same numbers.
class MqsimRandom {
 public:
  explicit MqsimRandom(int seed);

  /// In (0, 1].
  double next();
  /// lowest + floor((highest - lowest + 1) x next()).
  std::uint64_t uniform(std::uint64_t lowest, std::uint64_t highest);

 private:
  std::array<std::array<double, 3>, 2> state_;
};

struct MqsimWorkload {
  enum class Pattern { random_uniform, streaming };

  std::int64_t requests = 0;
  std::int64_t sectors = 0;  // of the logical space of the flow
  double working_set = 1;    // share of it that is accessed
  double reads = 1;          // share of the requests
  Pattern pattern = Pattern::random_uniform;
  std::int64_t request_sectors = 0;
  std::int64_t alignment = 1;  // sectors; 1: not aligned
  int seed = 0;
  std::int64_t last_sector = -1;   // of the working set; -1: as working_set says
  std::int64_t stream_start = -1;  // first sector of a stream; -1: drawn from the working set
};

/// A source for ClosedLoop.
class MqsimRequests {
 public:
  static constexpr std::int64_t kSectorBytes = 512;
  static constexpr std::uint64_t kIsWrite = std::uint64_t{1} << 63;  // in a request's id

  explicit MqsimRequests(const MqsimWorkload& workload);

  bool next(BlockRequest& request);

  /// Of the working set.
  [[nodiscard]] std::uint64_t last_sector() const { return static_cast<std::uint64_t>(end_); }

 private:
  std::int64_t next_streaming();

  MqsimWorkload workload_;
  std::int64_t end_;  // last sector of the working set
  MqsimRandom kinds_;
  MqsimRandom addresses_;
  std::int64_t streaming_next_ = 0;
  std::int64_t generated_ = 0;
};

}  // namespace nearkv
