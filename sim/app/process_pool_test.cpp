#include "sim/app/process_pool.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

std::vector<ChildResult> run_all(std::size_t count, int jobs,
                                 const std::function<std::string(std::size_t)>& work) {
  std::vector<ChildResult> results(count);
  run_in_processes(count, {jobs, {}}, work,
                   [&](std::size_t i, ChildResult result) { results[i] = std::move(result); });
  return results;
}

bool has_children() { return waitpid(-1, nullptr, WNOHANG) == 0; }

}  // namespace

TEST_CASE("every task runs once in a process of its own") {
  const auto work = [](std::size_t i) {
    return std::to_string(i) + " " + std::to_string(getpid());
  };
  for (const int jobs : {1, 4, 100}) {
    std::map<std::string, int> processes;
    const std::vector<ChildResult> results = run_all(12, jobs, work);
    for (std::size_t i = 0; i < results.size(); ++i) {
      const std::string& output = results[i].output;
      REQUIRE(results[i].end == ChildEnd::finished);
      CHECK(output.substr(0, output.find(' ')) == std::to_string(i));
      ++processes[output.substr(output.find(' '))];
      CHECK(results[i].use.peak_memory_bytes > 0);
    }
    CHECK(processes.size() == 12);
    CHECK_FALSE(has_children());
  }
}

TEST_CASE("children leave it to the parent what a signal to all of them means") {
  const auto work = [](std::size_t) {
    for (const int number : {SIGINT, SIGHUP, SIGTERM}) {
      kill(getpid(), number);
    }
    return std::string("done");
  };
  CHECK(run_all(1, 1, work).front().output == "done");
}

TEST_CASE("a pause ends after its time, or with a signal") {
  const auto started = std::chrono::steady_clock::now();
  pause_for(0.05);
  CHECK(std::chrono::steady_clock::now() - started >= std::chrono::milliseconds(50));
  const pid_t sender = fork();
  if (sender == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(getppid(), SIGTERM);
    _exit(0);
  }
  // Blocked here too, or the signal might come before the pause has begun.
  const SignalsPutOff signals;
  CHECK_THROWS_AS(pause_for(60), Interrupted);
  waitpid(sender, nullptr, 0);
}

TEST_CASE("a child that runs too long is ended, and the others are not") {
  std::vector<ChildResult> results(3);
  const auto work = [](std::size_t i) {
    std::this_thread::sleep_for(std::chrono::seconds(i == 1 ? 600 : 0));
    return std::string("done");
  };
  run_in_processes(results.size(), {.jobs = 2, .tick = {}, .limits = {.most_seconds = 0.5}}, work,
                   [&](std::size_t i, ChildResult result) { results[i] = std::move(result); });
  CHECK(results[0].end == ChildEnd::finished);
  CHECK(results[1].end == ChildEnd::timed_out);
  CHECK(results[1].output == "ran longer than 0.5 s");
  CHECK(results[2].end == ChildEnd::finished);
  CHECK_FALSE(has_children());
}

TEST_CASE("a child that takes too much memory is ended, also where its peak is over, others not") {
  constexpr std::int64_t kMost = 700 << 20;
  std::vector<ChildResult> results(3);
  const auto work = [](std::size_t i) {
    if (i > 0) {
      std::string much(1000 << 20, 'x');  // every page is written
      if (i == 1) {
        pause();
      }
    }
    return std::string("done");
  };
  run_in_processes(results.size(), {.jobs = 2, .tick = {}, .limits = {.most_bytes = kMost}}, work,
                   [&](std::size_t i, ChildResult result) { results[i] = std::move(result); });
  CHECK(results[0].end == ChildEnd::finished);
  for (const std::size_t i : {1, 2}) {
    CHECK(results[i].end == ChildEnd::over_memory);
    CHECK(results[i].output == "took more than 734003200 bytes of memory");
    CHECK(results[i].use.peak_memory_bytes > kMost);
  }
  CHECK_FALSE(has_children());
}

TEST_CASE("a child to which the machine gives no memory was over its memory") {
  ChildResult result;
  run_in_processes(
      1, {.jobs = 1, .tick = {}, .limits = {}},
      [](std::size_t) -> std::string { throw std::bad_alloc(); },
      [&](std::size_t, ChildResult found) { result = std::move(found); });
  CHECK(result.end == ChildEnd::over_memory);
  CHECK(result.output == "took more memory than this machine gives");
}

TEST_CASE("tasks are asked for one ahead, and a task begins before the last one's result is told") {
  std::vector<std::size_t> waiting{9, 8, 7};
  std::vector<std::string> events;
  const auto next = [&]() -> std::optional<std::size_t> {
    if (waiting.empty()) {
      return std::nullopt;
    }
    const std::size_t task = waiting.back();
    waiting.pop_back();
    events.push_back("ask for " + std::to_string(task));
    return task;
  };
  run_in_processes(
      next, {1, {}}, [](std::size_t i) { return std::to_string(i); },
      [&](std::size_t /*i*/, const ChildResult& result) {
        events.push_back("end " + result.output);
      });
  CHECK(events ==
        std::vector<std::string>{"ask for 7", "ask for 8", "ask for 9", "end 7", "end 8", "end 9"});
}

