#include "sim/app/process_pool.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/app/exit_status.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

using WallClock = std::chrono::steady_clock;

constexpr int kTickMilliseconds = 200;
// With a limit of memory: a process fills 100 MB in that time.
constexpr int kMemoryTickMilliseconds = 50;
constexpr int kMillisecondsPerSecond = 1000;
constexpr std::size_t kMostDiagnostics = 1 << 16;

// The first byte of what a child sends says how the rest is meant.
constexpr char kFrameFinished = 'F';
constexpr char kFrameUserError = 'U';
constexpr char kFrameOutOfMemory = 'M';
constexpr char kFrameInternalError = 'I';

void check_call(bool succeeded, std::string_view call) {
  check(succeeded, fmt::format("{}: {}", call, std::strerror(errno)));
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int number = -1) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(); }

  void close() {
    if (number_ >= 0) {
      ::close(std::exchange(number_, -1));
    }
  }
  [[nodiscard]] int number() const { return number_; }
  [[nodiscard]] bool is_open() const { return number_ >= 0; }

 private:
  int number_;
};

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    check_call(pipe2(ends.data(), O_CLOEXEC) == 0, "pipe");
    read_end = FileDescriptor(ends[0]);
    write_end = FileDescriptor(ends[1]);
  }
  FileDescriptor read_end;
  FileDescriptor write_end;
};

/// The signals that would end the program; nohup stays in force.
sigset_t ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN) {
      sigaddset(&signals, number);
    }
  }
  return signals;
}

/// Turns the signals that would end the program into something that poll() sees.
class SignalWatch {
 public:
  SignalWatch() {
    const sigset_t watched = ending_signals();
    check_call(sigprocmask(SIG_BLOCK, &watched, &before_) == 0, "sigprocmask");
    descriptor_ = FileDescriptor(signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK));
    check_call(descriptor_.is_open(), "signalfd");
  }
  ~SignalWatch() { restore(); }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  void restore() const { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  [[nodiscard]] int descriptor() const { return descriptor_.number(); }

  void throw_if_signalled() const {
    signalfd_siginfo info{};
    if (read(descriptor_.number(), &info, sizeof info) == sizeof info) {
      throw Interrupted(static_cast<int>(info.ssi_signo));
    }
  }

 private:
  sigset_t before_{};
  FileDescriptor descriptor_;
};

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno != EINTR) {
      return;  // the parent is gone
    }
    text.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
  }
}

/// Bytes of memory that a process has, resident or swapped out; 0 where it has ended.
std::int64_t memory_of(pid_t process) {
  constexpr std::int64_t kKib = 1024;
  std::ifstream status(fmt::format("/proc/{}/status", process));
  std::int64_t sum = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:") || line.starts_with("VmSwap:")) {
      std::int64_t number = 0;  // "VmRSS:     5120 kB"
      const std::size_t digits = std::min(line.find_first_of("0123456789"), line.size());
      std::from_chars(line.data() + digits, line.data() + line.size(), number);
      sum += number * kKib;
    }
  }
  return sum;
}

/// The work's result or exception as a frame.
std::string frame_of(const std::function<std::string()>& work) {
  try {
    return kFrameFinished + work();
  } catch (const ConfigError& error) {
    return kFrameUserError + std::string(error.what());
  } catch (const std::bad_alloc&) {
    return kFrameOutOfMemory + std::string("took more memory than this machine gives");
  } catch (const std::exception& error) {
    return kFrameInternalError + std::string(error.what());
  }
}

