#include "sim/core/event_loop.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

SimTime at(std::int64_t picoseconds) { return SimTime{SimDuration{picoseconds}}; }

struct LogEntry {
  SimTime time;
  int component;
  int event;
  bool operator==(const LogEntry&) const = default;
};

/// Events given in advance; some finish a completion, and some make another event.
class Script final : public Component {
 public:
  struct Event {
    SimTime time;
    int id;
    Completion* finishes = nullptr;
    std::optional<SimDuration> then_after{};  // one more event after this one
  };

  Script(EventLoop& loop, int number, std::vector<LogEntry>& log)
      : loop_(loop), number_(number), log_(log) {
    loop.attach(*this);
  }
  void add(const Event& event) {
    const auto place =
        std::upper_bound(events_.begin(), events_.end(), event,
                         [](const Event& a, const Event& b) { return a.time < b.time; });
    events_.insert(place, event);
  }
  [[nodiscard]] SimTime next_event() const override {
    return events_.empty() ? kNever : events_.front().time;
  }
  void process(SimTime until) override {
    bool finished = false;
    while (!finished && next_event() <= until) {
      const Event event = events_.front();
      events_.erase(events_.begin());
      log_.push_back({event.time, number_, event.id});
      if (event.then_after) {
        add({.time = event.time + *event.then_after, .id = event.id + 1000});
      }
      if (event.finishes != nullptr) {
        loop_.finish(*event.finishes, event.time);
        finished = true;
      }
    }
  }

 private:
  EventLoop& loop_;
  int number_;
  std::vector<LogEntry>& log_;
  std::vector<Event> events_;
};

}  // namespace

TEST_CASE("event loop: time order, and the order of attachment at equal times") {
  EventLoop loop;
  std::vector<LogEntry> log;
  Script a(loop, 0, log);
  Script b(loop, 1, log);
  Script c(loop, 2, log);
  c.add({at(5), 1});
  b.add({at(5), 2});
  a.add({at(5), 3});
  b.add({at(3), 4});
  a.add({at(7), 5});
  b.add({at(6), 6, nullptr, 1_ps});  // its second event is at 7, where a goes first
  CHECK(loop.run(at(100)) == std::nullopt);
  CHECK(log == std::vector<LogEntry>{{at(3), 1, 4},
                                     {at(5), 0, 3},
                                     {at(5), 1, 2},
                                     {at(5), 2, 1},
                                     {at(6), 1, 6},
                                     {at(7), 0, 5},
                                     {at(7), 1, 1006}});
  CHECK(loop.run(at(100)) == std::nullopt);
  CHECK(log.size() == 7);
}

TEST_CASE("event loop: the bound is inclusive, to the picosecond") {
  EventLoop loop;
  std::vector<LogEntry> log;
  Script a(loop, 0, log);
  a.add({at(10), 1});
  a.add({at(11), 2});
  CHECK(loop.run(at(9)) == std::nullopt);
  CHECK(log.empty());
  CHECK(loop.run(at(10)) == std::nullopt);
  CHECK(log.size() == 1);
  CHECK(loop.run(at(11)) == std::nullopt);
  CHECK(log.size() == 2);
}

TEST_CASE("event loop: a loop without components or events does nothing") {
  EventLoop loop;
  CHECK(loop.run(kNever - SimDuration{1}) == std::nullopt);
  std::vector<LogEntry> log;
  const Script idle(loop, 0, log);
  CHECK(loop.run(kNever - SimDuration{1}) == std::nullopt);
  CHECK(loop.dispatches() == 0);
}

TEST_CASE("event loop: it stops right after the event that finishes a completion") {
  EventLoop loop;
  std::vector<LogEntry> log;
  Script a(loop, 0, log);
  Script b(loop, 1, log);
  Completion done;
  Completion later;
  a.add({at(5), 1});
  b.add({at(5), 2, &done});
  b.add({at(5), 3});
  a.add({at(6), 4, &later});
  CHECK_FALSE(done.done());
  CHECK_THROWS_AS(static_cast<void>(done.at()), CheckFailure);
  CHECK(loop.run(at(100)) == at(5));
  CHECK(log == std::vector<LogEntry>{{at(5), 0, 1}, {at(5), 1, 2}});
  CHECK(done.done());
  CHECK(done.at() == at(5));
  // Nothing happens until somebody has taken what is finished.
  CHECK(loop.run(at(100)) == at(5));
  CHECK(log.size() == 2);
  CHECK(loop.take_finished() == std::vector<Completion*>{&done});
  CHECK(loop.take_finished().empty());
  CHECK(loop.run(at(100)) == at(6));
  CHECK(loop.take_finished() == std::vector<Completion*>{&later});
  CHECK(log.size() == 4);
}

