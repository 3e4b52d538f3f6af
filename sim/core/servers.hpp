// Passive servers: pure timing and state, no clock. A caller asks about a time (probe) or takes
// the service (issue); an actor then waits until what was granted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "sim/core/check.hpp"
#include "sim/core/engine.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// When a service starts and when it is done.
struct Grant {
  SimTime start;
  SimTime done;
};

/// `servers` equal servers behind one queue, first come first served in the order of issue():
/// `now` may lie in the future (a job that will arrive then), but a job issued later never starts
/// on a server before one issued earlier. A job takes the server that is free first.
class FifoServers {
 public:
  explicit FifoServers(int servers) : free_at_(servers) {
    check(servers > 0, "a server pool without servers");
  }

  /// What issue() would grant.
  [[nodiscard]] Grant probe(SimTime now, SimDuration service) const {
    check(service >= SimDuration{0}, "a service of negative length");
    const SimTime start = std::max(now, free_at_.front());
    require_before_end(start);
    return {start, start + service};
  }

  Grant issue(SimTime now, SimDuration service) {
    check(service >= SimDuration{0}, "a service of negative length");
    const SimTime start = std::max(now, free_at_.front());
    require_before_end(start);
    take_first(start + service);
    busy_ += service;
    ++jobs_;
    return {start, start + service};
  }

  /// Time of service granted so far, summed over the servers.
  [[nodiscard]] SimDuration busy() const { return busy_; }
  [[nodiscard]] std::int64_t jobs() const { return jobs_; }
  [[nodiscard]] int servers() const { return static_cast<int>(free_at_.size()); }

 private:
  void take_first(SimTime until) {
    std::size_t place = 0;
    for (std::size_t next = 1; next < free_at_.size(); next = 2 * place + 1) {
      if (next + 1 < free_at_.size() && free_at_[next + 1] < free_at_[next]) {
        ++next;
      }
      if (free_at_[next] >= until) {
        break;
      }
      free_at_[place] = free_at_[next];
      place = next;
    }
    free_at_[place] = until;
  }

  std::vector<SimTime> free_at_;  // a heap, the one that is free first in front
  SimDuration busy_{};
  std::int64_t jobs_ = 0;
};

/// Credits that actors take and give back, in first-come order (queue slots, buffers).
class CreditPool final : public HeldByActors {
 public:
  /// A Deadlock calls it "a credit of `name`".
  CreditPool(Engine& engine, std::string name, std::int64_t credits)
      : engine_(engine), name_(std::move(name)), credits_(credits) {
    check(credits > 0, "a credit pool without credits");
  }

  /// Takes one credit; waits in line while there is none. Inside an actor.
  void acquire() {
    if (available() > 0 && waiting_.empty()) {
      holders_.push_back(engine_.current());
      return;
    }
    Completion turn;
    waiting_.push_back({&turn, engine_.current()});
    engine_.wait(turn, "a credit", this);
  }

  /// Gives one credit back: to the actor first in line, if any. Inside an actor; also from the
  /// destructors of one that is killed. An actor may give back what another took.
  void release() {
    check(!holders_.empty(), "a credit was given back that nobody had taken");
    holders_.erase(taken_by(engine_.current()));
    if (waiting_.empty()) {
      return;
    }
    const Waiting first = waiting_.front();
    waiting_.pop_front();
    holders_.push_back(first.actor);
    engine_.finish(*first.turn);
  }

  /// Says for a Deadlock that another actor gives back the credit that this one took.
  void hand_to(ActorId other) {
    check(!holders_.empty(), "a credit was handed on that nobody had taken");
    *taken_by(engine_.current()) = other;
  }

  [[nodiscard]] std::int64_t available() const {
    return credits_ - static_cast<std::int64_t>(holders_.size());
  }

  [[nodiscard]] std::string waited_for() const override { return "a credit of " + name_; }
  [[nodiscard]] std::vector<ActorId> holders() const override { return holders_; }

 private:
  struct Waiting {
    Completion* turn;
    ActorId actor;
  };

  /// The actor's last credit, or the oldest one where it has none.
  [[nodiscard]] std::vector<ActorId>::iterator taken_by(ActorId actor) {
    const auto found = std::find(holders_.rbegin(), holders_.rend(), actor);
    return found == holders_.rend() ? holders_.begin() : std::prev(found.base());
  }

  Engine& engine_;
  std::string name_;
  std::int64_t credits_;
  std::vector<ActorId> holders_;  // of the credits that are out, in the order of taking
  std::deque<Waiting> waiting_;
};

}  // namespace nearkv
