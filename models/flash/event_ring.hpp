// A short queue of events in time order, for times that mostly come in order: a push looks for its
// place from the back, a pop takes the front. Equal times stay in the order of the pushes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/core/check.hpp"

namespace nearkv {

class EventRing {
 public:
  struct Entry {
    std::int64_t at;
    std::uint32_t what;
  };

  [[nodiscard]] bool is_empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const Entry& front() const { return entries_[head_]; }
  /// Time of the front, the greatest of all when there is none.
  [[nodiscard]] std::int64_t front_at() const { return front_at_; }

  void push(std::int64_t at, std::uint32_t what) {
    if (size_ == entries_.size()) {
      grow();
    }
    std::size_t place = size_++;
    while (place > 0 && entry(place - 1).at > at) {
      entry(place) = entry(place - 1);
      --place;
    }
    entry(place) = {at, what};
    front_at_ = place == 0 ? at : front_at_;
  }

  void pop() {
    head_ = (head_ + 1) & (entries_.size() - 1);
    --size_;
    keep_front();
  }

  /// Takes out the first event for `what`; check()s that there is one.
  void remove(std::uint32_t what) {
    std::size_t place = 0;
    while (place < size_ && entry(place).what != what) {
      ++place;
    }
    check(place < size_, "an event to take out is not there");
    for (; place + 1 < size_; ++place) {
      entry(place) = entry(place + 1);
    }
    --size_;
    keep_front();
  }

 private:
  void keep_front() { front_at_ = size_ == 0 ? INT64_MAX : entries_[head_].at; }
  [[nodiscard]] Entry& entry(std::size_t place) {
    return entries_[(head_ + place) & (entries_.size() - 1)];
  }

  void grow() {
    std::vector<Entry> larger(entries_.size() * 2);
    for (std::size_t place = 0; place < size_; ++place) {
      larger[place] = entry(place);
    }
    entries_.swap(larger);
    head_ = 0;
  }

  std::vector<Entry> entries_ = std::vector<Entry>(16);  // always a power of two
  std::size_t head_ = 0;
  std::size_t size_ = 0;
  std::int64_t front_at_ = INT64_MAX;  // asked for at every event
};

}  // namespace nearkv
