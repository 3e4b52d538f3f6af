// Requests that are drawn: lengths and arrivals from distributions. Each of prompts, outputs and
// arrivals has a random stream of its own (Rng{seed, "requests/prompt"}, ".../output",
// ".../arrival"), so that a change of one leaves the others as they were. Equal on every machine.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "sim/core/random.hpp"
#include "sim/core/units.hpp"
#include "traces/request_trace.hpp"

namespace nearkv::traces {

/// Tokens of a prompt or an output.
struct LengthSpec {
  enum class Kind : std::uint8_t { fixed, uniform, lognormal, empirical };
  Kind kind = Kind::fixed;
  int tokens = 0;  // fixed
  int least = 1;   // uniform and lognormal: both inclusive
  int most = 1;
  double median = 0;              // lognormal: e^mu; its mean is median x e^(sigma^2 / 2)
  double sigma = 0;               // of the logarithm
  std::vector<int> values{};      // empirical
  std::vector<double> weights{};  // of the values; empty: all alike
};

/// The median of a lognormal distribution (before it is truncated) with this mean and sigma.
[[nodiscard]] double lognormal_median(double mean, double sigma);

class LengthDistribution {
 public:
  /// check()s the spec: lengths from 1 to kMostRequestTokens, least <= most, some weight > 0.
  explicit LengthDistribution(LengthSpec spec);

  /// A lognormal length is rounded to whole tokens and drawn again while it lies outside of least
  /// and most. Throws std::invalid_argument when that does not come to an end: they lie too far
  /// from the median.
  [[nodiscard]] int draw(Rng& rng) const;

 private:
  [[nodiscard]] int draw_lognormal(Rng& rng) const;

  LengthSpec spec_;
  double log_median_ = 0;
  std::vector<double> weight_up_to_;  // cumulated
};

/// The first request arrives at 0.
struct ArrivalSpec {
  enum class Kind : std::uint8_t {
    at_start,  // all at 0
    constant,  // equally spaced
    poisson,   // exponential intervals
    gamma      // gamma distributed intervals: bursts where cv > 1
  };
  Kind kind = Kind::at_start;
  double rate = 0;  // requests a second
  double cv = 0;    // gamma: standard deviation of the intervals over their mean
};

class ArrivalTimes {
 public:
  ArrivalTimes(const ArrivalSpec& spec, std::uint64_t seed);

  /// Of the next request, rounded up to 1 ps. Throws std::invalid_argument behind 53 days.
  [[nodiscard]] SimDuration next();

 private:
  [[nodiscard]] double interval();  // in mean intervals

  ArrivalSpec spec_;
  Rng rng_;
  double shape_;  // of gamma
  std::int64_t count_ = 0;
  SimDuration last_{};
};

/// Gamma distribution of mean `shape` and scale 1, by Marsaglia and Tsang (ACM TOMS 26, 2000); for
/// shape < 1 by their power of a uniform number.
[[nodiscard]] double draw_gamma(Rng& rng, double shape);

struct RequestSpec {
  LengthSpec prompt;
  LengthSpec output;
  ArrivalSpec arrivals;
  std::uint64_t seed = 0;
};

/// The requests of a spec, in order; there is no last one.
class RequestGenerator {
 public:
  explicit RequestGenerator(const RequestSpec& spec);

  /// Throws std::invalid_argument, as its parts do.
  [[nodiscard]] RequestRecord next();
  /// Of the spec, what was drawn last: "arrivals", "prompt" or "output".
  [[nodiscard]] std::string_view part() const { return part_; }

 private:
  LengthDistribution prompt_;
  LengthDistribution output_;
  ArrivalTimes arrivals_;
  Rng prompts_;
  Rng outputs_;
  std::string_view part_;
};

}  // namespace nearkv::traces
