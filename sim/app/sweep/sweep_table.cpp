#include "sim/app/sweep/sweep_table.hpp"

#include <algorithm>
#include <map>
#include <variant>

#include <nlohmann/json.hpp>

#include "sim/app/csv.hpp"
#include "sim/app/point.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

std::string cell_of(const NamedValue& value) {
  if (const double* number = std::get_if<double>(&value)) {
    return csv_number(*number);
  }
  const std::string* text = std::get_if<std::string>(&value);
  return text != nullptr ? *text : "";
}

/// Metrics in the order in which points first have them.
struct MetricColumns {
  std::vector<Metric> metrics;  // without values
  std::map<std::string, std::size_t> index;

  void add(const Metric& metric) {
    if (index.emplace(metric.name, metrics.size()).second) {
      metrics.push_back({metric.name, 0, metric.unit, {}});
    }
  }
};

bool is_meant(const std::string& kept, const std::string& metric) {
  return kept.ends_with("/*")
             ? metric.starts_with(std::string_view(kept).substr(0, kept.size() - 1))
             : metric == kept;
}

}  // namespace

bool keeps_metric(const std::vector<std::string>& kept, const std::string& metric) {
  return kept.empty() || std::any_of(kept.begin(), kept.end(), [&](const std::string& name) {
           return is_meant(name, metric);
         });
}

SweepTable write_sweep_table(const SweepPlan& plan, const ResultStore& journal,
                             const fs::path& folder) {
  MetricColumns columns;
  journal.for_each([&](std::size_t, const std::string&, const PointResult& result) {
    for (const Metric& metric : result.metrics) {
      if (keeps_metric(plan.sweep().metrics, metric.name)) {
        columns.add(metric);
      }
    }
  });
  std::vector<std::string> header{"point"};
  json units = {{"point", {{"what", "number of the point"}, {"unit", "1"}}}};
  const auto describe = [&](const std::string& name, const std::string& unit, const char* what) {
    header.push_back(unit.empty() ? name : csv_column(name, unit));
    units[header.back()] = {{"what", what}, {"name", name}, {"unit", unit}};
  };
  for (const SweepColumn& column : plan.columns()) {
    describe(column.name, column.unit, "axis");
  }
  describe("status", "", "ok, or why there are no metrics");
  describe("detail", "", "what overflowed, or the message");
  for (const Metric& metric : columns.metrics) {
    describe(metric.name, metric.unit, "metric");
  }
  SweepTable table{folder / "points.csv", folder / "points.units.json", 0, {}};
  for (const std::string& name : plan.sweep().metrics) {
    if (std::ranges::none_of(columns.metrics,
                             [&](const Metric& metric) { return is_meant(name, metric.name); })) {
      table.absent.push_back(name);
    }
  }
  std::string text = csv_line(header);
  journal.for_each([&](std::size_t point, const std::string&, const PointResult& result) {
    std::vector<std::string> cells{std::to_string(point + 1)};
    for (const NamedValue& value : plan.values(point)) {
      cells.push_back(cell_of(value));
    }
    cells.push_back(result.status);
    cells.push_back(result.detail);
    const std::size_t first = cells.size();
    cells.resize(first + columns.metrics.size());
    for (const Metric& metric : result.metrics) {
      if (const auto column = columns.index.find(metric.name); column != columns.index.end()) {
        cells[first + column->second] = csv_number(metric.value);
      }
    }
    text += csv_line(cells);
    ++table.rows;
  });
  write_file_atomically(table.csv, text);
  write_file_atomically(table.units, json_text(units));
  return table;
}

}  // namespace nearkv
