#include "sim/app/table.hpp"

#include <doctest/doctest.h>

#include "sim/core/check.hpp"

namespace nearkv {

TEST_CASE("a table aligns its columns and wraps the last one") {
  TextTable table({{"name", TextTable::Align::left},
                   {"value", TextTable::Align::right},
                   {"text", TextTable::Align::left}});
  table.row({"a", "1", "short"});
  table.row({"longer", "12.5", "so many words that they need two lines"});
  CHECK(table.text(2, 43) ==
        "  name    value  text\n"
        "  ------  -----  --------------------------\n"
        "  a           1  short\n"
        "  longer   12.5  so many words that they\n"
        "                 need two lines\n");
  CHECK_THROWS_AS(table.row({"too", "few"}), CheckFailure);
}

TEST_CASE("a table without headers has no header lines") {
  TextTable table({{"", TextTable::Align::left}, {"", TextTable::Align::right}});
  table.row({"a", ""});
  CHECK(table.text() == "a\n");
  CHECK(TextTable({{"h", TextTable::Align::left}}).text() == "h\n-\n");
}

TEST_CASE("text is wrapped between words, and inside a word only where it must") {
  CHECK(wrap_text("", 5).empty());
  CHECK(wrap_text("one two", 7) == std::vector<std::string>{"one two"});
  CHECK(wrap_text("one two", 6) == std::vector<std::string>{"one", "two"});
  CHECK(wrap_text("abcdefg", 3) == std::vector<std::string>{"abc", "def", "g"});
}

TEST_CASE("a share bar is full at 1 and stays so above") {
  CHECK(share_bar(0, 4) == "....");
  CHECK(share_bar(0.5, 4) == "##..");
  CHECK(share_bar(1, 4) == "####");
  CHECK(share_bar(1.7, 4) == "####");
  CHECK(share_bar(-1, 4) == "....");
}

TEST_CASE("numbers keep their significant digits without an exponent") {
  CHECK(format_significant(0) == "0");
  CHECK(format_significant(12345.6) == "12346");
  CHECK(format_significant(5.4321) == "5.432");
  CHECK(format_significant(9.9996) == "10.00");
  CHECK(format_significant(0.0012345, 3) == "0.00123");
  CHECK(format_significant(-0.5, 2) == "-0.50");
  CHECK(format_significant(1.5e-9, 2) == "1.5e-09");
  CHECK(format_significant(99.96, 3) == "100");
}

TEST_CASE("metrics are printed with a prefix that fits their unit") {
  CHECK(format_metric(103.1e9, "B") == "103.1 GB");
  CHECK(format_metric(12, "B") == "12.00 B");
  CHECK(format_metric(0.0121, "s", 3) == "12.1 ms");
  CHECK(format_metric(23152, "s") == "23152 s");
  CHECK(format_metric(0, "s") == "0 s");
  CHECK(format_metric(5.085, "token/s") == "5.085 token/s");
  CHECK(format_metric(1023, "1") == "1023");
  CHECK(format_metric(0.789, "1", 3) == "0.789");
  CHECK(format_percent(0.789) == "78.9 %");
}

TEST_CASE("two metrics share their unit where they can") {
  CHECK(format_metric_range(4.934, 6.1, "token/s") == "4.93 to 6.10 token/s");
  CHECK(format_metric_range(0.0009, 0.0012, "s") == "900 us to 1.20 ms");
  CHECK(format_metric_range(0.1, 0.25, "1") == "0.100 to 0.250");
}

}  // namespace nearkv
