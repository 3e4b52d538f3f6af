#include "sim/core/capacity.hpp"

#include <fmt/format.h>

namespace nearkv {

namespace {

/// Four digits, or all of them where four would hide that the one is more than the other.
std::string text_of(Bytes asked, Bytes available, Bytes capacity) {
  if (format_short(asked) == format_short(available)) {
    return fmt::format("needs {}, {} of {} are free", format_exact(asked), format_exact(available),
                       format_exact(capacity));
  }
  return fmt::format("needs {}, {} of {} are free", format_short(asked), format_short(available),
                     format_short(capacity));
}

}  // namespace

OutOfCapacity::OutOfCapacity(const std::string& full_resource, const std::string& for_operation,
                             Bytes asked_for, Bytes still_available, Bytes whole_capacity)
    : std::runtime_error(fmt::format("out_of_memory: {}: {} {}", full_resource, for_operation,
                                     text_of(asked_for, still_available, whole_capacity))),
      resource(full_resource),
      operation(for_operation),
      asked(asked_for),
      available(still_available),
      capacity(whole_capacity) {}

void CapacityLedger::allocate(std::string_view label, Bytes size) {
  check(size >= Bytes{0}, "an allocation of negative size");
  if (size > available()) {
    throw OutOfCapacity(resource_, std::string(label), size, available(), capacity_);
  }
  if (size == Bytes{0}) {
    return;
  }
  held_ += size;
  allocated_ += size.count();
  by_label_[std::string(label)] += size;
  if (held_ > high_water_) {
    high_water_ = held_;
    at_high_water_ = by_label_;
  }
}

void CapacityLedger::release(std::string_view label, Bytes size) {
  check(size >= Bytes{0} && size <= held(label), "a release of memory that is not held");
  if (size == Bytes{0}) {
    return;
  }
  const auto found = by_label_.find(label);
  found->second -= size;
  held_ -= size;
  released_ += size.count();
  if (found->second == Bytes{0}) {
    by_label_.erase(found);
  }
}

void CapacityLedger::audit() const {
  Bytes labelled{};
  for (const auto& [label, size] : by_label_) {
    labelled += size;
  }
  check(allocated_ - released_ == labelled.count() && labelled == held_,
        "a memory holds something else than what was allocated and not released");
  check(held_ <= high_water_ && high_water_ <= capacity_, "a memory that held more than it has");
}

void CapacityLedger::release_all(std::string_view label) { release(label, held(label)); }

Bytes CapacityLedger::held(std::string_view label) const {
  const auto found = by_label_.find(label);
  return found == by_label_.end() ? Bytes{} : found->second;
}

}  // namespace nearkv
