#include "sim/app/figure_text.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "sim/app/figures/time_shares.hpp"
#include "sim/app/point.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr int kDigits = 3;
constexpr double kRough = 0.05;  // a relative error bound that a reader of the table must know

/// "OOM VRAM"; a longer name by its first word.
std::string overflow_text(const std::string& memory) {
  return "OOM " + memory.substr(0, memory.find(' '));
}

double relative_bound(const RecordView& record, const std::string& metric) {
  const std::optional<Bounded> number = record.bounded(metric);
  return number && number->value > 0 ? number->bound() / number->value : 0;
}

std::string cell_of(const RecordView& record, const std::string& metric) {
  if (!record.is_ok()) {
    const std::string memory = record.overflowed_memory();
    return memory.empty() ? record.status() : overflow_text(memory);
  }
  const std::optional<double> value = record.metric(metric);
  if (!value.has_value()) {
    return "-";
  }
  return (relative_bound(record, metric) > kRough ? "~" : "") + format_significant(*value, kDigits);
}

/// What the marks in the cells stand for.
std::string legend(const FigureResults& results, const std::string& metric) {
  std::map<std::string, std::string> shortened;
  double largest = 0;
  double largest_unmarked = 0;
  for (const RecordView& record : results.records()) {
    const std::string memory = record.overflowed_memory();
    if (memory.find(' ') != std::string::npos) {
      shortened[overflow_text(memory)] = memory;
    }
    const double bound = relative_bound(record, metric);
    largest = std::max(largest, bound);
    largest_unmarked = bound > kRough ? largest_unmarked : std::max(largest_unmarked, bound);
  }
  std::string text;
  for (const auto& [cell, memory] : shortened) {
    text += fmt::format("{}: out of memory: {}\n", cell, memory);
  }
  if (largest > 0) {
    text += fmt::format("decode steps are sampled; error bound of the cells at most {} %{}\n",
                        format_significant(largest_unmarked * 100, 2),
                        largest > kRough ? fmt::format(", of those with ~ at most {} %",
                                                       format_significant(largest * 100, 2))
                                         : "");
  }
  return text;
}

/// What 90 % of the samples gave; empty without samples.
std::string interval_cell(const RecordView& record, const std::string& metric) {
  const std::optional<Range> interval = record.interval(metric);
  return interval && record.is_ok()
             ? fmt::format("{}-{}", format_significant(interval->lowest, kDigits),
                           format_significant(interval->highest, kDigits))
             : "";
}

/// A row below that of a series: what 90 % of the samples gave. Empty without samples.
std::vector<std::string> interval_cells(const FigureConfig& figure, const FigureResults& results,
                                        std::size_t series) {
  std::vector<std::string> cells{"  90 %"};
  bool has_samples = false;
  for (std::size_t i = 0; i < results.axis().size(); ++i) {
    const RecordView& record = results.at(series, i);
    has_samples = has_samples || !record.samples().is_null();
    cells.push_back(interval_cell(record, figure.metric));
  }
  return has_samples ? cells : std::vector<std::string>{};
}

/// How many samples there were, and what became of those that did not run.
std::string samples_text(const FigureResults& results) {
  std::set<std::string> varied;
  std::set<std::string> held;
  std::string failures;
  int count = 0;
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      const nlohmann::json& samples = results.at(s, i).samples();
      if (samples.is_null()) {
        return "";
      }
      count = samples.at("count").get<int>();
      varied.insert(samples.at("varied").begin(), samples.at("varied").end());
      held.insert(samples.at("held").begin(), samples.at("held").end());
      for (const auto& [why, number] : samples.at("did_not_run").items()) {
        if (results.at(s, i).is_ok() || number.get<int>() < count) {
          failures += fmt::format("{} at {}: {} in {} samples\n", results.series()[s],
                                  results.axis()[i], why, number.get<int>());
        }
      }
    }
  }
  return fmt::format(
      "90 %: between the 5th and 95th percentile of {} samples of {} constants (fit or assumed, "
      "with an interval; {} others were held)\n{}",
      count, varied.size(), held.size(), failures);
}

/// One metric: series by axis value.
std::string metric_table(const FigureConfig& figure, const FigureResults& results) {
  std::vector<TextTable::Column> columns{{figure.axis.name, TextTable::Align::left}};
  for (const std::string& at : results.axis()) {
    columns.push_back({at, TextTable::Align::right});
  }
  TextTable table(columns);
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    std::vector<std::string> cells{results.series()[s]};
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      cells.push_back(cell_of(results.at(s, i), figure.metric));
    }
    table.row(std::move(cells));
    std::vector<std::string> intervals = interval_cells(figure, results, s);
    if (!intervals.empty()) {
      table.row(std::move(intervals));
    }
  }
  return fmt::format("{} [{}] against {} [{}]\n\n{}", figure.metric,
                     results.unit_of(figure.metric).value_or("?"), figure.axis.name,
                     figure.axis.unit, table.text());
}

/// Names of derived metrics without what they begin with, in the order of first appearance.
std::vector<std::string> derived_names(const FigureConfig& figure, const FigureResults& results) {
  std::vector<std::string> names;
  for (const RecordView& record : results.records()) {
    for (const Metric& metric : derived_metrics(figure, record)) {
      const std::string name = metric.name.substr(metric.name.find('/') + 1);
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(name);
      }
    }
  }
  return names;
}

