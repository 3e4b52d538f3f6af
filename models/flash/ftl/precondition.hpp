// Brings a drive into a state of use without simulating the time: filled to a given share, and
// overwritten until garbage collection is in its steady state.
#pragma once

#include <cstdint>

#include "models/flash/ftl/page_ftl.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

/// sequential: the first pages, each written once in order. random: pages from all over the drive,
/// then overwritten at random.
enum class FillPattern { sequential, random };

struct PreconditionConfig {
  double fill = 0;  // share of the logical pages that hold data afterwards, exact to rounding
  FillPattern pattern = FillPattern::sequential;
  double steady_tolerance = 0;
  int rounds_at_most = 0;

  void fields(FieldVisitor& v);
};

struct PreconditionResult {
  std::int64_t pages = 0;          // that hold data: round(fill x logical pages)
  int rounds = 0;                  // of overwriting every filled page once on average
  double write_amplification = 1;  // of the last round
  bool steady = true;              // false: rounds_at_most ended it
  bool exhausted = false;          // the drive was full before: bad blocks or no over-provisioning
};

/// `ftl` is fresh. After the fill, rounds first write at least as much as the drive holds, so that
/// every block was in use; then they go on until the write amplification of a round differs from
/// the round before by at most steady_tolerance of it. With static allocation a round goes plane
/// by plane (planes do not depend on each other there), which is the same in distribution and
/// faster. The FTL's counters count this; take differences.
PreconditionResult precondition(PageFtl& ftl, const PreconditionConfig& config, Rng rng);

}  // namespace nearkv
