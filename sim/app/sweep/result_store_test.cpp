#include "sim/app/sweep/result_store.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/app/sweep/sweep_ranking.hpp"
#include "sim/app/sweep/test_sweep.hpp"
#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

using test_sweep::plan_of;

namespace {

PointResult ran(double throughput, double price) {
  return {"ok", "", {{"throughput", throughput, "token/s", ""}, {"price", price, "USD", ""}}};
}

}  // namespace

TEST_CASE("result store: what was committed is there again, the rest is not") {
  const TestFolder folder;
  const auto file = folder.path() / "journal.sqlite";
  {
    ResultStore store(file);
    store.set_note("sweep", "{}");
    store.add("a", ran(0.1, 5));
    store.add_point(7, "a");
    store.add("b", {"refused", "/csd: bad", {}});
    store.add_point(3, "b");
    store.commit();
    store.add("c", ran(1, 1));
    store.add_point(4, "c");
    CHECK(store.find("c").has_value());
  }
  const ResultStore store(file);
  CHECK(store.note("sweep") == "{}");
  CHECK_FALSE(store.note("other").has_value());
  CHECK_FALSE(store.find("c").has_value());
  CHECK(store.points() == std::vector<std::size_t>{3, 7});
  CHECK(store.statuses() == std::map<std::string, std::size_t>{{"ok", 1}, {"refused", 1}});
  std::vector<std::string> seen;
  store.for_each([&](std::size_t point, const std::string& key, const PointResult& result) {
    seen.push_back(std::to_string(point) + key + result.status + result.detail);
  });
  CHECK(seen == std::vector<std::string>{"3brefused/csd: bad", "7aok"});
  const PointResult found = store.find("a").value();
  REQUIRE(found.metrics.size() == 2);
  CHECK(found.metrics[0].name == "throughput");
  CHECK(found.metrics[0].value == 0.1);
  CHECK(found.metrics[1].unit == "USD");
}

TEST_CASE("result store: a file of something else is refused and left alone") {
  const TestFolder folder;
  const auto file = folder.path() / "journal.sqlite";
  std::ofstream(file) << "hello, this is no database of any kind at all";
  CHECK_THROWS_AS(ResultStore{file}, ConfigError);
  std::string text;
  std::getline(std::ifstream(file), text);
  CHECK(text == "hello, this is no database of any kind at all");
}

TEST_CASE("result store: a copy has what was committed, and is read without a trace") {
  const TestFolder folder;
  const auto file = folder.path() / "a copy?.sqlite";
  ResultStore store;
  store.set_note("sweep", "x");
  store.add("a", ran(0.1, 5));
  store.add_point(7, "a");
  store.commit();
  store.write_copy(file);
  {
    const ResultStore copy = ResultStore::to_read(file);
    CHECK(copy.note("sweep") == "x");
    CHECK(copy.points() == std::vector<std::size_t>{7});
    CHECK(copy.find("a").value().metrics.at(1).value == 5);
  }
  store.add("b", ran(1, 2));
  store.add_point(1, "b");
  store.commit();
  store.write_copy(file);  // over the old one
  CHECK(ResultStore::to_read(file).points() == std::vector<std::size_t>{1, 7});
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
  CHECK_THROWS_WITH_AS(store.write_copy(folder.path() / "missing" / "x"),
                       doctest::Contains("missing/x: cannot be written"), ConfigError);
  CHECK_THROWS_AS(static_cast<void>(ResultStore::to_read(folder.write("torn", "damaged"))),
                  ConfigError);
  CHECK_THROWS_AS(static_cast<void>(ResultStore::to_read(folder.path() / "none")), ConfigError);
}

TEST_CASE("ranking: constraints, the front and the best") {
  const TestFolder folder;
  ResultStore store(folder.path() / "journal.sqlite");
  const SweepPlan plan = plan_of({{{"path", "/workload/batch"}, {"values", {1, 2, 3, 4, 5, 6}}}});
  const std::vector<PointResult> results{
      ran(10, 5), ran(10, 4), ran(20, 9), ran(15, 9), {"out_of_memory", "VRAM", {}}, ran(5, 1)};
  for (std::size_t i = 0; i < results.size(); ++i) {
    store.add(std::to_string(i), results[i]);
    store.add_point(i, std::to_string(i));
  }
  const std::vector<SweepObjective> objectives{{"speed", "throughput", true},
                                               {"price", "price", false}};
  const auto numbers = [](const std::vector<RankedPoint>& points) {
    std::vector<std::size_t> all;
    for (const RankedPoint& point : points) {
      all.push_back(point.point + 1);
    }
    return all;
  };
  const SweepRanking all = rank_points(plan, store, objectives, {});
  CHECK(all.did_not_run == 1);
  CHECK(numbers(pareto_front(all, objectives)) == std::vector<std::size_t>{3, 2, 6});
  CHECK(numbers(best_points(all, objectives, 2)) == std::vector<std::size_t>{3, 4});
  const SweepRanking some = rank_points(plan, store, objectives, {"batch < 6 and price < 9"});
  CHECK(some.against_constraints == 3);
  CHECK(numbers(pareto_front(some, objectives)) == std::vector<std::size_t>{2});
  CHECK_THROWS_WITH(
      static_cast<void>(rank_points(plan, store, {{"x", "thruput", true}}, {})),
      "/objectives/0/expression: column 1: \"thruput\" is not known here; did you mean "
      "\"throughput\"?");
}

}  // namespace nearkv
