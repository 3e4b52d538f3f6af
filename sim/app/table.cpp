#include "sim/app/table.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::size_t kNarrowestWrap = 20;
constexpr std::string_view kGap = "  ";

struct Prefix {
  double factor;
  std::string_view name;
};
constexpr std::array kDecimalPrefixes{Prefix{1e15, "P"}, Prefix{1e12, "T"}, Prefix{1e9, "G"},
                                      Prefix{1e6, "M"},  Prefix{1e3, "K"},  Prefix{1, ""}};
constexpr std::array kSecondPrefixes{Prefix{1, ""}, Prefix{1e-3, "m"}, Prefix{1e-6, "u"},
                                     Prefix{1e-9, "n"}, Prefix{1e-12, "p"}};

template <std::size_t N>
std::string with_prefix(double value, std::string_view unit, const std::array<Prefix, N>& prefixes,
                        int digits) {
  const Prefix* chosen = &prefixes.back();
  for (const Prefix& prefix : prefixes) {
    if (std::abs(value) >= prefix.factor) {
      chosen = &prefix;
      break;
    }
  }
  return fmt::format("{} {}{}", format_significant(value / chosen->factor, digits), chosen->name,
                     unit);
}

void append_line(std::string& text, std::size_t indent, std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  text += line.empty() ? "\n" : std::string(indent, ' ') + line + "\n";
}

}  // namespace

void TextTable::row(std::vector<std::string> cells) {
  check(cells.size() == columns_.size(), "a table row with another number of cells than columns");
  rows_.push_back(std::move(cells));
}

std::string TextTable::text(std::size_t indent, std::size_t columns) const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) {
    widths.push_back(column.header.size());
  }
  for (const auto& cells : rows_) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      widths[i] = std::max(widths[i], cells[i].size());
    }
  }
  std::size_t before_last = indent;
  for (std::size_t i = 0; i + 1 < widths.size(); ++i) {
    before_last += widths[i] + kGap.size();
  }
  const std::size_t room = columns > before_last ? columns - before_last : 0;
  widths.back() = std::min(widths.back(), std::max(room, kNarrowestWrap));

  std::string text;
  const auto add_row = [&](const std::vector<std::string>& cells) {
    const std::vector<std::string> last = wrap_text(cells.back(), widths.back());
    for (std::size_t i = 0; i < std::max<std::size_t>(last.size(), 1); ++i) {
      std::string line;
      for (std::size_t c = 0; c < cells.size(); ++c) {
        const bool is_last = c + 1 == cells.size();
        const std::string cell =
            is_last ? (i < last.size() ? last[i] : "") : (i == 0 ? cells[c] : "");
        line += columns_[c].align == Align::left ? fmt::format("{:<{}}", cell, widths[c])
                                                 : fmt::format("{:>{}}", cell, widths[c]);
        line += kGap;
      }
      append_line(text, indent, std::move(line));
    }
  };
  std::vector<std::string> headers;
  std::vector<std::string> rules;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    headers.push_back(columns_[i].header);
    rules.emplace_back(widths[i], '-');
  }
  if (std::any_of(headers.begin(), headers.end(), [](const auto& h) { return !h.empty(); })) {
    add_row(headers);
    add_row(rules);
  }
  for (const auto& cells : rows_) {
    add_row(cells);
  }
  return text;
}

std::vector<std::string> wrap_text(std::string_view text, std::size_t width) {
  check(width > 0 || text.empty(), "text wrapped to no width");
  std::vector<std::string> lines;
  while (!text.empty()) {
    std::size_t length = std::min(width, text.size());
    if (text.size() > width) {
      const std::size_t space = text.rfind(' ', width);
      length = space == std::string_view::npos || space == 0 ? width : space;
    }
    lines.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  }
  return lines;
}

std::string share_bar(double share, std::size_t width) {
  const double clamped = std::clamp(share, 0.0, 1.0);
  const auto filled = static_cast<std::size_t>(std::lround(clamped * static_cast<double>(width)));
  return std::string(filled, '#') + std::string(width - filled, '.');
}

std::string format_significant(double value, int digits) {
  constexpr double kSmallest = 1e-4;
  constexpr double kLargest = 1e15;
  if (value == 0) {
    return "0";
  }
  const double magnitude = std::abs(value);
  if (!std::isfinite(value) || magnitude < kSmallest || magnitude >= kLargest) {
    return fmt::format("{:.{}g}", value, digits);
  }
  // The exponent after rounding: 9.9996 with 4 digits is 10.00.
  const std::string rounded = fmt::format("{:.{}e}", value, digits - 1);
  const std::size_t mark = rounded.find('e') + 1;
  const std::size_t start = rounded[mark] == '+' ? mark + 1 : mark;
  int exponent = 0;
  std::from_chars(rounded.data() + start, rounded.data() + rounded.size(), exponent);
  return fmt::format("{:.{}f}", value, std::max(0, digits - 1 - exponent));
}

std::string format_metric(double value, std::string_view unit, int digits) {
  if (unit == "1") {
    return value == std::round(value) ? format_significant(value, 1)
                                      : format_significant(value, digits);
  }
  if (unit == "B" || unit == "B/s" || unit == "FLOP" || unit == "FLOP/s") {
    return with_prefix(value, unit, kDecimalPrefixes, digits);
  }
  if (unit == "s" && value != 0) {
    return with_prefix(value, unit, kSecondPrefixes, digits);
  }
  return fmt::format("{} {}", format_significant(value, digits), unit);
}

std::string format_metric_range(double lowest, double highest, std::string_view unit, int digits) {
  std::string from = format_metric(lowest, unit, digits);
  const std::string to = format_metric(highest, unit, digits);
  const std::size_t from_unit = from.find(' ');
  const std::size_t to_unit = to.find(' ');
  if (from_unit != std::string::npos && to_unit != std::string::npos &&
      from.substr(from_unit) == to.substr(to_unit)) {
    from.erase(from_unit);
  }
  return fmt::format("{} to {}", from, to);
}

std::string format_percent(double share) { return fmt::format("{:.1f} %", share * 100); }

}  // namespace nearkv