/// A running child; killed when the object dies first.
class Child {
 public:
  Child(std::size_t task, const SignalWatch& signals, const std::function<std::string()>& work)
      : task_(task), started_(WallClock::now()) {
    Pipe result;
    Pipe diagnostics;
    std::fflush(nullptr);  // or the child would write what is buffered once more
    const pid_t parent = getpid();
    pid_ = fork();
    check_call(pid_ >= 0, "fork");
    if (pid_ == 0) {
      live_as_child(parent, signals, result.write_end.number(), diagnostics.write_end.number(),
                    work);
    }
    result_ = std::move(result.read_end);
    diagnostics_ = std::move(diagnostics.read_end);
  }
  ~Child() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] std::size_t task() const { return task_; }
  [[nodiscard]] bool has_ended() const { return !result_.is_open() && !diagnostics_.is_open(); }

  void add_to(std::vector<pollfd>& polled) const {
    for (const FileDescriptor* descriptor : {&result_, &diagnostics_}) {
      if (descriptor->is_open()) {
        polled.push_back({descriptor->number(), POLLIN, 0});
      }
    }
  }

  void read_from(int ready) {
    if (ready == result_.number()) {
      read_some(result_, frame_);
    } else if (ready == diagnostics_.number()) {
      read_some(diagnostics_, result_so_far_.diagnostics);
      std::string& text = result_so_far_.diagnostics;
      if (text.size() > kMostDiagnostics) {
        text.erase(0, text.size() - kMostDiagnostics);
      }
    }
  }

  [[nodiscard]] double seconds_until(WallClock::time_point now) const {
    return std::chrono::duration<double>(now - started_).count();
  }

  /// Ends it if it has taken more than it may. Its result is lost then.
  void end_beyond(const ChildLimits& limits, WallClock::time_point now, bool looks_at_memory) {
    if (limits.most_seconds > 0 && seconds_until(now) >= limits.most_seconds) {
      stop(ChildEnd::timed_out);
    } else if (looks_at_memory) {
      most_bytes_seen_ = std::max(most_bytes_seen_, memory_of(pid_));
      if (most_bytes_seen_ > limits.most_bytes) {
        stop(ChildEnd::over_memory);
      }
    }
  }

  /// Call once, after has_ended().
  ChildResult finish(const ChildLimits& limits) {
    int status = 0;
    rusage usage{};
    check_call(wait4(std::exchange(pid_, -1), &status, 0, &usage) > 0, "wait4");
    ChildResult result = std::move(result_so_far_);
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    result.use = {std::chrono::duration<double>(WallClock::now() - started_).count(),
                  seconds(usage.ru_utime) + seconds(usage.ru_stime),
                  // The kernel's peak is of resident pages alone, and its counters are approximate.
                  std::max<std::int64_t>(usage.ru_maxrss * 1024L, most_bytes_seen_)};
    read_end(status, result);
    // The peak may have come and gone between two looks.
    const bool was_over = limits.most_bytes > 0 && result.use.peak_memory_bytes > limits.most_bytes;
    if (!stopped_ && was_over && result.end != ChildEnd::user_error) {
      stopped_ = ChildEnd::over_memory;
    }
    if (stopped_) {
      result.end = *stopped_;
      result.output = *stopped_ == ChildEnd::timed_out
                          ? fmt::format("ran longer than {} s", limits.most_seconds)
                          : fmt::format("took more than {} bytes of memory", limits.most_bytes);
    }
    return result;
  }

 private:
  void stop(ChildEnd why) {
    kill(pid_, SIGKILL);
    result_.close();
    diagnostics_.close();
    stopped_ = why;
  }

  [[noreturn]] static void live_as_child(pid_t parent, const SignalWatch& signals, int result,
                                         int diagnostics,
                                         const std::function<std::string()>& work) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
      _exit(kExitInternalError);  // the parent died before the line above
    }
    // Ctrl-C reaches the whole process group, and a cluster's scheduler ends all processes of a
    // job; it is for the parent to say what happens.
    for (const int number : {SIGINT, SIGHUP, SIGTERM}) {
      std::signal(number, SIG_IGN);
    }
    signals.restore();
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(nothing, STDIN_FILENO);
    dup2(diagnostics, STDOUT_FILENO);
    dup2(diagnostics, STDERR_FILENO);
    write_all(result, frame_of(work));
    std::fflush(nullptr);
    _exit(kExitOk);
  }

  static void read_some(FileDescriptor& from, std::string& text) {
    std::array<char, 1 << 16> buffer;  // NOLINT: filled by read()
    const ssize_t count = read(from.number(), buffer.data(), buffer.size());
    if (count > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || errno != EINTR) {
      from.close();
    }
  }

  void read_end(int status, ChildResult& result) const {
    if (WIFSIGNALED(status)) {
      const int number = WTERMSIG(status);
      result.output = fmt::format("was ended by signal {} ({}){}", number, strsignal(number),
                                  number == SIGKILL ? "; did the machine run out of memory?" : "");
      return;
    }
    result.exit_status = WEXITSTATUS(status);
    read_frame(result);
  }

  void read_frame(ChildResult& result) const {
    if (frame_.empty()) {
      result.output = fmt::format("ended early with status {}", result.exit_status);
      return;
    }
    switch (frame_.front()) {
      case kFrameFinished:
        result.end = ChildEnd::finished;
        break;
      case kFrameUserError:
        result.end = ChildEnd::user_error;
        break;
      case kFrameOutOfMemory:
        result.end = ChildEnd::over_memory;
        break;
      default:
        result.end = ChildEnd::internal_error;
        break;
    }
    result.output = frame_.substr(1);
  }

  std::size_t task_;
  WallClock::time_point started_;
  std::optional<ChildEnd> stopped_;  // where it was ended for taking too much
  std::int64_t most_bytes_seen_ = 0;
  pid_t pid_ = -1;
  FileDescriptor result_;
  FileDescriptor diagnostics_;
  std::string frame_;
  ChildResult result_so_far_;
};

