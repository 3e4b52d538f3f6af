// The state in which MQSim starts a run with Enabled_Preconditioning, of one synthetic flow. The
// rules are those of its src/ssd/FTL.cpp and Address_Mapping_Unit_Page_Level.cpp:
//   1. pages are drawn as the flow will access them, with the flow's own seeds, until the initial
//      occupancy is reached;
//   2. the numbers of valid pages of blocks follow the steady state of the victim policy in the
//      mean-field model of Van Houdt (SIGMETRICS 2013), by Euler steps for greedy (as 30 choices)
//      and RGA;
//   3. in each plane, blocks are filled from the fullest to the emptiest, the shares shifted so
//      that their mean fits the pages that the plane has to hold; the rest of a block is stale.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "models/ssd/block_ssd.hpp"
#include "sim/app/validation/mqsim_suite.hpp"
#include "sim/app/validation/mqsim_workload.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr int kGreedyChoices = 30;             // greedy is taken as RGA with so many choices
constexpr double kEulerStep = 0.001;           // of the mean-field equations
constexpr double kEulerEnd = 1e-10;            // largest change of a step at the end
constexpr int kEulerSteps = 10'000;            // at most
constexpr double kSpareShare = 1.1;            // pages of the working set for one to be drawn
constexpr double kDrawnShare = 0.9;            // of the pages there are, when those do not suffice
constexpr double kLeastDisplacement = 0.9999;  // pages of a block

/// Shares of the blocks by their number of valid pages.
using Shares = std::vector<double>;

double combinations(double n, double k) {
  k = k * 2 > n ? n - k : k;
  if (k == 0) {
    return 1;
  }
  double result = n;
  for (int i = 2; i <= k; ++i) {
    result *= n - i + 1;
    result /= i;
  }
  return result;
}

/// Steady state of collecting the emptiest of `choices` blocks, with a share `rho` of valid pages.
Shares mean_field(int pages, double rho, int choices) {
  const auto n = static_cast<std::size_t>(pages);
  Shares shares(n + 1);
  for (int i = 0; i <= pages; ++i) {
    shares[i] = combinations(pages, i) * std::pow(rho, i) * std::pow(1 - rho, pages - i);
  }
  std::vector<double> tail(n + 2);  // blocks with at least i valid pages
  tail[0] = 1;
  for (std::size_t i = 1; i <= n + 1; ++i) {
    for (std::size_t j = i; j <= n; ++j) {
      tail[i] += shares[j];
    }
  }
  std::vector<double> next(n + 2);
  next[0] = 1;
  double change = 1;
  for (int step = 0; step < kEulerSteps && change > kEulerEnd; ++step) {
    double sigma = 0;
    for (std::size_t j = 1; j <= n; ++j) {
      sigma += std::pow(tail[j], choices);
    }
    for (std::size_t i = 1; i < n; ++i) {
      const auto index = static_cast<double>(i);
      next[i] = tail[i] + kEulerStep * (1 - std::pow(tail[i], choices) -
                                        (pages - sigma) *
                                            ((index * (tail[i] - tail[i + 1])) / (pages * rho)));
    }
    change = 0;
    for (std::size_t i = 0; i <= n; ++i) {
      change = std::max(change, std::abs(next[i] - tail[i]));
    }
    std::copy(next.begin() + 1, next.end(), tail.begin() + 1);
  }
  for (std::size_t i = 0; i <= n; ++i) {
    shares[i] = tail[i] - tail[i + 1];
  }
  return shares;
}

Shares of_random_victims(int pages, double rho) {
  Shares shares;
  for (int i = 0; i <= pages; ++i) {
    double share = rho / (rho + std::pow(1 - rho, i));
    for (int j = i + 1; j <= pages; ++j) {
      share *= ((1 - rho) * j) / (rho + (1 - rho) * j);
    }
    shares.push_back(share);
  }
  for (int i = pages; i > 0; --i) {
    shares[i] -= shares[i - 1];
  }
  return shares;
}

