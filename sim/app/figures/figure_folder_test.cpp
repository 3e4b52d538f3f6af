#include "sim/app/figures/figure_folder.hpp"

#include <fstream>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/record.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

struct ResultsFolder : TestFolder {
  [[nodiscard]] std::string problem() const {
    try {
      FigureFolder{path()};
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }
};

}  // namespace

TEST_CASE("figure folder: what a figure listed is its own, and nothing else") {
  const ResultsFolder folder;
  FigureFolder figures(folder.path());
  figures.begin("fig14", {"fig14.csv", "fig14/a.record.json"}, {});
  folder.write("fig14.csv", "x");
  folder.write("fig15.csv", "a user's");
  const FigureFolder again(folder.path());
  CHECK_NOTHROW(again.check_are_ours({"fig14.csv", "fig16.csv"}));
  CHECK_THROWS_WITH_AS(again.check_are_ours({"fig14.csv", "fig15.csv"}),
                       doctest::Contains("fig15.csv: is there, but "), ConfigError);
}

TEST_CASE("figure folder: old files of a figure go, those of others stay") {
  const ResultsFolder folder;
  FigureFolder figures(folder.path());
  figures.begin("fig14", {"fig14.csv", "fig14.png", "fig14/old.record.json"}, {});
  figures.begin("fig15", {"fig15.csv"}, {});
  for (const char* file :
       {"fig14.csv", "fig14.png", "fig14/old.record.json", "fig15.csv", "fig14/users.txt"}) {
    folder.write(file, "x");
  }
  FigureFolder(folder.path()).begin("fig14", {"fig14.csv", "fig14.png"}, {"fig14.png"});
  CHECK(fs::exists(folder.path() / "fig14.csv"));
  CHECK_FALSE(fs::exists(folder.path() / "fig14.png"));  // drawn again, or missing
  CHECK_FALSE(fs::exists(folder.path() / "fig14/old.record.json"));
  CHECK(fs::exists(folder.path() / "fig14/users.txt"));
  CHECK(fs::exists(folder.path() / "fig15.csv"));
}

TEST_CASE("figure folder: lists of others and of other versions are refused") {
  const ResultsFolder folder;
  CHECK(folder.problem().empty());
  FigureFolder(folder.path()).begin("fig14", {"fig14.csv"}, {});
  std::ifstream stream(folder.path() / kFigureList);
  const nlohmann::json list = nlohmann::json::parse(stream);
  const auto problem_after = [&](const std::string& patch) {
    nlohmann::json changed = list;
    changed.merge_patch(nlohmann::json::parse(patch));
    folder.write(std::string(kFigureList), changed.dump());
    const std::string problem = folder.problem();
    const std::size_t end = problem.find(": ");
    return problem.empty() ? "" : problem.substr(end + 2);
  };
  CHECK(problem_after("{}").empty());
  CHECK(problem_after(R"({"format": 2})") ==
        "/format: is 2; this program writes 1; remove the folder, or name another one with --out");
  CHECK(problem_after(R"({"program": {"version": "9.0.0"}})")
            .starts_with(R"(/program: is {"name":"nearkv","version":"9.0.0"}; this is )"));
  CHECK(problem_after(R"({"figures": {"fig14": ["../secret"]}})")
            .starts_with("/figures: must have a list of files"));
  CHECK(problem_after(R"({"figures": {"fig14": ["/etc/passwd"]}})")
            .starts_with("/figures: must have a list of files"));
  folder.write(std::string(kFigureList), "{}");
  CHECK(folder.problem().find("is no list of figures") != std::string::npos);
}

}  // namespace nearkv
