// Latencies, counted in a log-linear histogram (as in HDR Histogram): from 2^k to 2^(k+1)
// picoseconds lie 1024 buckets of equal width, so that a bucket is at most 0.1 % wide of what is in
// it; below 2048 ps a bucket is one picosecond. The first kKept latencies are also kept as they
// are.
//
// The p-percentile is by nearest rank: the smallest latency such that at least p % of all n are at
// most that long, i.e. number ceil(p / 100 x n) of them in ascending order (p = 0: the first).
// Exact while is_exact(); then the upper end of its bucket, or the longest latency if that is
// shorter: never below the true value, and less than 0.1 % above it. Count, sum, mean, least and
// most are always exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/core/units.hpp"

namespace nearkv {

class LatencyHistogram {
 public:
  static constexpr std::size_t kKept = std::size_t{1} << 16;

  LatencyHistogram();

  /// `latency` >= 0 (checked).
  void add(SimDuration latency) {
    const std::int64_t value = latency.count();
    check(value >= 0, "a negative latency");
    ++counts_[index_of(value)];
    if (count_ < static_cast<std::int64_t>(kKept)) {
      kept_.push_back(value);
    }
    ++count_;
    sum_ += value;
    least_ = value < least_ ? value : least_;
    most_ = value > most_ ? value : most_;
  }
  /// The histogram of both together.
  void add(const LatencyHistogram& other);

  [[nodiscard]] std::int64_t count() const { return count_; }
  [[nodiscard]] bool is_exact() const { return static_cast<std::size_t>(count_) == kept_.size(); }
  // check() that there is a latency.
  [[nodiscard]] double mean_seconds() const;
  [[nodiscard]] SimDuration least() const;
  [[nodiscard]] SimDuration most() const;
  /// `percent` from 0 to 100.
  [[nodiscard]] SimDuration percentile(double percent) const;

  /// Latencies from `first` to `last`, both inclusive.
  struct Bucket {
    SimDuration first;
    SimDuration last;
    std::int64_t count;
  };
  /// Those with a latency, ascending.
  [[nodiscard]] std::vector<Bucket> buckets() const;

 private:
  static constexpr int kBits = 10;  // buckets from one power of two to the next, as a power of two

  /// Values below 2^(kBits + 1) are their own index; then the leading kBits + 1 bits, and which.
  [[nodiscard]] static std::size_t index_of(std::int64_t value) {
    const auto bits = static_cast<std::uint64_t>(value);
    constexpr std::uint64_t kSmall = std::uint64_t{1} << (kBits + 1);
    const int shift = 63 - kBits - __builtin_clzll(bits | (kSmall - 1));
    return (static_cast<std::size_t>(shift) << kBits) + static_cast<std::size_t>(bits >> shift);
  }
  [[nodiscard]] static Bucket bucket_at(std::size_t index);

  std::vector<std::int64_t> counts_;
  std::vector<std::int64_t> kept_;
  std::int64_t count_ = 0;
  Int128 sum_ = 0;
  std::int64_t least_ = INT64_MAX;
  std::int64_t most_ = 0;
};

}  // namespace nearkv
