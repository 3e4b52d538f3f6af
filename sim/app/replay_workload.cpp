#include "sim/app/replay_workload.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "sim/app/point.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr Bytes kSector = 512_B;
constexpr double kPicoseconds = 1e12;
constexpr double kLongestSeconds = 30.0 * 24 * 3600;
constexpr std::int64_t kMostRequests = std::int64_t{1} << 40;

bool whole_sectors(Bytes size) { return size.count() % kSector.count() == 0; }

/// 1 / golden ratio: neighbouring ranks end up far apart.
constexpr double kScatter = 0.6180339887498949;

/// A number coprime to n, near n / golden ratio.
std::int64_t scatter_of(std::int64_t n) {
  auto factor = std::max<std::int64_t>(1, std::llround(static_cast<double>(n) * kScatter));
  while (std::gcd(factor, n) != 1) {
    ++factor;
  }
  return factor;
}

}  // namespace

// -- Fields -----------------------------------------------------------------------------------

void WorkloadPattern::fields(FieldVisitor& v) {
  v.variant({"kind", "where requests go in the working set"},
            {"sequential", "random", "zipf", "hot_cold"}, kind,
            [this](std::size_t chosen, FieldVisitor& inner) {
              if (chosen == zipf) {
                inner.parameter("exponent", exponent,
                                "the slot of rank r is taken in proportion to r^-exponent",
                                {0.01, 10});
              } else if (chosen == hot_cold) {
                inner.parameter("hot_share", hot_share, "hot share of the working set", {0, 1});
                inner.parameter("hot_accesses", hot_accesses, "share of the requests that go there",
                                {0, 1});
              }
            });
}

void RequestSize::fields(FieldVisitor& v) {
  v.parameter("size", size, "size of a request", range_of(kSector, 1_GiB));
  v.parameter("weight", weight, "how many requests have it, relative to the other sizes",
              {1e-9, 1e9});
  v.require(whole_sectors(size), "size", "must be a multiple of 512B");
}

void WorkingSet::fields(FieldVisitor& v) {
  v.variant({"kind", "how its size is given"}, {"bytes", "share"}, kind,
            [this](std::size_t chosen, FieldVisitor& inner) {
              if (chosen == bytes) {
                inner.parameter("size", size, "size of the working set",
                                range_of(kSector, Bytes{std::int64_t{1} << 60}));
              } else {
                inner.parameter("share", of_drive, "share of the drive's capacity", {1e-9, 1});
              }
            });
}

void WorkloadArrivals::fields(FieldVisitor& v) {
  v.variant(
      {"kind", "closed_loop: a request follows each completion; open_loop: requests come in time"},
      {"closed_loop", "open_loop"}, kind, [this](std::size_t chosen, FieldVisitor& inner) {
        if (chosen == closed_loop) {
          inner.parameter("queue_depth", queue_depth, "requests outstanding at any time",
                          {1, 1 << 20});
        } else {
          inner.parameter("rate", rate, "requests a second", {1e-3, 1e12});
          inner.one_of("spacing", spacing, {"equal", "poisson"},
                       "times between arrivals: all equal, or exponentially distributed");
        }
      });
}

void WorkloadLength::fields(FieldVisitor& v) {
  v.variant({"kind", "what ends the workload"}, {"requests", "duration"}, kind,
            [this](std::size_t chosen, FieldVisitor& inner) {
              if (chosen == requests) {
                inner.parameter("requests", count, "number of requests",
                                {1, static_cast<double>(kMostRequests)});
              } else {
                inner.parameter("duration", time, "no request is submitted from then on",
                                range_of(SimDuration{1}, std::chrono::hours(24)));
              }
            });
}

void ReplayWorkload::fields(FieldVisitor& v) {
  v.parameter("name", name, "name of the workload");
  v.group("pattern", pattern, "addresses");
  v.list_of("sizes", sizes, "request sizes and how often each occurs", {1, 1000});
  v.parameter("alignment", alignment, "requests begin at multiples of it",
              range_of(kSector, 1_GiB));
  v.parameter("reads", reads, "share of the requests that are reads", {0, 1});
  v.parameter("trims", trims, "share of the requests that are trims; what is left are writes",
              {0, 1});
  v.group("working_set", working_set, "the part of the drive that is used, from its start");
  v.group("arrivals", arrivals, "when requests are submitted");
  v.group("length", length, "when the workload ends");
  v.group("preconditioning", preconditioning, "state of the drive before the first request");
  v.parameter("seed", seed, "seed of all random streams", at_least(0));
  v.require(is_file_name(name), "name",
            "use letters, digits, '.', '_' and '-', and start with a letter or digit");
  v.require(whole_sectors(alignment), "alignment", "must be a multiple of 512B");
  v.require(reads + trims <= 1, "trims", "must be at most 1 together with reads");
}