TEST_CASE("event loop: a component that runs alone is dispatched once") {
  EventLoop loop;
  std::vector<LogEntry> log;
  Script a(loop, 0, log);
  Script b(loop, 1, log);
  for (int i = 0; i < 1000; ++i) {
    b.add({at(i), i});
  }
  a.add({at(1000), 0});
  CHECK(loop.run(at(2000)) == std::nullopt);
  CHECK(log.size() == 1001);
  CHECK(loop.dispatches() == 2);
}

TEST_CASE("event loop: components that break their contract are found out") {
  EventLoop loop;
  std::vector<LogEntry> log;
  SUBCASE("attached twice") {
    Script a(loop, 0, log);
    CHECK_THROWS_AS(loop.attach(a), CheckFailure);
  }
  SUBCASE("finished twice") {
    Script a(loop, 0, log);
    Completion done;
    a.add({at(1), 1, &done});
    a.add({at(2), 2, &done});
    CHECK(loop.run(at(9)) == at(1));
    static_cast<void>(loop.take_finished());
    CHECK_THROWS_AS(static_cast<void>(loop.run(at(9))), CheckFailure);
  }
  SUBCASE("finished outside of process()") {
    Completion done;
    CHECK_THROWS_AS(loop.finish(done, at(1)), CheckFailure);
  }
  SUBCASE("finished at another time than that of the event") {
    struct WrongTime final : Component {
      WrongTime(EventLoop& l, SimDuration o) : loop(l), offset(o) { l.attach(*this); }
      [[nodiscard]] SimTime next_event() const override { return at(10); }
      void process(SimTime /*until*/) override { loop.finish(done, at(10) + offset); }
      EventLoop& loop;
      SimDuration offset;
      Completion done;
    };
    for (const SimDuration offset : {SimDuration{-1}, SimDuration{1}}) {
      EventLoop another;
      const WrongTime component(another, offset);
      CHECK_THROWS_AS(static_cast<void>(another.run(at(10))), CheckFailure);
    }
  }
  SUBCASE("does not process its events") {
    struct Lazy final : Component {
      [[nodiscard]] SimTime next_event() const override { return at(1); }
      void process(SimTime /*until*/) override {}
    };
    Lazy lazy;
    loop.attach(lazy);
    CHECK_THROWS_AS(static_cast<void>(loop.run(at(10))), CheckFailure);
  }
  SUBCASE("goes on after a finish") {
    struct Greedy final : Component {
      explicit Greedy(EventLoop& l) : loop(l) { l.attach(*this); }
      [[nodiscard]] SimTime next_event() const override { return first.done() ? kNever : at(1); }
      void process(SimTime /*until*/) override {
        loop.finish(first, at(1));
        loop.finish(second, at(2));
      }
      EventLoop& loop;
      Completion first;
      Completion second;
    };
    Greedy greedy(loop);
    CHECK_THROWS_AS(static_cast<void>(loop.run(at(10))), CheckFailure);
  }
}

TEST_CASE("event loop: components that keep each other at one time are found out") {
  struct Echo final : Component {
    explicit Echo(EventLoop& loop) { loop.attach(*this); }
    [[nodiscard]] SimTime next_event() const override { return next; }
    void process(SimTime until) override {
      if (next <= until) {
        other->next = std::exchange(next, kNever);
      }
    }
    Echo* other = nullptr;
    SimTime next = kNever;
  };
  EventLoop loop;
  loop.set_most_at_one_instant(10);
  Echo a(loop);
  Echo b(loop);
  a.other = &b;
  b.other = &a;
  CHECK(loop.run(at(100)) == std::nullopt);
  a.next = at(5'000'000);
  std::string message;
  try {
    static_cast<void>(loop.run(at(9'000'000)));
  } catch (const NoProgress& found) {
    message = found.what();
  }
  CHECK_MESSAGE(message.starts_with("no progress: over 10 dispatches of components at 5 us "
                                    "(5000000 ps), the last one of a "),
                message);
  CHECK_MESSAGE(message.ends_with("::Echo"), message);
  CHECK(loop.dispatches() == 11);
}

