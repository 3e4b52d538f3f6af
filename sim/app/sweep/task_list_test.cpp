#include "sim/app/sweep/task_list.hpp"

#include <vector>

#include <doctest/doctest.h>

#include "sim/app/exit_status.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/sweep/sweep_run.hpp"
#include "sim/app/sweep/sweep_task.hpp"
#include "sim/app/sweep/test_sweep.hpp"
#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

using nlohmann::json;
using test_sweep::plan_of;

namespace {

SweepPlan small_plan() {
  return plan_of({{{"path", "/workload/batch"}, {"range", {{"from", 1}, {"to", 9}, {"step", 1}}}},
                  {{"path", "/workload/prompt_tokens"}, {"values", {16}}},
                  {{"path", "/workload/output_tokens"}, {"values", {2}}}});
}

std::string problem_of_task(const std::filesystem::path& folder, std::size_t task) {
  try {
    run_sweep_task(folder, task, 1);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE(
    "task list: tasks have equal shares of the points, and what is read is what was written") {
  const TestFolder folder;
  const std::vector<std::size_t> points{0, 1, 2, 4, 7, 8};
  write_task_list(small_plan(), points, 4, folder.path());
  const TaskList list = read_task_list(folder.path());
  CHECK(list.points == points);
  CHECK(list.program == program_hash());
  CHECK(list.points_of(0) == std::vector<std::size_t>{0, 7});
  CHECK(list.points_of(1) == std::vector<std::size_t>{1, 8});
  CHECK(list.points_of(3) == std::vector<std::size_t>{4});
}

TEST_CASE("task list: a folder without one, or with another file, is refused") {
  const TestFolder folder;
  CHECK(problem_of_task(folder.path(), 0)
            .find("tasks.json: cannot be read; nearkv sweep --backend slurm writes") !=
        std::string::npos);
  folder.write("tasks.json", R"({"sweep": "x.json"})");
  CHECK(problem_of_task(folder.path(), 0).find("tasks.json: is no list of tasks") !=
        std::string::npos);
}

TEST_CASE("sweep task: runs its share once, and what an earlier attempt found is not run again") {
  const TestFolder folder;
  const SweepPlan plan = small_plan();
  write_task_list(plan, {0, 2, 4, 6, 8}, 2, folder.path());
  CHECK(run_sweep_task(folder.path(), 1, 1) == kExitOk);
  CHECK(task_result_files(folder.path()).size() == 1);
  CHECK(task_result_files(folder.path(), 0).empty());
  REQUIRE(task_result_files(folder.path(), 1).size() == 1);

  ResultStore journal;
  begin_journal(journal, plan);
  const auto file = task_result_files(folder.path(), 1).front();
  take_results(plan, journal, ResultStore::to_read(file), "x");
  CHECK(journal.points() == std::vector<std::size_t>{2, 6});
  CHECK(journal.statuses() == std::map<std::string, std::size_t>{{"ok", 2}});

  // As of an attempt on another node that ended early; its results are marked.
  std::filesystem::remove(file);
  ResultStore earlier;
  begin_journal(earlier, plan);
  earlier.add("a key", {"ok", "an earlier attempt", {}});
  earlier.add_point(2, "a key");
  earlier.commit();
  earlier.write_copy(folder.path() / "task_1.other_1.sqlite");
  folder.write("task_1.torn_1.sqlite", "damaged");
  CHECK(run_sweep_task(folder.path(), 1, 1) == kExitOk);
  const ResultStore again = ResultStore::to_read(own_task_result_file(folder.path(), 1));
  CHECK(again.points() == std::vector<std::size_t>{2, 6});
  CHECK(again.find("a key").value().detail == "an earlier attempt");
}

TEST_CASE(
    "sweep task: a task that is not in the list, and a list of another program, are refused") {
  const TestFolder folder;
  write_task_list(small_plan(), {0, 1}, 2, folder.path());
  CHECK(problem_of_task(folder.path(), 2).ends_with(": has tasks 0 to 1, not 2"));
  folder.write("tasks.json", json{{"sweep", "sweep/test.json"},
                                  {"program", "0123"},
                                  {"version", "0.0"},
                                  {"tasks", 1},
                                  {"points", {{0, 1}}}}
                                 .dump());
  CHECK(problem_of_task(folder.path(), 0)
            .find("was written by another build of nearkv (0.0) than the one that runs the task") !=
        std::string::npos);
}

TEST_CASE("sweep task: results that cannot be written are asked to be tried again, ten times") {
  const TestFolder folder;
  const SweepPlan plan = small_plan();
  write_task_list(plan, {0}, 1, folder.path());
  // A folder where the file should be: rename() fails for root too.
  std::filesystem::create_directories(own_task_result_file(folder.path(), 0) / "x");
  CHECK(run_sweep_task(folder.path(), 0, 1) == kExitTryAgain);
  setenv("SLURM_RESTART_COUNT", "10", 1);
  CHECK(run_sweep_task(folder.path(), 0, 1) == kExitUserError);
  unsetenv("SLURM_RESTART_COUNT");
}

}  // namespace nearkv
