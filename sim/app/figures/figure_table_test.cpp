#include "sim/app/figures/figure_table.hpp"

#include <doctest/doctest.h>

namespace nearkv {

namespace {

FigureTable small_table() {
  FigureTable table({{"unit"}, {"rate", "B/s"}, {"paper"}, {"note"}});
  table.row({std::string("filter"), 1.85e9, std::monostate{}, std::monostate{}});
  table.row({std::string("a, b"), std::monostate{}, std::monostate{}, std::string("none")});
  return table;
}

}  // namespace

TEST_CASE("figure table: text leaves out what no row has, and shows gaps") {
  CHECK(small_table().text() ==
        "unit         rate  note\n"
        "------  ---------  ----\n"
        "filter  1.85 GB/s\n"
        "a, b            -  none\n");
}

TEST_CASE("figure table: CSV has all columns, with empty cells") {
  CHECK(small_table().csv() ==
        "unit,rate [B/s],paper,note\n"
        "filter,1850000000,,\n"
        "\"a, b\",,,none\n");
}

TEST_CASE("figure table: JSON has what is there") {
  const nlohmann::json rows = small_table().rows();
  CHECK(rows[0] ==
        nlohmann::json{{"unit", "filter"}, {"rate", {{"value", 1.85e9}, {"unit", "B/s"}}}});
  CHECK(rows[1] == nlohmann::json{{"unit", "a, b"}, {"note", "none"}});
}

}  // namespace nearkv
