#include "sim/app/figures/grid_figure.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "sim/app/csv.hpp"
#include "sim/app/figure_text.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

std::string grid_csv(const FigureConfig& figure, const FigureResults& results) {
  std::vector<CsvRow> rows;
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      const RecordView& record = results.at(s, i);
      rows.push_back(
          {{results.series()[s], results.axis()[i]}, &record, derived_metrics(figure, record)});
    }
  }
  return records_as_csv({"series", csv_column(figure.axis.name, figure.axis.unit)}, rows,
                        figure.metric);
}

json points_as_json(const FigureConfig& figure, const FigureResults& results) {
  json points = json::array();
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      const RecordView& record = results.at(s, i);
      json metrics = json::object();
      for (const Metric& metric : derived_metrics(figure, record)) {
        metrics[metric.name] = {{"value", metric.value}, {"unit", metric.unit}};
      }
      for (const Metric& metric : record.metrics()) {
        metrics[metric.name] = {{"value", metric.value}, {"unit", metric.unit}};
        if (const auto interval = record.interval(metric.name)) {
          metrics[metric.name]["interval"] = {interval->lowest, interval->highest};
        }
      }
      points.push_back({{"series", results.series()[s]},
                        {figure.axis.name, results.axis()[i]},
                        {"status", record.status()},
                        {"status_detail", record.status_detail()},
                        {"config_hash", record.json().at("config_hash")},
                        {"metrics", metrics}});
    }
  }
  return points;
}

std::vector<std::string> series_of(const FigureConfig& figure) {
  std::vector<std::string> names;
  for (const FigureSeries& series : figure.series) {
    names.push_back(series.name);
  }
  return names;
}

}  // namespace

GridFigure::GridFigure(FigureConfig config, const Suite& paper)
    : Figure(config, claims_about(paper, config.name)), config_(std::move(config)) {}

std::vector<PreparedPoint> GridFigure::points(bool quick) const {
  return figure_points(config_, quick);
}

std::optional<std::size_t> GridFigure::position(const PointName& point, bool quick) const {
  const std::vector<std::string> series = series_of(config_);
  const std::vector<std::string> axis = axis_values(config_, quick).texts();
  const auto s = std::find(series.begin(), series.end(), point.series);
  const auto a = std::find(axis.begin(), axis.end(), point.at);
  if (s == series.end() || a == axis.end()) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(s - series.begin()) * axis.size() +
         static_cast<std::size_t>(a - axis.begin());
}

bool GridFigure::is_whole(bool quick) const {
  return axis_values(config_, quick).values.size() == config_.axis.values.values.size();
}

/// A quantity that no point has would be a column that silently is not there.
void GridFigure::check_quantities(const FigureResults& results) const {
  const std::vector<RecordView>& records = results.records();
  if (std::none_of(records.begin(), records.end(), [](const RecordView& r) { return r.is_ok(); })) {
    return;
  }
  for (std::size_t q = 0; q < config_.quantities.size(); ++q) {
    const std::string& metric = config_.quantities[q].metric;
    if (std::none_of(records.begin(), records.end(),
                     [&](const RecordView& record) { return record.metric(metric).has_value(); })) {
      throw ConfigError(fmt::format("{}: /quantities/{}/metric: no record has \"{}\"",
                                    config_.file.string(), q, metric));
    }
  }
}

FigureContent GridFigure::content(std::vector<RecordView> records, bool quick) const {
  const FigureResults results(series_of(config_), axis_values(config_, quick).texts(),
                              std::move(records));
  check_quantities(results);
  return {.tables = results_table(config_, results),
          .notes = notes_text(results),
          .csv = grid_csv(config_, results),
          .data = {{"points", points_as_json(config_, results)}}};
}

std::unique_ptr<Figure> make_grid_figure(const std::filesystem::path& file, const Suite& paper) {
  return std::make_unique<GridFigure>(load_figure(file), paper);
}

}  // namespace nearkv
