// The message of a deadlock: who waits for what, up to whom, as chains. Knows no engine.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace nearkv {

/// An actor when nothing is left to happen. Other actors are named by their place in the list.
struct StuckActor {
  std::string name;
  bool has_ended = false;  // it waits for nothing
  std::string waits_for{};
  std::vector<std::size_t> up_to{};  // who could end the wait; empty: not known
  bool is_held = false;              // they hold what it waits for; else they are to finish it
};

/// "a waits for X, held by b; b waits for Y, held by a", with a cycle in front, where there is one.
/// A chain is followed to its end; then come those of whom nobody is known to hold them up. Actors
/// that wait for `idle` come last. At most 20 actors are listed.
[[nodiscard]] std::string describe_stuck(const std::vector<StuckActor>& actors,
                                         const std::string& idle);

}  // namespace nearkv