TEST_CASE("event loop: timers of one time finish together, in the order of the calls") {
  EventLoop loop;
  TimerQueue timers(loop);
  std::vector<Completion> done(5);
  timers.finish_at(at(20), done[0]);
  timers.finish_at(at(10), done[1]);
  timers.finish_at(at(20), done[2]);
  timers.finish_at(at(10), done[3]);
  timers.finish_at(at(15), done[4]);
  CHECK(timers.next_event() == at(10));
  CHECK(loop.run(at(19)) == at(10));
  CHECK(loop.take_finished() == std::vector<Completion*>{&done[1], &done[3]});
  CHECK(loop.run(at(19)) == at(15));
  CHECK(loop.take_finished() == std::vector<Completion*>{&done[4]});
  CHECK(loop.run(at(19)) == std::nullopt);
  CHECK(loop.run(at(20)) == at(20));
  CHECK(loop.take_finished() == std::vector<Completion*>{&done[0], &done[2]});
  CHECK(timers.next_event() == kNever);
}

// Several components with random events, bounds and injections, against one global queue.
TEST_CASE("event loop: the sequence equals that of one global queue") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Rng rng{seed, "sim/core/event_loop_test"};
    const auto below = [&rng](std::uint64_t n) { return static_cast<std::int64_t>(rng.below(n)); };
    EventLoop loop;
    std::vector<LogEntry> log;
    std::vector<std::unique_ptr<Script>> components;
    const auto count = 1 + below(6);
    for (int c = 0; c < count; ++c) {
      components.push_back(std::make_unique<Script>(loop, c, log));
    }
    // The oracle: (time, component, order of insertion into the component).
    struct Planned {
      SimTime time;
      int component;
      int order;
      Script::Event event;
    };
    std::vector<Planned> oracle;
    std::vector<LogEntry> expected;
    std::vector<std::unique_ptr<Completion>> completions;
    int order = 0;
    const auto inject = [&](SimTime from) {
      const auto component = static_cast<int>(below(static_cast<std::uint64_t>(count)));
      Script::Event event{.time = from + SimDuration{below(40)}, .id = order};
      if (below(4) == 0) {
        completions.push_back(std::make_unique<Completion>());
        event.finishes = completions.back().get();
      }
      if (below(3) == 0) {
        event.then_after = SimDuration{below(10)};
      }
      components[component]->add(event);
      oracle.push_back({event.time, component, order++, event});
    };
    for (int i = 0; i < 60; ++i) {
      inject(at(0));
    }
    SimTime now = at(0);
    int injections = 30;
    while (true) {
      const SimTime bound = now + SimDuration{below(20)};
      const auto stopped = loop.run(bound);
      // Step the oracle to the same point.
      std::optional<SimTime> oracle_stopped;
      while (!oracle.empty() && !oracle_stopped) {
        const auto next =
            std::min_element(oracle.begin(), oracle.end(), [](const Planned& a, const Planned& b) {
              return std::tie(a.time, a.component, a.order) <
                     std::tie(b.time, b.component, b.order);
            });
        if (next->time > bound) {
          break;
        }
        const Planned planned = *next;
        oracle.erase(next);
        expected.push_back({planned.time, planned.component, planned.event.id});
        if (planned.event.then_after) {
          const SimTime then = planned.time + *planned.event.then_after;
          oracle.push_back(
              {then, planned.component, order++, {.time = then, .id = planned.event.id + 1000}});
        }
        if (planned.event.finishes != nullptr) {
          oracle_stopped = planned.time;
        }
      }
      REQUIRE(stopped == oracle_stopped);
      REQUIRE(log == expected);
      now = stopped.value_or(bound);
      REQUIRE(loop.take_finished().size() == (stopped ? 1 : 0));
      if (injections > 0 && below(2) == 0) {
        --injections;
        inject(now);
      }
      if (oracle.empty()) {
        break;
      }
    }
    REQUIRE(log.size() >= 60);
  }
}
