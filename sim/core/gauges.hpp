// Gauges: cumulative readings of a running machine. Differences of two readings describe a phase.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace nearkv {

struct Gauge {
  std::string name;  // "csd/0/flash/channels"
  std::string unit;  // "s" of busy time, "B", "1"
  std::string doc;
  std::function<double()> read;
  /// Above 0: `read` gives busy seconds summed over so many equal servers.
  double servers = 0;
};

class Gauges {
 public:
  void add(Gauge gauge) { gauges_.push_back(std::move(gauge)); }

  [[nodiscard]] const std::vector<Gauge>& all() const { return gauges_; }

  [[nodiscard]] std::vector<double> read() const {
    std::vector<double> values;
    values.reserve(gauges_.size());
    for (const Gauge& gauge : gauges_) {
      values.push_back(gauge.read());
    }
    return values;
  }

 private:
  std::vector<Gauge> gauges_;
};

}  // namespace nearkv
