#include "kernels/cpu/selection.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "kernels/cpu/simd.hpp"
#include "kernels/size.hpp"

namespace nearkv::kernels::cpu {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// So many scores, evenly spread, tell about where the threshold lies.
constexpr std::size_t samples = 512;

/// Weights are summed in float over pieces of this size, and the pieces in double.
constexpr std::size_t mass_piece = 1024;

double l1_norm(std::span<const float> query) {
  double sum = 0.0;
  for (const float q : query) {
    sum += std::fabs(static_cast<double>(q));
  }
  return sum;
}

/// 1 / sqrt(d |q[i]|_1 / |q|_1).
float score_scale(std::span<const float> query, std::span<const int> channels) {
  const double all = l1_norm(query);
  double selected = 0.0;
  for (const int channel : channels) {
    selected += std::fabs(static_cast<double>(query[size(channel)]));
  }
  const double ratio = all > 0.0 ? selected / all : 1.0;
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(query.size()) * ratio));
}

}  // namespace

/// A score that most likely has at least `count` scores that are not smaller, but few more; the
/// least of all if that cannot be said.
float LargestFinder::likely_bound(std::span<const float> scores, std::size_t count) {
  const double share = static_cast<double>(count) / static_cast<double>(scores.size());
  const double rank = share * samples + 4.0 * std::sqrt(share * samples) + 1.0;
  if (scores.size() < 2 * samples || rank >= samples) return minus_infinity;
  values_.resize(samples);
  const std::size_t stride = scores.size() / samples;
  for (std::size_t i = 0; i < samples; ++i) {
    values_[i] = scores[i * stride];
  }
  return nth_value(static_cast<std::size_t>(rank));
}

/// Of the values at hand, the one with n - 1 larger or equal ones before it.
float LargestFinder::nth_value(std::size_t n) {
  const auto at = values_.begin() + static_cast<std::ptrdiff_t>(n - 1);
  std::nth_element(values_.begin(), at, values_.end(), std::greater<>());
  return *at;
}

void LargestFinder::find(std::span<const float> scores, int count, std::vector<int>& indices) {
  indices.clear();
  if (count <= 0) return;
  if (found_.size() < scores.size()) found_.resize(scores.size());
  std::size_t found = indices_from(scores, likely_bound(scores, size(count)), found_.data());
  if (found < size(count)) found = indices_from(scores, minus_infinity, found_.data());
  const auto candidates = std::span(found_).first(found);

  values_.resize(found);
  std::transform(candidates.begin(), candidates.end(), values_.begin(),
                 [&](int i) { return scores[size(i)]; });
  const float least = nth_value(size(count));
  auto ties = size(count);
  for (const int i : candidates) {
    ties -= scores[size(i)] > least ? 1 : 0;
  }
  indices.reserve(size(count));
  for (const int i : candidates) {
    const float score = scores[size(i)];
    const bool is_tie = score == least && ties > 0;
    ties -= is_tie ? 1 : 0;
    if (is_tie || score > least) indices.push_back(i);
  }
}

Selector::Selector(const KvPages& pages, int context, const SelectOptions& options)
    : pages_(pages),
      context_(context),
      options_(options),
      magnitudes_(size(pages.geometry().d_head())),
      scores_(padded(size(context))) {}

void Selector::select(std::span<const float> query) {
  // What lies behind the last token weighs nothing.
  std::fill(scores_.begin() + context_, scores_.end(), minus_infinity);
  std::transform(query.begin(), query.end(), magnitudes_.begin(),
                 [](float q) { return std::fabs(q); });
  largest_.find(magnitudes_, options_.r, selection_.channels);
  score_tokens(query);
  choose_tokens();
}

void Selector::score_tokens(std::span<const float> query) {
  const int chunk_tokens = pages_.geometry().tokens_per_channel_page();
  std::vector<float> queries;
  std::vector<const std::uint16_t*> channels(selection_.channels.size());
  for (const int channel : selection_.channels) {
    queries.push_back(query[size(channel)]);
  }
  const std::size_t next_chunk =
      size(pages_.geometry().page_elements()) * size(pages_.geometry().channel_groups());
  for (int first = 0, chunk = 0; first < context_; first += chunk_tokens, ++chunk) {
    std::transform(selection_.channels.begin(), selection_.channels.end(), channels.begin(),
                   [&](int channel) { return pages_.k_channel(channel, chunk); });
    const std::size_t count = size(std::min(chunk_tokens, context_ - first));
    score_channels({queries, channels.data(), count, next_chunk}, scores_.data() + first);
  }
}

void Selector::choose_tokens() {
  std::vector<int>& tokens = selection_.tokens;
  if (options_.k >= context_) {
    tokens.resize(size(context_));
    std::iota(tokens.begin(), tokens.end(), 0);
    return;
  }
  const int window_start = context_ - options_.local_window;
  largest_.find(std::span(scores_).first(size(window_start)), options_.k - options_.local_window,
                tokens);
  for (int token = window_start; token < context_; ++token) {
    tokens.push_back(token);
  }
}

float Selector::alpha(std::span<const float> query) {
  if (selection_.tokens.size() == size(context_)) return 1.0F;
  const float scale = score_scale(query, selection_.channels);
  const float max = largest_of(scores_);
  const auto mass = [&](std::vector<float>& scores) {
    double sum = 0.0;
    for (std::size_t i = 0; i < scores.size(); i += mass_piece) {
      const std::size_t count = std::min(mass_piece, scores.size() - i);
      sum += static_cast<double>(weigh(std::span(scores).subspan(i, count), max, scale));
    }
    return sum;
  };
  // The selected scores are put aside and weighed apart: in place of a pass over all weights.
  std::vector<float> selected(padded(selection_.tokens.size()), minus_infinity);
  std::transform(selection_.tokens.begin(), selection_.tokens.end(), selected.begin(),
                 [&](int token) { return scores_[size(token)]; });
  return static_cast<float>(mass(selected) / mass(scores_));
}

}  // namespace nearkv::kernels::cpu
