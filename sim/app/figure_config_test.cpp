#include "sim/app/figure_config.hpp"

#include <filesystem>
#include <memory>
#include <string>

#include <doctest/doctest.h>

#include "sim/app/figures/figure.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// The message with which fig14 is refused after a merge patch, without the file's name; empty
/// when it is taken.
std::string problem_after(const std::string& patch) {
  json figure = load_json(shipped_configs() / "figures" / "fig14.json");
  for (auto& series : figure.at("series")) {
    const std::string base = series.at("point").at("extends");
    series["point"]["extends"] = "nearkv:" + base.substr(base.find("design_points"));
  }
  figure.merge_patch(json::parse(patch));
  const TestFolder folder;
  const fs::path file = folder.write("figure.json", figure.dump());
  std::string problem;
  try {
    static_cast<void>(figure_points(load_figure(file), false));
  } catch (const ConfigError& error) {
    problem = error.what();
    const std::string prefix = file.string() + ": ";
    CHECK(problem.starts_with(prefix));
    problem.erase(0, prefix.size());
  }
  return problem;
}

}  // namespace

TEST_CASE("every shipped figure is complete and its points are valid") {
  const Suite paper = load_suite(suite_file("paper"));
  const std::vector<std::string> names = known_figures();
  CHECK(std::find(names.begin(), names.end(), "fig14") != names.end());
  for (const std::string& name : names) {
    INFO(name);
    CHECK(load_heading(figure_file(name)).name == name);
    const std::unique_ptr<Figure> figure = make_figure(name, paper);
    CHECK(figure->heading().name == name);
    CHECK(figure->points(true).size() <= figure->points(false).size());
    CHECK(figure->is_whole(false));
    for (const Row& claim : figure->claims()) {
      for (const PointName& point : claim.simulated.points()) {
        CHECK(figure->position(point, false).value_or(9999) < figure->points(false).size());
      }
    }
  }
}

TEST_CASE("the points of a figure are its series at each axis value") {
  const FigureConfig figure = load_figure(figure_file("fig14"));
  const std::vector<PreparedPoint> points = figure_points(figure, false);
  REQUIRE(points.size() == 49);
  CHECK(points[0].name == "deepspeed_batch_4");
  CHECK(points[0].config.at("workload").at("batch") == 4);
  CHECK(points[0].origin == "fig14, deepspeed, batch 4");
  CHECK(points[48].name == "insti_sparf_batch_256");
  CHECK(points[48].config.at("system").at("kind") == "insti_sparf");
}

TEST_CASE("an unchanged figure is taken") { CHECK(problem_after("{}").empty()); }

TEST_CASE("an unknown figure is refused with the nearest") {
  CHECK_THROWS_WITH_AS(static_cast<void>(figure_file("fig144")),
                       doctest::Contains("fig144: unknown figure; did you mean \"fig14\"? there "
                                         "are: endurance, fig04, "),
                       ConfigError);
}

TEST_CASE("mistakes in a figure are refused with their path") {
  CHECK(problem_after(R"({"axis": {"path": "/workload/bach"}})")
            .find("/workload/bach: no such path; did you mean \"batch\"?") != std::string::npos);
  CHECK(problem_after(R"({"axis": {"values": [4, 4], "quick": [4]}})") ==
        "/axis/values: has a value twice; name each once");
  CHECK(problem_after(R"({"axis": {"values": []}})") ==
        "/axis/values: must be a list of at least one number, quantity or name");
  CHECK(problem_after(R"({"axis": {"quick": [5]}})") ==
        "/axis/quick: 5 is not among /axis/values; --quick runs a part of them");
  CHECK(problem_after(R"({"axis": {"values": [4, "64 sequences"], "quick": [4]}})")
            .starts_with("/axis/values: \"64 sequences\": /workload/batch: is \"64 sequences\""));
  CHECK(problem_after(R"({"titel": "x"})") == "/titel: unknown key; did you mean \"title\"?");
  CHECK(problem_after(R"({"series": []})") == "/series: is empty; must have at least one series");
  CHECK(problem_after(R"({"metric": null})").starts_with("/metric: missing"));
  CHECK(problem_after(R"({"kind": "gird"})").starts_with("/kind: "));
  CHECK(problem_after(R"({"kind": "quantities", "quantities": []})").starts_with("/quantities: "));
  CHECK(problem_after(R"({"kind": "quantities", "quantities": [
      {"label": "x", "metric": "throughput", "of": "token"}]})")
            .starts_with("/quantities/0/of: "));
}

}  // namespace nearkv
