#include "sim/app/figures/table_figure.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "sim/app/figure_claims.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using nlohmann::json;

TableFigure::TableFigure(const FigureHeading& heading, const Suite& paper, const std::string& run,
                         std::vector<NamedPoint> points)
    : Figure(heading, run.empty() ? std::vector<Row>{} : claims_about(paper, heading.name, run)),
      own_points_(std::move(points)) {
  for (const NamedPoint& point : own_points_) {
    points_.push_back({.origin = fmt::format("{}, {}", heading.name, point.name),
                       .name = point.name,
                       .config = point.config});
  }
  claimed_ = points_of(claims());
  for (const PointName& name : claimed_) {
    points_.push_back(prepare(paper, name));
  }
}

std::vector<PreparedPoint> TableFigure::points(bool /*quick*/) const { return points_; }

std::optional<std::size_t> TableFigure::position(const PointName& point, bool /*quick*/) const {
  const auto found = std::find(claimed_.begin(), claimed_.end(), point);
  return found == claimed_.end()
             ? std::nullopt
             : std::optional(own_points_.size() +
                             static_cast<std::size_t>(found - claimed_.begin()));
}

bool TableFigure::is_whole(bool /*quick*/) const { return true; }

FigureContent TableFigure::content(std::vector<RecordView> records, bool /*quick*/) const {
  const std::span<const RecordView> own(records.data(), own_points_.size());
  const FigureTable made = table(own);
  std::string wrapped;
  for (const std::string& note : notes()) {
    wrapped += fmt::format("{}\n", fmt::join(wrap_text(note, kTerminalColumns), "\n  "));
  }
  return {
      .tables = text(own), .notes = wrapped, .csv = made.csv(), .data = {{"rows", made.rows()}}};
}

void read_figure_fields(const std::filesystem::path& file, json document,
                        const FieldLister& fields) {
  document.erase("kind");
  try {
    read_fields(document, fields);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(file.string(), error.what()));
  }
}

}  // namespace nearkv
