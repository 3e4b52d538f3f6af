// Timelines: a part of a run, simulated in detail in a run of its own and recorded. The run itself,
// its record and its digest are the same with and without.
#pragma once

#include <filesystem>
#include <string>

#include "models/systems/design_point.hpp"
#include "models/systems/recording.hpp"
#include "sim/app/point.hpp"

namespace nearkv {

/// Services that a timeline shows, about; more are merged (activity_log.hpp).
inline constexpr std::int64_t kMostTimelineSpans = 200'000;  // not a constant: what viewers stand

/// "A:B" (steps A to B - 1) or "prefill"; empty: the decode step in the middle of a fixed batch,
/// step 0 of other ones, passes 0 to 7 of a system that serves requests. `option` is what the user
/// gave it by. Throws ConfigError.
[[nodiscard]] RecordedPart recorded_part(const std::string& text, const DesignPoint& point,
                                         const std::string& option);

/// The design point behind a prepared one.
[[nodiscard]] DesignPoint design_point_of(const PreparedPoint& prepared);

/// What --timeline wants.
struct TimelineOptions {
  std::filesystem::path file;  // empty: none
  std::string steps;
};

/// Throws ConfigError when the options do not fit the point. Nothing is run yet.
void check_timeline(const TimelineOptions& options, const PreparedPoint& prepared);

struct TimelineOutcome {
  std::string told;         // to the user: one line or more
  bool is_stopped = false;  // a limit ended the recording; nothing was written
};

/// Records the part in a child process and writes the trace file. Throws ConfigError when the point
/// has no such steps, Interrupted.
[[nodiscard]] TimelineOutcome write_timeline(const TimelineOptions& options,
                                             const PreparedPoint& prepared,
                                             const RunLimits& limits);

}  // namespace nearkv
