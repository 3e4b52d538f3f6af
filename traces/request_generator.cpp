#include "traces/request_generator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv::traces {

namespace {

bool is_length(int tokens) { return tokens >= 1 && tokens <= kMostRequestTokens; }

constexpr double kPicoseconds = 1e12;

}  // namespace

double lognormal_median(double mean, double sigma) {
  return mean * portable_exp(-sigma * sigma / 2);
}

// -- Lengths ----------------------------------------------------------------------------------

LengthDistribution::LengthDistribution(LengthSpec spec) : spec_(std::move(spec)) {
  using Kind = LengthSpec::Kind;
  switch (spec_.kind) {
    case Kind::fixed:
      check(is_length(spec_.tokens), "a length without tokens or with too many");
      break;
    case Kind::lognormal:
      check(spec_.median > 0 && spec_.sigma >= 0, "a lognormal distribution without a median");
      log_median_ = portable_log(spec_.median);
      [[fallthrough]];
    case Kind::uniform:
      check(is_length(spec_.least) && is_length(spec_.most) && spec_.least <= spec_.most,
            "least and most tokens in the wrong order");
      break;
    case Kind::empirical:
      check(!spec_.values.empty() && std::ranges::all_of(spec_.values, is_length) &&
                (spec_.weights.empty() || spec_.weights.size() == spec_.values.size()),
            "an empirical distribution without values, or without a weight for each");
      double sum = 0;
      for (const double weight : spec_.weights) {
        check(weight >= 0, "a negative weight");
        sum += weight;
        weight_up_to_.push_back(sum);
      }
      check(spec_.weights.empty() || sum > 0, "no weight at all");
      break;
  }
}

int LengthDistribution::draw(Rng& rng) const {
  using Kind = LengthSpec::Kind;
  switch (spec_.kind) {
    case Kind::fixed:
      return spec_.tokens;
    case Kind::uniform:
      return spec_.least +
             static_cast<int>(rng.below(1 + static_cast<std::uint64_t>(spec_.most - spec_.least)));
    case Kind::lognormal:
      return draw_lognormal(rng);
    default:
      break;
  }
  if (weight_up_to_.empty()) {
    return spec_.values[rng.below(spec_.values.size())];
  }
  const double u = rng.uniform() * weight_up_to_.back();
  const auto found = std::upper_bound(weight_up_to_.begin(), weight_up_to_.end() - 1, u);
  return spec_.values[static_cast<std::size_t>(found - weight_up_to_.begin())];
}

int LengthDistribution::draw_lognormal(Rng& rng) const {
  constexpr int kMostTries = 10'000;
  constexpr double kLargest = 700;  // portable_exp takes no more
  for (int i = 0; i < kMostTries; ++i) {
    const double log_tokens = log_median_ + spec_.sigma * rng.normal();
    const double tokens = std::floor(portable_exp(std::min(log_tokens, kLargest)) + 0.5);
    if (tokens >= spec_.least && tokens <= spec_.most) {
      return static_cast<int>(tokens);
    }
  }
  throw std::invalid_argument("least and most lie too far from the median: no length was drawn");
}

// -- Arrivals ---------------------------------------------------------------------------------

double draw_gamma(Rng& rng, double shape) {
  check(shape > 0, "a gamma distribution without a shape");
  if (shape < 1) {
    const double u = 1 - rng.uniform();
    const double power = portable_exp(portable_log(u) / shape);
    return draw_gamma(rng, shape + 1) * power;
  }
  // The method's own numbers.
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = rng.normal();
    const double root = 1 + c * x;
    if (root <= 0) {
      continue;
    }
    const double v = root * root * root;
    const double u = 1 - rng.uniform();
    if (portable_log(u) < x * x / 2 + d * (1 - v + portable_log(v))) {
      return d * v;
    }
  }
}

ArrivalTimes::ArrivalTimes(const ArrivalSpec& spec, std::uint64_t seed)
    : spec_(spec), rng_(seed, "requests/arrival"), shape_(0) {
  using Kind = ArrivalSpec::Kind;
  check(spec.kind == Kind::at_start || spec.rate > 0, "arrivals without a rate");
  if (spec.kind == Kind::gamma) {
    check(spec.cv > 0, "gamma arrivals without a coefficient of variation");
    shape_ = 1 / (spec.cv * spec.cv);
  }
}

double ArrivalTimes::interval() {
  return spec_.kind == ArrivalSpec::Kind::poisson ? -portable_log(1 - rng_.uniform())
                                                  : draw_gamma(rng_, shape_) / shape_;
}

SimDuration ArrivalTimes::next() {
  const std::int64_t before = count_++;
  if (spec_.kind == ArrivalSpec::Kind::at_start || before == 0) {
    return last_;
  }
  const double mean = kPicoseconds / spec_.rate;
  constexpr auto kMost = 0.5 * static_cast<double>(std::numeric_limits<std::int64_t>::max());
  // Equal intervals do not add up rounding.
  const bool is_constant = spec_.kind == ArrivalSpec::Kind::constant;
  const double since = is_constant ? static_cast<double>(before) * mean : interval() * mean;
  if (!(since < kMost - (is_constant ? 0 : static_cast<double>(last_.count())))) {
    throw std::invalid_argument(
        "the last of the requests arrive more than 53 days after the first");
  }
  const SimDuration rounded{static_cast<std::int64_t>(std::ceil(since))};
  last_ = is_constant ? rounded : last_ + rounded;
  return last_;
}

// -- Requests ---------------------------------------------------------------------------------

RequestGenerator::RequestGenerator(const RequestSpec& spec)
    : prompt_(spec.prompt),
      output_(spec.output),
      arrivals_(spec.arrivals, spec.seed),
      prompts_(spec.seed, "requests/prompt"),
      outputs_(spec.seed, "requests/output") {}

RequestRecord RequestGenerator::next() {
  RequestRecord record;
  part_ = "arrivals";
  record.at = arrivals_.next();
  part_ = "prompt";
  record.prompt_tokens = prompt_.draw(prompts_);
  part_ = "output";
  record.output_tokens = output_.draw(outputs_);
  return record;
}

}  // namespace nearkv::traces