/// Until there is something to look at, if no child says anything before.
int milliseconds_to_wait(const std::vector<std::unique_ptr<Child>>& children,
                         const ChildLimits& limits) {
  if (children.empty()) {
    return 0;
  }
  int wait = limits.most_bytes > 0 ? kMemoryTickMilliseconds : kTickMilliseconds;
  const WallClock::time_point now = WallClock::now();
  for (const auto& child : children) {
    const double left = limits.most_seconds - child->seconds_until(now);
    if (limits.most_seconds > 0 && left * kMillisecondsPerSecond < wait) {
      wait = static_cast<int>(std::max(left, 0.0) * kMillisecondsPerSecond) + 1;
    }
  }
  return wait;
}

}  // namespace

Interrupted::Interrupted(int signal_number)
    : std::runtime_error(fmt::format("interrupted ({})", strsignal(signal_number))),
      signal(signal_number) {}

SignalsPutOff::SignalsPutOff() {
  const sigset_t signals = ending_signals();
  check_call(sigprocmask(SIG_BLOCK, &signals, &before_) == 0, "sigprocmask");
}

SignalsPutOff::~SignalsPutOff() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

void run_in_processes(std::size_t count, const PoolOptions& options,
                      const std::function<std::string(std::size_t)>& work,
                      const std::function<void(std::size_t, ChildResult)>& done) {
  std::size_t next = 0;
  run_in_processes([&next, count] { return next < count ? std::optional(next++) : std::nullopt; },
                   options, work, done);
}

void run_in_processes(const NextTask& next, const PoolOptions& options,
                      const std::function<std::string(std::size_t)>& work,
                      const std::function<void(std::size_t, ChildResult)>& done) {
  check(options.jobs > 0, "a pool without workers");
  const ChildLimits& limits = options.limits;
  WallClock::time_point looked;  // at the children's memory
  const SignalWatch signals;
  std::vector<std::unique_ptr<Child>> children;
  std::vector<std::unique_ptr<Child>> ended;
  // The next task is there before a child ends, and results wait until it has begun: what the
  // parent does is done while children work.
  std::optional<std::size_t> task = next();
  while (task || !children.empty() || !ended.empty()) {
    while (task && children.size() < static_cast<std::size_t>(options.jobs)) {
      children.push_back(
          std::make_unique<Child>(*task, signals, [&work, &task] { return work(*task); }));
      task = next();
    }
    for (const auto& child : ended) {
      done(child->task(), child->finish(limits));
    }
    ended.clear();
    std::vector<pollfd> polled{{signals.descriptor(), POLLIN, 0}};
    for (const auto& child : children) {
      child->add_to(polled);
    }
    const int ready = poll(polled.data(), polled.size(), milliseconds_to_wait(children, limits));
    check_call(ready >= 0 || errno == EINTR, "poll");
    signals.throw_if_signalled();
    for (const pollfd& entry : polled) {
      if (entry.revents != 0) {
        for (const auto& child : children) {
          child->read_from(entry.fd);
        }
      }
    }
    const WallClock::time_point now = WallClock::now();
    const bool looks =
        limits.most_bytes > 0 && now - looked >= std::chrono::milliseconds(kMemoryTickMilliseconds);
    looked = looks ? now : looked;
    for (auto child = children.begin(); child != children.end();) {
      if (!(*child)->has_ended()) {
        (*child)->end_beyond(limits, now, looks);
      }
      if ((*child)->has_ended()) {
        ended.push_back(std::move(*child));
        child = children.erase(child);
      } else {
        ++child;
      }
    }
    if (options.tick) {
      options.tick();
    }
  }
}

void pause_for(double seconds) {
  const SignalWatch signals;
  const WallClock::time_point end =
      WallClock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
  while (WallClock::now() < end) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - WallClock::now()).count();
    pollfd polled{signals.descriptor(), POLLIN, 0};
    poll(&polled, 1, static_cast<int>(left) + 1);
    signals.throw_if_signalled();
  }
}

std::vector<ChildResult> run_programs(const std::vector<std::vector<std::string>>& programs,
                                      int jobs) {
  std::vector<ChildResult> results(programs.size());
  run_in_processes(
      programs.size(), {jobs, {}},
      [&programs](std::size_t task) -> std::string {
        std::vector<std::string> copies = programs[task];
        std::vector<char*> pointers;
        for (std::string& argument : copies) {
          pointers.push_back(argument.data());
        }
        pointers.push_back(nullptr);
        execv(pointers.front(), pointers.data());
        throw std::runtime_error(
            fmt::format("{}: cannot be started: {}", copies.front(), std::strerror(errno)));
      },
      [&results](std::size_t task, ChildResult ended) {
        // A program that ran sent no frame.
        if (ended.end == ChildEnd::crashed && ended.exit_status >= 0) {
          ended.end = ChildEnd::finished;
        }
        results[task] = std::move(ended);
      });
  return results;
}

ChildResult run_program(const std::vector<std::string>& arguments) {
  return run_programs({arguments}, 1).front();
}

int available_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? std::max(1, CPU_COUNT(&cores)) : 1;
}

}  // namespace nearkv
