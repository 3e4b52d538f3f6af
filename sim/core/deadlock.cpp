#include "sim/core/deadlock.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::size_t kMostListed = 20;
constexpr std::size_t kMostHolders = 3;

class StuckText {
 public:
  StuckText(const std::vector<StuckActor>& actors, const std::string& idle)
      : actors_(actors), idle_(idle), is_listed_(actors.size()) {}

  std::string text() {
    const std::vector<std::size_t> cycle = find_cycle();
    for (const std::size_t actor : cycle) {
      list(actor);
    }
    std::string text = cycle.empty() ? "but " : "in a cycle: " + std::exchange(text_, "");
    for (const int rank : {0, 1, 2}) {
      for (std::size_t actor = 0; actor < actors_.size(); ++actor) {
        if (rank_of(actor) == rank) {
          list_chain(actor);
        }
      }
    }
    text += (cycle.empty() || text_.empty() ? "" : "; besides, ") + text_;
    return waiting_ > listed_ ? fmt::format("{}; and {} more", text, waiting_ - listed_) : text;
  }

 private:
  /// Those that tell most come first.
  [[nodiscard]] int rank_of(std::size_t actor) const {
    const StuckActor& stuck = actors_[actor];
    return stuck.waits_for == idle_ ? 2 : stuck.up_to.empty() ? 1 : 0;
  }

  /// The first cycle of actors that wait for each other, in order; empty where there is none.
  [[nodiscard]] std::vector<std::size_t> find_cycle() const {
    enum class State { unseen, on_path, done };
    std::vector<State> states(actors_.size(), State::unseen);
    std::vector<std::size_t> path;
    std::vector<std::size_t> next;  // of each on the path, the edge to follow
    for (std::size_t root = 0; root < actors_.size(); ++root) {
      if (states[root] != State::unseen) {
        continue;
      }
      path.push_back(root);
      next.push_back(0);
      states[root] = State::on_path;
      while (!path.empty()) {
        const std::vector<std::size_t>& edges = actors_[path.back()].up_to;
        if (next.back() == edges.size()) {
          states[path.back()] = State::done;
          path.pop_back();
          next.pop_back();
          continue;
        }
        const std::size_t other = edges[next.back()++];
        if (states.at(other) == State::on_path) {
          return {std::find(path.begin(), path.end(), other), path.end()};
        }
        if (states[other] == State::unseen) {
          path.push_back(other);
          next.push_back(0);
          states[other] = State::on_path;
        }
      }
    }
    return {};
  }

  void list_chain(std::size_t first) {
    for (std::optional<std::size_t> actor = first; actor && list(*actor);) {
      const std::vector<std::size_t>& others = actors_[*actor].up_to;
      const auto following = std::find_if(others.begin(), others.end(), [&](std::size_t other) {
        return !is_listed_[other] && !actors_[other].has_ended;
      });
      actor = following == others.end() ? std::nullopt : std::optional(*following);
    }
  }

  /// Whether it is new.
  bool list(std::size_t actor) {
    const StuckActor& stuck = actors_[actor];
    if (stuck.has_ended || is_listed_[actor]) {
      return false;
    }
    is_listed_[actor] = true;
    ++waiting_;
    if (listed_ < kMostListed) {
      ++listed_;
      text_ += fmt::format("{}{} waits for {}{}", text_.empty() ? "" : "; ", stuck.name,
                           stuck.waits_for, holders_text(actor));
    }
    return true;
  }

  [[nodiscard]] std::string holders_text(std::size_t actor) const {
    const StuckActor& stuck = actors_[actor];
    std::vector<std::size_t> holders = stuck.up_to;
    std::sort(holders.begin(), holders.end());
    holders.erase(std::unique(holders.begin(), holders.end()), holders.end());
    std::string names;
    for (std::size_t i = 0; i < std::min(holders.size(), kMostHolders); ++i) {
      const StuckActor& holder = actors_[holders[i]];
      names +=
          fmt::format("{}{}{}", i == 0 ? "" : ", ", holders[i] == actor ? "itself" : holder.name,
                      holder.has_ended ? " (ended)" : "");
    }
    if (holders.size() > kMostHolders) {
      names += fmt::format(" and {} more", holders.size() - kMostHolders);
    }
    return names.empty()   ? ""
           : stuck.is_held ? fmt::format(", held by {}", names)
                           : fmt::format(", which {} is to finish", names);
  }

  const std::vector<StuckActor>& actors_;
  const std::string& idle_;
  std::vector<bool> is_listed_;
  std::string text_;
  std::size_t listed_ = 0;   // in the text
  std::size_t waiting_ = 0;  // all that were to be
};

}  // namespace

std::string describe_stuck(const std::vector<StuckActor>& actors, const std::string& idle) {
  return StuckText(actors, idle).text();
}

}  // namespace nearkv
