// Text for terminals: tables, bars and numbers with units. ASCII only, so that columns align
// everywhere.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv {

inline constexpr std::size_t kTerminalColumns = 100;

/// A table whose last column is wrapped to `columns`.
class TextTable {
 public:
  enum class Align { left, right };
  struct Column {
    std::string header;  // all empty: no header line
    Align align = Align::left;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// check()s that there is one cell a column.
  void row(std::vector<std::string> cells);
  [[nodiscard]] bool is_empty() const { return rows_.empty(); }

  /// Lines that end with a line break, each after `indent` spaces.
  [[nodiscard]] std::string text(std::size_t indent = 0,
                                 std::size_t columns = kTerminalColumns) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// Breaks a text into lines of at most `width` characters, between words where it can.
[[nodiscard]] std::vector<std::string> wrap_text(std::string_view text, std::size_t width);

/// "#####....." for a share of 0.5 and a width of 10.
[[nodiscard]] std::string share_bar(double share, std::size_t width);

/// So many significant digits, never with an exponent where a person reads the number more
/// easily without: "12346", "0.00123", "1.2e-09".
[[nodiscard]] std::string format_significant(double value, int digits = 4);

/// A metric for people: "103 GB", "12.1 ms", "5.43 token/s", "0.789".
[[nodiscard]] std::string format_metric(double value, std::string_view unit, int digits = 4);

/// "4.93 to 6.1 token/s", "900 us to 1.2 ms": two metrics in one unit.
[[nodiscard]] std::string format_metric_range(double lowest, double highest, std::string_view unit,
                                              int digits = 3);

/// "78.9 %".
[[nodiscard]] std::string format_percent(double share);

}  // namespace nearkv