TEST_CASE("results larger than a pipe arrive whole") {
  const auto work = [](std::size_t i) {
    return std::string(3'000'000, static_cast<char>('a' + static_cast<int>(i)));
  };
  const std::vector<ChildResult> results = run_all(4, 4, work);
  for (std::size_t i = 0; i < results.size(); ++i) {
    CHECK(results[i].output == work(i));
  }
}

TEST_CASE("a child that fails harms nobody else and says why") {
  const std::vector<ChildResult> results = run_all(6, 3, [](std::size_t i) -> std::string {
    switch (i) {
      case 1:
        raise(SIGUSR1);
        return "";
      case 2:
        throw ConfigError("/csd: wrong");
      case 3:
        check(false, "a contradiction");
        return "";
      case 4:
        std::fprintf(stderr, "last words");
        std::fflush(stderr);
        _exit(7);
      default:
        return "fine";
    }
  });
  CHECK(results[0].output == "fine");
  CHECK(results[5].output == "fine");
  CHECK(results[1].end == ChildEnd::crashed);
  CHECK(results[1].output == "was ended by signal 10 (User defined signal 1)");
  CHECK(results[1].exit_status == -1);
  CHECK(results[2].end == ChildEnd::user_error);
  CHECK(results[2].output == "/csd: wrong");
  CHECK(results[3].end == ChildEnd::internal_error);
  CHECK(results[3].output.find("a contradiction") != std::string::npos);
  CHECK(results[4].end == ChildEnd::crashed);
  CHECK(results[4].output == "ended early with status 7");
  CHECK(results[4].diagnostics == "last words");
}

TEST_CASE("what a child prints does not get into the parent's output") {
  const std::vector<ChildResult> results = run_all(1, 1, [](std::size_t /*task*/) {
    std::printf("to stdout\n");
    std::fflush(stdout);
    std::fprintf(stderr, "to stderr\n");
    CHECK(std::getchar() == EOF);
    return std::string("result");
  });
  CHECK(results[0].output == "result");
  CHECK(results[0].diagnostics == "to stdout\nto stderr\n");
}

TEST_CASE("as many children as jobs work at a time, and no more") {
  using Clock = std::chrono::steady_clock;
  const auto now = [] { return Clock::now().time_since_epoch().count(); };
  const std::vector<ChildResult> results = run_all(9, 3, [&now](std::size_t /*task*/) {
    const auto started = now();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return std::to_string(started) + " " + std::to_string(now());
  });
  std::vector<std::pair<Clock::rep, int>> changes;
  for (const ChildResult& result : results) {
    Clock::rep started = 0;
    Clock::rep ended = 0;
    std::istringstream(result.output) >> started >> ended;
    changes.emplace_back(started, 1);
    changes.emplace_back(ended, -1);
  }
  std::sort(changes.begin(), changes.end());
  int working = 0;
  int most = 0;
  for (const auto& [when, change] : changes) {
    working += change;
    most = std::max(most, working);
  }
  CHECK(most <= 3);
  CHECK(most >= 2);
}

TEST_CASE("a signal ends the pool and all its children") {
  for (const int number : {SIGINT, SIGTERM}) {
    const pid_t parent = getpid();
    bool was_interrupted = false;
    try {
      static_cast<void>(run_all(8, 4, [parent, number](std::size_t i) -> std::string {
        if (i == 3) {
          kill(parent, number);
        }
        pause();
        return "";
      }));
    } catch (const Interrupted& interrupted) {
      was_interrupted = true;
      CHECK(interrupted.signal == number);
    }
    CHECK(was_interrupted);
    CHECK_FALSE(has_children());
  }
}

TEST_CASE("an exception in the parent ends the children") {
  CHECK_THROWS_AS(run_in_processes(
                      4, {4, {}},
                      [](std::size_t i) -> std::string {
                        if (i > 0) {
                          pause();
                        }
                        return "";
                      },
                      [](std::size_t, const ChildResult&) { throw ConfigError("enough"); }),
                  ConfigError);
  CHECK_FALSE(has_children());
}

TEST_CASE("a program runs with its arguments and its status is the result") {
  const ChildResult echo = run_program({"/bin/sh", "-c", "echo $0 $1; exit 3", "a b", "c"});
  CHECK(echo.end == ChildEnd::finished);
  CHECK(echo.exit_status == 3);
  CHECK(echo.diagnostics == "a b c\n");
  const ChildResult killed = run_program({"/bin/sh", "-c", "kill -9 $$"});
  CHECK(killed.end == ChildEnd::crashed);
  const ChildResult missing = run_program({"/no/such/program"});
  CHECK(missing.end == ChildEnd::internal_error);
  CHECK(missing.output == "/no/such/program: cannot be started: No such file or directory");
}

TEST_CASE("there is at least one core") { CHECK(available_cores() >= 1); }

}  // namespace nearkv
