#include "sim/app/point.hpp"

#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include "sim/app/exit_status.hpp"
#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;

TEST_CASE("names of records are safe as file names") {
  CHECK(is_file_name("insti_sparf-2.0"));
  CHECK_FALSE(is_file_name(""));
  CHECK_FALSE(is_file_name(".hidden"));
  CHECK_FALSE(is_file_name("a/b"));
  CHECK_FALSE(is_file_name("a b"));
}

TEST_CASE("each line of a message gets its origin") {
  CHECK(prefix_lines("a.json", "/x: 1\n/y: 2") == "a.json: /x: 1\na.json: /y: 2");
  CHECK(prefix_lines("a.json", "one") == "a.json: one");
}

TEST_CASE("an output folder may be missing, but not below a file") {
  const TestFolder made;
  const fs::path& folder = made.path();
  CHECK_NOTHROW(check_output_folder(folder));
  CHECK_NOTHROW(check_output_folder(folder / "new" / "deeper"));
  CHECK_FALSE(fs::exists(folder / "new"));
  std::ofstream(folder / "file") << "x";
  CHECK_THROWS_AS(check_output_folder(folder / "file"), ConfigError);
  CHECK_THROWS_AS(check_output_folder(folder / "file" / "deeper"), ConfigError);
}

TEST_CASE("a sourced value is its value") {
  CHECK(plain_value({{"value", 3}, {"source", "fit"}, {"citation", "x"}}) == 3);
  CHECK(plain_value("text") == "text");
}

TEST_CASE("the exit status tells the user's errors from ours") {
  PointOutcome fine;
  fine.end = ChildEnd::finished;
  fine.record_text = "{}";
  PointOutcome wrong;
  wrong.end = ChildEnd::user_error;
  wrong.problem = "a";
  PointOutcome crashed;
  crashed.end = ChildEnd::crashed;
  crashed.problem = "b";
  PointOutcome stopped = fine;
  stopped.end = ChildEnd::timed_out;
  stopped.problem = "c";
  CHECK(report_problems({fine}) == kExitOk);
  CHECK(report_problems({fine, stopped}) == kExitPointsFailed);
  CHECK(report_problems({fine, wrong}) == kExitUserError);
  CHECK(report_problems({wrong, crashed}) == kExitInternalError);
}

}  // namespace nearkv
