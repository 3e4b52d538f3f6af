// What `nearkv record` does: the attention kernels on every recorded step of every head, the pages
// that they read as a trace, and the figures of all of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/api.hpp"
#include "sim/app/record_figures.hpp"
#include "sim/app/record_method.hpp"
#include "sim/app/record_source.hpp"
#include "traces/kv_page_trace.hpp"

namespace nearkv {

/// Contexts "A:B" or "A:B:STEP", ascending. Without STEP: A, and every context up to B at which a
/// page of some stream becomes full, so that each context between has equally many full pages as
/// one of them. Throws ConfigError.
[[nodiscard]] std::vector<int> contexts_of(const std::string& text,
                                           const kernels::PageGeometry& geometry);

struct RecordOptions {
  RecordMethodOptions method;
  RecordSourceOptions source;
  std::string page_size = "4KiB";
  int channels_per_group = 4;
  int steps = 0;         // 0: all of the capture, 16 of synthetic heads
  std::string contexts;  // instead of steps
  std::string out;       // trace; empty: none
  int jobs = 1;
};

struct RecordResult {
  RecordSourceInfo source;
  RecordMethod method;
  kernels::PageGeometry geometry;
  std::vector<int> contexts;
  std::vector<RecordSummary> heads;         // over the steps; layer after layer
  std::vector<RecordSummary> layers;        // over the means of its heads
  RecordSummary all;                        // over the means of all heads
  std::vector<GeometryFigures> geometries;  // over all steps of all heads
  traces::KvTraceHeader trace;
  std::int64_t trace_bytes = 0;  // 0 without a file
};

/// Throws ConfigError.
[[nodiscard]] RecordResult run_record(const RecordOptions& options);

}  // namespace nearkv
