#include "sim/app/sweep/sweep_plan.hpp"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/app/point_key.hpp"
#include "sim/app/sweep/test_sweep.hpp"

namespace nearkv {

using nlohmann::json;
using test_sweep::plan_of;

namespace {

json list(const std::string& path, const json& values) {
  return {{"path", path}, {"values", values}};
}

json range(const std::string& path, const json& range) {
  return {{"path", path}, {"range", range}};
}

const char* const kChannels = "/csd/0/flash/channels";
const char* const kReadTime = "/csd/0/flash/t_read";
const char* const kBatch = "/workload/batch";

std::vector<double> column(const SweepPlan& plan, std::size_t index) {
  std::vector<double> numbers;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    numbers.push_back(std::get<double>(plan.values(i)[index]));
  }
  return numbers;
}

const json& at(const json& config, const std::string& path) {
  const json& node = config.at(json::json_pointer(path));
  return node.is_object() && node.contains("value") ? node.at("value") : node;
}

}  // namespace

TEST_CASE("sweep plan: the product of the axes, the first one slowest") {
  const SweepPlan plan = plan_of({list(kChannels, {4, 8}), list(kBatch, {16, 32, 64})});
  REQUIRE(plan.size() == 6);
  CHECK(plan.skipped() == 0);
  CHECK(column(plan, 0) == std::vector<double>{4, 4, 4, 8, 8, 8});
  CHECK(column(plan, 1) == std::vector<double>{16, 32, 64, 16, 32, 64});
  CHECK(plan.columns()[0].name == "channels");
  CHECK(plan.columns()[1].unit == "1");
  CHECK(at(plan.config(4), kChannels) == 8);
  CHECK(at(plan.config(4), kBatch) == 32);
  CHECK(plan.config(4).at(json::json_pointer(kChannels)).at("source") == "override");
}

TEST_CASE("sweep plan: the quick key of a point is that of its config") {
  const json variants{
      {"name", "system"},
      {"variants",
       {{{"name", "a"}, {"point", json::object()}},
        {{"name", "b"}, {"point", {{"simulation", {{"seed", 7}}}, {"name", "other"}}}}}}};
  const std::vector<SweepPlan> plans = [&] {
    std::vector<SweepPlan> all;
    all.push_back(
        plan_of({variants, list(kBatch, {1, 2}), list(kReadTime, {"36us", "40us"}),
                 range("/workload/prompt_tokens", {{"from", 16}, {"to", 64}})},
                {{"repeats", 2}, {"sample", {{"method", "random"}, {"count", 3}, {"seed", 1}}}}));
    all.push_back(
        plan_of({list(kChannels, {4, 12}), list("/simulation/seed", {1, 2})}, {{"repeats", 2}}));
    all.push_back(plan_of({list("/simulation/fidelity", {"sampled", "exact"})}));
    return all;
  }();
  for (const SweepPlan& plan : plans) {
    std::set<std::string> keys;
    for (std::size_t i = 0; i < plan.size(); ++i) {
      CHECK(plan.key(i) == config_key(plan.config(i)));
      keys.insert(plan.key(i));
    }
    CHECK(keys.size() >= plan.size() / 2);
  }
}

TEST_CASE("sweep plan: quantities are shown in SI units and set as they are written") {
  const SweepPlan plan = plan_of({list(kReadTime, {"36us", "0.05ms"})});
  CHECK(column(plan, 0) == std::vector<double>{36e-6, 50e-6});
  CHECK(plan.columns()[0].unit == "s");
  CHECK(at(plan.config(1), kReadTime) == "0.05ms");
}

TEST_CASE("sweep plan: ranges") {
  CHECK(column(plan_of({range(kBatch, {{"from", 10}, {"to", 35}, {"step", 10}})}), 0) ==
        std::vector<double>{10, 20, 30});
  CHECK(column(plan_of({range(kBatch, {{"from", 1}, {"to", 64}, {"count", 7}, {"scale", "log"}})}),
               0) == std::vector<double>{1, 2, 4, 8, 16, 32, 64});
  CHECK(column(plan_of({range(kReadTime, {{"from", "10us"}, {"to", "30us"}, {"count", 3}})}), 0) ==
        std::vector<double>{10e-6, 20e-6, 30e-6});
  // Whole numbers that fall together are one.
  CHECK(column(plan_of({range(kBatch, {{"from", 1}, {"to", 4}, {"count", 7}})}), 0) ==
        std::vector<double>{1, 2, 3, 4});
}

TEST_CASE("sweep plan: axes that move together") {
  const SweepPlan plan =
      plan_of({{{"zip", {list(kChannels, {4, 8}), list(kReadTime, {"10us", "20us"})}}},
               list(kBatch, {1, 2})});
  CHECK(column(plan, 0) == std::vector<double>{4, 4, 8, 8});
  CHECK(column(plan, 1) == std::vector<double>{10e-6, 10e-6, 20e-6, 20e-6});
  CHECK(column(plan, 2) == std::vector<double>{1, 2, 1, 2});
}

