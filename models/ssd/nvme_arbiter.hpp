// Which submission queue the controller takes the next command from.
//
// Round robin: the queues that have commands in turn, at most `arbitration_burst` commands a turn.
// Weighted round robin with urgent class: urgent queues first; else a round gives each of the
// classes high, medium and low, in this order, up to its weight in commands, and a new round begins
// when no class with commands has any left. Within a class the queues go round robin.
// (NVM Express Base Specification, "Command Arbitration". The admin queue is not modelled.)
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "models/ssd/nvme_config.hpp"

namespace nearkv {

class NvmeArbiter {
 public:
  explicit NvmeArbiter(const NvmeConfig& config);

  /// The queue has commands, or none any more.
  void set_ready(int queue, bool is_ready);
  [[nodiscard]] bool is_ready() const { return ready_queues_ > 0; }

  /// The queue whose command is taken now. check()s that one is ready.
  [[nodiscard]] int take();

 private:
  static constexpr int kBits = 64;
  struct Class {
    std::vector<std::uint64_t> ready;  // a bit a queue
    int ready_queues = 0;
    int turn = 0;             // the queue that was served last
    int burst_left = 0;       // commands that it may still send
    int weight = 0;           // commands a round
    std::int64_t credit = 0;  // of them left; not counted for urgent queues
  };

  [[nodiscard]] Class& class_of(int queue) {
    return classes_[static_cast<std::size_t>(priority_[queue])];
  }
  [[nodiscard]] Class& choose_class();
  [[nodiscard]] static int next_ready(const Class& of, int behind);

  int burst_;
  int ready_queues_ = 0;
  std::vector<NvmePriority> priority_;  // of each queue
  std::array<Class, kNvmePriorities> classes_;
};

}  // namespace nearkv
