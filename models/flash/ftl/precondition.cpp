#include "models/flash/ftl/precondition.hpp"

#include <cmath>
#include <vector>

#include "sim/core/check.hpp"

namespace nearkv {

void PreconditionConfig::fields(FieldVisitor& v) {
  v.parameter("fill", fill, "share of the logical pages that hold data at the start", {0, 1});
  v.one_of(
      "pattern", pattern, {"sequential", "random"},
      "the first pages in order, or pages from all over the drive, overwritten at random until "
      "garbage collection is steady");
  v.parameter("steady_tolerance", steady_tolerance,
              "relative difference of write amplification between two rounds that counts as steady",
              {0, 1});
  v.parameter("rounds_at_most", rounds_at_most,
              "rounds of overwriting every filled page once on average", {0, 1'000'000});
}

namespace {

/// Exactly `count` of the logical pages, in ascending order (selection sampling: Knuth, The Art of
/// Computer Programming 2, 3.4.2, algorithm S).
bool fill_drive(PageFtl& ftl, std::int64_t count, FillPattern pattern, Rng& rng) {
  std::int64_t left = ftl.logical_pages();
  std::int64_t wanted = count;
  for (std::int64_t page = 0; wanted > 0; ++page, --left) {
    const bool taken =
        pattern == FillPattern::sequential || wanted == left ||
        rng.below(static_cast<std::uint64_t>(left)) < static_cast<std::uint64_t>(wanted);
    if (taken) {
      --wanted;
      if (ftl.write(static_cast<LogicalPage>(page), nullptr) == PageFtl::Outcome::exhausted) {
        return false;
      }
    }
  }
  return true;
}

/// `count` overwrites of filled pages whose numbers are `first` + a multiple of `step`.
bool overwrite(PageFtl& ftl, std::int64_t count, std::int64_t first, std::int64_t step, Rng& rng) {
  const auto candidates = static_cast<std::uint64_t>(ceil_div(ftl.logical_pages() - first, step));
  for (std::int64_t done = 0; done < count;) {
    const auto page =
        static_cast<LogicalPage>(first + step * static_cast<std::int64_t>(rng.below(candidates)));
    if (!ftl.is_mapped(page)) {
      continue;
    }
    if (ftl.write(page, nullptr) == PageFtl::Outcome::exhausted) {
      return false;
    }
    ++done;
  }
  return true;
}

}  // namespace

PreconditionResult precondition(PageFtl& ftl, const PreconditionConfig& config, Rng rng) {
  check(ftl.pages().valid == 0, "preconditioning of a drive that was written");
  PreconditionResult result;
  result.pages = std::llround(config.fill * static_cast<double>(ftl.logical_pages()));
  if (!fill_drive(ftl, result.pages, config.pattern, rng)) {
    result.exhausted = true;
    return result;
  }
  if (config.pattern == FillPattern::sequential || result.pages == 0) {
    return result;
  }
  // One stripe a plane with static allocation: page mod planes.
  const bool by_plane = ftl.config().allocation == AllocationMode::by_logical_page;
  const int stripes = by_plane ? ftl.geometry().planes() : 1;
  std::vector<std::int64_t> filled(static_cast<std::size_t>(stripes));
  for (std::int64_t page = 0; page < ftl.logical_pages(); ++page) {
    filled[page % stripes] += ftl.is_mapped(static_cast<LogicalPage>(page)) ? 1 : 0;
  }
  const std::int64_t rounds_to_fill = ceil_div(ftl.geometry().pages(), result.pages);
  result.steady = false;
  while (result.rounds < config.rounds_at_most && !result.steady) {
    const PageFtl::Counters before = ftl.counters();
    for (int stripe = 0; stripe < stripes; ++stripe) {
      if (!overwrite(ftl, filled[stripe], stripe, stripes, rng)) {
        result.exhausted = true;
        return result;
      }
    }
    const PageFtl::Counters& after = ftl.counters();
    PageFtl::Counters round;
    round.host_programs = after.host_programs - before.host_programs;
    round.mapping_programs = after.mapping_programs - before.mapping_programs;
    round.collected_pages = after.collected_pages - before.collected_pages;
    round.levelled_pages = after.levelled_pages - before.levelled_pages;
    const double amplification = round.write_amplification();
    ++result.rounds;
    result.steady =
        result.rounds > rounds_to_fill && std::abs(amplification - result.write_amplification) <=
                                              config.steady_tolerance * result.write_amplification;
    result.write_amplification = amplification;
  }
  return result;
}

}  // namespace nearkv
