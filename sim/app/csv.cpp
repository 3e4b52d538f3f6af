#include "sim/app/csv.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

std::string csv_column(std::string_view name, std::string_view unit) {
  return unit == "1" ? std::string(name) : fmt::format("{} [{}]", name, unit);
}

std::string csv_line(const std::vector<std::string>& cells) {
  std::string line;
  for (const std::string& cell : cells) {
    line += (&cell == &cells.front() ? "" : ",") + csv_cell(cell);
  }
  return line + "\n";
}

std::string csv_number(double value) { return fmt::format("{}", value); }

std::string csv_cell(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) {
    return std::string(text);
  }
  std::string quoted = "\"";
  for (const char c : text) {
    quoted += c == '"' ? "\"\"" : std::string(1, c);
  }
  return quoted + "\"";
}

namespace {

std::vector<Metric> metrics_of(const CsvRow& row) {
  std::vector<Metric> metrics = row.derived;
  metrics.insert(metrics.end(), row.record->metrics().begin(), row.record->metrics().end());
  return metrics;
}

/// The metrics that rows have, each once, derived ones first.
std::vector<Metric> metric_columns(const std::vector<CsvRow>& rows) {
  std::vector<Metric> columns;
  std::map<std::string, std::string> units;
  const auto add = [&](const Metric& metric) {
    const auto [known, is_new] = units.emplace(metric.name, metric.unit);
    check(known->second == metric.unit, "one metric in two units");
    if (is_new) {
      columns.push_back(metric);
    }
  };
  for (const CsvRow& row : rows) {
    std::for_each(row.derived.begin(), row.derived.end(), add);
  }
  for (const CsvRow& row : rows) {
    std::for_each(row.record->metrics().begin(), row.record->metrics().end(), add);
  }
  return columns;
}

std::string unit_of(const std::vector<Metric>& columns, const std::string& name) {
  const auto found = std::find_if(columns.begin(), columns.end(),
                                  [&name](const Metric& column) { return column.name == name; });
  return found == columns.end() ? "" : found->unit;
}

}  // namespace

std::string records_as_csv(const std::vector<std::string>& key_columns,
                           const std::vector<CsvRow>& rows, const std::string& sampled) {
  const std::vector<Metric> columns = metric_columns(rows);
  std::vector<std::string> header = key_columns;
  header.insert(header.end(), {"status", "memory", "fidelity", "config_hash",
                               csv_column("throughput_lowest", "token/s"),
                               csv_column("throughput_highest", "token/s")});
  const bool has_samples = std::any_of(
      rows.begin(), rows.end(), [](const CsvRow& row) { return !row.record->samples().is_null(); });
  if (has_samples) {
    header.push_back(csv_column(sampled + "_p5", unit_of(columns, sampled)));
    header.push_back(csv_column(sampled + "_p95", unit_of(columns, sampled)));
  }
  for (const Metric& column : columns) {
    header.push_back(csv_column(column.name, column.unit));
  }
  std::string text = csv_line(header);
  for (const CsvRow& row : rows) {
    const RecordView& record = *row.record;
    check(row.keys.size() == key_columns.size(), "a CSV row with other keys than its header");
    std::vector<std::string> cells = row.keys;
    const std::optional<Bounded> throughput = record.bounded("throughput");
    cells.insert(cells.end(), {record.status(), record.overflowed_memory(),
                               record.json().at("fidelity").get<std::string>(),
                               record.json().at("config_hash").get<std::string>(),
                               throughput ? csv_number(throughput->lowest) : "",
                               throughput ? csv_number(throughput->highest) : ""});
    if (has_samples) {
      const std::optional<Range> interval = record.interval(sampled);
      cells.push_back(interval ? csv_number(interval->lowest) : "");
      cells.push_back(interval ? csv_number(interval->highest) : "");
    }
    std::map<std::string, double> values;
    for (const Metric& metric : metrics_of(row)) {
      values[metric.name] = metric.value;
    }
    for (const Metric& column : columns) {
      const auto value = values.find(column.name);
      cells.push_back(value == values.end() ? "" : csv_number(value->second));
    }
    text += csv_line(cells);
  }
  return text;
}

}  // namespace nearkv
