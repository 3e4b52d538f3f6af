#include "traces/synthetic_kv.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace nearkv::traces {
namespace {

std::size_t size(int value) { return static_cast<std::size_t>(value); }

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double above_0 = std::numeric_limits<double>::min();

/// The shortest text that reads back as the same number.
std::string text(double value) {
  std::array<char, 32> buffer{};
  return {buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr};
}

void require(const char* field, double value, double least, double most) {
  if (value >= least && value <= most && value < infinity) return;
  const std::string range = most < infinity    ? text(least) + " to " + text(most)
                            : least == above_0 ? "finite and above 0"
                                               : "finite and at least " + text(least);
  throw std::invalid_argument(std::string("synthetic KV: ") + field + " is " + text(value) +
                              "; must be " + range);
}

SyntheticKvSpec checked(const SyntheticKvSpec& spec) {
  require("d_head", spec.d_head, 1, infinity);
  require("tokens", spec.tokens, 1, infinity);
  require("query_heads", spec.query_heads, 1, infinity);
  require("query_channel_spread", spec.query_channel_spread, 0, infinity);
  require("key_channel_spread", spec.key_channel_spread, 0, infinity);
  require("channel_correlation", spec.channel_correlation, 0, 1);
  require("outlier_share", spec.outlier_share, 0, 1);
  require("outlier_offset", spec.outlier_offset, 0, infinity);
  require("outlier_query_gain", spec.outlier_query_gain, above_0, infinity);
  require("sink_tokens", spec.sink_tokens, 0, infinity);
  require("sink_logit", spec.sink_logit, 0, infinity);
  require("sink_value", spec.sink_value, 0, infinity);
  require("recency_logit", spec.recency_logit, 0, infinity);
  require("recency_tokens", spec.recency_tokens, above_0, infinity);
  require("run_tokens", spec.run_tokens, 1, infinity);
  require("topics", spec.topics, 1, infinity);
  require("topic_logit", spec.topic_logit, 0, infinity);
  require("run_share", spec.run_share, 0, 1);
  require("position_share", spec.position_share, 0, 1);
  require("run_share + position_share", spec.run_share + spec.position_share, 0, 1);
  require("logit_spread", spec.logit_spread, 0, infinity);
  require("query_persistence", spec.query_persistence, 0, 1);
  require("group_correlation", spec.group_correlation, 0, 1);
  require("value_mean_share", spec.value_mean_share, 0, 1);
  return spec;
}

std::vector<float> normals(Rng stream, std::size_t count) {
  std::vector<float> values(count);
  stream.normals(values);
  return values;
}

/// e^(spread * x) for unit-variance x whose neighbours correlate.
std::vector<double> channel_scales(Rng stream, int d_head, double spread, double correlation) {
  std::vector<double> scales(size(d_head));
  const double fresh = std::sqrt(1.0 - correlation * correlation);
  double x = stream.normal();
  for (double& scale : scales) {
    scale = portable_exp(spread * x);
    x = correlation * x + fresh * stream.normal();
  }
  return scales;
}

/// sqrt(common) * a + sqrt(1 - common) * b.
std::vector<float> mix(double common, std::span<const float> a, std::span<const float> b) {
  const auto weight_a = static_cast<float>(std::sqrt(common));
  const auto weight_b = static_cast<float>(std::sqrt(1.0 - common));
  std::vector<float> mixed(a.size());
  for (std::size_t c = 0; c < mixed.size(); ++c) {
    mixed[c] = weight_a * a[c] + weight_b * b[c];
  }
  return mixed;
}

/// How much of a sink token i is: 1 for the first, 0 from sink_tokens on.
double sink_part(const SyntheticKvSpec& spec, int token) {
  return token < spec.sink_tokens ? 1.0 - static_cast<double>(token) / spec.sink_tokens : 0.0;
}

}  // namespace

SyntheticKvSpec measured_synthetic_kv(int d_head, int tokens, int query_heads) {
  return {.d_head = d_head,
          .tokens = tokens,
          .query_heads = query_heads,
          .query_channel_spread = 0.45,
          .key_channel_spread = 0.38,
          .channel_correlation = 0.2,
          .outlier_share = 0.03,
          .outlier_offset = 8.5,
          .outlier_query_gain = 4.0,
          .sink_tokens = 4,
          .sink_logit = 9.5,
          .sink_value = 0.35,
          .recency_logit = 5.5,
          .recency_tokens = 150.0,
          .run_tokens = 4.0,
          .topics = 64,
          .topic_logit = 2.0,
          .run_share = 0.3,
          .position_share = 0.3,
          .logit_spread = 1.9,
          .query_persistence = 0.58,
          .group_correlation = 0.65,
          .value_mean_share = 0.16};
}

