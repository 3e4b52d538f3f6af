#include "sim/app/validation/run_set.hpp"

#include <fstream>
#include <iterator>

#include <doctest/doctest.h>
#include <unistd.h>

#include "sim/app/point_key.hpp"
#include "sim/app/record_view.hpp"
#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

RunRecord doubled(const PreparedPoint& point) {
  if (!point.config.contains("x")) {
    throw ConfigError("/x: missing");
  }
  RunRecord record;
  record.name = point.name;
  record.config = point.config;
  record.outcome.metrics.add("y", 2 * point.config.at("x").get<double>(), "1", "twice x");
  return record;
}

RunRecord never(const PreparedPoint& /*point*/) {
  for (;;) {
    pause();
  }
}

PreparedPoint point_of(const json& config) {
  return {.origin = "a test", .name = "point", .config = config, .run = doubled};
}

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      files.push_back(entry.path());
    }
  }
  return files;
}

double result_of(const PointOutcome& outcome) {
  REQUIRE(outcome.has_record());
  return RecordView(json::parse(outcome.record_text)).metric("y").value();
}

}  // namespace

TEST_CASE("run set: equal points run once, and come from the cache later") {
  const TestFolder folder;
  const RunSetOptions options{.jobs = 2, .label = "test", .progress = {}, .cache = folder.path()};
  const std::vector<PreparedPoint> points{point_of({{"x", 1}}), point_of({{"x", 3}}),
                                          point_of({{"x", 1}})};
  RunSetOptions silent = options;
  silent.progress = Progress::Style::silent;
  const RunSet first = run_set(points, silent);
  CHECK(first.run == 2);
  REQUIRE(first.outcomes.size() == 3);
  CHECK(result_of(first.outcomes[0]) == 2);
  CHECK(result_of(first.outcomes[1]) == 6);
  CHECK(result_of(first.outcomes[2]) == 2);
  CHECK(files_below(folder.path()).size() == 2);
  const RunSet second = run_set({point_of({{"x", 3}}), point_of({{"x", 4}})}, silent);
  CHECK(second.run == 1);
  CHECK(second.outcomes[0].record_text == first.outcomes[1].record_text);
  CHECK(result_of(second.outcomes[1]) == 8);
}

TEST_CASE("run set: a cached record that is not as it was written is not used") {
  const TestFolder folder;
  const RunSetOptions options{
      .jobs = 1, .label = "test", .progress = Progress::Style::silent, .cache = folder.path()};
  const PreparedPoint point = point_of({{"x", 1}});
  const std::string record = run_set({point}, options).outcomes[0].record_text;
  const fs::path file = files_below(folder.path()).front();
  std::ifstream stream(file);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  text.replace(text.find("2.0"), 3, "3.0");
  for (const std::string& damaged : {text, text.substr(0, 100), std::string()}) {
    std::ofstream(file, std::ios::trunc) << damaged;
    const RunSet again = run_set({point}, options);
    CHECK(again.run == 1);
    CHECK(again.outcomes[0].record_text == record);
    CHECK(run_set({point}, options).run == 0);
  }
}

TEST_CASE("run set: without a cache all runs, and what fails is not cached") {
  const TestFolder folder;
  RunSetOptions options{
      .jobs = 1, .label = "test", .progress = Progress::Style::silent, .cache = {}};
  CHECK(run_set({point_of({{"x", 1}})}, options).run == 1);
  CHECK(run_set({point_of({{"x", 1}})}, options).run == 1);
  options.cache = folder.path();
  const RunSet failed = run_set({point_of({{"z", 1}})}, options);
  CHECK(failed.outcomes[0].end == ChildEnd::user_error);
  CHECK(failed.outcomes[0].problem == "a test: /x: missing");
  CHECK(files_below(folder.path()).empty());
  options.limits = limits_of({.wall = "100ms", .memory = {}});
  PreparedPoint point = point_of({{"x", 1}});
  point.run = never;
  const RunSet stopped = run_set({point}, options);
  CHECK(stopped.outcomes[0].has_record());
  CHECK_FALSE(stopped.outcomes[0].has_finished());
  CHECK(files_below(folder.path()).empty());
}

TEST_CASE("run set: the folders of the last programs are kept") {
  const TestFolder folder;
  for (int i = 0; i < 20; ++i) {
    fs::create_directories(folder.path() / "records" / std::to_string(i));
  }
  const RunSetOptions options{
      .jobs = 1, .label = "test", .progress = Progress::Style::silent, .cache = folder.path()};
  CHECK(run_set({point_of({{"x", 1}})}, options).run == 1);
  const auto folders = fs::directory_iterator(folder.path() / "records");
  CHECK(std::distance(fs::begin(folders), fs::end(folders)) == 8);
  CHECK(run_set({point_of({{"x", 1}})}, options).run == 0);
}

TEST_CASE("run set: the key changes with the config and with the files that it names") {
  const TestFolder folder;
  const std::string file = (folder.path() / "x.trace").string();
  std::ofstream(file) << "one";
  const std::string before = config_key(point_of({{"trace", file}}).config);
  CHECK(config_key(point_of({{"trace", file}}).config) == before);
  CHECK(config_key(point_of({{"trace", file + "x"}}).config) != before);
  std::ofstream(file) << "two";
  CHECK(config_key(point_of({{"trace", file}}).config) != before);
}

}  // namespace nearkv
