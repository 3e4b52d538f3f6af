// The simulator's own integer-time event loop. It knows no hardware and no SimGrid: components
// (a drive, a timer wheel) keep private queues, the loop keeps them in step, and the engine joins
// the loop to the simulated clock.
#pragma once

#include <cstdint>
#include <optional>
#include <queue>
#include <stdexcept>
#include <vector>

#include "sim/core/check.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

class ActivityLog;

/// Simulated time does not go on: things happen at one picosecond, without end. what() says when
/// and who went on.
class NoProgress : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Of wake-ups, and of dispatches of components: more at one picosecond mean that it never ends.
/// All of near_storage_writeback with 20 CSDs at batch 256 has 330,000 wake-ups, at all its times
/// together; to count so far takes seconds.
inline constexpr std::int64_t kMostAtOneInstant = 10'000'000;

/// Something that an actor may wait for, finished once, at one picosecond. It must live until it
/// is finished or the run has ended.
class Completion {
 public:
  [[nodiscard]] bool done() const { return done_; }
  /// When it finished; only after done().
  [[nodiscard]] SimTime at() const {
    check(done_, "asked when an unfinished completion finished");
    return at_;
  }

 private:
  friend class EventLoop;
  friend class Engine;
  static constexpr int kNobody = -1;
  static constexpr int kNoCause = -1;

  bool done_ = false;
  int finisher_ = kNobody;  // the actor that is to finish it, where that is known
  SimTime at_{};
  int waiter_ = kNobody;  // the engine's actor number
  int cause_ = kNoCause;  // why it finished, in an ActivityLog
};

/// A part with events of its own. Components never see each other; they meet in actors.
class Component {
 public:
  Component() = default;
  Component(const Component&) = delete;
  Component& operator=(const Component&) = delete;
  virtual ~Component() = default;

  /// Time of the earliest event in the private queue; kNever when there is none.
  [[nodiscard]] virtual SimTime next_event() const = 0;

  /// Processes own events up to and including `until` in time order, and returns right after an
  /// event that finished a Completion (EventLoop::finish), so that no actor is overtaken. New
  /// events, by the component itself or by an actor, never lie before the time at which they are
  /// made.
  virtual void process(SimTime until) = 0;
};

/// Runs the components in time order; at equal times in the order in which they were attached.
class EventLoop {
 public:
  /// The component must outlive the loop's last run. Each once.
  void attach(Component& component);

  /// Runs events up to and including `bound`, and stops after the first one that finishes
  /// completions. Returns their time, or nothing when the bound was reached. Does nothing while
  /// finished completions have not been taken. Throws NoProgress.
  std::optional<SimTime> run(SimTime bound);

  /// Called by a component within process(): `completion` is finished by the event at `at`. One
  /// event may finish several. `cause` says why, in the activity log if there is one.
  void finish(Completion& completion, SimTime at, int cause = Completion::kNoCause);

  /// Where everything that happens is recorded; null: nowhere. Engine::record() sets it.
  [[nodiscard]] ActivityLog* activity() const { return activity_; }
  void set_activity(ActivityLog* activity) { activity_ = activity; }

  /// The completions finished since the last call, in order.
  std::vector<Completion*> take_finished();

  /// Calls of Component::process so far: the work that the loop had.
  [[nodiscard]] std::int64_t dispatches() const { return dispatches_; }

  /// More calls of Component::process than this at one picosecond are NoProgress.
  void set_most_at_one_instant(std::int64_t most) { most_at_one_instant_ = most; }

 private:
  void watch(SimTime at, const Component& next);

  std::vector<Component*> components_;
  ActivityLog* activity_ = nullptr;
  std::vector<Completion*> finished_;
  SimTime from_ = kNever;  // within process(): the times that its events may have
  SimTime until_{};
  std::int64_t dispatches_ = 0;
  SimTime instant_{};  // of the last dispatch
  std::int64_t dispatches_at_instant_ = 0;
  std::int64_t most_at_one_instant_ = kMostAtOneInstant;
};

/// Finishes completions at given times; those of one time by one event, in the order of the calls.
class TimerQueue final : public Component {
 public:
  explicit TimerQueue(EventLoop& loop) : loop_(loop) { loop.attach(*this); }

  void finish_at(SimTime at, Completion& completion) {
    queue_.push({at, sequence_++, &completion});
  }

  [[nodiscard]] SimTime next_event() const override {
    return queue_.empty() ? kNever : queue_.top().at;
  }
  void process(SimTime until) override;

 private:
  struct Entry {
    SimTime at;
    std::uint64_t sequence;
    Completion* completion;
    bool operator>(const Entry& o) const { return at != o.at ? at > o.at : sequence > o.sequence; }
  };

  EventLoop& loop_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;
  std::uint64_t sequence_ = 0;
};

}  // namespace nearkv
