// The SimGrid adapter: actors, the simulated clock, and data flows over links.
//
// Actors are SimGrid actors; flows are SimGrid communications under the pinned CM02 model: the
// latency of the route, then size over the max-min fair share of its links. Every flow on a link
// has the same weight, whatever its latency; there are no TCP effects. Everything with a
// picosecond of its own (sleeps, latencies, drives) runs in one EventLoop that is joined to
// SimGrid's clock as a kernel model.
//
// One instant. All events of the loop that are due come first, then the actors that are due, in
// the order in which they were spawned; each runs without interruption until it waits again.
// What they finish or spawn at this same instant follows in a further such round.
//
// Precision. Waits and the event loop are exact integers at any time. The end of a flow comes from
// SimGrid's clock, a double of seconds: it is rounded up to 1 ps, and is right to that picosecond
// while a double resolves one (the first 10 minutes of a run), later to SimGrid's own resolution
// (4 ps at 20,000 s). SimGrid's clock never goes back in a process, so that the flows of a second
// engine may differ by 1 ps from those of the first; runs that must be equal get a process each.
//
// Determinism: digest() covers every wake-up (actor, picosecond) in its order.
//
// A run that cannot go on ends: with Deadlock when nothing is left to happen, with NoProgress when
// things happen at one picosecond without end. An actor or a component that does not return at all
// is beyond it: a limit of the wall time ends that (process_pool.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/event_loop.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// A place where actors run and flows start or end (a GPU, the host, a drive).
struct NodeId {
  int index;
};

/// One direction of a link.
struct LinkId {
  int index;
};

/// An actor, by the order of spawning.
struct ActorId {
  int index;
  bool operator==(const ActorId&) const = default;
};

/// Whoever is none.
inline constexpr ActorId kNoActor{-1};

/// Something that actors hold while others wait for it. Asked only when there is a deadlock.
class HeldByActors {
 public:
  HeldByActors() = default;
  HeldByActors(const HeldByActors&) = delete;
  HeldByActors& operator=(const HeldByActors&) = delete;
  virtual ~HeldByActors() = default;

  /// What an actor waits for, as in "a credit of copy engines".
  [[nodiscard]] virtual std::string waited_for() const = 0;
  [[nodiscard]] virtual std::vector<ActorId> holders() const = 0;
};

/// All actors wait and nothing can wake them; what() lists actors, what each waits for and who
/// holds that or is to finish it, a cycle first.
class Deadlock : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// At most one Engine exists at a time in a process.
class Engine {
 public:
  Engine();
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // -- Building; refused after run() has begun. Names are unique, nodes and links apart.
  NodeId add_node(const std::string& name);
  LinkId add_link(const std::string& name, Rate bandwidth, SimDuration latency);
  /// The links that a flow from `from` to `to` crosses, in order; one direction, set once.
  void add_route(NodeId from, NodeId to, const std::vector<LinkId>& links);
  EventLoop& loop();

  /// Adds an actor; also allowed from inside an actor. It starts at the current time.
  ActorId spawn(const std::string& name, NodeId node, std::function<void()> body);

  /// Runs until every actor has returned; events that nobody waits for are left undone. Rethrows
  /// the first exception that left an actor or a component; throws Deadlock when actors wait for
  /// what cannot happen, and NoProgress. An engine runs once.
  void run();

  /// More wake-ups than this at one picosecond, or dispatches of components, are NoProgress.
  void set_most_at_one_instant(std::int64_t most);

  /// Records what happens from now on, or stops recording (null). Also from inside an actor.
  void record(ActivityLog* log);
  /// Where it is recorded; null: nowhere.
  [[nodiscard]] ActivityLog* activity() const;

  // -- Inside an actor. An actor is killed (its stack is unwound) when another one fails.
  [[nodiscard]] SimTime now() const;
  /// Whose turn it is; kNoActor outside of actors, and in one that is killed.
  [[nodiscard]] ActorId current() const;
  void wait_until(SimTime at);
  /// At most one actor may wait for a completion. `what` says in a Deadlock what for; `held`, which
  /// must live until the wait is over, says it better where actors hold what is waited for.
  void wait(Completion& completion, std::string_view what = "a completion",
            const HeldByActors* held = nullptr);
  /// Says for a Deadlock which actor is to finish a completion.
  static void set_finisher(Completion& completion, ActorId finisher);
  /// Finishes a completion now, from an actor; its waiter goes on at this same time. Does nothing
  /// once the run has failed, so that destructors of killed actors may call it.
  void finish(Completion& completion);
  /// Moves `size` over the route and returns when the last byte has arrived.
  void transfer(NodeId from, NodeId to, Bytes size);

  /// What a link carries a second from now on, also of flows that are under way.
  void set_bandwidth(LinkId link, Rate bandwidth);

  // -- Afterwards.
  /// Hash of all wake-ups (actor, picosecond) in order; the start of an actor is one.
  [[nodiscard]] std::uint64_t digest() const;
  [[nodiscard]] std::int64_t wakeups() const;
  /// Bytes that flows moved over a link so far.
  [[nodiscard]] Bytes carried(LinkId link) const;
  /// Time in which at least one flow held the link, latency included.
  [[nodiscard]] SimDuration busy(LinkId link) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nearkv
