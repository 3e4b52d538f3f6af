#include "sim/app/uncertainty/constant_samples.hpp"

#include <algorithm>

#include <doctest/doctest.h>

namespace nearkv {

namespace {

using nlohmann::json;

ConstantUse duration_use(const std::string& path) {
  return {path,
          "50us",
          "assumed",
          "not published",
          "20us to 80us",
          FieldNumber{NumberType::duration, 50e6, range_of(0_ps, SimDuration{1'000'000'000}),
                      Range{20e6, 80e6}}};
}

json point_with(const std::vector<std::string>& paths) {
  json config;
  for (const std::string& path : paths) {
    config[json::json_pointer(path)] = {{"value", "50us"},
                                        {"interval", {"20us", "80us"}},
                                        {"source", "assumed"},
                                        {"citation", "not published"}};
  }
  return config;
}

}  // namespace

TEST_CASE("constant samples: fit and assumed constants with an interval vary") {
  ConstantUse plain = duration_use("/b");
  plain.number->interval.reset();
  ConstantUse measured = duration_use("/c");
  measured.source = "measured";
  ConstantUse word{"/d", "fifo", "fit", "a choice"};
  ConstantUse fitted = duration_use("/e");
  fitted.source = "fit";
  const UncertainConstants found =
      uncertain_constants({duration_use("/a"), plain, measured, word, fitted});
  REQUIRE(found.varied.size() == 2);
  CHECK(found.varied[0].path == "/a");
  CHECK(found.varied[1].path == "/e");
  REQUIRE(found.held.size() == 2);
  CHECK(found.held[0].path == "/b");
  CHECK(found.held[1].path == "/d");
}

TEST_CASE("constant samples: positions in lists do not name a draw") {
  CHECK(draw_name("/csd/0/flash/t_read") == "/csd/*/flash/t_read");
  CHECK(draw_name("/csd/12/flash/t_read") == "/csd/*/flash/t_read");
  CHECK(draw_name("/host/l2/x") == "/host/l2/x");
}

TEST_CASE("constant samples: the draws of a constant are the same in every design point") {
  const std::vector<ConstantUse> one{duration_use("/csd/1/t"), duration_use("/host/t")};
  const std::vector<ConstantUse> other{duration_use("/host/t"), duration_use("/csd/0/t")};
  const SampleOptions options{20, 3};
  const auto first = draw_samples(point_with({"/csd/0", "/csd/1/t", "/host/t"}), one, options);
  const auto second = draw_samples(point_with({"/host/t", "/csd/0/t"}), other, options);
  REQUIRE(first.size() == 20);
  bool differ = false;
  for (std::size_t i = 0; i < first.size(); ++i) {
    CHECK(first[i].values[0] == second[i].values[1]);
    CHECK(first[i].values[1] == second[i].values[0]);
    differ = differ || first[i].values[0] != first[i].values[1];
  }
  CHECK(differ);
}

TEST_CASE("constant samples: a sample's config has the drawn value, its source, no interval") {
  const std::vector<ConstantUse> varied{duration_use("/t")};
  const json config = point_with({"/t", "/other"});
  const auto samples = draw_samples(config, varied, {40, 1});
  int inside = 0;
  for (const ConstantSample& sample : samples) {
    const json& constant = sample.config.at("t");
    CHECK(parse_duration(constant.at("value").get<std::string>()).count() == sample.values[0]);
    CHECK(constant.at("source") == "assumed");
    CHECK_FALSE(constant.contains("interval"));
    CHECK(sample.config.at("other") == config.at("other"));
    inside += sample.values[0] >= 20e6 && sample.values[0] <= 80e6 ? 1 : 0;
  }
  CHECK(inside == 36);  // 90 % of 40: a Latin hypercube
}

}  // namespace nearkv
