// An activity log as a file for Perfetto (ui.perfetto.dev) and chrome://tracing: the trace event
// format, JSON (Chromium, "Trace Event Format").
//
// A track is a thread of the format: one for each actor, with what it is at as slices that enclose
// each other, and one for each lane of a resource; resources of one part ("gpu/0", "csd/0", "host")
// are a process. Slices are pairs of B and E events, so that times which a reader rounds still
// nest; arrows are s, t, f; counters are C. Times are microseconds with six decimals: nothing of a
// picosecond is lost. They count from the begin of the log's first window. Events of a track are in
// the order of time.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sim/core/activity_log.hpp"

namespace nearkv {

struct TraceNotes {
  std::vector<std::pair<std::string, std::string>> values;  // "name": the run's
  std::vector<std::string> notes;                           // what a reader must know
};

/// Equal logs give equal bytes.
[[nodiscard]] std::string trace_events(const ActivityLog& log, const TraceNotes& notes);

}  // namespace nearkv
