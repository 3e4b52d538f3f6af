// What `nearkv record` does: the attention kernels on every recorded step of every head, the pages
// that they read, and what the selection costs in accuracy.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/api.hpp"
#include "sim/app/record_method.hpp"
#include "sim/app/record_source.hpp"
#include "traces/kv_page_trace.hpp"

namespace nearkv {

/// Contexts "A:B" or "A:B:STEP", ascending. Without STEP: A, and every context up to B at which a
/// page of some stream becomes full, so that each context between has equally many full pages as
/// one of them. Throws ConfigError.
[[nodiscard]] std::vector<int> contexts_of(const std::string& text,
                                           const kernels::PageGeometry& geometry);

/// Mean and spread of what is defined; NaN values are left out.
class Spread {
 public:
  void add(double value);
  [[nodiscard]] std::int64_t count() const { return count_; }
  [[nodiscard]] double mean() const;                // NaN of nothing
  [[nodiscard]] double standard_deviation() const;  // of the values as they are; 0 of one
  [[nodiscard]] double least() const { return least_; }
  [[nodiscard]] double most() const { return most_; }

 private:
  std::int64_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;  // of the distances from the mean (Welford, Technometrics 1962)
  double least_ = 0;
  double most_ = 0;
};

/// Of one step of one KV head and its query heads. Shares of nothing are NaN.
struct RecordFigures {
  double mass_kept = 0;           // true attention mass of the attended tokens, mean of the queries
  double alpha = 0;               // what the method takes it for
  double output_error = 0;        // |out - dense| / |dense|, Euclidean, mean of the queries
  double channel_share = 0;       // of the channels, those that some query scores with
  double channel_page_share = 0;  // of the channel-indexed pages, those that are read
  double token_share = 0;         // of the tokens, those that some query attends to
  double token_page_share = 0;    // of the token-indexed pages, those that are read
  double element_volume = 0;      // elements read of those that dense attention reads
  double page_volume = 0;         // flash pages read of those that dense attention reads
};

/// The figures by name, in the order in which they are shown.
struct RecordFigure {
  const char* name;
  const char* label;  // of a column
  const char* doc;
  double RecordFigures::*value;
};
inline constexpr int kRecordFigures = 9;
[[nodiscard]] const std::array<RecordFigure, kRecordFigures>& record_figures();

/// Spread over steps or heads of each figure.
struct RecordSummary {
  std::array<Spread, kRecordFigures> figures;
  void add(const RecordFigures& figures);
  /// The means of another one.
  void add_means(const RecordSummary& other);
};

/// The same selections under another geometry.
struct GeometryFigures {
  kernels::PageGeometry geometry;
  Spread channel_page_share{};
  Spread token_page_share{};
  Spread page_volume{};
};

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
