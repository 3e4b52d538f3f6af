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

std::string records_as_csv(const std::vector<std::string>& key_columns,
                           const std::vector<CsvRow>& rows, const std::string& sampled) {
  std::vector<Metric> columns;
  std::map<std::string, std::string> units;
  for (const CsvRow& row : rows) {
    for (const Metric& metric : row.record->metrics()) {
      const auto [known, is_new] = units.emplace(metric.name, metric.unit);
      check(known->second == metric.unit, "one metric in two units");
      if (is_new) {
        columns.push_back(metric);
      }
    }
  }
  std::vector<std::string> header = key_columns;
  header.insert(header.end(), {"status", "memory", "fidelity", "config_hash",
                               csv_column("throughput_lowest", "token/s"),
                               csv_column("throughput_highest", "token/s")});
  const bool has_samples = std::any_of(
      rows.begin(), rows.end(), [](const CsvRow& row) { return !row.record->samples().is_null(); });
  if (has_samples) {
    header.push_back(csv_column(sampled + "_p5", units[sampled]));
    header.push_back(csv_column(sampled + "_p95", units[sampled]));
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
    for (const Metric& column : columns) {
      const std::optional<double> value = record.metric(column.name);
      cells.push_back(value ? csv_number(*value) : "");
    }
    text += csv_line(cells);
  }
  return text;
}

}  // namespace nearkv
