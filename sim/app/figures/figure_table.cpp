#include "sim/app/figures/figure_table.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "sim/app/csv.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr double kLargestCount = 1e15;  // not a constant: doubles hold counts below it exactly

bool is_nothing(const FigureTable::Cell& cell) {
  return std::holds_alternative<std::monostate>(cell);
}

/// "12.7 GFLOP/s"; a count in full.
std::string number_text(double number, const std::string& unit) {
  constexpr int kDigits = 3;
  if (unit != "1") {
    return format_metric(number, unit, kDigits);
  }
  const bool is_count = number == std::floor(number) && std::abs(number) < kLargestCount;
  return is_count ? fmt::format("{:.0f}", number) : format_significant(number, kDigits);
}

/// A cell's text, its number by `print`, or `nothing`.
template <class Print>
std::string cell_text(const FigureTable::Cell& cell, const std::string& nothing, Print print) {
  if (const auto* text = std::get_if<std::string>(&cell)) {
    return *text;
  }
  const auto* number = std::get_if<double>(&cell);
  return number != nullptr ? print(*number) : nothing;
}

}  // namespace

void FigureTable::row(std::vector<Cell> cells) {
  check(cells.size() == columns_.size(), "a row of a figure's table has other columns than it");
  rows_.push_back(std::move(cells));
}

bool FigureTable::has_text(std::size_t column) const {
  return std::any_of(rows_.begin(), rows_.end(), [column](const std::vector<Cell>& cells) {
    return std::holds_alternative<std::string>(cells[column]);
  });
}

bool FigureTable::is_empty(std::size_t column) const {
  return std::all_of(rows_.begin(), rows_.end(), [column](const std::vector<Cell>& cells) {
    return is_nothing(cells[column]);
  });
}

std::string FigureTable::text() const {
  std::vector<TextTable::Column> columns;
  std::vector<std::size_t> shown;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    if (!is_empty(c)) {
      shown.push_back(c);
      columns.push_back(
          {columns_[c].name, has_text(c) ? TextTable::Align::left : TextTable::Align::right});
    }
  }
  TextTable table(columns);
  for (const std::vector<Cell>& row : rows_) {
    std::vector<std::string> cells;
    for (const std::size_t c : shown) {
      const std::string& unit = columns_[c].unit;
      cells.push_back(cell_text(row[c], has_text(c) ? "" : "-",
                                [&unit](double number) { return number_text(number, unit); }));
    }
    table.row(std::move(cells));
  }
  return table.text();
}

std::string FigureTable::csv() const {
  std::vector<std::string> header;
  for (const Column& column : columns_) {
    header.push_back(csv_column(column.name, column.unit));
  }
  std::string text = csv_line(header);
  for (const std::vector<Cell>& row : rows_) {
    std::vector<std::string> cells;
    for (const Cell& cell : row) {
      cells.push_back(cell_text(cell, "", csv_number));
    }
    text += csv_line(cells);
  }
  return text;
}

json FigureTable::rows() const {
  json list = json::array();
  for (const std::vector<Cell>& row : rows_) {
    json entry = json::object();
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      if (const auto* text = std::get_if<std::string>(&row[c])) {
        entry[columns_[c].name] = *text;
      } else if (const auto* number = std::get_if<double>(&row[c])) {
        entry[columns_[c].name] = {{"value", *number}, {"unit", columns_[c].unit}};
      }
    }
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace nearkv
