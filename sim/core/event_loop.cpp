#include "sim/core/event_loop.hpp"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>

#include <cxxabi.h>
#include <fmt/format.h>

namespace nearkv {

namespace {

/// The class of a component, as it is written in the source.
std::string class_of(const Component& component) {
  const char* encoded = typeid(component).name();
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(encoded, nullptr, nullptr, &status), &std::free);
  return status == 0 ? name.get() : encoded;
}

}  // namespace

void EventLoop::attach(Component& component) {
  check(std::find(components_.begin(), components_.end(), &component) == components_.end(),
        "a component was attached twice");
  components_.push_back(&component);
}

std::optional<SimTime> EventLoop::run(SimTime bound) {
  while (finished_.empty()) {
    // A linear scan: there are a few dozen components, and a component usually runs for long.
    Component* first = nullptr;
    SimTime earliest = kNever;
    SimTime limit = bound;
    for (Component* component : components_) {
      const SimTime next = component->next_event();
      if (next < earliest) {
        if (first != nullptr) {
          // The component that was attached earlier goes first at its own next event.
          limit = std::min(limit, earliest - SimDuration{1});
        }
        first = component;
        earliest = next;
      } else if (next != kNever) {
        limit = std::min(limit, next);
      }
    }
    if (first == nullptr || earliest > bound) {
      return std::nullopt;
    }
    ++dispatches_;
    watch(earliest, *first);
    from_ = earliest;
    until_ = limit;
    first->process(limit);
    from_ = kNever;
    check(!finished_.empty() || first->next_event() > limit,
          "a component did not process its events");
  }
  return finished_.front()->at();
}

void EventLoop::watch(SimTime at, const Component& next) {
  require_before_end(at);
  dispatches_at_instant_ = at == instant_ ? dispatches_at_instant_ + 1 : 1;
  instant_ = at;
  if (dispatches_at_instant_ > most_at_one_instant_) [[unlikely]] {
    throw NoProgress(fmt::format(
        "no progress: over {} dispatches of components at {} ({} ps), the last one of a {}",
        most_at_one_instant_, format_short(at.time_since_epoch()), at.time_since_epoch().count(),
        class_of(next)));
  }
}

void EventLoop::finish(Completion& completion, SimTime at, int cause) {
  check(!completion.done_, "a completion was finished twice");
  check(from_ <= at && at <= until_, "a completion was not finished by an event of that time");
  check(finished_.empty() || finished_.front()->at_ == at,
        "a component went on after an event that finished a completion");
  completion.done_ = true;
  completion.at_ = at;
  completion.cause_ = cause;
  finished_.push_back(&completion);
}

std::vector<Completion*> EventLoop::take_finished() { return std::exchange(finished_, {}); }

void TimerQueue::process(SimTime until) {
  if (next_event() > until) {
    return;
  }
  const SimTime at = queue_.top().at;
  while (next_event() == at) {
    Completion& completion = *queue_.top().completion;
    queue_.pop();
    loop_.finish(completion, at);
  }
}

}  // namespace nearkv
