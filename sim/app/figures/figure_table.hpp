// A table of texts and numbers that a figure prints, writes as CSV and gives as JSON.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

namespace nearkv {

class FigureTable {
 public:
  struct Column {
    std::string name;
    std::string unit = "1";  // of its numbers; "1" for plain numbers, and for texts
  };
  /// Nothing, where there is no such number; a text; a number in the column's unit.
  using Cell = std::variant<std::monostate, std::string, double>;

  explicit FigureTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// check()s that there is one cell a column.
  void row(std::vector<Cell> cells);

  /// For terminals: numbers with their units, "-" where there is none; columns of numbers stand
  /// right. Without the columns in which no row has anything.
  [[nodiscard]] std::string text() const;
  /// Tidy CSV (RFC 4180): all columns, empty cells where there is nothing.
  [[nodiscard]] std::string csv() const;
  /// A list of one object a row, without what is not there; numbers as {"value": ..., "unit": ...}.
  [[nodiscard]] nlohmann::json rows() const;

 private:
  [[nodiscard]] bool has_text(std::size_t column) const;
  [[nodiscard]] bool is_empty(std::size_t column) const;

  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace nearkv