/// Texts of a table, line by line; the first line is its header, the first column names lines.
using Cells = std::vector<std::vector<std::string>>;

std::string text_of(const Cells& cells) {
  std::vector<TextTable::Column> columns;
  for (const std::string& header : cells.front()) {
    columns.push_back({header, columns.empty() ? TextTable::Align::left : TextTable::Align::right});
  }
  TextTable table(columns);
  std::for_each(cells.begin() + 1, cells.end(), [&table](const auto& row) { table.row(row); });
  return table.text(0, std::string::npos);
}

Cells transposed(const Cells& cells) {
  Cells turned(cells.front().size());
  for (const std::vector<std::string>& row : cells) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      turned[i].push_back(row[i]);
    }
  }
  return turned;
}

/// Several numbers a point: a line each, or a column each where that is too wide.
std::string derived_table(const FigureConfig& figure, const FigureResults& results) {
  const std::vector<std::string> names = derived_names(figure, results);
  const bool has_samples =
      std::any_of(results.records().begin(), results.records().end(),
                  [](const RecordView& record) { return !record.samples().is_null(); });
  Cells cells{{""}};
  cells.front().insert(cells.front().end(), names.begin(), names.end());
  if (has_samples) {
    cells.front().push_back(figure.metric + ", 90 %");
  }
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      const RecordView& record = results.at(s, i);
      std::vector<std::string> row{fmt::format("{} {}", results.series()[s], results.axis()[i])};
      row.resize(cells.front().size());
      for (const Metric& metric : derived_metrics(figure, record)) {
        const std::string name = metric.name.substr(metric.name.find('/') + 1);
        const auto column = std::find(names.begin(), names.end(), name) - names.begin();
        row[static_cast<std::size_t>(column) + 1] =
            figure.kind == GridKind::shares ? format_percent(metric.value)
                                            : format_metric(metric.value, metric.unit, kDigits);
      }
      if (has_samples) {
        row.back() = interval_cell(record, figure.metric);
      }
      if (!record.is_ok() && row.size() > 1) {
        row[1] = cell_of(record, figure.metric);
      }
      cells.push_back(std::move(row));
    }
  }
  const std::string plain = text_of(cells);
  return fmt::format("{} against {} [{}]\n\n{}",
                     figure.kind == GridKind::shares ? "shares of the decode time" : "numbers",
                     figure.axis.name, figure.axis.unit,
                     plain.find('\n') <= kTerminalColumns ? plain : text_of(transposed(cells)));
}

double layers_of(const RecordView& record) {
  return plain_value(record.config().at("model").at("layers")).get<double>();
}

}  // namespace

std::vector<Metric> derived_metrics(const FigureConfig& figure, const RecordView& record) {
  if (!record.is_ok() || figure.kind == GridKind::grid) {
    return {};
  }
  if (figure.kind == GridKind::shares) {
    return time_shares(record);
  }
  std::vector<Metric> derived;
  for (const FigureQuantity& quantity : figure.quantities) {
    for (const Metric& metric : record.metrics()) {
      if (metric.name != quantity.metric) {
        continue;
      }
      Metric made{"quantity/" + quantity.label, metric.value, metric.unit, metric.doc};
      if (quantity.of == QuantityOf::layer) {
        made.value /= layers_of(record);
      } else if (quantity.of == QuantityOf::decode_time) {
        made.value *= record.metric("decode_time").value_or(0);
        made.unit = "s";
      }
      derived.push_back(std::move(made));
    }
  }
  return derived;
}

std::string results_table(const FigureConfig& figure, const FigureResults& results) {
  const bool is_grid = figure.kind == GridKind::grid;
  return (is_grid ? metric_table(figure, results) : derived_table(figure, results)) +
         legend(results, figure.metric) + samples_text(results);
}

std::string notes_text(const FigureResults& results) {
  std::vector<std::pair<std::string, std::vector<std::string>>> notes;
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      for (const std::string& note : results.at(s, i).notes()) {
        auto known = std::find_if(notes.begin(), notes.end(),
                                  [&note](const auto& entry) { return entry.first == note; });
        if (known == notes.end()) {
          known = notes.insert(known, {note, {}});
        }
        if (known->second.empty() || known->second.back() != results.series()[s]) {
          known->second.push_back(results.series()[s]);
        }
      }
    }
  }
  TextTable table({{"", TextTable::Align::left}, {"", TextTable::Align::left}});
  for (const auto& [note, series] : notes) {
    table.row({fmt::format("{}:", fmt::join(series, ", ")), note});
  }
  return table.is_empty() ? "" : table.text();
}

std::string figure_text(const FigureHeading& heading, const std::string& tables,
                        const std::vector<FigureClaim>& claims, const std::string& notes) {
  std::string text =
      fmt::format("{}: {}\n{}\n\n{}", heading.name, heading.title, heading.source, tables);
  if (!claims.empty()) {
    text += fmt::format(
        "\nclaims of the paper (fit: may have been used to calibrate; test: never)\n\n{}",
        claims_table(claims));
  }
  return text + (notes.empty() ? "" : "\nnotes\n\n" + notes);
}

}  // namespace nearkv
