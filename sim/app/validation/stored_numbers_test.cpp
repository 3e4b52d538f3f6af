#include "sim/app/validation/stored_numbers.hpp"

#include <string>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace {

using nlohmann::json;

constexpr const char* kFile = "stored_numbers_test.json";

/// Reads `content` as the numbers of a run.
PreparedPoint read(const json& content, const json& named_by, const std::string& list = "rows") {
  const TestFolder folder;
  folder.write(kFile, content.dump());
  const json run{{"numbers", kFile}, {"list", list}, {"named_by", named_by.dump()}};
  REQUIRE(is_of_stored_numbers(run));
  return stored_numbers(run, folder.path(), "mine");
}

std::string problem_of(const json& content, const json& named_by, const std::string& list) {
  try {
    static_cast<void>(read(content, named_by, list));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

const json kTwo{{"rows",
                 {{{"method", "sparf"}, {"ratio", 0.125}, {"perplexity", 15.5}, {"options", {1}}},
                  {{"method", "h2o"}, {"ratio", 0.125}, {"perplexity", 18.5}}}}};

}  // namespace

TEST_CASE("stored numbers: every number of an entry is a metric under the entry's name") {
  const PreparedPoint point = read(kTwo, json::array({"method", "ratio"}));
  CHECK(point.name == "mine");
  const bool runs = point.run != nullptr;
  REQUIRE(runs);
  const RunRecord record = point.run(point);
  CHECK(record.outcome.status == RunStatus::ok);
  CHECK(record.outcome.metrics.at("sparf 0.125 perplexity") == 15.5);
  CHECK(record.outcome.metrics.at("h2o 0.125 perplexity") == 18.5);
  CHECK(record.outcome.metrics.all().size() == 4);  // the ratios too
}

TEST_CASE("stored numbers: what cannot be named is refused with its path") {
  CHECK(problem_of(kTwo, json::array({"model"}), "rows")
            .find("/rows/0 has no \"model\" to be named by") != std::string::npos);
  CHECK(problem_of(kTwo, json::array({"options"}), "rows")
            .find("has no \"options\" to be named by") != std::string::npos);
  CHECK(problem_of(kTwo, json::array({"ratio"}), "rows")
            .find("/named_by: two entries are \"0.125\"") != std::string::npos);
  CHECK(problem_of(kTwo, json::array(), "rows").find("at least one key") != std::string::npos);
  CHECK(problem_of(kTwo, json::array({1}), "rows").find("at least one key") != std::string::npos);
  CHECK(problem_of(kTwo, json::array({"method"}), "columns").find("has no list \"columns\"") !=
        std::string::npos);
}

}  // namespace nearkv