Shares of_random_stale_victims(int pages, double rho, int least) {
  double sum = 0;
  for (int j = least + 1; j <= pages; ++j) {
    sum += 1.0 / j;
  }
  const double a = pages - least - pages * sum;
  const double b = rho * sum + 1 - rho;
  const double c = -1 * rho / pages;
  const double mu = (-1 * b + std::sqrt(b * b - 4 * a * c)) / (2 * a);
  Shares shares(static_cast<std::size_t>(pages) + 1);
  for (int i = pages; i >= 0; --i) {
    if (i <= least) {
      shares[i] =
          ((i + 1) * shares[i + 1]) / (i + (rho / (1 - rho - mu * (pages * sum - pages + least))));
    } else {
      shares[i] = i < pages ? pages * mu / i : mu;
    }
  }
  return shares;
}

Shares steady_state(const MqsimParameters& p, const BlockSsdConfig& config) {
  const GarbageCollectionConfig& collection = config.ftl.collection;
  const int pages = config.flash.pages_per_block;
  const double used = p.number("workload", "Initial_Occupancy_Percentage") / 100 *
                      (1 - p.number("device", "Overprovisioning_Ratio"));
  const double rho =
      used / (1 - static_cast<double>(mqsim_free_blocks(config)) / config.flash.blocks_per_plane);
  if (p.text("workload", "Address_Distribution") == "STREAMING") {
    Shares shares(static_cast<std::size_t>(pages) + 1);
    shares.front() = 1 - rho;
    shares.back() = rho;
    return shares;
  }
  switch (collection.victim) {
    case VictimPolicy::random_greedy:
      return mean_field(pages, rho, collection.random_candidates);
    case VictimPolicy::random:
    case VictimPolicy::random_full:
      return of_random_victims(pages, rho);
    case VictimPolicy::random_stale:
      return of_random_stale_victims(pages, used, collection.random_least_invalid);
    default:
      return mean_field(pages, rho, kGreedyChoices);
  }
}

/// The pages that hold data, in ascending order, and of each the sectors that MQSim notes: the
/// first one that a request touched.
std::map<LogicalPage, std::uint64_t> draw_pages(const MqsimParameters& p,
                                                const BlockSsdConfig& config) {
  MqsimWorkload workload = mqsim_workload(p);
  const auto page_sectors =
      static_cast<std::uint64_t>(config.flash.page_size.count() / MqsimRequests::kSectorBytes);
  const bool streams = workload.pattern == MqsimWorkload::Pattern::streaming;
  const std::uint64_t all = ceil_div(workload.sectors, static_cast<std::int64_t>(page_sectors));
  auto wanted = static_cast<std::uint64_t>(p.number("workload", "Initial_Occupancy_Percentage") /
                                           100 * static_cast<double>(all));
  std::uint64_t last = MqsimRequests(workload).last_sector() - 1;
  const std::uint64_t drawn = last;
  std::uint64_t last_page = last / page_sectors - 1;
  const auto is_too_small = [&] {
    const double needed = static_cast<double>(wanted) * (streams ? 1 : kSpareShare);
    return static_cast<double>(last_page) < needed;
  };
  if (is_too_small()) {
    last = static_cast<std::uint64_t>(static_cast<double>(last) / workload.working_set);
    last_page = last / page_sectors;
    if (is_too_small()) {
      wanted = streams ? last_page + 1
                       : static_cast<std::uint64_t>(static_cast<double>(last_page) * kDrawnShare);
    }
  }
  workload.requests = std::numeric_limits<std::int64_t>::max();
  workload.last_sector = static_cast<std::int64_t>(last);
  // Its start is drawn from the original working set, and not aligned.
  workload.stream_start =
      static_cast<std::int64_t>(MqsimRandom(workload.seed + 1).uniform(0, drawn));
  MqsimRequests requests(workload);
  std::map<LogicalPage, std::uint64_t> pages;
  BlockRequest request;
  while (pages.size() < wanted && requests.next(request)) {
    auto sector = static_cast<std::uint64_t>(request.first.count() / MqsimRequests::kSectorBytes);
    const std::uint64_t end =
        sector + static_cast<std::uint64_t>(request.size.count() / MqsimRequests::kSectorBytes);
    while (sector < end) {
      const std::uint64_t page = sector / page_sectors;
      pages[static_cast<LogicalPage>(page)] |= std::uint64_t{1} << (sector % page_sectors);
      sector = (page + 1) * page_sectors;
    }
  }
  return pages;
}

