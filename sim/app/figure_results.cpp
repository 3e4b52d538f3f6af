#include "sim/app/figure_results.hpp"

#include <algorithm>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv {

FigureResults::FigureResults(std::vector<std::string> series, std::vector<std::string> axis,
                             std::vector<RecordView> records)
    : series_(std::move(series)), axis_(std::move(axis)), records_(std::move(records)) {
  check(records_.size() == series_.size() * axis_.size(), "a figure lacks records");
}

const RecordView& FigureResults::at(std::size_t series, std::size_t position) const {
  return records_.at(series * axis_.size() + position);
}

std::optional<std::size_t> FigureResults::position(const std::string& series,
                                                   const std::string& at) const {
  const auto s = std::find(series_.begin(), series_.end(), series);
  const auto a = std::find(axis_.begin(), axis_.end(), at);
  if (s == series_.end() || a == axis_.end()) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(s - series_.begin()) * axis_.size() +
         static_cast<std::size_t>(a - axis_.begin());
}

const RecordView* FigureResults::find(const std::string& series, const std::string& at) const {
  const std::optional<std::size_t> found = position(series, at);
  return found ? &records_[*found] : nullptr;
}

std::optional<std::string> FigureResults::unit_of(const std::string& metric) const {
  for (const RecordView& record : records_) {
    for (const Metric& known : record.metrics()) {
      if (known.name == metric) {
        return known.unit;
      }
    }
  }
  return std::nullopt;
}

}  // namespace nearkv
