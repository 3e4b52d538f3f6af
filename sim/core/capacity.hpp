// A memory with a limit: who holds how much, the high-water mark, and what overflowed it.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "sim/core/check.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// A memory of the simulated machine does not hold what a system asks for: a result of the run
/// ("out_of_memory: VRAM"), not an error of the program.
class OutOfCapacity : public std::runtime_error {
 public:
  OutOfCapacity(const std::string& full_resource, const std::string& for_operation, Bytes asked_for,
                Bytes still_available, Bytes whole_capacity);

  std::string resource;   // "VRAM"
  std::string operation;  // "prefill attention scores"
  Bytes asked;
  Bytes available;
  Bytes capacity;
};

/// A legal design point for which no placement exists, found before anything runs: a result of the
/// run ("infeasible: weights ..."). what() says what does not fit and what would help.
class Infeasible : public std::runtime_error {
 public:
  explicit Infeasible(const std::string& reason) : std::runtime_error("infeasible: " + reason) {}
};

/// Tracks named allocations in one memory. Frees must match (more than is held is our bug: check);
/// the sum never exceeds the capacity.
class CapacityLedger {
 public:
  /// `resource` names the memory in results and metrics ("VRAM", "host DRAM", "CSD flash").
  CapacityLedger(std::string resource, Bytes capacity)
      : resource_(std::move(resource)), capacity_(capacity) {
    check(capacity >= Bytes{0}, "a memory of negative capacity");
  }

  /// Throws OutOfCapacity when `size` does not fit; then nothing has changed.
  void allocate(std::string_view label, Bytes size);
  /// Frees `size` of what `label` holds.
  void release(std::string_view label, Bytes size);
  /// Frees all that `label` holds, which may be nothing.
  void release_all(std::string_view label);

  [[nodiscard]] Bytes held() const { return held_; }
  [[nodiscard]] Bytes held(std::string_view label) const;
  [[nodiscard]] Bytes available() const { return capacity_ - held_; }
  [[nodiscard]] Bytes capacity() const { return capacity_; }
  [[nodiscard]] Bytes high_water() const { return high_water_; }
  [[nodiscard]] const std::string& resource() const { return resource_; }
  /// check()s that what was allocated is what was released and what labels still hold.
  void audit() const;
  /// What was held, by label, when the high-water mark was first reached.
  [[nodiscard]] const std::map<std::string, Bytes, std::less<>>& held_at_high_water() const {
    return at_high_water_;
  }

 private:
  std::string resource_;
  Bytes capacity_;
  Bytes held_{};
  Int128 allocated_ = 0;  // over all time, in bytes
  Int128 released_ = 0;
  Bytes high_water_{};
  std::map<std::string, Bytes, std::less<>> by_label_;
  std::map<std::string, Bytes, std::less<>> at_high_water_;
};

/// Holds an allocation for as long as it lives.
class ScopedAllocation {
 public:
  ScopedAllocation(CapacityLedger& ledger, std::string_view label, Bytes size)
      : ledger_(ledger), label_(label), size_(size) {
    ledger_.allocate(label_, size_);
  }
  ~ScopedAllocation() { ledger_.release(label_, size_); }
  ScopedAllocation(const ScopedAllocation&) = delete;
  ScopedAllocation& operator=(const ScopedAllocation&) = delete;

 private:
  CapacityLedger& ledger_;
  std::string label_;
  Bytes size_;
};

}  // namespace nearkv