/// The shares shifted so that their mean is that of the plane.
Shares shifted(const Shares& shares, double pages_to_hold, std::int64_t blocks) {
  const int pages = static_cast<int>(shares.size()) - 1;
  double mean = 0;
  for (int i = 0; i <= pages; ++i) {
    mean += shares[i] * static_cast<double>(i) / static_cast<double>(pages);
  }
  const double real = pages_to_hold / static_cast<double>(blocks * pages);
  Shares result = shares;
  if (std::abs(mean - real) * pages <= kLeastDisplacement) {
    return result;
  }
  const int by = static_cast<int>((real - mean) * pages);
  for (int i = 0; i < pages; ++i) {
    const bool is_within = by > 0 ? i >= by : i < pages + by;
    result[i] = is_within ? shares[i - by] : 0;
  }
  return result;
}

/// Fills `blocks` blocks of a plane with the pages, the last ones first.
void fill_plane(PageFtl& ftl, int plane, std::vector<LogicalPage> pages, const Shares& shares,
                std::uint32_t blocks) {
  const auto share_of = [&](int valid) {
    return static_cast<std::uint32_t>(shares[valid] * blocks);
  };
  const int most = static_cast<int>(shares.size()) - 1;
  std::uint32_t placed = 0;
  for (int valid = most; valid >= 0; --valid) {
    placed += static_cast<std::uint32_t>(valid) * share_of(valid);
  }
  const auto all = static_cast<std::uint32_t>(pages.size());
  std::uint32_t left = placed < all ? all - placed : 0;
  std::uint32_t blocks_left = blocks;
  std::vector<LogicalPage> in_block;
  for (int valid = most; valid >= 0; --valid) {
    std::uint32_t count = share_of(valid);
    if (count > 0 && left > 0 && valid > 0) {
      count += static_cast<std::uint32_t>(ceil_div(left, valid));
      left = 0;
    }
    count = std::min(count, blocks_left);
    blocks_left -= count;
    for (; count > 0; --count) {
      valid = std::min(valid, static_cast<int>(pages.size()));
      in_block.assign(pages.rbegin(), pages.rbegin() + valid);
      pages.resize(pages.size() - static_cast<std::size_t>(valid));
      ftl.place_used_block(plane, in_block);
    }
  }
  if (!pages.empty()) {
    throw ConfigError("MQSim cannot precondition such a drive: it finds no place for all pages");
  }
}

}  // namespace

void precondition_as_mqsim(BlockSsd& ssd, const MqsimParameters& p) {
  const BlockSsdConfig& config = ssd.config();
  PageFtl& ftl = ssd.ftl();
  const Shares shares = steady_state(p, config);
  std::vector<std::vector<LogicalPage>> pages(static_cast<std::size_t>(config.flash.planes()));
  const std::size_t of_plane = static_cast<std::size_t>(ftl.geometry().pages_per_plane());
  for (const auto& [page, sectors] : draw_pages(p, config)) {
    std::vector<LogicalPage>& here = pages[static_cast<std::size_t>(ftl.home_plane(page))];
    if (here.size() < of_plane) {
      here.push_back(page);
      ssd.executor().note_sectors(page, sectors);
    }
  }
  const auto blocks =
      static_cast<std::uint32_t>(config.flash.blocks_per_plane - mqsim_free_blocks(config) / 2);
  for (int plane = 0; plane < config.flash.planes(); ++plane) {
    std::vector<LogicalPage>& here = pages[static_cast<std::size_t>(plane)];
    const Shares fitting = shifted(shares, static_cast<double>(here.size()), blocks);
    fill_plane(ftl, plane, std::move(here), fitting, blocks);
  }
}

}  // namespace nearkv
