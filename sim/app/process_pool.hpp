// Child processes: work that needs a process of its own (SimGrid allows one engine a process), a
// few at a time. A child that crashes is reported and harms nobody; children never outlive the
// program, however it ends.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace nearkv {

/// A signal (Ctrl-C) asked the program to end; all children are dead.
class Interrupted : public std::runtime_error {
 public:
  explicit Interrupted(int signal_number);
  int signal;
};

/// What a child cost. Differs from run to run: never part of a result.
struct ResourceUse {
  double wall_seconds = 0;
  double processor_seconds = 0;
  std::int64_t peak_memory_bytes = 0;
};

enum class ChildEnd {
  finished,
  user_error,      // the work threw ConfigError
  internal_error,  // the work threw something else
  crashed,         // a signal or a call of exit ended the child
  timed_out,       // it ran longer than it may
  over_memory,     // it took more memory than it may, or than there was
};

struct ChildResult {
  ChildEnd end = ChildEnd::crashed;
  std::string output;       // what the work returned; else one line a problem
  std::string diagnostics;  // what the child wrote to its stdout and stderr
  int exit_status = -1;     // -1 when a signal ended the child
  ResourceUse use;
};

/// What a child may take; 0: no limit. One that takes more is killed, and its result is lost.
///
/// Memory is what is resident or swapped out, as the parent sees it several times a second, and the
/// peak that the system tells at the end. The system's own limits do not do: they count address
/// space, of which a sanitizer or a stack that is hardly used has far more than it takes, and what
/// goes beyond fails wherever an allocation happens to be.
struct ChildLimits {
  double most_seconds = 0;  // by the clock
  std::int64_t most_bytes = 0;
};

struct PoolOptions {
  int jobs = 1;                // children at a time
  std::function<void()> tick;  // called some times a second while children work; may be empty
  ChildLimits limits{};        // of each child
};

/// The number of the next task, or nothing when there is none. Asked for while others work.
using NextTask = std::function<std::optional<std::size_t>()>;

/// Runs work(0) ... work(count - 1), each in a forked child, started in this order. Calls `done`
/// in the parent as the children end, in any order. Throws Interrupted. A child sees the parent's
/// memory as it was when the child started, and has no stdin.
void run_in_processes(std::size_t count, const PoolOptions& options,
                      const std::function<std::string(std::size_t)>& work,
                      const std::function<void(std::size_t, ChildResult)>& done);

/// The same for the tasks that `next` names; it is called in the parent, one task ahead.
void run_in_processes(const NextTask& next, const PoolOptions& options,
                      const std::function<std::string(std::size_t)>& work,
                      const std::function<void(std::size_t, ChildResult)>& done);

/// Puts signals that would end the program off to the end of a scope in which files are written.
class SignalsPutOff {
 public:
  SignalsPutOff();
  ~SignalsPutOff();
  SignalsPutOff(const SignalsPutOff&) = delete;
  SignalsPutOff& operator=(const SignalsPutOff&) = delete;

 private:
  sigset_t before_{};
};

/// Waits. Throws Interrupted.
void pause_for(double seconds);

/// Runs a program in a child. Its exit status is the result: `end` is crashed when a signal ended
/// it, internal_error when it could not be started, and finished otherwise.
[[nodiscard]] ChildResult run_program(const std::vector<std::string>& arguments);
/// The same for several, `jobs` at a time.
[[nodiscard]] std::vector<ChildResult> run_programs(
    const std::vector<std::vector<std::string>>& programs, int jobs);

/// More than this is a slip of the finger.
inline constexpr int kMostJobs = 4096;

/// Cores that this process may use.
[[nodiscard]] int available_cores();

}  // namespace nearkv