TEST_CASE("sweep plan: variants are merged over the base, and conditions leave points out") {
  const json flexgen{{"name", "flexgen"},
                     {"point", {{"extends", "nearkv:design_points/flexgen_opt13b_a6000.json"}}}};
  const json dense{{"name", "insti_dense"}, {"point", json::object()}};
  const SweepPlan plan =
      plan_of({{{"name", "system"}, {"variants", {dense, flexgen}}}, list(kBatch, {4, 8, 16})},
              {{"skip", {"system == \"flexgen\" and batch > 4", "batch == 8"}}});
  REQUIRE(plan.size() == 3);
  CHECK(plan.skipped() == 3);
  CHECK(std::get<std::string>(plan.values(1)[0]) == "insti_dense");
  CHECK(std::get<double>(plan.values(1)[1]) == 16);
  CHECK(std::get<std::string>(plan.values(2)[0]) == "flexgen");
  CHECK(plan.config(1).at("system").at("kind") == "insti_dense");
  CHECK(plan.config(2).at("system").at("kind") == "flexgen");
  CHECK(at(plan.config(2), kBatch) == 4);
}

TEST_CASE("sweep plan: repeats differ in the seed alone") {
  const SweepPlan plan = plan_of({list(kBatch, {4, 8})}, {{"repeats", 3}});
  REQUIRE(plan.size() == 6);
  CHECK(column(plan, 1) == std::vector<double>{1, 2, 3, 1, 2, 3});
  json first = plan.config(3);
  json last = plan.config(5);
  CHECK(last["simulation"]["seed"] == first["simulation"]["seed"].get<int>() + 2);
  last["simulation"]["seed"] = first["simulation"]["seed"];
  CHECK(first == last);
}

TEST_CASE("sweep plan: an interval goes through its quantiles") {
  const std::string path = "/csd/0/controller/command_cost";  // 2 us, 90 % within 1 to 8 us
  const SweepPlan plan = plan_of({{{"path", path}, {"interval", {{"count", 3}}}}});
  const std::vector<double> costs = column(plan, 0);
  REQUIRE(costs.size() == 3);
  CHECK(costs[0] == doctest::Approx(1e-6).epsilon(1e-6));
  CHECK(costs[1] == doctest::Approx(2e-6).epsilon(1e-6));
  CHECK(costs[2] == doctest::Approx(8e-6).epsilon(1e-6));
}

TEST_CASE("sweep plan: shares are places of a range and probabilities of an interval") {
  const json places{0.05, 0.5, 0.5, 0.95};
  const json batch = range(kBatch, {{"from", 1}, {"to", 4}, {"shares", places}});
  const json time =
      range(kReadTime, {{"from", "10us"}, {"to", "1ms"}, {"scale", "log"}, {"shares", places}});
  const json cost{{"path", "/csd/0/controller/command_cost"}, {"interval", {{"shares", places}}}};
  const SweepPlan plan = plan_of({{{"zip", {batch, time, cost}}}});
  CHECK(column(plan, 0) == std::vector<double>{1, 3, 3, 4});
  CHECK(column(plan, 1)[1] == doctest::Approx(100e-6).epsilon(1e-6));
  CHECK(column(plan, 2)[0] == doctest::Approx(1e-6).epsilon(1e-6));
  CHECK(column(plan, 2)[3] == doctest::Approx(8e-6).epsilon(1e-6));
  CHECK(column(plan, 2)[1] == column(plan, 2)[2]);
}

TEST_CASE("sweep plan: samples fill the range, equally for every seed") {
  for (const char* method : {"random", "latin_hypercube", "sobol"}) {
    CAPTURE(method);
    const auto plan_with = [&](int seed) {
      return plan_of({range(kBatch, {{"from", 1}, {"to", 4}}),
                      range(kReadTime, {{"from", "10us"}, {"to", "1ms"}, {"scale", "log"}}),
                      list(kChannels, {4, 8})},
                     {{"sample", {{"method", method}, {"count", 256}, {"seed", seed}}}});
    };
    const SweepPlan plan = plan_with(1);
    REQUIRE(plan.size() == 512);
    const std::vector<double> batches = column(plan, 0);
    for (const double batch : {1, 2, 3, 4}) {
      const auto count = std::count(batches.begin(), batches.end(), batch);
      CHECK(count > 80);  // of 512, 128 are expected
      CHECK(count < 180);
    }
    std::vector<double> times = column(plan, 1);
    CHECK(std::vector<double>(times.begin(), times.begin() + 256) ==
          std::vector<double>(times.begin() + 256, times.end()));
    std::sort(times.begin(), times.end());
    CHECK(times.front() >= 10e-6);
    CHECK(times.back() <= 1e-3);
    CHECK(times[256] == doctest::Approx(100e-6).epsilon(0.25));  // the median on a log scale
    CHECK(column(plan_with(1), 1) == column(plan, 1));
    if (std::string(method) != "sobol") {
      CHECK(column(plan_with(2), 1) != column(plan, 1));
    }
  }
}

TEST_CASE("sweep plan: a latin hypercube has one sample in each part of a range") {
  const SweepPlan plan =
      plan_of({range(kReadTime, {{"from", "0ps"}, {"to", "1000us"}})},
              {{"sample", {{"method", "latin_hypercube"}, {"count", 100}, {"seed", 3}}}});
  std::set<int> parts;
  for (const double time : column(plan, 0)) {
    parts.insert(static_cast<int>(time / 10e-6));
  }
  CHECK(parts.size() == 100);
}

}  // namespace nearkv