Bytes ReplayWorkload::largest_size() const {
  Bytes largest{};
  for (const RequestSize& size : sizes) {
    largest = std::max(largest, size.size);
  }
  return largest;
}

void replay_workload_fields(FieldVisitor& v) {
  ReplayWorkload workload;
  workload.fields(v);
}

// -- Zipf -------------------------------------------------------------------------------------

ZipfRanks::ZipfRanks(std::int64_t n, double exponent)
    : n_(n), exponent_(exponent), at_first_(0), at_last_(0), accepted_(0) {
  at_first_ = integral(1.5) - 1;
  at_last_ = integral(static_cast<double>(n) + 0.5);
  accepted_ = 2 - inverse_integral(integral(2.5) - density(2));
}

double ZipfRanks::density(double x) const { return portable_exp(-exponent_ * portable_log(x)); }

/// (x^(1 - s) - 1) / (1 - s), which becomes ln x as s becomes 1.
double ZipfRanks::integral(double x) const {
  constexpr double kNearZero = 1e-8;
  const double log = portable_log(x);
  const double t = (1 - exponent_) * log;
  return std::abs(t) < kNearZero ? log * (1 + t / 2) : log * (portable_exp(t) - 1) / t;
}

/// (1 + (1 - s) y)^(1 / (1 - s)), which becomes e^y.
double ZipfRanks::inverse_integral(double y) const {
  constexpr double kNearZero = 1e-8;
  const double t = std::max((1 - exponent_) * y, -1 + std::numeric_limits<double>::epsilon());
  const double log_a_unit = std::abs(t) < kNearZero ? 1 - t / 2 : portable_log(1 + t) / t;
  return portable_exp(log_a_unit * y);
}

std::int64_t ZipfRanks::draw(Rng& rng) const {
  while (true) {
    const double u = at_last_ + rng.uniform() * (at_first_ - at_last_);
    const double x = inverse_integral(u);
    const auto rank = std::clamp<std::int64_t>(std::llround(x), 1, n_);
    const auto k = static_cast<double>(rank);
    if (k - x <= accepted_ || u >= integral(k + 0.5) - density(k)) {
      return rank;
    }
  }
}

// -- Requests ---------------------------------------------------------------------------------

namespace {

Bytes working_set_of(const ReplayWorkload& workload, Bytes capacity) {
  const WorkingSet& set = workload.working_set;
  if (set.kind == WorkingSet::share) {
    const auto bytes =
        static_cast<std::int64_t>(set.of_drive * static_cast<double>(capacity.count()));
    return std::min(Bytes{bytes / kSector.count() * kSector.count()}, capacity);
  }
  if (set.size > capacity) {
    throw ConfigError(fmt::format(
        "/working_set/size: {} is more than the drive's {}; must be at most that, or choose a "
        "larger drive",
        format_exact(set.size), format_exact(capacity)));
  }
  return set.size;
}

std::int64_t slots_of(const ReplayWorkload& workload, Bytes working_set) {
  const Bytes largest = workload.largest_size();
  if (largest > working_set) {
    throw ConfigError(fmt::format(
        "/sizes: a request of {} does not fit in the working set of {}; must be at most that",
        format_exact(largest), format_exact(working_set)));
  }
  return (working_set - largest) / workload.alignment + 1;
}

}  // namespace