SyntheticKv::SyntheticKv(const SyntheticKvSpec& spec, const Rng& stream)
    : spec_(checked(spec)), stream_(stream), place_dimensions_(std::max(1, spec.d_head / 2)) {
  make_channels();
  group_persistent_ = normals(stream_.child("query/persistent"), size(spec_.d_head));
  for (int head = 0; head < spec_.query_heads; ++head) {
    make_head(head);
  }
  make_text();
  make_keys();
}

void SyntheticKv::make_channels() {
  const std::size_t d_head = size(spec_.d_head);
  const std::vector<double> scales =
      channel_scales(stream_.child("channels/key"), spec_.d_head, spec_.key_channel_spread,
                     spec_.channel_correlation);
  key_scale_.assign(scales.begin(), scales.end());

  Rng signs = stream_.child("channels/sink");
  sink_direction_.resize(d_head);
  for (float& direction : sink_direction_) {
    direction = (signs.next() >> 63) == 0 ? 1.0F : -1.0F;
  }

  Rng outliers = stream_.child("channels/outliers");
  const auto count = static_cast<std::size_t>(std::round(spec_.outlier_share * spec_.d_head));
  const std::size_t first = outliers.below(d_head - count + 1);
  outlier_.assign(d_head, 0);
  key_offset_.assign(d_head, 0.0F);
  for (std::size_t c = first; c < first + count; ++c) {
    outlier_[c] = 1;
    const double sign = (outliers.next() >> 63) == 0 ? 1.0 : -1.0;
    key_offset_[c] = static_cast<float>(sign * spec_.outlier_offset);
  }
}

void SyntheticKv::make_head(int head) {
  const Rng stream = stream_.child("head/" + std::to_string(head));
  std::vector<double> scales = channel_scales(
      stream.child("scale"), spec_.d_head, spec_.query_channel_spread, spec_.channel_correlation);
  double energy = 0.0;
  for (std::size_t c = 0; c < scales.size(); ++c) {
    scales[c] *= outlier_[c] != 0 ? spec_.outlier_query_gain : 1.0;
    const double weight = scales[c] * static_cast<double>(key_scale_[c]);
    energy += weight * weight;
  }
  // The products of key and query scale get a mean square of 1: then unit noise in z and y gives
  // logits of unit spread.
  const double root_d = std::sqrt(static_cast<double>(spec_.d_head));
  const double normalise = root_d / std::sqrt(energy);
  double weights = 0.0;
  HeadScales result;
  for (std::size_t c = 0; c < scales.size(); ++c) {
    scales[c] *= normalise;
    weights += scales[c] * static_cast<double>(key_scale_[c]);
    result.scale.push_back(static_cast<float>(scales[c]));
  }
  // A direction of unit components in z meets the same one in y, of which it is the share `share`.
  const auto factor = [&](double logit, double share) {
    return share > 0.0 ? static_cast<float>(logit * root_d / (weights * std::sqrt(share))) : 0.0F;
  };
  result.sink = factor(spec_.sink_logit, 1.0);
  result.recency = factor(spec_.recency_logit, spec_.position_share);
  result.topic = factor(spec_.topic_logit, spec_.run_share);
  result.persistent = mix(spec_.group_correlation, group_persistent_,
                          normals(stream.child("persistent"), size(spec_.d_head)));
  heads_.push_back(std::move(result));
}

void SyntheticKv::make_text() {
  topics_ = normals(stream_.child("text/topics"), size(spec_.topics) * size(spec_.d_head));
  Rng runs = stream_.child("text/runs");
  const auto topics = static_cast<std::uint64_t>(spec_.topics);
  int topic = static_cast<int>(runs.below(topics));
  topic_of_.resize(size(spec_.tokens));
  for (int& topic_of_token : topic_of_) {
    topic_of_token = topic;
    if (runs.uniform() * spec_.run_tokens < 1.0) topic = static_cast<int>(runs.below(topics));
  }

  // An Ornstein-Uhlenbeck walk: the correlation of two places is e^(-distance / recency_tokens).
  const std::size_t dimensions = size(place_dimensions_);
  places_ = normals(stream_.child("text/places"), size(spec_.tokens) * dimensions);
  const double keep = portable_exp(-1.0 / spec_.recency_tokens);
  const auto old_part = static_cast<float>(keep);
  const auto new_part = static_cast<float>(std::sqrt(1.0 - keep * keep));
  for (std::size_t i = dimensions; i < places_.size(); ++i) {
    places_[i] = old_part * places_[i - dimensions] + new_part * places_[i];
  }
}

