// The layers of a decode step that follow one another: nothing of a layer is under way when the
// next one begins. The last layer is always simulated, so that a step ends as it would.
//
// In sampled fidelity, when `kAlike` layers in a row took the same time within `kTolerance`, the
// layers behind them are taken to be like them: their state is brought forward without simulating
// it, and time and gauges advance by the mean of those layers. Half of what the layers differed by,
// times the layers left out, goes into the step's error bound. A step that is recorded in an
// activity log, or in which a fault may come, is simulated whole.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "models/systems/design_point.hpp"
#include "models/systems/machine.hpp"

namespace nearkv {

class LayerLoop {
 public:
  LayerLoop(Machine& machine, const DesignPoint& point)
      : machine_(machine),
        layers_(point.model.layers),
        sampled_(point.simulation.fidelity == Fidelity::sampled) {}

  /// `simulate(layer)` for each layer; or `assume(layer)`, which takes no simulated time, for those
  /// that are left out. Inside an actor.
  template <class Simulate, class Assume>
  void run(Simulate simulate, Assume assume) {
    for (std::int64_t layer = 0; layer < layers_; ++layer) {
      const std::int64_t last = layers_ - 1;
      if (may_leave_out() && layer < last && are_alike()) {
        leave_out(layer, last, assume);
        layer = last;
      }
      const std::vector<double> before = machine_.read_gauges();
      const SimTime begin = machine_.engine().now();
      simulate(layer);
      times_.push_back(machine_.engine().now() - begin);
      increments_.push_back(machine_.read_gauges());
      for (std::size_t i = 0; i < before.size(); ++i) {
        increments_.back()[i] -= before[i];
      }
    }
  }

 private:
  static constexpr std::size_t kAlike = 4;
  static constexpr double kTolerance = 0.02;  // not a constant: of the method, reported as bound

  [[nodiscard]] bool may_leave_out() const {
    return sampled_ && machine_.engine().activity() == nullptr && !machine_.simulates_whole_steps();
  }
  [[nodiscard]] SimDuration spread() const {
    const auto [least, most] = std::minmax_element(times_.end() - kAlike, times_.end());
    return *most - *least;
  }
  [[nodiscard]] bool are_alike() const {
    // One more than compared: the first layer starts from another state.
    return times_.size() > kAlike && to_seconds(spread()) <= kTolerance * to_seconds(times_.back());
  }

  template <class Assume>
  void leave_out(std::int64_t first, std::int64_t past_last, Assume assume) {
    SimDuration sum{};
    std::vector<double> mean(increments_.back().size());
    for (std::size_t back = 1; back <= kAlike; ++back) {
      sum += *(times_.end() - static_cast<std::ptrdiff_t>(back));
      const std::vector<double>& increment =
          *(increments_.end() - static_cast<std::ptrdiff_t>(back));
      for (std::size_t i = 0; i < mean.size(); ++i) {
        mean[i] += increment[i] / static_cast<double>(kAlike);
      }
    }
    for (std::int64_t layer = first; layer < past_last; ++layer) {
      assume(layer);
    }
    machine_.extrapolate({.times = past_last - first,
                          .time = SimDuration{ceil_div(sum.count(), kAlike)},
                          .increments = mean,
                          .bound = spread() / 2});
  }

  Machine& machine_;
  std::int64_t layers_;
  bool sampled_;
  std::vector<SimDuration> times_;
  std::vector<std::vector<double>> increments_;
};

}  // namespace nearkv
