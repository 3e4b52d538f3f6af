// The records of a figure that ran.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "sim/app/record_view.hpp"

namespace nearkv {

/// The records of a figure by series and axis value.
class FigureResults {
 public:
  /// Records in the order of figure_points().
  FigureResults(std::vector<std::string> series, std::vector<std::string> axis,
                std::vector<RecordView> records);

  [[nodiscard]] const std::vector<std::string>& series() const { return series_; }
  [[nodiscard]] const std::vector<std::string>& axis() const { return axis_; }
  /// Series by series along the axis.
  [[nodiscard]] const std::vector<RecordView>& records() const { return records_; }
  [[nodiscard]] const RecordView& at(std::size_t series, std::size_t position) const;
  /// Nothing when the figure has no such point.
  [[nodiscard]] const RecordView* find(const std::string& series, const std::string& at) const;
  /// Its place in records(), and in what else is in the order of figure_points().
  [[nodiscard]] std::optional<std::size_t> position(const std::string& series,
                                                    const std::string& at) const;
  /// Unit of a metric; nothing when no record has it.
  [[nodiscard]] std::optional<std::string> unit_of(const std::string& metric) const;

 private:
  std::vector<std::string> series_;
  std::vector<std::string> axis_;
  std::vector<RecordView> records_;
};

}  // namespace nearkv