void SyntheticKv::make_keys() {
  const std::size_t d_head = size(spec_.d_head);
  const std::size_t dimensions = size(place_dimensions_);
  const auto noise_part =
      static_cast<float>(std::sqrt(std::max(0.0, 1.0 - spec_.run_share - spec_.position_share)));
  const auto run_part = static_cast<float>(std::sqrt(spec_.run_share));
  const auto place_part = static_cast<float>(std::sqrt(spec_.position_share));
  keys_ = normals(stream_.child("keys"), size(spec_.tokens) * d_head);
  for (std::size_t token = 0; token < topic_of_.size(); ++token) {
    float* key = keys_.data() + token * d_head;
    const float* topic = topics_.data() + size(topic_of_[token]) * d_head;
    const float* place = places_.data() + token * dimensions;
    for (std::size_t c = 0; c < d_head; ++c) {
      key[c] = noise_part * key[c] + run_part * topic[c];
    }
    for (std::size_t start = 0; start < d_head; start += dimensions) {
      const std::size_t count = std::min(dimensions, d_head - start);
      for (std::size_t i = 0; i < count; ++i) {
        key[start + i] += place_part * place[i];
      }
    }
    const double sink = sink_part(spec_, static_cast<int>(token));
    if (sink > 0.0) {
      const auto sink_share = static_cast<float>(sink);
      const auto rest = static_cast<float>(std::sqrt(1.0 - sink * sink));
      for (std::size_t c = 0; c < d_head; ++c) {
        key[c] = sink_share * sink_direction_[c] + rest * key[c];
      }
    }
    for (std::size_t c = 0; c < d_head; ++c) {
      key[c] = key_scale_[c] * key[c] + key_offset_[c];
    }
  }
}

std::span<const float> SyntheticKv::key(int token) const {
  if (token < 0 || token >= spec_.tokens) {
    throw std::invalid_argument("synthetic KV: token is " + std::to_string(token) +
                                "; must be 0 to " + std::to_string(spec_.tokens - 1));
  }
  return keys().subspan(size(token) * size(spec_.d_head), size(spec_.d_head));
}

std::vector<float> SyntheticKv::values() const {
  const std::size_t d_head = size(spec_.d_head);
  std::vector<float> values = normals(stream_.child("values"), size(spec_.tokens) * d_head);
  std::vector<float> mean = normals(stream_.child("values/mean"), d_head);
  const auto mean_part = static_cast<float>(std::sqrt(spec_.value_mean_share));
  const auto own_part = static_cast<float>(std::sqrt(1.0 - spec_.value_mean_share));
  for (float& component : mean)
    component *= mean_part;
  for (int token = 0; token < spec_.tokens; ++token) {
    float* value = values.data() + size(token) * d_head;
    const double sink = sink_part(spec_, token);
    const auto magnitude = static_cast<float>(1.0 - sink + sink * spec_.sink_value);
    for (std::size_t c = 0; c < d_head; ++c) {
      value[c] = magnitude * (mean[c] + own_part * value[c]);
    }
  }
  return values;
}

std::vector<float> SyntheticKv::query(int position) const {
  if (position < 0 || position >= spec_.tokens) {
    throw std::invalid_argument("synthetic KV: position is " + std::to_string(position) +
                                "; must be 0 to " + std::to_string(spec_.tokens - 1));
  }
  const std::size_t d_head = size(spec_.d_head);
  const Rng stream = stream_.child("query/" + std::to_string(position));
  const std::vector<float> group = normals(stream.child("group"), d_head);
  const float* topic = topics_.data() + size(topic_of_[size(position)]) * d_head;
  const float* place = places_.data() + size(position) * size(place_dimensions_);
  const auto spread = static_cast<float>(spec_.logit_spread);
  std::vector<float> queries;
  queries.reserve(heads_.size() * d_head);
  for (std::size_t head = 0; head < heads_.size(); ++head) {
    const HeadScales& scales = heads_[head];
    const std::vector<float> fresh =
        mix(spec_.group_correlation, group,
            normals(stream.child("head/" + std::to_string(head)), d_head));
    const std::vector<float> own = mix(spec_.query_persistence, scales.persistent, fresh);
    for (std::size_t c = 0; c < d_head; ++c) {
      const float z = spread * own[c] + scales.sink * sink_direction_[c] +
                      scales.recency * place[c % size(place_dimensions_)] + scales.topic * topic[c];
      queries.push_back(scales.scale[c] * z);
    }
  }
  return queries;
}

}  // namespace nearkv::traces
