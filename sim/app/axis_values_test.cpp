#include "sim/app/axis_values.hpp"

#include <doctest/doctest.h>

namespace nearkv {

using nlohmann::json;

TEST_CASE("axis values keep their JSON type") {
  const json figure{{"axis", {{"values", {4, 0.5, "50us"}}, {"name", "x"}}},
                    {"point", {{"values", {1, 2}}}}};
  const json text = with_axis_values_as_text(figure);
  CHECK(text["axis"]["values"] == "[4,0.5,\"50us\"]");
  CHECK(text["axis"]["name"] == "x");
  CHECK(text["point"] == figure["point"]);
}

TEST_CASE("an axis value is written as in the config, without quotes") {
  CHECK(axis_text("50us") == "50us");
  CHECK(axis_text(0.5) == "0.5");
  CHECK(axis_text(64) == "64");
  const AxisValues values{{4, "50us"}};
  CHECK(values.texts() == std::vector<std::string>{"4", "50us"});
  CHECK(values.contains("50us"));
  CHECK_FALSE(values.contains("5"));
}

}  // namespace nearkv
