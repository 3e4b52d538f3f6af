#include "sim/core/latency_histogram.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sim/core/check.hpp"

namespace nearkv {

LatencyHistogram::LatencyHistogram()
    : counts_(index_of(std::numeric_limits<std::int64_t>::max()) + 1) {}

LatencyHistogram::Bucket LatencyHistogram::bucket_at(std::size_t index) {
  const std::size_t rows = index >> kBits;
  const std::size_t shift = rows == 0 ? 0 : rows - 1;
  const auto first = static_cast<std::int64_t>((index - (shift << kBits)) << shift);
  return {SimDuration{first}, SimDuration{first + ((std::int64_t{1} << shift) - 1)}, 0};
}

void LatencyHistogram::add(const LatencyHistogram& other) {
  const bool stays_exact =
      is_exact() && other.is_exact() && kept_.size() + other.kept_.size() <= kKept;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    counts_[i] += other.counts_[i];
  }
  if (stays_exact) {
    kept_.insert(kept_.end(), other.kept_.begin(), other.kept_.end());
  } else {
    kept_.clear();
  }
  count_ += other.count_;
  sum_ += other.sum_;
  least_ = std::min(least_, other.least_);
  most_ = std::max(most_, other.most_);
}

double LatencyHistogram::mean_seconds() const {
  check(count_ > 0, "the mean of no latency");
  return static_cast<double>(sum_) / static_cast<double>(count_) /
         static_cast<double>(SimDuration::period::den);
}

SimDuration LatencyHistogram::least() const {
  check(count_ > 0, "the least of no latency");
  return SimDuration{least_};
}

SimDuration LatencyHistogram::most() const {
  check(count_ > 0, "the most of no latency");
  return SimDuration{most_};
}

SimDuration LatencyHistogram::percentile(double percent) const {
  constexpr double kAll = 100;
  check(count_ > 0 && percent >= 0 && percent <= kAll, "a percentile of nothing or out of range");
  // percent x n is rounded to a multiple of 1e-6 first, so that 99.9 % of 1000 is number 999.
  constexpr double kGrid = 1e6;
  const double exact = percent * static_cast<double>(count_) / kAll;
  const auto ceiled = static_cast<std::int64_t>(std::ceil(std::round(exact * kGrid) / kGrid));
  const std::int64_t rank = std::clamp<std::int64_t>(ceiled, 1, count_);
  if (is_exact()) {
    std::vector<std::int64_t> sorted = kept_;
    const auto at = sorted.begin() + (rank - 1);
    std::nth_element(sorted.begin(), at, sorted.end());
    return SimDuration{*at};
  }
  std::int64_t below = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    if (below >= rank) {
      return std::min(bucket_at(i).last, most());
    }
  }
  check(false, "a histogram that lost latencies");
  return {};
}

std::vector<LatencyHistogram::Bucket> LatencyHistogram::buckets() const {
  std::vector<Bucket> filled;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    if (counts_[i] > 0) {
      filled.push_back(bucket_at(i));
      filled.back().count = counts_[i];
    }
  }
  return filled;
}

}  // namespace nearkv