WorkloadRequests::WorkloadRequests(const ReplayWorkload& workload, Bytes capacity)
    : workload_(workload),
      working_set_(working_set_of(workload, capacity)),
      slots_(slots_of(workload, working_set_)),
      scatter_(scatter_of(slots_)),
      ranks_(slots_,
             workload.pattern.kind == WorkloadPattern::zipf ? workload.pattern.exponent : 1),
      kinds_(static_cast<std::uint64_t>(workload.seed), "replay/workload/kind"),
      sizes_(static_cast<std::uint64_t>(workload.seed), "replay/workload/size"),
      addresses_(static_cast<std::uint64_t>(workload.seed), "replay/workload/address"),
      times_(static_cast<std::uint64_t>(workload.seed), "replay/workload/arrival") {
  const WorkloadArrivals& arrivals = workload.arrivals;
  if (arrivals.kind == WorkloadArrivals::open_loop &&
      workload.length.kind == WorkloadLength::requests &&
      static_cast<double>(workload.length.count) / arrivals.rate > kLongestSeconds) {
    throw ConfigError(
        fmt::format("/length/requests: {} of them at {} a second take more than 30 days; must be "
                    "less",
                    workload.length.count, arrivals.rate));
  }
  shift_ = static_cast<std::int64_t>(
      addresses_.child("scatter").below(static_cast<std::uint64_t>(slots_)));
  hot_slots_ = std::clamp<std::int64_t>(
      std::llround(workload.pattern.hot_share * static_cast<double>(slots_)), 0, slots_);
  double sum = 0;
  for (const RequestSize& size : workload.sizes) {
    sum += size.weight;
  }
  double up_to = 0;
  for (const RequestSize& size : workload.sizes) {
    up_to += size.weight;
    sizes_up_to_.push_back(up_to / sum);
  }
}

bool WorkloadRequests::next(traces::BlockRecord& record) {
  const WorkloadLength& length = workload_.length;
  if (length.kind == WorkloadLength::requests && generated_ == length.count) {
    return false;
  }
  if (workload_.arrivals.kind == WorkloadArrivals::open_loop) {
    record.at = next_arrival();
    if (length.kind == WorkloadLength::duration && record.at >= length.time) {
      return false;
    }
  }
  ++generated_;
  record.kind = traces::AccessKind::read;
  if (workload_.reads < 1) {
    const double kind = kinds_.uniform();
    if (kind >= workload_.reads) {
      record.kind = kind < workload_.reads + workload_.trims ? traces::AccessKind::trim
                                                             : traces::AccessKind::write;
    }
  }
  record.size = draw_size();
  if (workload_.pattern.kind == WorkloadPattern::sequential) {
    const std::int64_t size = record.size.count();
    const std::int64_t alignment = workload_.alignment.count();
    if (next_offset_ + size > working_set_.count()) {
      next_offset_ = 0;
    }
    record.first = Bytes{next_offset_};
    next_offset_ = ceil_div(next_offset_ + size, alignment) * alignment;
  } else {
    record.first = workload_.alignment * random_slot();
  }
  return true;
}

std::int64_t WorkloadRequests::random_slot() {
  const WorkloadPattern& pattern = workload_.pattern;
  const auto below = [this](std::int64_t n) {
    return static_cast<std::int64_t>(addresses_.below(static_cast<std::uint64_t>(n)));
  };
  if (pattern.kind == WorkloadPattern::zipf) {
    const Int128 scattered = Int128{ranks_.draw(addresses_) - 1} * scatter_ + shift_;
    return static_cast<std::int64_t>(scattered % slots_);
  }
  if (pattern.kind == WorkloadPattern::hot_cold) {
    const bool is_hot = addresses_.uniform() < pattern.hot_accesses;
    if ((is_hot && hot_slots_ > 0) || hot_slots_ == slots_) {
      return below(hot_slots_);
    }
    return hot_slots_ + below(slots_ - hot_slots_);
  }
  return below(slots_);
}

Bytes WorkloadRequests::draw_size() {
  if (workload_.sizes.size() == 1) {
    return workload_.sizes.front().size;
  }
  const double u = sizes_.uniform();
  const auto found = std::upper_bound(sizes_up_to_.begin(), sizes_up_to_.end() - 1, u);
  return workload_.sizes[static_cast<std::size_t>(found - sizes_up_to_.begin())].size;
}

/// Rounded up to 1 ps.
SimDuration WorkloadRequests::next_arrival() {
  const double mean = kPicoseconds / workload_.arrivals.rate;
  if (workload_.arrivals.spacing == WorkloadArrivals::Spacing::equal) {
    return SimDuration{
        static_cast<std::int64_t>(std::ceil(static_cast<double>(generated_) * mean))};
  }
  const double gap = -portable_log(1 - times_.uniform()) * mean;
  if (generated_ > 0) {
    last_arrival_ += SimDuration{static_cast<std::int64_t>(std::ceil(gap))};
  }
  return last_arrival_;
}

}  // namespace nearkv
