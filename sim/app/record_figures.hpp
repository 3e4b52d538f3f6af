// What `nearkv record` measures at each step: how much attention a selection keeps, what it costs
// in accuracy, and what it reads, token by token and page by page.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/api.hpp"

namespace nearkv {

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

/// `sparse` and `dense` are attention to the same step.
[[nodiscard]] RecordFigures figures_of(const kernels::PageGeometry& geometry, int context,
                                       const kernels::AttentionResult& sparse,
                                       const kernels::AttentionResult& dense);

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
  void add(const RecordFigures& values);
  /// The means of another one.
  void add_means(const RecordSummary& other);
};

/// What one step read under a geometry, as shares of what is on flash and of dense attention's
/// pages; NaN of nothing.
struct PageShares {
  double channel_pages;
  double token_pages;
  double volume;
};
/// From the selection of a step's query heads, which is the same for every geometry.
[[nodiscard]] PageShares page_shares(const kernels::PageGeometry& geometry, int context,
                                     const std::vector<kernels::HeadSelection>& heads);

/// Those of all steps of all heads.
struct GeometryFigures {
  kernels::PageGeometry geometry;
  Spread channel_page_share{};
  Spread token_page_share{};
  Spread page_volume{};

  void add(const PageShares& shares);
};

}  // namespace nearkv
